//! What an examination of the installation finds.

use serde::Serialize;

/// How serious a finding is; the worst decides about the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// As it should be.
    Good,
    /// It works, but not as it could, or not for long.
    Warning,
    /// Something does not work.
    Bad,
}

impl Grade {
    /// The word in a table.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at: a stable word.
    pub(crate) check: &'static str,
    /// How it is.
    pub(crate) grade: Grade,
    /// What was seen.
    pub(crate) finding: String,
    /// What to do about it; none when it is good.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub(crate) fn good(check: &'static str, finding: impl Into<String>) -> Self {
        Self { check, grade: Grade::Good, finding: finding.into(), remedy: None }
    }

    /// Not as it could be.
    pub(crate) fn warning(
        check: &'static str,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, grade: Grade::Warning, finding: finding.into(), remedy: Some(remedy.into()) }
    }

    /// Does not work.
    pub(crate) fn bad(check: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Bad, finding: finding.into(), remedy: Some(remedy.into()) }
    }
}

/// Free space below which a host is told to be nearly full: growing volumes need room for whole steps of 64 MiB each.
const SCARCE: u64 = 1 << 30;

/// What free space on the file system of the volumes means.
pub(crate) fn space(free: u64, total: u64, place: &str) -> Finding {
    let seen = format!("{} of {} free at {place}", gib(free), gib(total));
    if free < 64 << 20 {
        Finding::bad(
            "space",
            seen,
            "free some space: writes to disks fail with ENOSPC until then, nothing acknowledged is lost",
        )
    } else if free < SCARCE {
        Finding::warning("space", seen, "free some space, or move ECS_HOME to a larger file system")
    } else {
        Finding::good("space", seen)
    }
}

/// What the mode and the owner of `ECS_HOME` mean. Volume files are encrypted; names, sizes and sockets are not for others.
pub(crate) fn privacy(mode: u32, owner: u32, caller: u32, place: &str) -> Finding {
    if owner != caller {
        return Finding::bad(
            "home",
            format!("{place} belongs to uid {owner}, and you are uid {caller}"),
            "run ecsctl as its owner, or set ECS_HOME to a directory of your own",
        );
    }
    if mode & 0o077 != 0 {
        return Finding::warning(
            "home",
            format!("{place} is open to others (mode {:03o})", mode & 0o777),
            format!("chmod 700 {place}"),
        );
    }
    Finding::good("home", format!("{place}, for its owner only"))
}

/// What the versions of two programs that work together mean.
pub(crate) fn versions(check: &'static str, program: &str, found: &str, own: &str) -> Finding {
    if found == own {
        Finding::good(check, format!("{program} {found}"))
    } else {
        Finding::warning(
            check,
            format!("{program} is version {found}, ecsctl is {own}"),
            "install all three programs from the same release",
        )
    }
}

fn gib(bytes: u64) -> String {
    // Rounded down to tenths, so that "0.9 of 1.0" never hides a full disk.
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_space_is_told_before_there_is_none() {
        let grade = |free| space(free, 100 << 30, "/x").grade;
        assert_eq!(grade(50 << 30), Grade::Good);
        assert_eq!(grade(SCARCE), Grade::Good);
        assert_eq!(grade(SCARCE - 1), Grade::Warning);
        assert_eq!(grade(1 << 20), Grade::Bad);
        assert_eq!(space(3 << 29, 10 << 30, "/x").finding, "1.5 GiB of 10.0 GiB free at /x");
    }

    #[test]
    fn a_home_that_others_can_read_or_own_is_told_with_the_command_that_mends_it() {
        assert_eq!(privacy(0o40700, 5, 5, "/x").grade, Grade::Good);
        let open = privacy(0o40750, 5, 5, "/x");
        assert_eq!((open.grade, open.remedy.as_deref()), (Grade::Warning, Some("chmod 700 /x")));
        assert_eq!(privacy(0o40700, 0, 5, "/x").grade, Grade::Bad);
    }

    #[test]
    fn every_finding_that_is_not_good_has_a_remedy() {
        for finding in [
            space(0, 1, "/x"),
            space(1 << 29, 1 << 40, "/x"),
            privacy(0o777, 1, 1, "/x"),
            versions("evsfs", "evsfs", "0.2.0", "0.1.0"),
        ] {
            assert!(finding.grade > Grade::Good && finding.remedy.is_some(), "{finding:?}");
        }
        assert_eq!(versions("evsfs", "evsfs", "0.1.0", "0.1.0").grade, Grade::Good);
    }
}
