//! The cloud's rules, pure: no I/O, no clock, no randomness.

pub(crate) mod disk;
pub(crate) mod key;
pub(crate) mod name;
pub(crate) mod plan;
pub(crate) mod server;
pub(crate) mod size;
pub(crate) mod suggest;

use serde::{Deserialize, Serialize};

/// What a command can be about; its word stands in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Noun {
    /// A virtual disk.
    Disk,
    /// A customer master key.
    Key,
    /// A virtual server.
    Server,
}

impl std::fmt::Display for Noun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Key => "key",
            Self::Server => "server",
        })
    }
}
