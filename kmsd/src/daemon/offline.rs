//! What is done with store, token and audit log while kmsd does not serve: `kmsd rekey-store`, `kmsd audit verify|archive`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Config, DaemonError, init::check_home};
use crate::{
    audit::{self, Archived, AuditError, Extent, Verdict},
    clock::SystemClock,
    domain::{
        audit::{ChainKey, Head},
        integrity::TokenNote,
    },
    hsm::{
        HsmError, Pool, PoolSettings, Session, Token, TokenIdentity,
        pkcs11::{Pkcs11Settings, Pkcs11Token, Select},
    },
    service::{Parts, Service, audit_purpose, newest_note},
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
    audit::settle(&home.join(Config::AUDIT))?;
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
        limits: (&config.limits).into(),
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
pub fn verify_audit(
    home: &Path,
    config: &Config,
    copy: Option<&Path>,
    archives: &[PathBuf],
) -> Result<Verdict, DaemonError> {
    check_home(home)?;
    let facts = crate::store::sqlite::facts(&home.join(Config::STORE))?;
    let token = connect(home, config, facts.token)?;
    let mut session = token.open()?;
    let note = remembered(session.as_mut())?;
    let own = home.join(Config::AUDIT);
    let directories: Vec<&Path> =
        archives.iter().map(PathBuf::as_path).chain([copy.unwrap_or(&own)]).collect();
    check_audit(session.as_mut(), &directories, note)
}

/// Moves every record of the audit log into an archive beside it, and begins the log anew with a record that names the last one. The token is told of the
/// new end.
///
/// # Errors
/// If kmsd is serving, the log is not intact, or the token or the file system refuses; then the log is as it was.
pub fn archive_audit(home: &Path, config: &Config) -> Result<Archived, DaemonError> {
    check_home(home)?;
    // Held to the end, so that nobody serves meanwhile.
    let mut store = SqliteStore::open(&home.join(Config::STORE))?;
    let token = connect(home, config, store.token()?)?;
    let mut session = token.open()?;
    let note = remembered(session.as_mut())?;
    let clock = Arc::new(SystemClock::new()?);
    let done = with_keys(session.as_mut(), |key_of| {
        audit::archive::<AuditError>(&home.join(Config::AUDIT), noted(note), key_of, clock)
    })?;
    let archived = done.map_err(|Verdict { fault, records, .. }| match fault {
        Some(fault) => DaemonError::Tampered { fault, records },
        None => AuditError::Stopped.into(),
    })?;
    let note = TokenNote { audit: archived.end, file: archived.file.max(note.file), ..note };
    if let Err(error) = session.put_note(&serde_json::to_vec(&note).expect("notes serialise")) {
        tracing::warn!(%error, "the log is archived, and the token is told of its new end by the next start of kmsd");
    }
    Ok(archived)
}

/// What the token remembers.
pub(super) fn remembered(session: &mut dyn Session) -> Result<TokenNote, DaemonError> {
    Ok(newest_note(session.notes()?)?)
}

pub(super) fn check_audit(
    session: &mut dyn Session,
    directories: &[&Path],
    note: TokenNote,
) -> Result<Verdict, DaemonError> {
    with_keys(session, |key_of| {
        audit::verify::<AuditError>(directories, Extent::Whole { noted: noted(note) }, key_of)
    })
}

/// The end of the log that the token was told of.
fn noted(note: TokenNote) -> Option<Head> {
    (note.audit.seq > 0).then_some(note.audit)
}

/// Works with the log's keys as the token derives them.
fn with_keys<T>(
    session: &mut dyn Session,
    work: impl FnOnce(&mut dyn FnMut(u64) -> Result<ChainKey, AuditError>) -> Result<T, AuditError>,
) -> Result<T, DaemonError> {
    let mut lost: Option<HsmError> = None;
    let done = work(&mut |number| {
        session.derive(&audit_purpose(number), false).map(|key| ChainKey::new(*key)).map_err(|error| {
            lost = Some(error);
            AuditError::Stopped
        })
    });
    match lost {
        Some(error) => Err(error.into()),
        None => Ok(done?),
    }
}
