//! The start: compares the store with the token, finishes what a crash cut short, reports what does not fit.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::{Inner, Limits, Service, ServiceError, audit::Trail, flight::Work};
use crate::{
    audit::{AuditError, AuditLog, FirstRecord},
    clock::Clock,
    domain::{
        Caller,
        audit::ChainKey,
        import,
        integrity::{IntegrityKey, TokenNote},
        key::{DELETION_DAYS, KeyRecord},
        reconcile::{Findings, ObjectId, reconcile},
        registry::Change,
        time::TrustedClock,
    },
    hsm::{HsmError, Pool, TokenIdentity},
    store::{CommitError, Contents, Store, StoreError, Writer},
};

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// None of the keys is in the token.
    #[error(
        "the token {token} has none of the {keys} key versions of this store: it is the wrong one, or it was initialised anew. Nothing was changed; plug in the right token, or restore it from its backup"
    )]
    ForeignToken {
        /// The token.
        token: TokenIdentity,
        /// How many should be there.
        keys: usize,
    },
    /// An older store than the one that was in use last.
    #[error(
        "the store is an older copy (its newest change is {found}, the token knows of {newest}): put the newer one back, or accept what was lost with `kmsd serve --accept-restored`, which is audited"
    )]
    OlderStore {
        /// Number of its newest commit.
        found: u64,
        /// Number of the newest commit that the token was told of.
        newest: u64,
    },
    /// A store whose MACs are made with a key that was replaced since.
    #[error(
        "the store is guarded by integrity key {found}, which was replaced by {newest} (`kmsd rekey-store`): put the newer store back, or accept this one with `kmsd serve --accept-restored`, which is audited"
    )]
    ReplacedKey {
        /// Number of its key.
        found: u64,
        /// Number of the newest key that the token was told of.
        newest: u64,
    },
    /// The audit log's end is missing.
    #[error(
        "the audit log ends with record {found}, the token knows of {newest}: put the missing part back, or accept what was lost with `kmsd serve --accept-restored`, which is audited"
    )]
    AuditCutOff {
        /// Number of its last record.
        found: u64,
        /// Number of the newest record that the token was told of.
        newest: u64,
    },
    /// The audit log is not the one that was written.
    #[error(
        "record {seq} of the audit log is not the one that the token knows: the log was replaced by another of this token's, such as an older one that was lost. Put the right one back, or accept what was lost with `kmsd serve --accept-restored`, which is audited"
    )]
    AuditReplaced {
        /// Number of the newest record that the token was told of.
        seq: u64,
    },
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Finishing what was cut short failed.
    #[error("what an earlier run left unfinished cannot be finished: {0}")]
    Unfinished(#[source] ServiceError),
    /// No more threads.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a service is made of.
pub struct Parts {
    /// The store, not yet unlocked.
    pub store: Box<dyn Store>,
    /// The audit log's directory.
    pub audit: PathBuf,
    /// The token.
    pub pool: Pool,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub limits: Limits,
    /// Whether an older store, or a log without its end, is taken on.
    pub accept_restored: bool,
}

/// How far above the newest known commit a restored store goes on. The one that it replaces may be further than the token was told: by what it was changed
/// while the token was away, or in the last seconds.
const RESTORED_ABOVE: u64 = 1 << 32;

/// What the store's integrity key of a number is derived for.
pub(crate) fn store_purpose(number: u64) -> Vec<u8> {
    format!("kmsd store {number}").into_bytes()
}

/// The store's integrity key of a number.
pub(super) async fn store_key(pool: &Pool, number: u64) -> Result<IntegrityKey, HsmError> {
    let purpose = store_purpose(number);
    let key = pool.call(move |session| session.derive(&purpose, false)).await?;
    Ok(IntegrityKey::new(*key))
}

/// What the key is derived for that a file of the audit log begins with.
pub(crate) fn audit_purpose(number: u64) -> Vec<u8> {
    format!("kmsd audit 1 {number}").into_bytes()
}

/// The key that a file of the audit log begins with.
pub(super) async fn audit_key(pool: &Pool, number: u64) -> Result<Zeroizing<[u8; 32]>, HsmError> {
    let purpose = audit_purpose(number);
    pool.call(move |session| session.derive(&purpose, false)).await
}

/// Whether the record that the token knows is among those that were archived before the log, which the token was not told of any more, or has forgotten since it
/// was put back. Only who may ask the token for keys can write that; and the file is none of a log that was lost, which had lower numbers.
async fn is_archived(pool: &Pool, begin: Option<FirstRecord>, note: TokenNote) -> Result<bool, HsmError> {
    let Some(begin) = begin.filter(|begin| begin.file() > note.file) else { return Ok(false) };
    let (last, noted) = (begin.before(), note.audit);
    if last.seq < noted.seq || (last.seq == noted.seq && last != noted) {
        return Ok(false);
    }
    Ok(begin.is_intact(ChainKey::new(*audit_key(pool, begin.file()).await?)))
}

/// The newest of what the token remembers: after a crash amid a change there may be two.
pub(crate) fn newest_note(notes: Vec<Vec<u8>>) -> Result<TokenNote, StoreError> {
    let damaged = |_| StoreError::Damaged { what: "token", id: "note".to_owned() };
    let mut newest = TokenNote::default();
    for bytes in notes {
        let note: TokenNote = serde_json::from_slice(&bytes).map_err(damaged)?;
        if (note.epoch, note.audit.seq) > (newest.epoch, newest.audit.seq) {
            newest = note;
        }
    }
    Ok(newest)
}

impl Service {
    /// Opens the service on a store, an audit log and a token.
    ///
    /// # Errors
    /// If any of them cannot be used, or they do not belong together.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let Parts { mut store, audit, pool, clock, limits, accept_restored } = parts;
        let token = store.token()?;
        let found = pool.identity();
        if token != found {
            return Err(HsmError::WrongToken { expected: token, found }.into());
        }
        let inventory = pool.call(|session| session.inventory()).await?;
        let note = newest_note(pool.call(|session| session.notes()).await?)?;
        // A token that was told nothing yet has its integrity key made; one that was must have it.
        let create = note == TokenNote::default();
        let key_number = store.key_number()?;
        let purpose = store_purpose(key_number);
        let key = pool.call(move |session| session.derive(&purpose, create)).await?;
        store.unlock(IntegrityKey::new(*key));
        let Contents { epoch, clock: stored, registry } = store.load()?;
        let mut findings = reconcile(&registry, &inventory.into_iter().collect());
        if findings.is_foreign {
            return Err(StartError::ForeignToken { token, keys: findings.missing.len() });
        }
        let mut losses = Vec::new();
        if epoch < note.epoch {
            losses.push(StartError::OlderStore { found: epoch, newest: note.epoch });
        }
        if key_number < note.store_key {
            losses.push(StartError::ReplacedKey { found: key_number, newest: note.store_key });
        }
        let opened = AuditLog::open(&audit)?.above(note.file);
        // The log knows too where the store was, should the token have been restored along with it.
        let last_start = match opened.newest_start() {
            Some(start) => start.commit(ChainKey::new(*audit_key(&pool, start.file()).await?)),
            None => None,
        };
        if let Some(newest) = last_start.filter(|newest| epoch < *newest && epoch >= note.epoch) {
            losses.push(StartError::OlderStore { found: epoch, newest });
        }
        if opened.head().seq < note.audit.seq {
            losses.push(StartError::AuditCutOff { found: opened.head().seq, newest: note.audit.seq });
        } else if opened.lacks(note.audit)? && !is_archived(&pool, opened.begin()?, note).await? {
            losses.push(StartError::AuditReplaced { seq: note.audit.seq });
        }
        if !accept_restored && let Some(loss) = losses.pop() {
            return Err(loss);
        }
        let chain_key = ChainKey::new(*audit_key(&pool, opened.number()).await?);
        let was_restored = !losses.is_empty();
        // Above every commit of the store that is given up, those included that the token was not told of: that store is an older one from now on.
        let newest = [epoch, note.epoch, last_start.unwrap_or_default()].into_iter().max().unwrap_or(epoch);
        let goes_on_at = if was_restored { newest.saturating_add(RESTORED_ABOVE) } else { epoch };
        let audit = AuditLog::start(opened, chain_key, Arc::clone(&clock), goes_on_at)?;

        let reading = clock.read();
        let trusted = match stored {
            Some(stored) => stored.observe(reading),
            None => TrustedClock::start(reading),
        };
        let trusted = if was_restored { trusted.put_back() } else { trusted };
        let heard = super::leases::Heard::nothing(&trusted, limits.lease_seconds);
        let inner = Inner {
            writer: Writer::start(store, Contents { epoch, clock: None, registry })?,
            audit,
            metrics: super::metrics::Metrics::default(),
            pool,
            clock,
            trusted: Mutex::new(trusted),
            limits,
            heard: Mutex::new(heard),
            in_flight: Mutex::new(HashMap::new()),
            landed: Notify::new(),
            again: Mutex::default(),
            open_secrets: super::access_keys::OpenSecrets::default(),
            strangers: super::strangers::Strangers::default(),
            new_keys: tokio::sync::Mutex::new(()),
            default_keys: tokio::sync::Mutex::new(()),
            noted: tokio::sync::Mutex::new(note),
            is_restoring: AtomicBool::new(was_restored),
            store_key: AtomicU64::new(key_number),
        };
        let service = Self { inner: Arc::new(inner) };
        for loss in losses {
            tracing::warn!(%loss, "accepted");
            let record = Trail::new(&Caller::SYSTEM, "accept-restored").note(loss.to_string());
            service.record(record, Ok(())).await.map_err(StartError::Unfinished)?;
        }
        // Before anything is destroyed: what belongs to a key goes with it.
        let orphans = std::mem::take(&mut findings.orphans);
        findings.orphans = service.take_on(orphans).await.map_err(StartError::Unfinished)?;
        if was_restored {
            service.put_off_destruction().await.map_err(StartError::Unfinished)?;
            service.destroy_again().await.map_err(StartError::Unfinished)?;
            // Both have changed records that were compared before.
            findings = service.reconcile_anew().await.map_err(StartError::Unfinished)?;
        }
        service.finish_all(findings, was_restored).await.map_err(StartError::Unfinished)?;
        service.clear_aliases().await.map_err(StartError::Unfinished)?;
        service.clear_misleading_names().await.map_err(StartError::Unfinished)?;
        service.drop_old_pairs().await.map_err(StartError::Unfinished)?;
        service.save_clock().await.map_err(StartError::Unfinished)?;
        if was_restored {
            // Last, and the token is told of nothing before: a start that is cut short finds the same losses again.
            let raised = service.inner.writer.raise(goes_on_at).await;
            raised.map_err(|error| StartError::Unfinished(error.into()))?;
            service.inner.is_restoring.store(false, Ordering::Release);
        }
        if key_number < note.store_key {
            // The key that it is guarded by was replaced because it may be known.
            service.rekey_store_above(note.store_key).await.map_err(StartError::Unfinished)?;
        }
        service.save_note().await.map_err(StartError::Unfinished)?;
        Ok(service)
    }

    /// A restored store may know a deletion that was cancelled since, an expiry that is another one by now, or an import that was completed: nothing is
    /// destroyed by it for a week, and of material that was arriving the token keeps what it has. That can be imported again over it.
    async fn put_off_destruction(&self) -> Result<(), ServiceError> {
        let earliest = self.trusted_now().plus_days(*DELETION_DAYS.start());
        let commit = async |next: KeyRecord| -> Result<KeyRecord, CommitError> {
            self.inner.writer.commit(Change::PutKey(next.clone())).await.map(|()| next)
        };
        let all: Vec<_> = self.inner.writer.registry().read().keys().cloned().collect();
        for key in all {
            let mut key = KeyRecord::clone(&key);
            if key.is_due(earliest) {
                key = commit(key.put_off(earliest)).await?;
            }
            if key.is_material_due(earliest) {
                key = commit(key.put_off_expiry(earliest)).await?;
            }
            if key.is_arriving() {
                tracing::warn!(key = %key.id, alias = %key.alias, "its material was being imported when this store was copied: import it again");
                let object = ObjectId { key: key.id, version: import::VERSION };
                commit(key.settled()).await?;
                self.take_on(vec![object]).await?;
            }
        }
        Ok(())
    }

    /// What is out of step now.
    async fn reconcile_anew(&self) -> Result<Findings, ServiceError> {
        let inventory = self.inner.pool.call(|session| session.inventory()).await?;
        Ok(reconcile(&self.inner.writer.registry().read(), &inventory.into_iter().collect()))
    }

    async fn finish_all(&self, findings: Findings, was_restored: bool) -> Result<(), ServiceError> {
        let commit = async |change| -> Result<(), CommitError> { self.inner.writer.commit(change).await };
        for key in findings.confirm {
            // What was being made is the newest version. A token that died amid it may show half of it; nobody was told of it.
            if let Some(version) = key.current() {
                let object = ObjectId { key: key.id, version };
                if !self.inner.pool.call(move |session| session.works(object)).await? {
                    if was_restored {
                        // This store is older than the token: it does not know what has become of the key since. The scheduler does not see to it
                        // in this run either.
                        self.inner.in_flight.lock().insert(key.id, Work::LeftAlone);
                        tracing::error!(key = %key.id, %version, "was being made and does not work; it is left alone");
                        continue;
                    }
                    tracing::warn!(key = %key.id, %version, "given up: the token has half of what was being made");
                    self.inner.pool.change(move |session| session.destroy(object)).await?;
                    commit(if key.versions.len() == 1 {
                        Change::ForgetKey(key.id)
                    } else {
                        // It is the next revision of the record already.
                        let mut next = key;
                        next.versions.retain(|v| v.version != version);
                        Change::PutKey(next)
                    })
                    .await?;
                    continue;
                }
            }
            tracing::info!(key = %key.id, alias = %key.alias, "confirmed: the token has what was being made");
            commit(Change::PutKey(key)).await?;
        }
        for id in findings.forget {
            tracing::info!(key = %id, "given up: the token has nothing of what was being made");
            commit(Change::ForgetKey(id)).await?;
        }
        for key in findings.drop_version {
            tracing::info!(key = %key.id, "given up: the token does not have the version that was being made");
            commit(Change::PutKey(key)).await?;
        }
        for key in findings.destroy {
            self.destroy(&key).await?;
        }
        for (id, objects) in findings.revived {
            self.destroy_revived(id, objects).await?;
        }
        for ObjectId { key, version } in findings.missing {
            tracing::error!(%key, %version, "the token does not show this version; it cannot be used");
        }
        // Those of keys that had something intended until now.
        for ObjectId { key, version } in self.take_on(findings.orphans).await? {
            tracing::warn!(%key, %version, "the token has a key that the store does not know; it is left alone");
        }
        Ok(())
    }
}
