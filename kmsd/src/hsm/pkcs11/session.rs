//! One logged-in session.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use cryptoki::{
    error::Error as CkError,
    mechanism::Mechanism as CkMechanism,
    object::{Attribute, AttributeType, KeyType, ObjectHandle},
    session::{Session as CkSession, SessionState},
};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use super::{
    Place,
    fault::{classify, is_stale_handle},
    template,
};
use crate::{
    domain::{
        envelope::Mechanism,
        import::{CheckValue, OaepHash, PairId, RsaBits},
        reconcile::ObjectId,
    },
    hsm::{HsmError, Sealed, Session},
};

/// Handles by object, for all sessions of one initialisation. As many as there are key versions, or twice as many without GCM.
pub(super) type Handles = RwLock<HashMap<(ObjectId, Part), ObjectHandle>>;

/// Which of an object's keys in the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// The AES key.
    Cipher,
    /// The HMAC key beside it, on tokens without GCM.
    Mac,
}

pub(super) struct Pkcs11Session {
    place: Place,
    handles: Arc<Handles>,
    mechanism: Mechanism,
}

impl Pkcs11Session {
    pub(super) const fn new(place: Place, handles: Arc<Handles>, mechanism: Mechanism) -> Self {
        Self { place, handles, mechanism }
    }

    pub(super) const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    pub(super) fn remember(&self, object: ObjectId, handle: ObjectHandle) {
        self.handles.write().insert((object, Part::Cipher), handle);
    }

    /// The keys that a whole object has, in the order in which they are made: when the last is there, all are.
    const fn parts(&self) -> &'static [Part] {
        match self.mechanism {
            Mechanism::AesGcm => &[Part::Cipher],
            Mechanism::AesCbcHmac => &[Part::Mac, Part::Cipher],
        }
    }

    /// Runs a call on the session, unless it was taken away.
    pub(super) fn with<T>(
        &self,
        call: impl FnOnce(&CkSession) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let place = self.place.lock();
        let session = place.as_ref().ok_or_else(|| HsmError::Lost {
            function: "the session".to_owned(),
            code: "closed by a recovery".to_owned(),
        })?;
        call(session)
    }

    /// Runs a call on a key. A dead handle is looked up once more.
    pub(super) fn with_key<T>(
        &self,
        object: ObjectId,
        part: Part,
        mut call: impl FnMut(&CkSession, ObjectHandle) -> Result<T, CkError>,
    ) -> Result<Result<T, CkError>, HsmError> {
        self.with(|session| {
            let known = self.handles.read().get(&(object, part)).copied();
            let handle = match known {
                Some(handle) => handle,
                None => self.look_up(session, object, part)?,
            };
            match call(session, handle) {
                Err(error) if is_stale_handle(&error) => {
                    self.handles.write().remove(&(object, part));
                    let handle = self.look_up(session, object, part)?;
                    Ok(call(session, handle))
                }
                other => Ok(other),
            }
        })
    }

    fn look_up(&self, session: &CkSession, object: ObjectId, part: Part) -> Result<ObjectHandle, HsmError> {
        // A token may show one object under several handles; any of them will do.
        let found = find(session, &template::by_part(object, part))?;
        let handle = found.first().copied().ok_or(HsmError::NoObject { object })?;
        self.handles.write().insert((object, part), handle);
        Ok(handle)
    }

    fn make(&self, session: &CkSession, object: ObjectId, part: Part) -> Result<(), HsmError> {
        let (mechanism, template) = match part {
            Part::Cipher => (CkMechanism::AesKeyGen, template::master_key(object)),
            Part::Mac => (CkMechanism::GenericSecretKeyGen, template::mac_key(object)),
        };
        // SoftHSM refuses so now and then while another session writes to the token. It has made nothing then.
        let mut again = 3;
        let handle = loop {
            match session.generate_key(&mechanism, &template) {
                Err(cryptoki::error::Error::Pkcs11(cryptoki::error::RvError::TemplateInconsistent, _))
                    if again > 0 =>
                {
                    tracing::info!("the token found the template of a new key inconsistent; asking again");
                    again -= 1;
                }
                made => break made.map_err(classify)?,
            }
        };
        let answer = session.get_attributes(handle, &template::PROTECTION_TYPES).map_err(classify)?;
        if !template::is_protected(&answer, part) {
            session.destroy_object(handle).map_err(classify)?;
            return Err(HsmError::Lacks {
                feature: "the attributes that keep a key inside: it made a key that is weaker than asked for, which was destroyed",
            });
        }
        self.handles.write().insert((object, part), handle);
        Ok(())
    }
}

/// What a search finds. A session whose login has gone finds nothing private: that is no answer, and must not be taken for one.
pub(super) fn find(session: &CkSession, search: &[Attribute]) -> Result<Vec<ObjectHandle>, HsmError> {
    let found = session.find_objects(search).map_err(classify)?;
    if found.is_empty()
        && !matches!(session.get_session_info().map_err(classify)?.session_state(), SessionState::RwUser)
    {
        return Err(HsmError::Lost {
            function: "C_FindObjects".to_owned(),
            code: "the session is not logged in".to_owned(),
        });
    }
    Ok(found)
}

/// Destroys what a search finds.
pub(super) fn destroy_all(session: &CkSession, search: &[Attribute]) -> Result<(), HsmError> {
    for handle in find(session, search)? {
        match session.destroy_object(handle) {
            Ok(()) => {}
            // A second handle of the object that has just gone.
            Err(error) if is_stale_handle(&error) => {}
            Err(error) => return Err(classify(error)),
        }
    }
    Ok(())
}

impl Session for Pkcs11Session {
    fn generate(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.with(|session| {
            if self.parts().contains(&Part::Mac) {
                // What an earlier try left behind that got no further.
                destroy_all(session, &template::by_part(object, Part::Mac))?;
            }
            self.parts().iter().try_for_each(|part| self.make(session, object, *part))
        })
    }

    fn exists(&mut self, object: ObjectId) -> Result<bool, HsmError> {
        self.with(|session| {
            for part in self.parts() {
                match self.look_up(session, object, *part) {
                    Ok(_) => {}
                    Err(HsmError::NoObject { .. }) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            Ok(true)
        })
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.with(|session| {
            let mut handles = self.handles.write();
            handles.remove(&(object, Part::Cipher));
            handles.remove(&(object, Part::Mac));
            drop(handles);
            destroy_all(session, &template::by_id(object))
        })
    }

    fn inventory(&mut self) -> Result<Vec<ObjectId>, HsmError> {
        self.with(|session| {
            let mut found = HashMap::new();
            for handle in find(session, &template::all_keys())? {
                let asked = [AttributeType::Id, AttributeType::KeyType];
                let attributes = session.get_attributes(handle, &asked).map_err(classify)?;
                let part = if attributes.contains(&Attribute::KeyType(KeyType::AES)) {
                    Part::Cipher
                } else {
                    Part::Mac
                };
                for attribute in attributes {
                    if let Attribute::Id(id) = attribute
                        && let Some(object) = ObjectId::from_bytes(&id)
                    {
                        found.insert((object, part), handle);
                    }
                }
            }
            let objects: BTreeSet<_> = found.keys().map(|(object, _)| *object).collect();
            *self.handles.write() = found;
            Ok(objects.into_iter().collect())
        })
    }

    fn seal(&mut self, object: ObjectId, aad: &[u8], plaintext: &[u8]) -> Result<Sealed, HsmError> {
        match self.mechanism {
            Mechanism::AesGcm => self.seal_gcm(object, aad, plaintext),
            Mechanism::AesCbcHmac => self.seal_cbc_hmac(object, aad, plaintext),
        }
    }

    fn open(
        &mut self,
        object: ObjectId,
        mechanism: Mechanism,
        iv: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        match mechanism {
            Mechanism::AesGcm => self.open_gcm(object, iv, aad, ciphertext),
            Mechanism::AesCbcHmac => self.open_cbc_hmac(object, iv, aad, ciphertext),
        }
    }

    fn derive(&mut self, purpose: &[u8], create: bool) -> Result<Zeroizing<[u8; 32]>, HsmError> {
        self.with(|session| {
            let found = find(session, &template::integrity_key_search())?;
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

    fn make_pair(&mut self, pair: PairId, bits: RsaBits, hash: OaepHash) -> Result<Vec<u8>, HsmError> {
        self.generate_pair(pair, bits, hash)
    }

    fn drop_pair(&mut self, pair: PairId) -> Result<(), HsmError> {
        self.destroy_pair(pair)
    }

    fn pairs(&mut self) -> Result<Vec<PairId>, HsmError> {
        self.list_pairs()
    }

    fn import(
        &mut self,
        object: ObjectId,
        pair: PairId,
        hash: OaepHash,
        wrapped: &[u8],
    ) -> Result<(), HsmError> {
        self.unwrap(object, pair, hash, wrapped)
    }

    fn check_value(&mut self, object: ObjectId) -> Result<CheckValue, HsmError> {
        self.check(object)
    }

    fn notes(&mut self) -> Result<Vec<Vec<u8>>, HsmError> {
        self.with(|session| {
            let mut notes = Vec::new();
            for object in find(session, &template::note_search())? {
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
            let old = find(session, &template::note_search())?;
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
