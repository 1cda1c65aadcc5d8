//! One logged-in session.

use std::{collections::BTreeSet, sync::Arc};

use cryptoki::{
    error::Error as CkError,
    mechanism::Mechanism as CkMechanism,
    object::{Attribute, AttributeType, KeyType, ObjectHandle},
    session::{Session as CkSession, SessionState},
};
use zeroize::Zeroizing;

use super::{
    Place,
    fault::{classify, is_stale_handle},
    objects::{Handles, Objects, Part},
    template,
};
use crate::{
    domain::{
        envelope::Mechanism,
        import::{Arrival, CheckValue, OaepHash, PairId, RsaBits},
        reconcile::ObjectId,
    },
    hsm::{HsmError, Sealed, Session},
};

pub(super) struct Pkcs11Session {
    place: Place,
    pub(super) objects: Arc<Objects>,
    mechanism: Mechanism,
}

impl Pkcs11Session {
    pub(super) const fn new(place: Place, objects: Arc<Objects>, mechanism: Mechanism) -> Self {
        Self { place, objects, mechanism }
    }

    pub(super) fn remember(&self, object: ObjectId, handle: ObjectHandle) {
        self.objects.handles.write().insert((object, Part::Cipher), handle);
    }

    /// The keys that a whole object has, in the order in which they are made: when the last is there, all are.
    pub(super) const fn parts(&self) -> &'static [Part] {
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
            let known = self.objects.handles.read().get(&(object, part)).copied();
            let handle = match known {
                Some(handle) => handle,
                None => self.look_up(session, object, part)?,
            };
            match call(session, handle) {
                Err(error) if is_stale_handle(&error) => {
                    self.objects.handles.write().remove(&(object, part));
                    let handle = self.look_up(session, object, part)?;
                    Ok(call(session, handle))
                }
                other => Ok(other),
            }
        })
    }

    pub(super) fn look_up(
        &self,
        session: &CkSession,
        object: ObjectId,
        part: Part,
    ) -> Result<ObjectHandle, HsmError> {
        // A token may show one object under several handles; any of them will do.
        let found = self.objects.find(session, &template::by_part(object, part))?;
        let mut handles = self.objects.handles.write();
        let Some(handle) = found.first().copied() else {
            handles.remove(&(object, part));
            return Err(HsmError::NoObject { object });
        };
        handles.insert((object, part), handle);
        Ok(handle)
    }

    pub(super) fn make(&self, session: &CkSession, object: ObjectId, part: Part) -> Result<(), HsmError> {
        let (mechanism, template) = match part {
            Part::Cipher => (CkMechanism::AesKeyGen, template::master_key(object)),
            Part::Mac => (CkMechanism::GenericSecretKeyGen, template::mac_key(object)),
        };
        let handle = self.objects.make(|| session.generate_key(&mechanism, &template)).map_err(classify)?;
        if !is_protected(session, handle, part)? {
            self.objects.destroy(session, handle)?;
            return Err(HsmError::Lacks {
                feature: "the attributes that keep a key inside: it made a key that is weaker than asked for, which was destroyed",
            });
        }
        self.objects.handles.write().insert((object, part), handle);
        Ok(())
    }
}

/// What the token says of a key, not what was asked of it (K1).
fn is_protected(session: &CkSession, handle: ObjectHandle, part: Part) -> Result<bool, HsmError> {
    let answer = session.get_attributes(handle, &template::PROTECTION_TYPES).map_err(classify)?;
    Ok(template::is_protected(&answer, part))
}

impl Session for Pkcs11Session {
    fn generate(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.with(|session| {
            // Without a search, which takes its time on a token with many objects; callers that do not know look first.
            if self.objects.handles.read().contains_key(&(object, Part::Cipher)) {
                return Err(HsmError::Occupied { object });
            }
            if self.parts().contains(&Part::Mac) {
                // The MAC part is made first: one beside a cipher part is in use, and what the two sealed opens with it alone.
                if !self.objects.find(session, &template::by_part(object, Part::Cipher))?.is_empty() {
                    return Err(HsmError::Occupied { object });
                }
                // What an earlier try left behind that got no further.
                self.objects.destroy_all(session, &template::by_part(object, Part::Mac))?;
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

    fn is_protected(&mut self, object: ObjectId) -> Result<bool, HsmError> {
        self.with(|session| {
            for part in self.parts() {
                let handle = self.look_up(session, object, *part)?;
                if !is_protected(session, handle, *part)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.with(|session| {
            let mut handles = self.objects.handles.write();
            handles.remove(&(object, Part::Cipher));
            handles.remove(&(object, Part::Mac));
            drop(handles);
            self.objects.single.write().remove(&object);
            self.objects.destroy_all(session, &template::by_id(object))
        })
    }

    fn inventory(&mut self) -> Result<Vec<ObjectId>, HsmError> {
        self.with(|session| {
            let mut found = Handles::new();
            let asked = [AttributeType::Id, AttributeType::KeyType];
            for (handle, attributes) in self.objects.read(session, &template::all_keys(), &asked)? {
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
            *self.objects.handles.write() = found;
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
            let found = self.objects.find(session, &template::integrity_key_search())?;
            let key = match found.first() {
                Some(key) => *key,
                None if create => {
                    let template = template::integrity_key();
                    self.objects
                        .make(|| session.generate_key(&CkMechanism::GenericSecretKeyGen, &template))
                        .map_err(classify)?
                }
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
        arrival: Arrival,
    ) -> Result<(), HsmError> {
        self.unwrap(object, pair, hash, wrapped, arrival)
    }

    fn remove_material(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.with(|session| {
            self.objects.handles.write().remove(&(object, Part::Cipher));
            self.objects.destroy_all(session, &template::by_part(object, Part::Cipher))
        })
    }

    fn check_value(&mut self, object: ObjectId) -> Result<CheckValue, HsmError> {
        self.check(object)
    }

    fn notes(&mut self) -> Result<Vec<Vec<u8>>, HsmError> {
        self.with(|session| {
            let mut notes = Vec::new();
            let found = self.objects.read(session, &template::note_search(), &[AttributeType::Value])?;
            for (_, attributes) in found {
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
            let old = self.objects.find(session, &template::note_search())?;
            let template = template::note(note);
            self.objects.make(|| session.create_object(&template)).map_err(classify)?;
            self.objects.destroy_each(session, &old)
        })
    }

    fn answers(&mut self) -> Result<(), HsmError> {
        self.with(|session| match session.get_session_info().map_err(classify)?.session_state() {
            // Some modules answer that without the device.
            SessionState::RwUser => session.generate_random_slice(&mut [0; 8]).map_err(classify),
            _ => Err(HsmError::Lost {
                function: "C_GetSessionInfo".to_owned(),
                code: "the session is not logged in".to_owned(),
            }),
        })
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError> {
        self.with(|session| session.generate_random_slice(out).map_err(classify))
    }
}
