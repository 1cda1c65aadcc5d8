//! Making, finding and destroying objects: who changes them is alone.
//!
//! SoftHSM (2.6.1) shows a new object to the other sessions of the process before it has its attributes. A search there loads it anew from its
//! half-written file (`ObjectFile::refresh`), and what had been set in memory is forgotten. The call then answers `CKR_TEMPLATE_INCONSISTENT`,
//! `CKR_GENERAL_ERROR` or `CKR_FUNCTION_FAILED` and leaves a torn object behind, or it answers `CKR_OK` and the key lacks a part of its template. So nobody
//! searches while an object is made or destroyed. Encrypting and signing go on: they touch no object but their own.

use std::collections::{HashMap, HashSet};

use cryptoki::{
    error::{Error as CkError, RvError},
    object::{Attribute, AttributeType, ObjectHandle},
    session::{Session as CkSession, SessionState},
};
use parking_lot::RwLock;

use super::fault::{classify, is_stale_handle};
use crate::{domain::reconcile::ObjectId, hsm::HsmError};

/// Which of an object's keys in the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// The AES key.
    Cipher,
    /// The HMAC key beside it, on tokens without GCM.
    Mac,
}

/// Handles of master keys. As many as there are key versions, or twice as many without GCM.
pub(super) type Handles = HashMap<(ObjectId, Part), ObjectHandle>;

/// What all sessions of one initialisation share.
#[derive(Default)]
pub(super) struct Objects {
    pub(super) handles: RwLock<Handles>,
    /// Objects without a key that authenticates, on a token that makes none: looked for once, not at each request.
    pub(super) single: RwLock<HashSet<ObjectId>>,
    /// Held alone for a change, together for a search.
    changes: RwLock<()>,
}

/// How often a creation is asked for again.
const AGAIN: u32 = 3;

impl Objects {
    /// Runs a call that makes an object.
    ///
    /// SoftHSM behind p11-kit's server has other programs' searches in its process, which no lock here holds up: when it calls a template inconsistent it is
    /// asked again, a few times. What it leaves behind then has neither name nor value.
    pub(super) fn make<T>(&self, call: impl Fn() -> Result<T, CkError>) -> Result<T, CkError> {
        let _alone = self.changes.write();
        let mut made = call();
        for _ in 0..AGAIN {
            match made {
                Err(CkError::Pkcs11(RvError::TemplateInconsistent, _)) => {
                    tracing::info!("the token found the template of a new object inconsistent; asking again");
                    made = call();
                }
                _ => break,
            }
        }
        made
    }

    /// Destroys one object.
    pub(super) fn destroy(&self, session: &CkSession, handle: ObjectHandle) -> Result<(), HsmError> {
        let _alone = self.changes.write();
        session.destroy_object(handle).map_err(classify)
    }

    /// Destroys objects, of which some may have gone already: a token may show one under several handles.
    pub(super) fn destroy_each(&self, session: &CkSession, handles: &[ObjectHandle]) -> Result<(), HsmError> {
        for handle in handles {
            let _alone = self.changes.write();
            match session.destroy_object(*handle) {
                Ok(()) => {}
                Err(error) if is_stale_handle(&error) => {}
                Err(error) => return Err(classify(error)),
            }
        }
        Ok(())
    }

    /// Destroys what a search finds.
    pub(super) fn destroy_all(&self, session: &CkSession, search: &[Attribute]) -> Result<(), HsmError> {
        let found = self.find(session, search)?;
        self.destroy_each(session, &found)
    }

    /// What a search finds.
    pub(super) fn find(
        &self,
        session: &CkSession,
        search: &[Attribute],
    ) -> Result<Vec<ObjectHandle>, HsmError> {
        let _unchanged = self.changes.read();
        find(session, search)
    }

    /// What a search finds, and some attributes of each.
    pub(super) fn read(
        &self,
        session: &CkSession,
        search: &[Attribute],
        types: &[AttributeType],
    ) -> Result<Vec<(ObjectHandle, Vec<Attribute>)>, HsmError> {
        let _unchanged = self.changes.read();
        find(session, search)?
            .into_iter()
            .map(|handle| Ok((handle, session.get_attributes(handle, types).map_err(classify)?)))
            .collect()
    }
}

/// A session whose login has gone finds nothing private: that is no answer, and must not be taken for one.
fn find(session: &CkSession, search: &[Attribute]) -> Result<Vec<ObjectHandle>, HsmError> {
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
