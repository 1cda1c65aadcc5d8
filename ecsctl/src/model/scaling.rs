//! Auto scaling: what a group's servers are made from, and how many there are to be.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A disk of a configuration: its size, and the key that it is encrypted under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskTemplate {
    /// Bytes.
    pub(crate) size: u64,
    /// Whether it is encrypted; a configuration keeps this for ever (A1).
    pub(crate) encrypted: bool,
    /// The CMK.
    pub(crate) key_id: Option<String>,
    /// Its alias when the configuration was made.
    pub(crate) key_alias: Option<String>,
}

/// What a server of a group is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Template {
    /// The image of its system disk.
    pub(crate) image: Option<Uuid>,
    /// Its system disk.
    pub(crate) system: Option<DiskTemplate>,
    /// Its data disks, in order.
    pub(crate) data: Vec<DiskTemplate>,
}

/// An auto scaling configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Its ID.
    pub(crate) id: Uuid,
    /// Its unique name.
    pub(crate) name: String,
    /// What servers are made from.
    pub(crate) template: Template,
    /// When it was made, RFC 3339.
    pub(crate) created_at: String,
}

/// An auto scaling group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its ID.
    pub(crate) id: Uuid,
    /// Its unique name.
    pub(crate) name: String,
    /// What its servers are made from.
    pub(crate) config_id: Uuid,
    /// How many servers it is to have.
    pub(crate) desired: u32,
    /// At least so many.
    pub(crate) smallest: u32,
    /// At most so many.
    pub(crate) largest: u32,
    /// When it was made, RFC 3339.
    pub(crate) created_at: String,
}

/// How many servers a group may have at most, as in the cloud.
pub(crate) const LARGEST: u32 = 200;

/// Something that happened to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// When, RFC 3339.
    pub(crate) at: String,
    /// What.
    pub(crate) event: String,
    /// Whether it is a failure.
    pub(crate) failed: bool,
}

/// What brings a group from the servers that it has to the number that it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scaling {
    /// Names of servers to be made, in order.
    pub(crate) out: Vec<String>,
    /// Names of servers to be removed, in order: the youngest first.
    pub(crate) inward: Vec<String>,
}

/// Plans the way from `present` servers to `desired`. New ones take the lowest numbers whose names are free: who has taken one that the group
/// would use does not stop it.
pub(crate) fn plan(group: &str, present: &[String], desired: u32, is_free: impl Fn(&str) -> bool) -> Scaling {
    let wanted = usize::try_from(desired).unwrap_or(usize::MAX);
    let taken: BTreeSet<&str> = present.iter().map(String::as_str).collect();
    let free = (1_u64..)
        .map(|n| format!("{group}-{n}"))
        .filter(|name| !taken.contains(name.as_str()) && is_free(name));
    Scaling {
        out: free.take(wanted.saturating_sub(present.len())).collect(),
        inward: leaving(present, desired),
    }
}

/// The servers that go, of those `present`: the youngest first.
pub(crate) fn leaving(present: &[String], desired: u32) -> Vec<String> {
    let wanted = usize::try_from(desired).unwrap_or(usize::MAX);
    present.iter().rev().take(present.len().saturating_sub(wanted)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_filled_from_below_and_emptied_from_above() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(plan("g", &[], 2, |_| true).out, ["g-1", "g-2"]);
        assert_eq!(plan("g", &names(&["g-1", "g-3"]), 3, |_| true).out, ["g-2"]);
        let inward = plan("g", &names(&["g-1", "g-2", "g-10"]), 1, |_| true);
        assert_eq!((inward.out.len(), inward.inward), (0, names(&["g-10", "g-2"])));
        assert_eq!(plan("g", &names(&["g-1"]), 1, |_| true), Scaling { out: vec![], inward: vec![] });
        let others = |name: &str| name != "g-2" && name != "g-3";
        assert_eq!(plan("g", &names(&["g-1"]), 3, others).out, ["g-4", "g-5"]);
    }
}
