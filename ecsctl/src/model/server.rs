//! Servers: what disks are attached to.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The state of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServerStatus {
    /// Being made, with its disks.
    Building,
    /// Exists; no virtual machine runs. Disks attach and detach.
    Stopped,
    /// Its virtual machine runs on its disks.
    Running,
    /// Being deleted; nothing attaches any more.
    Deleting,
}

impl ServerStatus {
    /// The word in JSON, tables and the catalogue.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Deleting => "deleting",
        }
    }

    /// Whether it has all of its disks: neither half made nor half deleted.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Self::Stopped | Self::Running)
    }

    /// The reverse of [`Self::as_str`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Building, Self::Stopped, Self::Running, Self::Deleting];
        all.into_iter().find(|s| s.as_str() == text)
    }
}

/// A server in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its ID.
    pub(crate) id: Uuid,
    /// Its unique name.
    pub(crate) name: String,
    /// Its state.
    pub(crate) status: ServerStatus,
    /// The ID of the image that its system disk was made from.
    pub(crate) image: Option<String>,
    /// The auto scaling group that made it.
    pub(crate) group_id: Option<Uuid>,
    /// When it was made, RFC 3339.
    pub(crate) created_at: String,
}
