//! The kernel's table of mounts, `/proc/self/mountinfo` (proc_pid_mountinfo(5)). Any user can put any bytes but zero into it, by the
//! name of a mount point: it is never taken for text, and when it cannot be read that is an error, not "nothing is mounted".

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::volumes::ToolError;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where it is.
    pub(crate) point: PathBuf,
    /// What is mounted there.
    pub(crate) source: OsString,
}

/// All mounts that this process sees.
///
/// # Errors
/// [`ToolError::MountTable`].
pub(crate) fn all() -> Result<Vec<Mount>, ToolError> {
    let table = Path::new("/proc/self/mountinfo");
    match fs::read(table) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(source) => Err(ToolError::MountTable { table: table.to_owned(), source }),
    }
}

/// Whether something is mounted at `mountpoint`. Reads the table, so that a dead mount cannot block it.
///
/// # Errors
/// [`ToolError::MountTable`].
pub(crate) fn is_mounted(mountpoint: &Path) -> Result<bool, ToolError> {
    let absolute = std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    // The parent may be reached through a symlink; the mount point itself is never one.
    let resolved = match (absolute.parent().and_then(|p| p.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    };
    Ok(all()?.iter().any(|mount| mount.point == resolved))
}

pub(super) fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(entry).collect()
}

/// `id parent major:minor root point options [optional fields] - type source options`
fn entry(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    fields.find(|field| *field == b"-")?;
    let source = unescape(fields.nth(1)?);
    Some(Mount { point: point.into(), source })
}

/// Undoes the octal escapes that the kernel writes for space, tab, newline and backslash.
pub(super) fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| *first == b'\\').and_then(octal);
        rest = if code.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
        bytes.push(code.unwrap_or(*first));
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_with_their_escapes_and_whatever_bytes_they_have() {
        let table = b"36 35 98:0 / /mnt/a\\040b\\134c rw - fuse evsfs rw\n\
            37 35 0:1 / /tmp/\xff\\134 rw shared:5 master:1 - fuse \xfe rw\n\
            broken line\n\
            38 35 0:1 / /proc rw - proc proc rw\n";
        let mount = |point: &[u8], source: &[u8]| Mount {
            point: OsStr::from_bytes(point).into(),
            source: OsStr::from_bytes(source).into(),
        };
        assert_eq!(
            parse(table),
            [mount(b"/mnt/a b\\c", b"evsfs"), mount(b"/tmp/\xff\\", b"\xfe"), mount(b"/proc", b"proc")]
        );
        assert_eq!(unescape(b"a\\04\\999\\"), "a\\04\\999\\");
    }

    #[test]
    fn what_is_mounted_is_seen() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/nowhere")).unwrap());
    }
}
