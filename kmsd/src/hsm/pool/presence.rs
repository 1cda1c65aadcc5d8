//! Whether the token is there, as all threads of a pool know it.
//!
//! A loss belongs to the generation of the token that it was met in: a recovery of that generation ends it, whoever made it, and none that came before.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;

use super::TokenStatus;
use crate::hsm::{HsmError, Token};

pub(super) struct Presence {
    token: Arc<dyn Token>,
    away: Mutex<Option<Away>>,
}

struct Away {
    since: Instant,
    cause: Box<HsmError>,
    generation: u64,
}

impl Presence {
    pub(super) const fn new(token: Arc<dyn Token>) -> Self {
        Self { token, away: Mutex::new(None) }
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
