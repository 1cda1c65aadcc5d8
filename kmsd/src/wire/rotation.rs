//! Bodies of the rotation verbs.

use serde::{Deserialize, Serialize};

/// `update-key-rotation-interval`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationIntervalRequest {
    /// Id, `alias/<name>`, URN or name.
    pub key_id: String,
    /// Days, 30 to 365.
    pub rotation_interval: u16,
}

/// Answer of `rotate-on-demand`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotatedReply {
    /// The key.
    pub key_id: String,
}

/// Answer of `get-key-rotation-status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatusReply {
    /// Whether it is rotated by interval.
    pub key_rotation_enabled: bool,
    /// Days between two rotations; what it would be if rotation is off.
    pub rotation_interval: u16,
    /// When it was rotated last, in milliseconds since 1970; empty if never.
    pub last_rotation_time: String,
    /// How often it was rotated.
    pub number_of_rotations: usize,
    /// When it will be rotated next, in milliseconds since 1970 (not in the publication).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_rotation_time: Option<String>,
}

/// Answer of verbs that have nothing to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}
