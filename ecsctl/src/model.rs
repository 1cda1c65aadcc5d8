//! The cloud's rules, pure: no I/O, no clock, no randomness.

pub(crate) mod count;
pub(crate) mod disk;
pub(crate) mod finding;
pub(crate) mod key;
pub(crate) mod name;
pub(crate) mod plan;
pub(crate) mod scaling;
pub(crate) mod server;
pub(crate) mod size;
pub(crate) mod snapshot;
pub(crate) mod suggest;
pub(crate) mod time;

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
    /// What disks are made from.
    Image,
    /// A full copy of a disk.
    Backup,
    /// A state of a disk, kept in its volume.
    Snapshot,
    /// What servers of a group are made from.
    AsConfig,
    /// Servers that are made and removed by number.
    AsGroup,
    /// What a network client of the key service signs with.
    AccessKey,
}

impl Noun {
    /// The nouns that are volumes: a file with a DEK of its own, by the same steps.
    pub(crate) const VOLUMES: [Self; 3] = [Self::Disk, Self::Image, Self::Backup];

    /// The word in commands and in the catalogue.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Key => "key",
            Self::Server => "server",
            Self::Image => "image",
            Self::Backup => "backup",
            Self::Snapshot => "snapshot",
            Self::AsConfig => "as-config",
            Self::AsGroup => "as-group",
            Self::AccessKey => "access-key",
        }
    }

    /// The reverse of [`Self::as_str`] for volumes.
    pub(crate) fn parse_volume(text: &str) -> Option<Self> {
        Self::VOLUMES.into_iter().find(|noun| noun.as_str() == text)
    }
}

impl std::fmt::Display for Noun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
