//! A key service in memory, whose keys can be put into any state.

use std::{cell::RefCell, rc::Rc};

use crate::{
    keys::{KeyError, KeyService, NewKey},
    model::key::{Key, KeyState},
};

/// Shared between the app under test and the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeKeys {
    keys: Rc<RefCell<Vec<Key>>>,
    away: Rc<RefCell<bool>>,
}

impl FakeKeys {
    /// Adds an enabled key and returns its ID.
    pub(crate) fn add(&self, alias: &str) -> String {
        self.create(&NewKey { alias: alias.to_owned(), description: None }).unwrap().key_id
    }

    /// Puts a key into a state.
    pub(crate) fn set(&self, key_id: &str, state: KeyState) {
        self.change(key_id, |key| key.state = state).unwrap();
    }

    /// Destroys a key.
    pub(crate) fn destroy(&self, key_id: &str) {
        self.keys.borrow_mut().retain(|key| key.key_id != key_id);
    }

    /// Makes it unreachable, or reachable again.
    pub(crate) fn set_away(&self, away: bool) {
        *self.away.borrow_mut() = away;
    }

    fn answer(&self) -> Result<(), KeyError> {
        if *self.away.borrow() { Err(KeyError::Unavailable { message: "away".to_owned() }) } else { Ok(()) }
    }

    fn change(&self, key_id: &str, change: impl FnOnce(&mut Key)) -> Result<(), KeyError> {
        self.answer()?;
        let mut keys = self.keys.borrow_mut();
        let key = keys.iter_mut().find(|key| key.key_id == key_id);
        key.map(change).ok_or_else(|| KeyError::NotFound { key: key_id.to_owned() })
    }
}

impl KeyService for FakeKeys {
    fn create(&self, new: &NewKey) -> Result<Key, KeyError> {
        self.answer()?;
        let key = Key {
            key_id: uuid::Uuid::new_v4().to_string(),
            alias: new.alias.clone(),
            state: KeyState::Enabled,
            default: new.alias.ends_with("/default"),
            origin: "kms".to_owned(),
            versions: 1,
            rotation: false,
            deletion_date: None,
            created_at: None,
            description: new.description.clone(),
        };
        self.keys.borrow_mut().push(key.clone());
        Ok(key)
    }

    fn list(&self) -> Result<Vec<Key>, KeyError> {
        self.answer()?;
        Ok(self.keys.borrow().clone())
    }

    fn describe(&self, key_id: &str) -> Result<Key, KeyError> {
        self.answer()?;
        let keys = self.keys.borrow();
        let key = keys.iter().find(|key| key.key_id == key_id).cloned();
        key.ok_or_else(|| KeyError::NotFound { key: key_id.to_owned() })
    }

    fn enable(&self, key_id: &str) -> Result<(), KeyError> {
        self.change(key_id, |key| key.state = KeyState::Enabled)
    }

    fn disable(&self, key_id: &str) -> Result<(), KeyError> {
        self.change(key_id, |key| key.state = KeyState::Disabled)
    }

    fn rotate(&self, key_id: &str) -> Result<(), KeyError> {
        self.change(key_id, |key| key.versions += 1)
    }

    fn rotate_every(&self, key_id: &str, days: Option<u16>) -> Result<(), KeyError> {
        self.change(key_id, |key| key.rotation = days.is_some())
    }

    fn schedule_deletion(&self, key_id: &str, _days: u16) -> Result<(), KeyError> {
        self.change(key_id, |key| key.state = KeyState::PendingDeletion)
    }

    fn cancel_deletion(&self, key_id: &str) -> Result<(), KeyError> {
        self.change(key_id, |key| key.state = KeyState::Disabled)
    }
}
