//! What is recorded of each operation, and when (K8).

use std::{sync::atomic::Ordering, time::Instant};

use sha2::{Digest, Sha256};

use super::{Service, ServiceError, start::audit_key};
use crate::{
    audit::{self, Entry, Extent, Verdict, keys::ExportedKeys},
    domain::{
        Caller, EncryptionContext, KeyId, KeyVersion, Operation, Refusal,
        audit::{ChainKey, Event, Stage},
        integrity::TokenNote,
    },
};

/// Longest text that is taken from a request, in characters.
const MAX_TEXT: usize = 300;

/// A record in the making: it fills up as more becomes known.
#[derive(Clone)]
pub(super) struct Trail {
    event: Event,
    began: Instant,
}

impl Trail {
    pub(super) fn new(caller: &Caller, operation: &str) -> Self {
        Self {
            event: Event {
                principal: caller.principal.clone(),
                operation: operation.to_owned(),
                stage: Stage::Done,
                outcome: None,
                target: None,
                key: None,
                version: None,
                context: None,
                note: None,
            },
            began: Instant::now(),
        }
    }

    pub(super) fn of(caller: &Caller, operation: Operation, target: &impl ToString) -> Self {
        Self::new(caller, operation.name()).target(target)
    }

    pub(super) fn target(mut self, target: &impl ToString) -> Self {
        self.event.target = Some(target.to_string().chars().take(MAX_TEXT).collect());
        self
    }

    pub(super) fn context(mut self, context: &EncryptionContext) -> Self {
        if !context.is_empty() {
            self.event.context = Some(hex::encode(Sha256::digest(context.canonical())));
        }
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        let note: String = note.into();
        self.event.note = Some(note.chars().take(MAX_TEXT).collect());
        self
    }

    pub(super) fn add_note(&mut self, note: String) {
        self.event.note = Some(note);
    }

    pub(super) fn key(&mut self, key: KeyId, version: Option<KeyVersion>) {
        self.event.key = Some(key);
        self.event.version = version;
    }
}

impl Service {
    /// Records what came of an operation. The result is given back only when that is durable; but for the refusals that stop a writer, who would
    /// otherwise take the volume for his own for as long as nothing can be recorded.
    pub(super) async fn record<T>(
        &self,
        trail: Trail,
        result: Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        let outcome = result.as_ref().map_or_else(ServiceError::code, |_| "ok");
        let operation = trail.event.operation.clone();
        let event = Event { stage: Stage::Done, outcome: Some(outcome.to_owned()), ..trail.event };
        let recorded = self.inner.audit.append(event).await.map_err(ServiceError::from);
        let outcome = recorded.as_ref().map_or_else(ServiceError::code, |()| outcome);
        self.inner.metrics.operation(&operation, outcome, trail.began.elapsed());
        match result {
            Err(ServiceError::Refused(refusal)) if refusal.stops_a_writer() => Err(refusal.into()),
            result => recorded.and(result),
        }
    }

    /// Records what was refused before it was anybody's operation.
    pub(super) async fn record_as(&self, trail: Trail, outcome: &'static str) -> Result<(), ServiceError> {
        let operation = trail.event.operation.clone();
        let event = Event { stage: Stage::Done, outcome: Some(outcome.to_owned()), ..trail.event };
        let recorded = self.inner.audit.append(event).await;
        self.inner.metrics.operation(&operation, outcome, trail.began.elapsed());
        Ok(recorded?)
    }

    /// Records that something is about to be done. It is done only when that is durable.
    pub(super) async fn intend(&self, trail: &Trail) -> Result<(), ServiceError> {
        let event = Event { stage: Stage::Intent, ..trail.event.clone() };
        Ok(self.inner.audit.append(event).await?)
    }

    /// The latest records before number `before`, oldest first.
    ///
    /// # Errors
    /// Unless the caller is an administrator.
    pub async fn audit_tail(
        &self,
        caller: &Caller,
        before: u64,
        most: usize,
    ) -> Result<Vec<Entry>, ServiceError> {
        let range = if before == u64::MAX { "the latest".to_owned() } else { format!("before {before}") };
        let trail = Trail::new(caller, "list-audit").note(format!("{range}, at most {most}"));
        let entries = match administrator(caller, "reading the audit log") {
            Ok(()) => {
                let directory = self.inner.audit.directory().to_owned();
                blocking(move || audit::tail(&directory, before, most)).await
            }
            Err(refusal) => Err(refusal.into()),
        };
        self.record(trail, entries).await
    }

    /// Checks the whole audit log, up to its present end.
    ///
    /// # Errors
    /// Unless the caller is an administrator, or if the log or the token does not answer.
    pub async fn audit_verify(&self, caller: &Caller) -> Result<Verdict, ServiceError> {
        let trail = Trail::new(caller, "verify-audit");
        let verdict = match administrator(caller, "checking the audit log") {
            Ok(()) => self.verify_audit().await,
            Err(refusal) => Err(refusal.into()),
        };
        let trail = match &verdict {
            Ok(Verdict { fault: None, records, .. }) => trail.note(format!("{records} records are intact")),
            Ok(Verdict { fault: Some(fault), .. }) => trail.note(fault.to_string()),
            Err(_) => trail,
        };
        self.record(trail, verdict).await
    }

    async fn verify_audit(&self) -> Result<Verdict, ServiceError> {
        let directory = self.inner.audit.directory().to_owned();
        let (end, pool) = (self.inner.audit.head(), self.inner.pool.clone());
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            audit::verify::<ServiceError>(&[&directory], Extent::UpTo(end), |number| {
                Ok(ChainKey::new(*runtime.block_on(audit_key(&pool, number))?))
            })
        })
        .await
    }

    /// The keys that the log's files begin with, for checking a copy elsewhere. That they were given out is in the log.
    ///
    /// # Errors
    /// Unless the caller is an administrator, or if the log or the token does not answer.
    pub async fn audit_keys(&self, caller: &Caller) -> Result<ExportedKeys, ServiceError> {
        let trail = Trail::new(caller, "export-audit-keys");
        let exported = match administrator(caller, "exporting the audit log's keys") {
            Ok(()) => self.derive_audit_keys().await,
            Err(refusal) => Err(refusal.into()),
        };
        self.record(trail, exported).await
    }

    async fn derive_audit_keys(&self) -> Result<ExportedKeys, ServiceError> {
        let directory = self.inner.audit.directory().to_owned();
        let mut keys = Vec::new();
        for number in blocking(move || audit::starts(&directory)).await? {
            keys.push((number, audit_key(&self.inner.pool, number).await?));
        }
        Ok(ExportedKeys::new(keys))
    }

    /// Has the token told, without waiting for it: an older copy of the store shall be known as such soon.
    pub(super) fn note_soon(&self) {
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(error) = service.save_note().await {
                tracing::debug!(%error, "the token cannot be told yet");
            }
        });
    }

    /// Tells the token where store and audit log stand, if that is news to it.
    ///
    /// # Errors
    /// If the token is away.
    pub async fn save_note(&self) -> Result<(), ServiceError> {
        let mut noted = self.inner.noted.lock().await;
        if self.inner.is_restoring.load(Ordering::Acquire) {
            return Ok(());
        }
        let note = TokenNote {
            epoch: self.inner.writer.epoch(),
            audit: self.inner.audit.head(),
            store_key: self.inner.store_key.load(Ordering::Acquire),
            file: self.inner.audit.newest_file(),
        };
        if *noted == note {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&note).expect("notes serialise");
        self.inner.pool.change(move |session| session.put_note(&bytes)).await?;
        *noted = note;
        Ok(())
    }
}

pub(super) fn administrator(caller: &Caller, action: &'static str) -> Result<(), Refusal> {
    if caller.is_admin { Ok(()) } else { Err(Refusal::NotAdministrator { action }) }
}

async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, ServiceError>
where
    T: Send + 'static,
    E: Into<ServiceError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(ServiceError::Interrupted),
    }
}
