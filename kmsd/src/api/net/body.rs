//! Bodies, within bounds of length and time.

use std::pin::pin;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes};
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

use super::Limits;

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the body has more than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the body did not come in time")]
    TooSlow,
    #[error("the body ended before its announced length")]
    Broken,
}

/// Most bytes that are read of a body only to throw them away.
const DISCARD: usize = 1 << 20;

/// Reads all of a body, which may hold plaintext to be encrypted: it is wiped once nobody needs it. Of one that is too long, so much is read
/// and thrown away that the client gets to see the answer: a connection that is closed while the client still writes is reset, and the answer
/// with it.
pub(crate) async fn read_body<B>(body: B, limits: &Limits) -> Result<Bytes, BodyFault>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limit = limits.body_bytes;
    let mut body = Box::pin(body);
    let hint = body.size_hint();
    let is_announced = hint.lower() > u64::try_from(limit).unwrap_or(u64::MAX);
    let reading = async {
        if is_announced {
            return Err(BodyFault::TooLong { limit });
        }
        // As long as the body can be: a buffer that grows leaves copies behind.
        let most = hint.exact().and_then(|exact| usize::try_from(exact).ok()).unwrap_or(limit).min(limit);
        let mut whole = Zeroizing::new(Vec::with_capacity(most));
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame.map_err(|_| BodyFault::Broken)?.into_data() else { continue };
            if part.len() > most - whole.len() {
                return Err(BodyFault::TooLong { limit });
            }
            whole.extend_from_slice(&part);
            // The rest of the connection's buffer may still be in use: then it is overwritten by what comes next.
            if let Ok(mut part) = part.try_into_mut() {
                part.as_mut().zeroize();
            }
        }
        Ok(Bytes::from_owner(whole))
    };
    let outcome = timeout(limits.body, reading).await.unwrap_or(Err(BodyFault::TooSlow));
    if matches!(outcome, Err(BodyFault::TooLong { .. })) {
        discard_body(body.as_mut(), limits).await;
    }
    outcome
}

/// Reads a body that nobody wants, within bounds of length and time.
pub(crate) async fn discard_body<B: Body<Data = Bytes>>(body: B, limits: &Limits) {
    let mut body = pin!(body);
    let reading = async {
        let mut left = DISCARD;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(len) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whether it came in time or not, it is not wanted.
    let _ = timeout(limits.body, reading).await;
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::api::traces::{Masked, is_in_memory};

    /// A body may be plaintext: when nobody needs it any more, it is nowhere.
    #[tokio::test]
    async fn a_body_is_wiped() {
        let masked = Masked::random(48);
        // In the midst: the allocator writes to the beginning of what it gets back, and the scan would not find the rest.
        let mut text = Vec::with_capacity(1000);
        text.resize(500, b'.');
        text.extend_from_slice(&masked.shown());
        text.resize(1000, b'.');
        let body = read_body(Full::new(Bytes::from(text)), &Limits::default()).await.unwrap();
        assert!(is_in_memory(&masked), "the scan finds it where it has to be");
        assert_eq!(body.len(), 1000);
        drop(body);
        assert!(!is_in_memory(&masked));
    }

    #[tokio::test]
    async fn the_longest_body_is_taken_and_no_longer_one() {
        let limits = Limits { body_bytes: 100, ..Limits::default() };
        for (len, fits) in [(0, true), (100, true), (101, false)] {
            let read = read_body(Full::new(Bytes::from(vec![7; len])), &limits).await;
            match read {
                Ok(body) => assert!(fits && body.len() == len, "{len}"),
                Err(fault) => assert!(!fits && fault == BodyFault::TooLong { limit: 100 }, "{len}"),
            }
        }
    }
}
