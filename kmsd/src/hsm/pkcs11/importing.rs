//! Material from elsewhere: the RSA pair that it is wrapped for, and its unwrapping (K6). It is never in the open outside the token.

use aws_lc_rs::{encoding::AsDer, rsa::PublicKeyComponents};
use cryptoki::{
    error::{Error as CkError, RvError},
    mechanism::{
        Mechanism as CkMechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute, AttributeType, ObjectHandle},
    session::Session as CkSession,
};
use zeroize::Zeroizing;

use super::{
    fault::{classify, is_ambiguous},
    objects::{Objects, Part},
    session::Pkcs11Session,
    template,
};
use crate::{
    domain::{
        envelope::Mechanism,
        import::{CheckValue, MATERIAL_LEN, OaepHash, PairId, RsaBits},
        reconcile::ObjectId,
    },
    hsm::{HsmError, Session},
};

/// What the check value is made from: one block under the key, so that other material gives another. It is none of the blocks that GCM makes of an IV of
/// 96 bits: its counter is never reached.
const CHECK_BLOCK: [u8; 16] = *b"kmsd check 1\xff\xff\xff\xff";

impl Pkcs11Session {
    pub(super) fn generate_pair(
        &self,
        pair: PairId,
        bits: RsaBits,
        hash: OaepHash,
    ) -> Result<Vec<u8>, HsmError> {
        if self.mechanism() != Mechanism::AesGcm {
            // The key beside it, which authenticates, would not come back with the material.
            return Err(HsmError::Lacks { feature: "AES-GCM, which keys of external origin need" });
        }
        self.with(|session| {
            // What an earlier try left behind.
            self.objects.destroy_all(session, &template::pair_search(pair))?;
            let (for_public, for_private) = (template::pair_public(bits), template::pair_private(pair));
            let generate =
                || session.generate_key_pair(&CkMechanism::RsaPkcsKeyPairGen, &for_public, &for_private);
            let (public, private) = self.objects.make(generate).map_err(classify)?;
            let made = describe_pair(session, public, private, hash);
            if made.is_err() {
                self.objects.destroy(session, private)?;
            }
            // A session object: it would go with the session anyhow.
            self.objects.destroy(session, public)?;
            made
        })
    }

    pub(super) fn destroy_pair(&self, pair: PairId) -> Result<(), HsmError> {
        self.with(|session| self.objects.destroy_all(session, &template::pair_search(pair)))
    }

    pub(super) fn list_pairs(&self) -> Result<Vec<PairId>, HsmError> {
        self.with(|session| {
            let mut pairs = Vec::new();
            for (_, attributes) in self.objects.read(session, &template::all_pairs(), &[AttributeType::Id])? {
                for attribute in attributes {
                    if let Attribute::Id(id) = attribute {
                        pairs.extend(template::pair_of(&id));
                    }
                }
            }
            pairs.sort_unstable();
            pairs.dedup();
            Ok(pairs)
        })
    }

    pub(super) fn unwrap(
        &self,
        object: ObjectId,
        pair: PairId,
        hash: OaepHash,
        wrapped: &[u8],
    ) -> Result<(), HsmError> {
        self.with(|session| {
            // What an earlier try left behind: nobody was told of it.
            self.objects.destroy_all(session, &template::by_id(object))?;
            let found = self.objects.find(session, &template::pair_search(pair))?;
            let private = *found.first().ok_or(HsmError::NoPair)?;
            let unwrap = |template: &[Attribute]| {
                let make = || {
                    self.objects.make(|| session.unwrap_key(&oaep(hash), private, wrapped, template))
                };
                certain(session, make)
            };
            if unwrapped_len(&self.objects, session, &unwrap)? != MATERIAL_LEN {
                return Err(HsmError::DoesNotOpen);
            }
            let handle = unwrap(&template::imported_key(object))?;
            // SoftHSM takes AES keys of any length, and says only when one is used.
            let trial = || session.encrypt(&CkMechanism::AesCbc([0; 16]), handle, &CHECK_BLOCK).map(drop);
            if let Err(error) = certain(session, trial) {
                self.objects.destroy(session, handle)?;
                return Err(match error {
                    HsmError::Failed { .. } => HsmError::DoesNotOpen,
                    other => other,
                });
            }
            let answer = session.get_attributes(handle, &template::PROTECTION_TYPES).map_err(classify)?;
            if !template::is_protected_import(&answer) {
                self.objects.destroy(session, handle)?;
                return Err(HsmError::Lacks {
                    feature: "the attributes that keep an unwrapped key inside: it made a key that is weaker than asked for, which was destroyed",
                });
            }
            self.remember(object, handle);
            Ok(())
        })
    }

    pub(super) fn check(&mut self, object: ObjectId) -> Result<CheckValue, HsmError> {
        let block = self
            .with_key(object, Part::Cipher, |session, key| {
                // One block under an IV of zeros is that block under the key.
                session.encrypt(&CkMechanism::AesCbc([0; 16]), key, &CHECK_BLOCK).map(Zeroizing::new)
            })?
            .map_err(classify)?;
        let mut purpose = Zeroizing::new(b"kmsd check value 1 ".to_vec());
        purpose.extend_from_slice(object.key.as_bytes());
        purpose.extend_from_slice(&block);
        Ok(CheckValue::new(*self.derive(&purpose, false)?))
    }
}

/// The public half, after a trial of the hash: that a token has RSA-OAEP does not say with which.
fn describe_pair(
    session: &CkSession,
    public: ObjectHandle,
    private: ObjectHandle,
    hash: OaepHash,
) -> Result<Vec<u8>, HsmError> {
    let answer = session.get_attributes(private, &template::PAIR_TYPES).map_err(classify)?;
    if !template::is_protected_pair(&answer) {
        return Err(HsmError::Lacks { feature: "the attributes that keep an RSA key inside" });
    }
    session.encrypt(&oaep(hash), public, b"trial").map_err(|error| match error {
        CkError::Pkcs11(
            RvError::ArgumentsBad | RvError::MechanismParamInvalid | RvError::MechanismInvalid,
            _,
        ) => HsmError::OaepHash,
        other => classify(other),
    })?;
    let (mut n, mut e) = (Vec::new(), Vec::new());
    let asked = [AttributeType::Modulus, AttributeType::PublicExponent];
    for attribute in session.get_attributes(public, &asked).map_err(classify)? {
        match attribute {
            Attribute::Modulus(bytes) => n = bytes,
            Attribute::PublicExponent(bytes) => e = bytes,
            _ => {}
        }
    }
    let der = PublicKeyComponents { n, e }.as_der();
    der.map(|der| der.as_ref().to_vec())
        .map_err(|_| HsmError::Lacks { feature: "RSA keys with a public half that is valid" })
}

fn oaep(hash: OaepHash) -> CkMechanism<'static> {
    let (digest, mask) = match hash {
        OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    };
    CkMechanism::RsaPkcsOaep(PkcsOaepParams::new(digest, mask, PkcsOaepSource::empty()))
}

/// How long the material is. Few tokens say that of a key that they unwrapped. The others wrap it once more, under a key of the session's that nobody can
/// unwrap with: the length of what comes out tells it, and nothing else does.
fn unwrapped_len(
    objects: &Objects,
    session: &CkSession,
    unwrap: &impl Fn(&[Attribute]) -> Result<ObjectHandle, HsmError>,
) -> Result<usize, HsmError> {
    let probe = unwrap(&template::length_probe())?;
    let len = probe_len(objects, session, probe);
    objects.destroy(session, probe)?;
    len
}

fn probe_len(objects: &Objects, session: &CkSession, probe: ObjectHandle) -> Result<usize, HsmError> {
    let told = session.get_attributes(probe, &[AttributeType::ValueLen]).map_err(classify)?;
    for attribute in told {
        if let Attribute::ValueLen(len) = attribute
            && usize::try_from(*len).is_ok_and(|len| len > 0)
        {
            return Ok(usize::try_from(*len).unwrap_or(0));
        }
    }
    let wrapper = template::length_wrapper();
    let wrapping =
        objects.make(|| session.generate_key(&CkMechanism::AesKeyGen, &wrapper)).map_err(classify)?;
    let wrapped = session.wrap_key(&CkMechanism::AesKeyWrap, wrapping, probe).map(Zeroizing::new);
    objects.destroy(session, wrapping)?;
    match wrapped {
        // RFC 3394: 8 bytes more than what is inside. SoftHSM fills that up to a multiple of 8 first.
        Ok(wrapped) => Ok(wrapped.len().saturating_sub(8)),
        // Not a multiple of 8, so not 32.
        Err(CkError::Pkcs11(RvError::KeySizeRange | RvError::KeyNotWrappable | RvError::DataLenRange, _)) => {
            Ok(0)
        }
        Err(error) => Err(classify(error)),
    }
}

/// A call whose failure may be the material's fault. The general codes may as well mean that the token is gone: it is, unless the session still answers. If it
/// does, only a failure that repeats is about the material.
fn certain<T>(session: &CkSession, call: impl Fn() -> Result<T, CkError>) -> Result<T, HsmError> {
    let mut outcome = call();
    if outcome.as_ref().is_err_and(is_ambiguous) {
        session.get_session_info().map_err(classify)?;
        outcome = call();
    }
    outcome.map_err(|error| {
        if is_bad_material(&error) || is_ambiguous(&error) { HsmError::DoesNotOpen } else { classify(error) }
    })
}

/// What modules answer to material that does not unwrap.
const fn is_bad_material(error: &CkError) -> bool {
    matches!(
        error,
        CkError::Pkcs11(
            RvError::WrappedKeyInvalid
                | RvError::WrappedKeyLenRange
                | RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::KeySizeRange
                | RvError::ArgumentsBad,
            _,
        )
    )
}
