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
        import::{Arrival, CheckValue, MATERIAL_LEN, OaepHash, PairId, RsaBits},
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
        self.with(|session| {
            // What an earlier try left behind.
            self.objects.destroy_all(session, &template::pair_search(pair))?;
            let (for_public, for_private) = (template::pair_public(bits), template::pair_private(pair));
            let generate =
                || session.generate_key_pair(&CkMechanism::RsaPkcsKeyPairGen, &for_public, &for_private);
            let (public, private) = self.objects.make(generate).map_err(classify)?;
            let made = describe_pair(&self.objects, session, public, private, hash);
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
        arrival: Arrival,
    ) -> Result<(), HsmError> {
        let mut handles = self.objects.handles.write();
        handles.remove(&(object, Part::Cipher));
        handles.remove(&(object, Part::Mac));
        drop(handles);
        self.with(|session| {
            match arrival {
                Arrival::First => self.objects.destroy_all(session, &template::by_id(object))?,
                Arrival::Again => {
                    self.objects.destroy_all(session, &template::by_part(object, Part::Cipher))?;
                }
            }
            let found = self.objects.find(session, &template::pair_search(pair))?;
            let private = *found.first().ok_or(HsmError::NoPair)?;
            let unwrap = |template: &[Attribute]| {
                let make =
                    || self.objects.make(|| session.unwrap_key(&oaep(hash), private, wrapped, template));
                certain(session, make)
            };
            let shown = unwrap(&template::rehearsal())?;
            let taken = self.take(session, object, shown, arrival, &unwrap);
            // It would go with the session, which lives on.
            self.objects.destroy(session, shown)?;
            taken
        })
    }

    /// From unwrapped material in the session to a key in the token. What does not fit shows before the token has anything of it.
    fn take(
        &self,
        session: &CkSession,
        object: ObjectId,
        shown: ObjectHandle,
        arrival: Arrival,
        unwrap: &impl Fn(&[Attribute]) -> Result<ObjectHandle, HsmError>,
    ) -> Result<(), HsmError> {
        if material_len(&self.objects, session, shown, unwrap)? != MATERIAL_LEN {
            return Err(HsmError::DoesNotOpen);
        }
        // SoftHSM takes AES keys of any length, and says only when one is used.
        let trial = || session.encrypt(&CkMechanism::AesCbc([0; 16]), shown, &CHECK_BLOCK).map(drop);
        certain(session, trial).map_err(|error| match error {
            HsmError::Failed { .. } => HsmError::DoesNotOpen,
            other => other,
        })?;
        // The order of a generation: when the last is there, all are.
        if self.parts().contains(&Part::Mac) {
            match arrival {
                Arrival::First => self.make(session, object, Part::Mac)?,
                Arrival::Again => match self.look_up(session, object, Part::Mac) {
                    Ok(_) => {}
                    Err(HsmError::NoObject { object }) => return Err(HsmError::NoMacKey { object }),
                    Err(error) => return Err(error),
                },
            }
        }
        let answer = session.get_attributes(shown, &template::PROTECTION_TYPES).map_err(classify)?;
        let handle = if template::is_kept_inside(&answer) {
            unwrap(&template::imported_key(object))?
        } else {
            // opencryptoki makes what it unwraps readable, whatever it is asked for; a copy can be made that is not, and only that one stays.
            let template = template::copy_that_stays(object);
            self.objects.make(|| session.copy_object(shown, &template)).map_err(classify)?
        };
        let answer = session.get_attributes(handle, &template::PROTECTION_TYPES).map_err(classify)?;
        if !template::is_protected_import(&answer) {
            self.objects.destroy(session, handle)?;
            return Err(HsmError::Lacks {
                feature: "the attributes that keep an unwrapped key inside: it made a key that is weaker than asked for, which was destroyed",
            });
        }
        self.remember(object, handle);
        Ok(())
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

/// The public half, after a trial.
fn describe_pair(
    objects: &Objects,
    session: &CkSession,
    public: ObjectHandle,
    private: ObjectHandle,
    hash: OaepHash,
) -> Result<Vec<u8>, HsmError> {
    let answer = session.get_attributes(private, &template::PAIR_TYPES).map_err(classify)?;
    if !template::is_protected_pair(&answer) {
        return Err(HsmError::Lacks { feature: "the attributes that keep an RSA key inside" });
    }
    rehearse(objects, session, public, private, hash)?;
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

/// That a token has RSA-OAEP says neither with which hash, nor that it unwraps with it.
fn rehearse(
    objects: &Objects,
    session: &CkSession,
    public: ObjectHandle,
    private: ObjectHandle,
    hash: OaepHash,
) -> Result<(), HsmError> {
    let mut material = Zeroizing::new([0; MATERIAL_LEN]);
    session.generate_random_slice(&mut *material).map_err(classify)?;
    let wrapped = session.encrypt(&oaep(hash), public, &*material).map_err(|error| match error {
        CkError::Pkcs11(
            RvError::ArgumentsBad | RvError::MechanismParamInvalid | RvError::MechanismInvalid,
            _,
        ) => HsmError::OaepHash,
        other => classify(other),
    })?;
    let template = template::rehearsal();
    let unwrap = || session.unwrap_key(&oaep(hash), private, &wrapped, &template);
    let unwrapped = objects.make(unwrap).map_err(|error| match error {
        CkError::Pkcs11(
            RvError::FunctionNotSupported | RvError::MechanismInvalid | RvError::KeyFunctionNotPermitted,
            _,
        ) => HsmError::Lacks { feature: "C_UnwrapKey by RSA-OAEP, which keys of external origin need" },
        other => classify(other),
    })?;
    objects.destroy(session, unwrapped)
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
fn material_len(
    objects: &Objects,
    session: &CkSession,
    shown: ObjectHandle,
    unwrap: &impl Fn(&[Attribute]) -> Result<ObjectHandle, HsmError>,
) -> Result<usize, HsmError> {
    let told = session.get_attributes(shown, &[AttributeType::ValueLen]).map_err(classify)?;
    for attribute in told {
        if let Attribute::ValueLen(len) = attribute
            && usize::try_from(*len).is_ok_and(|len| len > 0)
        {
            return Ok(usize::try_from(*len).unwrap_or(0));
        }
    }
    let probe = unwrap(&template::length_probe())?;
    let len = wrapped_len(objects, session, probe);
    objects.destroy(session, probe)?;
    len
}

fn wrapped_len(objects: &Objects, session: &CkSession, probe: ObjectHandle) -> Result<usize, HsmError> {
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
