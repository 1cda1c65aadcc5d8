//! One logged-in session.

use std::{collections::HashMap, sync::Arc};

use cryptoki::{
    error::Error as CkError,
    mechanism::{Mechanism as CkMechanism, aead::GcmParams},
    object::{Attribute, AttributeType, ObjectHandle},
    session::Session as CkSession,
};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::{
    Place,
    fault::{classify, is_bad_ciphertext, is_stale_handle},
    template,
};
use crate::{
    domain::{envelope::Mechanism, reconcile::ObjectId},
    hsm::{HsmError, Sealed, Session},
};

/// Handles by object, for all sessions of one initialisation. As many as there are key versions.
pub(super) type Handles = RwLock<HashMap<ObjectId, ObjectHandle>>;

/// 96 bits, as NIST SP 800-38D, 8.2.2 has it for random IVs.
const IV_LEN: usize = 12;
/// SoftHSM takes tags of 0 and 32 bits too: never ask for less than all.
const TAG_BITS: u64 = 128;

pub(super) struct Pkcs11Session {
    place: Place,
    handles: Arc<Handles>,
}

impl Pkcs11Session {
    pub(super) const fn new(place: Place, handles: Arc<Handles>) -> Self {
        Self { place, handles }
    }

    /// Runs a call on the session, unless it was taken away.
    fn with<T>(&self, call: impl FnOnce(&CkSession) -> Result<T, HsmError>) -> Result<T, HsmError> {
        let place = self.place.lock();
        let session = place.as_ref().ok_or_else(|| HsmError::Lost {
            function: "the session".to_owned(),
            code: "closed by a recovery".to_owned(),
        })?;
        call(session)
    }

    /// Runs a call on a key. A dead handle is looked up once more.
    fn with_key<T>(
        &self,
        object: ObjectId,
        mut call: impl FnMut(&CkSession, ObjectHandle) -> Result<T, CkError>,
    ) -> Result<Result<T, CkError>, HsmError> {
        self.with(|session| {
            let known = self.handles.read().get(&object).copied();
            let handle = match known {
                Some(handle) => handle,
                None => self.look_up(session, object)?,
            };
            match call(session, handle) {
                Err(error) if is_stale_handle(&error) => {
                    self.handles.write().remove(&object);
                    let handle = self.look_up(session, object)?;
                    Ok(call(session, handle))
                }
                other => Ok(other),
            }
        })
    }

    fn look_up(&self, session: &CkSession, object: ObjectId) -> Result<ObjectHandle, HsmError> {
        // A token may show one object under several handles; any of them will do.
        let found = session.find_objects(&template::by_id(object)).map_err(classify)?;
        let handle = found.first().copied().ok_or(HsmError::NoObject { object })?;
        self.handles.write().insert(object, handle);
        Ok(handle)
    }
}

impl Session for Pkcs11Session {
    fn generate(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.with(|session| {
            let handle = session
                .generate_key(&CkMechanism::AesKeyGen, &template::master_key(object))
                .map_err(classify)?;
            let answer = session.get_attributes(handle, &template::PROTECTION_TYPES).map_err(classify)?;
            if !template::is_protected(&answer) {
                session.destroy_object(handle).map_err(classify)?;
                return Err(HsmError::Lacks {
                    feature: "the attributes that keep a key inside: it made a key that is weaker than asked for, which was destroyed",
                });
            }
            self.handles.write().insert(object, handle);
            Ok(())
        })
    }

    fn exists(&mut self, object: ObjectId) -> Result<bool, HsmError> {
        self.with(|session| match self.look_up(session, object) {
            Ok(_) => Ok(true),
            Err(HsmError::NoObject { .. }) => Ok(false),
            Err(error) => Err(error),
        })
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.with(|session| {
            self.handles.write().remove(&object);
            for handle in session.find_objects(&template::by_id(object)).map_err(classify)? {
                match session.destroy_object(handle) {
                    Ok(()) => {}
                    // A second handle of the object that has just gone.
                    Err(error) if is_stale_handle(&error) => {}
                    Err(error) => return Err(classify(error)),
                }
            }
            Ok(())
        })
    }

    fn inventory(&mut self) -> Result<Vec<ObjectId>, HsmError> {
        self.with(|session| {
            let mut found = HashMap::new();
            for handle in session.find_objects(&template::all_keys()).map_err(classify)? {
                let attributes = session.get_attributes(handle, &[AttributeType::Id]).map_err(classify)?;
                for attribute in attributes {
                    if let Attribute::Id(id) = attribute
                        && let Some(object) = ObjectId::from_bytes(&id)
                    {
                        found.insert(object, handle);
                    }
                }
            }
            let objects = found.keys().copied().collect();
            *self.handles.write() = found;
            Ok(objects)
        })
    }

    fn seal(&mut self, object: ObjectId, aad: &[u8], plaintext: &[u8]) -> Result<Sealed, HsmError> {
        let mut iv = [0; IV_LEN];
        self.random(&mut iv)?;
        let ciphertext = self
            .with_key(object, |session, key| {
                let params = GcmParams::new(&mut iv, aad, TAG_BITS.into())?;
                session.encrypt(&CkMechanism::AesGcm(params), key, plaintext)
            })?
            .map_err(classify)?;
        if ciphertext.len() != plaintext.len() + Mechanism::AesGcm.tag_len() {
            return Err(HsmError::Lacks { feature: "AES-GCM with a tag of 128 bits behind the ciphertext" });
        }
        // `iv` is what the token used: some write their own choice back into it.
        Ok(Sealed { mechanism: Mechanism::AesGcm, iv: iv.to_vec(), ciphertext })
    }

    fn open(
        &mut self,
        object: ObjectId,
        mechanism: Mechanism,
        iv: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let Mechanism::AesGcm = mechanism;
        let mut iv = iv.to_vec();
        let outcome = self.with_key(object, |session, key| {
            let params = GcmParams::new(&mut iv, aad, TAG_BITS.into())?;
            session.decrypt(&CkMechanism::AesGcm(params), key, ciphertext).map(Zeroizing::new)
        })?;
        match outcome {
            Ok(plaintext) => Ok(plaintext),
            // The general code may also mean that the token is gone: it is, unless the session still answers.
            Err(error) if is_bad_ciphertext(&error) => {
                self.with(|session| session.get_session_info().map_err(classify))?;
                Err(HsmError::DoesNotOpen)
            }
            Err(error) => Err(classify(error)),
        }
    }

    fn derive(&mut self, purpose: &[u8], create: bool) -> Result<Zeroizing<[u8; 32]>, HsmError> {
        self.with(|session| {
            let found = session.find_objects(&template::integrity_key_search()).map_err(classify)?;
            let key = match found.first() {
                Some(key) => *key,
                None if create => session
                    .generate_key(&CkMechanism::GenericSecretKeyGen, &template::integrity_key())
                    .map_err(classify)?,
                None => return Err(HsmError::NoIntegrityKey),
            };
            let mac =
                session.sign(&CkMechanism::Sha256Hmac, key, purpose).map(Zeroizing::new).map_err(classify)?;
            let mac: &[u8; 32] = mac
                .as_slice()
                .try_into()
                .map_err(|_| HsmError::Lacks { feature: "HMAC-SHA-256 of 32 bytes" })?;
            Ok(Zeroizing::new(*mac))
        })
    }

    fn notes(&mut self) -> Result<Vec<Vec<u8>>, HsmError> {
        self.with(|session| {
            let mut notes = Vec::new();
            for object in session.find_objects(&template::note_search()).map_err(classify)? {
                let attributes = session.get_attributes(object, &[AttributeType::Value]).map_err(classify)?;
                notes.extend(attributes.into_iter().find_map(|attribute| match attribute {
                    Attribute::Value(value) => Some(value),
                    _ => None,
                }));
            }
            Ok(notes)
        })
    }

    fn put_note(&mut self, note: &[u8]) -> Result<(), HsmError> {
        self.with(|session| {
            // A value cannot be changed in place everywhere (SoftHSM refuses): the new note first, then the old one goes.
            let old = session.find_objects(&template::note_search()).map_err(classify)?;
            session.create_object(&template::note(note)).map_err(classify)?;
            for object in old {
                match session.destroy_object(object) {
                    Ok(()) => {}
                    Err(error) if is_stale_handle(&error) => {}
                    Err(error) => return Err(classify(error)),
                }
            }
            Ok(())
        })
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError> {
        self.with(|session| session.generate_random_slice(out).map_err(classify))
    }
}
