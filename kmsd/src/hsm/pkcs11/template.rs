//! What a master key looks like in the token (K1).

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};

use super::objects::Part;
use crate::domain::{
    import::{PairId, RsaBits},
    reconcile::ObjectId,
};

/// Attributes of a new master key: made in the token, never leaving it, usable to encrypt and decrypt only. No
/// `CKA_WRAP`: a key that wraps and decrypts would show in the open what it wrapped.
pub(super) fn master_key(object: ObjectId) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Id(object.to_bytes().to_vec()),
        Attribute::Label(format!("kmsd {}/{}", object.key, object.version).into_bytes()),
    ];
    template.extend(protection(Part::Cipher));
    template
}

/// Attributes of the key beside it that authenticates, on tokens without GCM: it signs, and does nothing else.
pub(super) fn mac_key(object: ObjectId) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen(32.into()),
        Attribute::Id(object.to_bytes().to_vec()),
        Attribute::Label(format!("kmsd mac {}/{}", object.key, object.version).into_bytes()),
    ];
    template.extend(protection(Part::Mac));
    template
}

/// The part that protects; read back after each generation.
const fn protection(part: Part) -> [Attribute; 12] {
    let encrypts = matches!(part, Part::Cipher);
    [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(encrypts),
        Attribute::Decrypt(encrypts),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(!encrypts),
        Attribute::Verify(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ]
}

/// What to ask a token about a key that it says it has made.
pub(super) const PROTECTION_TYPES: [AttributeType; 14] = [
    AttributeType::Token,
    AttributeType::Private,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Encrypt,
    AttributeType::Decrypt,
    AttributeType::Wrap,
    AttributeType::Unwrap,
    AttributeType::Sign,
    AttributeType::Verify,
    AttributeType::Derive,
    AttributeType::Modifiable,
    AttributeType::AlwaysSensitive,
    AttributeType::NeverExtractable,
];

/// Whether the token's answer is what was asked for.
pub(super) fn is_protected(answer: &[Attribute], part: Part) -> bool {
    let born_here = [Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true)];
    protection(part).iter().chain(&born_here).all(|attribute| answer.contains(attribute))
}

/// Finds one of an object's keys.
pub(super) fn by_part(object: ObjectId, part: Part) -> [Attribute; 4] {
    let [class, token, id] = by_id(object);
    let kind = match part {
        Part::Cipher => KeyType::AES,
        Part::Mac => KeyType::GENERIC_SECRET,
    };
    [class, token, id, Attribute::KeyType(kind)]
}

/// Finds all keys of an object.
pub(super) fn by_id(object: ObjectId) -> [Attribute; 3] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Id(object.to_bytes().to_vec()),
    ]
}

/// Finds all secret keys.
pub(super) fn all_keys() -> [Attribute; 2] {
    [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true)]
}

/// Attributes of a master key whose material is unwrapped into the token: the same, but that its length cannot be asked for. What makes it unmodifiable comes
/// last: SoftHSM takes the template in order.
pub(super) fn imported_key(object: ObjectId) -> Vec<Attribute> {
    let mut template = master_key(object);
    template.retain(|attribute| !matches!(attribute, Attribute::ValueLen(_)));
    template
}

/// Whether the token's answer is what was asked for. Material that was outside once is neither always sensitive nor never extractable.
pub(super) fn is_protected_import(answer: &[Attribute]) -> bool {
    protection(Part::Cipher).iter().all(|attribute| answer.contains(attribute))
}

/// Attributes of an object of the session that unwrapped material is first: the same, but for what is said of objects that stay.
pub(super) fn rehearsal() -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
    ];
    template.extend(protection(Part::Cipher).into_iter().filter(|attribute| !is_of_what_stays(attribute)));
    template
}

const fn is_of_what_stays(attribute: &Attribute) -> bool {
    matches!(attribute, Attribute::Token(_) | Attribute::Modifiable(_))
}

/// Whether the token's answer about it says that this token keeps inside what it unwraps.
pub(super) fn is_kept_inside(answer: &[Attribute]) -> bool {
    let asked = protection(Part::Cipher);
    asked.iter().filter(|attribute| !is_of_what_stays(attribute)).all(|attribute| answer.contains(attribute))
}

/// What a copy that stays has otherwise: all that the standard lets a copy have otherwise (PKCS#11 v2.40, section 5.7, `C_CopyObject`).
pub(super) fn copy_that_stays(object: ObjectId) -> Vec<Attribute> {
    let otherwise = |attribute: &Attribute| {
        matches!(
            attribute,
            Attribute::Id(_)
                | Attribute::Label(_)
                | Attribute::Token(_)
                | Attribute::Private(_)
                | Attribute::Sensitive(_)
                | Attribute::Extractable(_)
                | Attribute::Modifiable(_)
        )
    };
    let mut template = master_key(object);
    template.retain(otherwise);
    template
}

/// Attributes of the public half of a pair that imports: a session's, for as long as it takes to read it.
pub(super) fn pair_public(bits: RsaBits) -> [Attribute; 7] {
    [
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::ModulusBits(u64::from(bits.bits()).into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Encrypt(true),
        Attribute::Wrap(false),
        Attribute::Verify(false),
    ]
}

/// Attributes of its private half: it unwraps, and does nothing else.
pub(super) fn pair_private(pair: PairId) -> Vec<Attribute> {
    let mut template = vec![Attribute::Id(pair_id(pair)), Attribute::Label(b"kmsd import".to_vec())];
    template.extend(PAIR_PROTECTION);
    template
}

const PAIR_PROTECTION: [Attribute; 8] = [
    Attribute::Token(true),
    Attribute::Private(true),
    Attribute::Sensitive(true),
    Attribute::Extractable(false),
    Attribute::Unwrap(true),
    Attribute::Decrypt(false),
    Attribute::Sign(false),
    Attribute::Modifiable(false),
];

/// What to ask a token about a pair that it says it has made.
pub(super) const PAIR_TYPES: [AttributeType; 10] = [
    AttributeType::Token,
    AttributeType::Private,
    AttributeType::Sensitive,
    AttributeType::Extractable,
    AttributeType::Unwrap,
    AttributeType::Decrypt,
    AttributeType::Sign,
    AttributeType::Modifiable,
    AttributeType::AlwaysSensitive,
    AttributeType::NeverExtractable,
];

/// Whether the token's answer is what was asked for.
pub(super) fn is_protected_pair(answer: &[Attribute]) -> bool {
    let born_here = [Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true)];
    PAIR_PROTECTION.iter().chain(&born_here).all(|attribute| answer.contains(attribute))
}

const PAIR_PREFIX: &[u8] = b"kmsd import ";

fn pair_id(pair: PairId) -> Vec<u8> {
    [PAIR_PREFIX, pair.as_bytes()].concat()
}

/// The pair that a `CKA_ID` stands for.
pub(super) fn pair_of(id: &[u8]) -> Option<PairId> {
    id.strip_prefix(PAIR_PREFIX)?.try_into().ok().map(PairId::new)
}

/// Finds a pair.
pub(super) fn pair_search(pair: PairId) -> [Attribute; 3] {
    [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true), Attribute::Id(pair_id(pair))]
}

/// Finds all private keys.
pub(super) fn all_pairs() -> [Attribute; 2] {
    [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)]
}

/// A copy of unwrapped material that lives for two calls in one session and can only be wrapped, so that its length shows.
pub(super) fn length_probe() -> [Attribute; 11] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// What wraps it: a key that can do nothing else, not even unwrap, and ends with the session.
pub(super) fn length_wrapper() -> [Attribute; 11] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(false),
    ]
}

/// The key that guards store and audit log: it signs, and does nothing else.
pub(super) fn integrity_key() -> Vec<Attribute> {
    let mut template = integrity_key_search().to_vec();
    template.extend([
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen(32.into()),
        Attribute::Label(b"kmsd integrity".to_vec()),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
    ]);
    template
}

/// Finds it.
pub(super) fn integrity_key_search() -> [Attribute; 3] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Id(b"kmsd integrity 1".to_vec()),
    ]
}

/// A data object that only a logged-in session sees.
pub(super) fn note(value: &[u8]) -> Vec<Attribute> {
    let mut template = note_search().to_vec();
    template.extend([
        Attribute::Private(true),
        Attribute::Modifiable(false),
        Attribute::Value(value.to_vec()),
    ]);
    template
}

/// Finds it.
pub(super) fn note_search() -> [Attribute; 4] {
    [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Application(b"kmsd".to_vec()),
        Attribute::Label(b"kmsd state".to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{KeyId, KeyVersion};

    /// K6: and one that would let the pair decrypt, so that this service could read what it is to unwrap.
    #[test]
    fn k6_each_attribute_of_a_pair_is_read_back() {
        let mut answer = PAIR_PROTECTION.to_vec();
        answer.extend([Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true)]);
        assert!(is_protected_pair(&answer));
        for index in 0..answer.len() {
            let mut weaker = answer.clone();
            weaker.remove(index);
            assert!(!is_protected_pair(&weaker), "{:?}", answer[index]);
        }
        assert_eq!(answer.len(), PAIR_TYPES.len());
        let key = ObjectId { key: KeyId::from_bytes([1; 16]), version: KeyVersion::FIRST };
        let answer = protection(Part::Cipher);
        assert!(is_protected_import(&answer));
        assert!(
            (0..answer.len())
                .all(|index| !is_protected_import(&[&answer[..index], &answer[index + 1..]].concat()))
        );
        assert_eq!(imported_key(key).last(), Some(&Attribute::Modifiable(false)));
        // Neither the place nor whether it can be changed is said of the session's object; all else is.
        let answer: Vec<_> = answer.into_iter().filter(|attribute| !is_of_what_stays(attribute)).collect();
        assert!(answer.len() == 10 && is_kept_inside(&answer));
        assert!(
            (0..answer.len())
                .all(|index| !is_kept_inside(&[&answer[..index], &answer[index + 1..]].concat()))
        );
    }

    /// K1: a token that silently ignores a part of the template is found out.
    #[test]
    fn k1_each_protecting_attribute_is_read_back() {
        for part in [Part::Cipher, Part::Mac] {
            let mut answer = protection(part).to_vec();
            answer.extend([Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true)]);
            assert!(is_protected(&answer, part));
            for index in 0..answer.len() {
                let mut weaker = answer.clone();
                weaker.remove(index);
                assert!(!is_protected(&weaker, part), "{:?}", answer[index]);
            }
            assert_eq!(answer.len(), PROTECTION_TYPES.len());
        }
    }
}
