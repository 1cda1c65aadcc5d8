//! The JSON bodies on the socket, shared by the daemon and its client so that the two cannot drift apart.

pub mod control;
pub mod grants;
pub mod huawei;
pub mod import;
pub mod names;
pub mod rotation;

use serde::{Deserialize, Serialize};

/// How every refusal looks: the published shape, with a remedy besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// The inside of [`ErrorBody`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Published code, such as `KMS.0209`.
    pub error_code: String,
    /// What was refused and why.
    pub error_msg: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_hint: Option<String>,
}
