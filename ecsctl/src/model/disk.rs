//! Disks and the state table of the cloud's disk service.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{Noun, name::short, server::Server};

/// The state of a disk, with the words that the cloud publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum DiskStatus {
    /// Its volume file is being written.
    #[serde(rename = "creating")]
    Creating,
    /// Detached, ready to be attached.
    #[serde(rename = "available")]
    Available,
    /// On its way to a server.
    #[serde(rename = "attaching")]
    Attaching,
    /// Attached to a server.
    #[serde(rename = "in-use")]
    InUse,
    /// On its way off a server.
    #[serde(rename = "detaching")]
    Detaching,
    /// Being erased.
    #[serde(rename = "deleting")]
    Deleting,
    /// Destroyed: what a deletion reports, never what the catalogue holds.
    #[serde(rename = "deleted")]
    Deleted,
    /// Its volume cannot be used as it is; the reason stands beside it.
    #[serde(rename = "error")]
    Error,
    /// A deletion failed half-way: it can only be deleted again.
    #[serde(rename = "error_deleting")]
    ErrorDeleting,
}

/// What a user may ask of a disk that depends on its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskAction {
    /// Make its plain view appear for a server.
    Attach,
    /// Take it off its server.
    Detach,
    /// Destroy it.
    Delete,
    /// Read all of it.
    Copy,
    /// Take or delete a snapshot, go back to one, grow.
    Change,
}

impl DiskAction {
    /// The participle in "cannot be ...".
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Attach => "attached",
            Self::Detach => "detached",
            Self::Delete => "deleted",
            Self::Copy => "copied",
            Self::Change => "changed",
        }
    }
}

impl DiskStatus {
    /// Every status, in the order of a disk's life.
    pub(crate) const ALL: [Self; 9] = [
        Self::Creating,
        Self::Available,
        Self::Attaching,
        Self::InUse,
        Self::Detaching,
        Self::Deleting,
        Self::Deleted,
        Self::Error,
        Self::ErrorDeleting,
    ];

    /// The word in JSON, tables and the catalogue.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::Attaching => "attaching",
            Self::InUse => "in-use",
            Self::Detaching => "detaching",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
            Self::Error => "error",
            Self::ErrorDeleting => "error_deleting",
        }
    }

    /// The reverse of [`Self::as_str`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// The state table: whether a disk in this state may be asked to do `action`. docs/semantics.md shows it.
    pub(crate) fn allows(self, action: DiskAction) -> bool {
        match action {
            DiskAction::Attach | DiskAction::Copy => matches!(self, Self::Available),
            DiskAction::Detach => matches!(self, Self::InUse),
            DiskAction::Change => matches!(self, Self::Available | Self::InUse),
            DiskAction::Delete => matches!(self, Self::Available | Self::Error | Self::ErrorDeleting),
        }
    }
}

/// The process that serves an attached disk, told apart from a later process with the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Serving {
    /// Process ID.
    pub(crate) pid: u32,
    /// When it started: clock ticks since boot, with the boot's ID.
    pub(crate) started: String,
}

impl Serving {
    /// Whether this process was started after that one. Of other boots nothing is known.
    pub(crate) fn began_after(&self, other: &Self) -> bool {
        let parts = |serving: &Self| {
            let (ticks, boot) = serving.started.split_once('@')?;
            Some((ticks.parse::<u64>().ok()?, boot.to_owned()))
        };
        match (parts(self), parts(other)) {
            (Some((own, boot)), Some((ticks, other))) => boot == other && own > ticks,
            _ => false,
        }
    }
}

/// What a disk is to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// It was made with the server, from its image, and goes with it.
    System,
    /// It comes and goes by itself.
    Data,
}

impl Role {
    /// The word in JSON and the catalogue.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Data => "data",
        }
    }
}

/// A disk, image or backup in the catalogue: one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Its ID, also the UUID of its volume.
    pub(crate) id: Uuid,
    /// Disk, image or backup.
    pub(crate) kind: Noun,
    /// What it is to its server.
    pub(crate) role: Role,
    /// The server that it was made with, as long as there is that.
    pub(crate) made_with: Option<Uuid>,
    /// The image that it is thin over: what it does not hold itself is read from there.
    pub(crate) base: Option<Uuid>,
    /// What it was made from, for people.
    pub(crate) source: Option<String>,
    /// Its name, unique among its kind.
    pub(crate) name: String,
    /// The recorded state.
    pub(crate) status: DiskStatus,
    /// Bytes.
    pub(crate) size: u64,
    /// Fixed at creation (D1).
    pub(crate) encrypted: bool,
    /// The CMK that wraps its DEK.
    pub(crate) key_id: Option<String>,
    /// That CMK's alias when last seen.
    pub(crate) key_alias: Option<String>,
    /// The server that it is, or is being, attached to.
    pub(crate) server_id: Option<Uuid>,
    /// Who serves its view.
    pub(crate) serving: Option<Serving>,
    /// Why its state is [`DiskStatus::Error`].
    pub(crate) reason: Option<String>,
    /// When it was made, RFC 3339.
    pub(crate) created_at: String,
}

impl Disk {
    /// Whether it is the system disk of this server. One that was made with another server, and is only attached to this one, is not.
    pub(crate) fn is_system_of(&self, server: Uuid) -> bool {
        self.role == Role::System && self.made_with == Some(server)
    }

    /// Whether it is destroyed with this server: its system disk is, and in an auto scaling group every disk that was made with it.
    pub(crate) fn goes_with(&self, server: &Server) -> bool {
        self.made_with == Some(server.id) && (self.role == Role::System || server.group_id.is_some())
    }

    /// What tables call its key: its alias, else the beginning of its ID. Empty for a plain one.
    pub(crate) fn key_name(&self) -> String {
        let beginning = || self.key_id.as_deref().map(short);
        self.key_alias.clone().or_else(beginning).unwrap_or_default()
    }

    /// How it is protected, in words.
    pub(crate) fn protection(&self) -> String {
        match (&self.key_alias, &self.key_id) {
            (Some(key), _) | (None, Some(key)) => format!("encrypted under {key}"),
            (None, None) => "not encrypted".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_published_model_and_come_back() {
        for status in DiskStatus::ALL {
            assert_eq!(DiskStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(DiskStatus::parse("lost"), None);
    }

    #[test]
    fn s3_the_younger_of_two_processes_is_told_within_one_boot() {
        let serving = |started: &str| Serving { pid: 1, started: started.to_owned() };
        assert!(serving("100@a").began_after(&serving("99@a")));
        for other in ["100@a", "101@a", "99@b", "", "x@a"] {
            assert!(!serving("100@a").began_after(&serving(other)), "{other}");
        }
    }

    #[test]
    fn d7_only_a_detached_disk_is_deleted_and_only_an_available_one_attached() {
        for status in DiskStatus::ALL {
            assert_eq!(status.allows(DiskAction::Attach), status == DiskStatus::Available);
            assert_eq!(status.allows(DiskAction::Detach), status == DiskStatus::InUse);
            let deletable =
                [DiskStatus::Available, DiskStatus::Error, DiskStatus::ErrorDeleting].contains(&status);
            assert_eq!(status.allows(DiskAction::Delete), deletable);
        }
    }
}
