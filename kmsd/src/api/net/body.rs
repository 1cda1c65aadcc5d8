//! Bodies, within bounds of length and time.

use http_body_util::{BodyExt, Limited};
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

/// Reads all of a body, or nothing of it when its announced length is too much already.
pub(crate) async fn read_body<B>(body: B, limits: &Limits) -> Result<Bytes, BodyFault>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limit = limits.body_bytes;
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(BodyFault::TooLong { limit });
    }
    match timeout(limits.body, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(BodyFault::TooLong { limit }),
        Ok(Err(_)) => Err(BodyFault::Broken),
        Err(_) => Err(BodyFault::TooSlow),
    }
}
