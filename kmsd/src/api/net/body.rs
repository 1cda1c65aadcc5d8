//! Bodies, within bounds of length and time.

use std::pin::pin;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use tokio::time::timeout;

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

/// Reads all of a body. Of one that is too long, so much is read and thrown away that the client gets to see the answer: a
/// connection that is closed while the client still writes is reset, and the answer with it.
pub(crate) async fn read_body<B>(body: B, limits: &Limits) -> Result<Bytes, BodyFault>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limit = limits.body_bytes;
    let mut body = Box::pin(body);
    let is_announced = body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX);
    let reading = async {
        if is_announced {
            return Err(BodyFault::TooLong { limit });
        }
        match Limited::new(body.as_mut(), limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(BodyFault::TooLong { limit }),
            Err(_) => Err(BodyFault::Broken),
        }
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
