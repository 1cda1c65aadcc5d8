//! The kernel's table of mounts, `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Begins the source of every mount of this program; device and inode of the served file and a number of its own follow.
const SOURCE_PREFIX: &str = "evsfs:";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The kernel's number for it.
    pub id: u64,
    /// Device number of the mounted file system, as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Type of the file system.
    pub kind: String,
    /// What is mounted.
    pub source: OsString,
}

impl MountEntry {
    /// Whether this program mounted it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        (self.kind == "fuse" || self.kind.starts_with("fuse."))
            && self.source.to_str().is_some_and(|source| source.starts_with(SOURCE_PREFIX))
    }
}

/// All mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// If /proc cannot be read.
pub fn read() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?))
}

/// All mounts that another process sees; none when it has ended or is not this user's.
#[must_use]
pub fn of_process(pid: u32) -> Vec<MountEntry> {
    fs::read(format!("/proc/{pid}/mountinfo")).map(|table| parse(&table)).unwrap_or_default()
}

/// The topmost mount at exactly this place. The path is compared as it stands: resolve it first.
///
/// # Errors
/// If /proc cannot be read.
pub fn at(point: &Path) -> io::Result<Option<MountEntry>> {
    Ok(read()?.into_iter().rfind(|entry| entry.point == point))
}

/// The mount of the file with that device and inode number, if this program serves it.
///
/// # Errors
/// If /proc cannot be read.
pub fn of_file(device: u64, inode: u64) -> io::Result<Option<MountEntry>> {
    let source = source_of_file(device, inode);
    let is_of_file =
        |entry: &MountEntry| entry.is_ours() && entry.source.to_string_lossy().starts_with(&source);
    Ok(read()?.into_iter().rfind(is_of_file))
}

/// The source text that marks a mount as one of this program, of the file with that device and inode.
#[must_use]
pub fn source(device: u64, inode: u64, own: u64) -> String {
    format!("{SOURCE_PREFIX}{device:x}:{inode:x}:{own:016x}")
}

/// Beginning of [`source`] for any mount of that file.
fn source_of_file(device: u64, inode: u64) -> String {
    format!("{SOURCE_PREFIX}{device:x}:{inode:x}:")
}

fn parse(table: &[u8]) -> Vec<MountEntry> {
    table.split(|&byte| byte == b'\n').filter_map(entry).collect()
}

/// `id parent major:minor root point options [optional fields] - type source options`
fn entry(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
    let point = unescape(fields.nth(1)?);
    fields.find(|field| *field == b"-")?;
    // Whoever mounts a FUSE file system chooses the end of its type, which may be no text.
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(MountEntry { id, device, point: point.into(), kind, source })
}

/// Space, tab, newline and backslash stand as three octal digits.
pub(super) fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'\\')
            .then(|| std::str::from_utf8(tail.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        rest = if code.is_some() { &tail[3..] } else { tail };
        bytes.push(code.unwrap_or(first));
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 0:21 / / rw,relatime - ext4 /dev/root rw\n\
        97 22 0:57 / /mnt/a\\040b\\134c rw,nosuid,nodev shared:5 master:1 - fuse evsfs:fe01:1f:0000000000000003 rw,user_id=0\n\
        98 22 0:58 / /mnt/x rw - fuse.sshfs evsfs:fake rw\n\
        99 22 0:59 / /mnt/y rw - ext4 evsfs:1:2:3 rw\n\
        100 22 0:60 / /mnt/\xff rw - fuse.\xfe \xfd rw\n\
        broken line\n";

    #[test]
    fn entries_are_read_with_their_escapes_and_optional_fields() {
        let entries = parse(TABLE);
        assert_eq!(entries.len(), 5);
        assert_eq!(entries[4].point.as_os_str().as_encoded_bytes(), b"/mnt/\xff");
        assert_eq!(
            entries[1],
            MountEntry {
                id: 97,
                device: "0:57".into(),
                point: "/mnt/a b\\c".into(),
                kind: "fuse".into(),
                source: source(0xfe01, 0x1f, 3).into(),
            }
        );
    }

    #[test]
    fn only_fuse_mounts_with_our_source_are_ours() {
        let ours: Vec<bool> = parse(TABLE).iter().map(MountEntry::is_ours).collect();
        assert_eq!(ours, [false, true, true, false, false]);
        assert!(source(1, 2, 3).starts_with(&source_of_file(1, 2)));
        assert!(!source(1, 23, 3).starts_with(&source_of_file(1, 2)));
    }
}
