//! Whether the token is there, as all threads of a pool know it.
//!
//! A loss belongs to the generation of the token that it was met in: a recovery of that generation ends it, whoever made it, and none that came before.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::TokenStatus;
use crate::hsm::{HsmError, Token};

pub(super) struct Presence {
    token: Arc<dyn Token>,
    away: Mutex<Option<Away>>,
    /// Failures that a recovery did not help against though the token was there, and when that was seen.
    refused: Mutex<HashMap<Failure, Instant>>,
}

/// A function, and the code that it failed with.
pub(super) type Failure = (String, String);

/// How long such a failure is taken for the token's answer without another recovery.
const KNOWN_FOR: Duration = Duration::from_secs(60);

struct Away {
    since: Instant,
    cause: Box<HsmError>,
    generation: u64,
}

impl Presence {
    pub(super) fn new(token: Arc<dyn Token>) -> Self {
        Self { token, away: Mutex::new(None), refused: Mutex::default() }
    }

    /// Whether that failure was the token's answer a while ago.
    pub(super) fn is_known(&self, failure: &Failure) -> bool {
        self.refused.lock().get(failure).is_some_and(|seen| seen.elapsed() < KNOWN_FOR)
    }

    /// It is the token's answer, though it was recovered in between.
    pub(super) fn remember(&self, failure: Failure) {
        let (function, code) = &failure;
        tracing::error!(%function, %code, "the token is there and refuses this call: is it full?");
        self.refused.lock().insert(failure, Instant::now());
    }

    pub(super) fn status(&self) -> TokenStatus {
        self.away.lock().as_ref().map_or(TokenStatus::Present, |away| TokenStatus::Away {
            since: away.since,
            cause: away.cause.clone(),
        })
    }

    /// The refusal while it is away.
    pub(super) fn refusal(&self) -> Option<HsmError> {
        self.away.lock().as_ref().map(Away::refusal)
    }

    /// It was lost in that generation and not found again. `None` if another thread has it back since: then it is not away.
    pub(super) fn went_away(&self, seen: u64, cause: HsmError) -> Option<HsmError> {
        let mut away = self.away.lock();
        if self.token.generation() != seen {
            return None;
        }
        self.refused.lock().clear();
        let since = away.as_ref().map_or_else(
            || {
                tracing::error!(%cause, "the token is away");
                Instant::now()
            },
            |away| away.since,
        );
        let now = Away { since, cause: Box::new(cause), generation: seen };
        let refusal = now.refusal();
        *away = Some(now);
        Some(refusal)
    }

    /// What was lost in that generation is there again. What was lost later is not.
    pub(super) fn came_back(&self, seen: u64) {
        let mut away = self.away.lock();
        if away.as_ref().is_some_and(|away| away.generation <= seen) {
            tracing::info!("the token is back");
            *away = None;
        }
    }
}

impl Away {
    fn refusal(&self) -> HsmError {
        HsmError::Away { since: self.since.elapsed(), cause: self.cause.clone() }
    }
}
