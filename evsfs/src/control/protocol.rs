//! What is said on the control socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::failure::Report;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the disk and its process are.
    Status {},
    /// Make everything durable.
    Flush {},
    /// Flush, unmount, erase the key, end. The answer comes when that is done.
    Detach {},
    /// Take a snapshot.
    Snapshot {
        /// Its name.
        name: String,
        /// Its id; a new one if none is given.
        id: Option<Uuid>,
    },
    /// List the snapshots.
    Snapshots {},
    /// Delete one.
    SnapshotDelete {
        /// Its id.
        id: Uuid,
    },
    /// Go back to one.
    Rollback {
        /// Its id.
        id: Uuid,
    },
    /// Grow the disk.
    Extend {
        /// New size in bytes.
        size: u64,
    },
    /// Wrap the data key again.
    Rekey {
        /// Under this key; under the newest version of its own if none is given.
        key: Option<String>,
    },
    /// Re-encrypt everything under a new data key, in the background; or let that go on.
    Reencrypt {
        /// Bytes of data in a second at most, 0 for no limit; as before if none is given.
        rate: Option<u64>,
    },
    /// Copy what is read from the base, in the background; or let that go on.
    Flatten {
        /// As there.
        rate: Option<u64>,
    },
}

impl Request {
    /// Its name on the wire.
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        match self {
            Self::Status {} => "status",
            Self::Flush {} => "flush",
            Self::Detach {} => "detach",
            Self::Snapshot { .. } => "snapshot",
            Self::Snapshots {} => "snapshots",
            Self::SnapshotDelete { .. } => "snapshot-delete",
            Self::Rollback { .. } => "rollback",
            Self::Extend { .. } => "extend",
            Self::Rekey { .. } => "rekey",
            Self::Reencrypt { .. } => "reencrypt",
            Self::Flatten { .. } => "flatten",
        }
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done; what is known of it.
    Ok(Value),
    /// Not done.
    Error(Report),
}

impl From<Result<Value, Report>> for Answer {
    fn from(result: Result<Value, Report>) -> Self {
        result.map_or_else(Self::Error, Self::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"op": "status"}"#).unwrap(), Request::Status {});
        assert_eq!(read(r#"{"op": "extend", "size": 4096}"#).unwrap(), Request::Extend { size: 4096 });
        assert_eq!(read(r#"{"op": "rekey"}"#).unwrap(), Request::Rekey { key: None });
        assert!(read(r#"{"op": "extend"}"#).is_err());
        assert!(read(r#"{"op": "status", "more": 1}"#).is_err());
        assert!(read(r#"{"op": "format"}"#).is_err());
    }

    #[test]
    fn the_name_of_each_operation_is_its_name_on_the_wire() {
        let id = Uuid::nil();
        for request in [
            Request::Status {},
            Request::Flush {},
            Request::Detach {},
            Request::Snapshot { name: "a".into(), id: None },
            Request::Snapshots {},
            Request::SnapshotDelete { id },
            Request::Rollback { id },
            Request::Extend { size: 1 },
            Request::Rekey { key: None },
            Request::Reencrypt { rate: None },
            Request::Flatten { rate: None },
        ] {
            assert_eq!(serde_json::to_value(&request).unwrap()["op"], request.operation());
        }
    }

    #[test]
    fn answers_have_one_member() {
        let ok = serde_json::to_value(Answer::Ok(serde_json::json!({"pid": 1}))).unwrap();
        assert_eq!(ok, serde_json::json!({"ok": {"pid": 1}}));
    }
}
