//! What is done with store, token and audit log while kmsd does not serve: `kmsd rekey-store`, `kmsd audit verify`.

use std::{path::Path, sync::Arc};

use super::{Config, DaemonError, init::check_home};
use crate::{
    audit::{self, AuditError, Extent, Verdict},
    clock::SystemClock,
    domain::{audit::ChainKey, integrity::TokenNote},
    hsm::{
        HsmError, Pool, PoolSettings, Session, Token, TokenIdentity,
        pkcs11::{Pkcs11Settings, Pkcs11Token, Select},
    },
    service::{Limits, Parts, Service, audit_purpose, newest_note},
    store::{SqliteStore, Store},
};

/// Logs in to the token that the store is bound to.
pub(super) fn connect(
    home: &Path,
    config: &Config,
    expected: TokenIdentity,
) -> Result<Pkcs11Token, DaemonError> {
    Ok(Pkcs11Token::connect(Pkcs11Settings {
        module: config.token.module.clone(),
        select: Select::Label(config.token.label.clone()),
        expected: Some(expected),
        pin: config.pin(home)?,
    })?)
}

/// The service as `kmsd serve` starts it, without a way in.
pub(super) async fn start(
    home: &Path,
    config: &Config,
    mut store: SqliteStore,
    accept_restored: bool,
) -> Result<Service, DaemonError> {
    let token = connect(home, config, store.token()?)?;
    let settings = PoolSettings {
        sessions: config.token.sessions,
        queue: config.limits.queue,
        ..PoolSettings::default()
    };
    let pool = Pool::start(Arc::new(token), settings)?;
    let parts = Parts {
        store: Box::new(store),
        audit: home.join(Config::AUDIT),
        pool,
        clock: Arc::new(SystemClock::new()?),
        limits: Limits {
            max_keys: config.limits.max_keys,
            max_anchors: config.limits.max_anchors,
            max_anchors_each: config.limits.max_anchors_each,
            lease_seconds: config.limits.lease_seconds,
        },
        accept_restored,
    };
    Ok(Service::start(parts).await?)
}

/// Replaces the store's integrity key and makes every MAC anew; gives the new key's number.
///
/// # Errors
/// If kmsd is serving, or the start fails; then nothing is changed.
pub fn rekey_store(home: &Path, config: &Config) -> Result<u64, DaemonError> {
    check_home(home)?;
    let store = SqliteStore::open(&home.join(Config::STORE))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build()?;
    runtime.block_on(async {
        let service = start(home, config, store, false).await?;
        service.rekey_store().await.map_err(DaemonError::Rekey)
    })
}

/// Checks the audit log, or a copy of it, with the token and what it remembers. kmsd is not needed, and is not disturbed.
///
/// # Errors
/// If log or token cannot be read. What is wrong with the log is in the verdict.
pub fn verify_audit(home: &Path, config: &Config, copy: Option<&Path>) -> Result<Verdict, DaemonError> {
    check_home(home)?;
    let facts = crate::store::sqlite::facts(&home.join(Config::STORE))?;
    let token = connect(home, config, facts.token)?;
    let mut session = token.open()?;
    let note = remembered(session.as_mut())?;
    let own = home.join(Config::AUDIT);
    check_audit(session.as_mut(), copy.unwrap_or(&own), note)
}

/// What the token remembers.
pub(super) fn remembered(session: &mut dyn Session) -> Result<TokenNote, DaemonError> {
    Ok(newest_note(session.notes()?)?)
}

pub(super) fn check_audit(
    session: &mut dyn Session,
    directory: &Path,
    note: TokenNote,
) -> Result<Verdict, DaemonError> {
    let extent = Extent::Whole { noted: (note.audit.seq > 0).then_some(note.audit) };
    let mut lost: Option<HsmError> = None;
    let verdict = audit::verify::<AuditError>(directory, extent, |number| {
        session.derive(&audit_purpose(number), false).map(|key| ChainKey::new(*key)).map_err(|error| {
            lost = Some(error);
            AuditError::Stopped
        })
    });
    match lost {
        Some(error) => Err(error.into()),
        None => Ok(verdict?),
    }
}
