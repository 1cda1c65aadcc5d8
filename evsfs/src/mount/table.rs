//! The kernel's table of mounts, `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// Begins the source of every mount of this program; device and inode of the served file and a number of its own follow.
const SOURCE_PREFIX: &str = "evsfs:";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The kernel's number for it; another mount may have it later.
    pub id: u64,
    /// The number of the mount on which it is mounted.
    pub parent: u64,
    /// Device number of the mounted file system, as `major:minor`.
    pub device: String,
    /// What of the file system is mounted: `/` for all of it.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The group of mounts that get what is mounted in this one, and lose what is unmounted, if it is in one.
    pub shared: Option<u64>,
    /// The group from which this one gets them, if there is one.
    pub master: Option<u64>,
    /// Type of the file system.
    pub kind: String,
    /// What is mounted. Whoever mounts a FUSE file system chooses this text.
    pub source: OsString,
    /// Who mounted a FUSE file system, by the kernel's word: only processes of this user can serve it.
    pub user: Option<u32>,
}

impl MountEntry {
    /// Whether it says that this program mounted it. Every user may say so of what he mounts.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        (self.kind == "fuse" || self.kind.starts_with("fuse."))
            && self.source.to_str().is_some_and(|source| source.starts_with(SOURCE_PREFIX))
    }

    /// Device and inode number of the file that it shows, if this program mounted it.
    #[must_use]
    pub fn served_file(&self) -> Option<(u64, u64)> {
        let mut fields = self.source.to_str()?.strip_prefix(SOURCE_PREFIX)?.split(':');
        let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
        Some((number()?, number()?))
    }

    /// Whether it shows the same file system: this mount, wherever it has been moved, or a copy of it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.device == other.device && self.source == other.source
    }
}

/// What this process sees of a mounted file system now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// The mount itself; if it is gone, a copy that is left.
    pub mount: MountEntry,
    /// What an unmount of it would leave mounted, or be refused for: copies at other places, and what is mounted on it.
    pub others: Vec<MountEntry>,
}

/// Finds a mount wherever its place in the tree has come to be; `None` if nothing of its file system is mounted here any more.
///
/// # Errors
/// If /proc cannot be read.
pub fn present(mount: &MountEntry) -> io::Result<Option<Present>> {
    Ok(present_in(&read()?, mount))
}

fn present_in(all: &[MountEntry], mount: &MountEntry) -> Option<Present> {
    let same: Vec<&MountEntry> = all.iter().filter(|other| other.is_same(mount)).collect();
    let found = *same.iter().find(|other| other.id == mount.id).or_else(|| same.last())?;
    let copies = same.into_iter().filter(|other| other.id != found.id && !goes_with(all, found, other));
    let on_it = all.iter().filter(|other| other.parent == found.id && other.id != found.id);
    Some(Present { mount: found.clone(), others: copies.chain(on_it).cloned().collect() })
}

/// Whether the kernel unmounts `copy` together with `mount` by itself: they are at one place, which is seen through two mounts of the
/// file system around it, and the second one follows the first.
fn goes_with(all: &[MountEntry], mount: &MountEntry, copy: &MountEntry) -> bool {
    let parent = |entry: &MountEntry| all.iter().find(|other| other.id == entry.parent);
    let (Some(around), Some(around_copy)) = (parent(mount), parent(copy)) else { return false };
    let place = |entry: &MountEntry, around: &MountEntry| {
        entry.point.strip_prefix(&around.point).map(|inner| around.root.join(inner)).ok()
    };
    around.device == around_copy.device
        && place(mount, around).is_some_and(|found| Some(found) == place(copy, around_copy))
        && followers(all, around.shared).iter().any(|group| {
            around_copy.shared.as_ref() == Some(group) || around_copy.master.as_ref() == Some(group)
        })
}

/// A group of mounts, and those that follow it or one of its followers.
fn followers(all: &[MountEntry], group: Option<u64>) -> Vec<u64> {
    let mut found: Vec<u64> = group.into_iter().collect();
    let mut next = 0;
    while let Some(&group) = found.get(next) {
        let followers =
            all.iter().filter(|entry| entry.master == Some(group)).filter_map(|entry| entry.shared);
        for follower in followers {
            if !found.contains(&follower) {
                found.push(follower);
            }
        }
        next += 1;
    }
    found
}

/// The number of the mount through which a file was opened.
///
/// # Errors
/// If /proc cannot be read.
pub fn mount_of(file: impl AsFd) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    number.and_then(|number| number.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
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

/// The mount of the file with that device and inode number, if this program serves it. Only a mount by root, by the file's owner or by the
/// caller counts, in this order: anybody else may give his own mount the same source, and would be asked in place of the one who serves.
///
/// # Errors
/// If /proc cannot be read.
pub fn of_file(device: u64, inode: u64, owner: u32) -> io::Result<Option<MountEntry>> {
    Ok(of_file_in(&read()?, device, inode, &[0, owner, geteuid().as_raw()]))
}

fn of_file_in(all: &[MountEntry], device: u64, inode: u64, users: &[u32]) -> Option<MountEntry> {
    let source = source_of_file(device, inode);
    let of_user = |user: &u32| {
        all.iter().rfind(|entry| {
            entry.is_ours()
                && entry.user.as_ref() == Some(user)
                && entry.source.to_string_lossy().starts_with(&source)
        })
    };
    users.iter().find_map(of_user).cloned()
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
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    fields.next()?;
    let (mut shared, mut master) = (None, None);
    loop {
        match fields.next()? {
            b"-" => break,
            field => {
                shared = shared.or_else(|| number(field.strip_prefix(b"shared:")?));
                master = master.or_else(|| number(field.strip_prefix(b"master:")?));
            }
        }
    }
    // Whoever mounts a FUSE file system chooses the end of its type, which may be no text.
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let mut options = fields.next().unwrap_or_default().split(|&byte| byte == b',');
    let user = options.find_map(|option| option.strip_prefix(b"user_id=")).and_then(number);
    let user = user.and_then(|user| u32::try_from(user).ok());
    Some(MountEntry {
        id,
        parent,
        device,
        root: root.into(),
        point: point.into(),
        shared,
        master,
        kind,
        source,
        user,
    })
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
                parent: 22,
                device: "0:57".into(),
                root: "/".into(),
                point: "/mnt/a b\\c".into(),
                shared: Some(5),
                master: Some(1),
                kind: "fuse".into(),
                source: source(0xfe01, 0x1f, 3).into(),
                user: Some(0),
            }
        );
    }

    #[test]
    fn only_fuse_mounts_with_our_source_are_ours() {
        let ours: Vec<bool> = parse(TABLE).iter().map(MountEntry::is_ours).collect();
        assert_eq!(ours, [false, true, true, false, false]);
        assert!(source(1, 2, 3).starts_with(&source_of_file(1, 2)));
        assert!(!source(1, 23, 3).starts_with(&source_of_file(1, 2)));
        let files: Vec<_> = parse(TABLE).iter().map(MountEntry::served_file).collect();
        assert_eq!(files, [None, Some((0xfe01, 0x1f)), None, Some((1, 2)), None]);
    }

    #[test]
    fn the_mount_of_a_file_is_that_of_a_user_who_counts() {
        let table = b"97 22 0:57 / /mnt/a rw - fuse.evsfs evsfs:1:2:a rw,user_id=0\n\
            98 22 0:58 / /mnt/b rw - fuse.evsfs evsfs:1:2:b rw,user_id=1000\n\
            99 22 0:59 / /mnt/c rw - fuse.evsfs evsfs:1:2:user_id=0, rw,user_id=65534,group_id=0\n";
        let all = parse(table);
        let found = |users: &[u32]| of_file_in(&all, 1, 2, users).map(|entry| entry.id);
        assert_eq!(found(&[0, 0, 0]), Some(97), "not the last one, which is a stranger's");
        assert_eq!(found(&[0, 1000, 1000]), Some(97), "root comes before the owner");
        assert_eq!(found(&[1, 1000]), Some(98));
        assert_eq!(found(&[1]), None);
        assert_eq!(of_file_in(&all, 1, 3, &[0]), None);
    }

    /// `/srv` is seen at `/export` as well; a disk is mounted in it.
    fn seen_twice(groups: [&str; 2], more: &str) -> Vec<MountEntry> {
        let table = format!(
            "22 1 8:1 / / rw - ext4 /dev/sda rw\n\
             30 22 8:1 /srv /srv rw {}- ext4 /dev/sda rw\n\
             31 22 8:1 /srv /export rw {}- ext4 /dev/sda rw\n\
             40 30 0:57 / /srv/d rw - fuse.evsfs evsfs:1:2:a rw,user_id=0\n\
             41 31 0:57 / /export/d rw - fuse.evsfs evsfs:1:2:a rw,user_id=0\n{more}",
            groups[0], groups[1],
        );
        parse(table.as_bytes())
    }

    fn others_of(all: &[MountEntry]) -> Vec<u64> {
        let mount = all.iter().find(|entry| entry.id == 40).unwrap();
        let present = present_in(all, mount).unwrap();
        assert_eq!(present.mount.id, 40);
        present.others.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn a_copy_that_the_kernel_made_goes_with_its_mount_and_one_that_somebody_made_does_not() {
        assert!(others_of(&seen_twice(["shared:7 ", "shared:7 "], "")).is_empty(), "peers");
        assert!(others_of(&seen_twice(["shared:7 ", "master:7 "], "")).is_empty(), "a follower");
        assert_eq!(others_of(&seen_twice(["", ""], "")), [41], "neither follows the other");
        assert_eq!(others_of(&seen_twice(["master:7 ", "shared:7 "], "")), [41], "the wrong way round");
        let follower_of_follower = "50 22 8:1 /srv /between rw shared:8 master:7 - ext4 /dev/sda rw\n";
        assert!(others_of(&seen_twice(["shared:7 ", "master:8 "], follower_of_follower)).is_empty());
        let bound = "42 22 0:57 /disk /mnt/file rw - fuse.evsfs evsfs:1:2:a rw,user_id=0\n";
        assert_eq!(others_of(&seen_twice(["shared:7 ", "shared:7 "], bound)), [42]);
        let covering = "43 40 0:70 / /srv/d rw - tmpfs none rw\n";
        assert_eq!(others_of(&seen_twice(["shared:7 ", "shared:7 "], covering)), [43]);
    }

    #[test]
    fn a_mount_is_found_where_it_was_moved_to_and_a_copy_when_it_is_gone() {
        let all = seen_twice(["", ""], "");
        let mut before = all[3].clone();
        before.point = "/before/d".into();
        assert_eq!(present_in(&all, &before).unwrap().mount.point, Path::new("/srv/d"));
        before.id = 7;
        assert_eq!(present_in(&all, &before).unwrap().mount.id, 41);
        before.device = "0:58".into();
        assert_eq!(present_in(&all, &before), None);
    }

    #[test]
    fn the_mount_of_an_open_file_is_known() {
        let file = fs::File::open("/proc/self/status").unwrap();
        let entry = at(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(mount_of(&file).unwrap(), entry.id);
    }
}
