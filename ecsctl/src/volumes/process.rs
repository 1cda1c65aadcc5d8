//! Telling a process from a later one with the same number, and reading the mount table: thin over /proc.

use std::{fs, path::Path};

use crate::model::disk::Serving;

/// The identity of a live process: its number, with its start time and the boot it belongs to.
pub(crate) fn identify(pid: u32) -> Option<Serving> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Serving { pid, started: format!("{}@{}", start_ticks(&stat)?, boot.trim()) })
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); a zombie has ended. The program's name may hold spaces and brackets.
fn start_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether something is mounted at `mountpoint`. Reads the table, so that a dead mount cannot block it.
pub(crate) fn is_mounted(mountpoint: &Path) -> bool {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return false };
    let absolute = std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    // The parent may be reached through a symlink; the mount point itself is never one.
    let resolved = match (absolute.parent().and_then(|p| p.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    };
    mount_points(&table).any(|point| Path::new(&point) == resolved)
}

/// Field 5 of each line of mountinfo, unescaped (proc(5)).
pub(crate) fn mount_points(table: &str) -> impl Iterator<Item = String> + '_ {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape)
}

/// Undoes the octal escapes that the kernel writes for space, tab, newline and backslash.
pub(crate) fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_itself_and_no_other() {
        let me = identify(std::process::id()).unwrap();
        assert_eq!(identify(me.pid), Some(me));
        assert_eq!(identify(u32::MAX), None);
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_ticks(&format!("7 (a) b) {tail}")), Some(4711));
        assert_eq!(start_ticks(&format!("7 (a) {}", tail.replace('S', "Z"))), None);
        assert_eq!(start_ticks("7"), None);
    }

    #[test]
    fn escaped_mount_points_are_read() {
        let table =
            "36 35 98:0 / /mnt/a\\040b\\134c rw - fuse evsfs rw\n37 35 0:1 / /proc rw - proc proc rw\n";
        assert_eq!(mount_points(table).collect::<Vec<_>>(), ["/mnt/a b\\c", "/proc"]);
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/nowhere")));
    }
}
