//! A key service in memory, whose keys can be put into any state.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use ::kmsd::domain::grant::GrantSpec;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    keys::{Health, KeyError, KeyService, NewKey, Release, material::Material},
    model::key::{Grant, Key, KeyState},
};

/// Shared between the app under test and the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeKeys {
    keys: Rc<RefCell<Vec<Key>>>,
    grants: Rc<RefCell<Vec<Grant>>>,
    /// By key: names besides its own.
    aliases: Rc<RefCell<Vec<(String, String)>>>,
    tags: Rc<RefCell<BTreeMap<(String, String), String>>>,
    away: Rc<RefCell<bool>>,
    released: Rc<RefCell<Vec<String>>>,
    forgotten: Rc<RefCell<Vec<Uuid>>>,
}

impl FakeKeys {
    /// Adds an enabled key and returns its ID.
    pub(crate) fn add(&self, alias: &str) -> String {
        self.create(&NewKey { alias: alias.to_owned(), ..NewKey::default() }).unwrap().key_id
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

    /// What left encryption: from what to where.
    pub(crate) fn released(&self) -> Vec<String> {
        self.released.borrow().clone()
    }

    /// Volumes whose anchors went.
    pub(crate) fn forgotten(&self) -> Vec<Uuid> {
        self.forgotten.borrow().clone()
    }

    fn answer(&self) -> Result<(), KeyError> {
        if *self.away.borrow() {
            Err(KeyError::Unavailable { message: "away".to_owned(), hint: None })
        } else {
            Ok(())
        }
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
            state: if new.is_external { KeyState::PendingImport } else { KeyState::Enabled },
            default: new.alias.ends_with("/default"),
            origin: if new.is_external { "external" } else { "kms" }.to_owned(),
            versions: u64::from(!new.is_external),
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

    fn release_plaintext(&self, release: &Release<'_>) -> Result<(), KeyError> {
        self.answer()?;
        self.released.borrow_mut().push(release.to.to_owned());
        Ok(())
    }

    fn forget_anchor(&self, volume: Uuid) -> Result<(), KeyError> {
        self.answer()?;
        self.forgotten.borrow_mut().push(volume);
        Ok(())
    }

    fn import(&self, key_id: &str, _: &Material, _: Option<Timestamp>) -> Result<(), KeyError> {
        self.change(key_id, |key| {
            key.state = KeyState::Enabled;
            key.versions = 1;
        })
    }

    fn health(&self) -> Result<Health, KeyError> {
        self.answer()?;
        Ok(Health {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            token_present: true,
            token: "fake".to_owned(),
            well: true,
        })
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

    fn grant(&self, key_id: &str, spec: &GrantSpec) -> Result<String, KeyError> {
        self.answer()?;
        let grant_id = uuid::Uuid::new_v4().simple().to_string().repeat(2);
        self.grants.borrow_mut().push(Grant::new(grant_id.clone(), key_id.to_owned(), spec));
        Ok(grant_id)
    }

    fn grants(&self, key_id: &str) -> Result<Vec<Grant>, KeyError> {
        self.answer()?;
        Ok(self.grants.borrow().iter().filter(|grant| grant.key_id == key_id).cloned().collect())
    }

    fn revoke(&self, _key_id: &str, grant_id: &str) -> Result<(), KeyError> {
        self.answer()?;
        self.grants.borrow_mut().retain(|grant| grant.grant_id != grant_id);
        Ok(())
    }

    fn aliases(&self, key_id: &str) -> Result<Vec<String>, KeyError> {
        let own = self.describe(key_id)?.alias;
        let aliases = self.aliases.borrow();
        let others = aliases.iter().filter(|(of, _)| of == key_id).map(|(_, alias)| alias.clone());
        let mut all: Vec<String> = others.chain([own]).collect();
        all.sort();
        Ok(all)
    }

    fn add_alias(&self, key_id: &str, alias: &str) -> Result<(), KeyError> {
        self.answer()?;
        self.aliases.borrow_mut().push((key_id.to_owned(), alias.to_owned()));
        Ok(())
    }

    fn remove_alias(&self, key_id: &str, alias: &str) -> Result<(), KeyError> {
        self.answer()?;
        self.aliases.borrow_mut().retain(|(of, name)| of != key_id || name != alias);
        Ok(())
    }

    fn rename(&self, key_id: &str, alias: &str) -> Result<(), KeyError> {
        self.change(key_id, |key| alias.clone_into(&mut key.alias))
    }

    fn tags(&self, key_id: &str) -> Result<Vec<(String, String)>, KeyError> {
        self.answer()?;
        let tags = self.tags.borrow();
        let own = tags.iter().filter(|((of, _), _)| of == key_id);
        Ok(own.map(|((_, name), value)| (name.clone(), value.clone())).collect())
    }

    fn add_tags(&self, key_id: &str, tags: &[(String, String)]) -> Result<(), KeyError> {
        self.answer()?;
        let of = |(name, value): &(String, String)| ((key_id.to_owned(), name.clone()), value.clone());
        self.tags.borrow_mut().extend(tags.iter().map(of));
        Ok(())
    }

    fn remove_tags(&self, key_id: &str, names: &[String]) -> Result<(), KeyError> {
        self.answer()?;
        self.tags.borrow_mut().retain(|(of, name), _| of != key_id || !names.contains(name));
        Ok(())
    }

    fn schedule_deletion(&self, key_id: &str, _days: u16) -> Result<(), KeyError> {
        self.change(key_id, |key| key.state = KeyState::PendingDeletion)
    }

    fn cancel_deletion(&self, key_id: &str) -> Result<(), KeyError> {
        self.change(key_id, |key| key.state = KeyState::Disabled)
    }
}
