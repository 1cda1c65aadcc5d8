//! Getting a FUSE connection that is mounted: root mounts by itself, others through the set-user-id helper of the fuse3 package.
//!
//! fuser could do this, too, but its session unmounts once more when it ends: by path and, for an ordinary user, without regard
//! to who uses it. By then something else may be mounted there.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use super::{Options, Point};

const KIND: &str = "fuse.evsfs";
const SUBTYPE: &str = "evsfs";

/// Mounts at `point` and gives back the connection, on which the kernel has begun to speak.
pub(super) fn connect(point: &Point, options: &Options) -> io::Result<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        directly(&point.handle(), options)
    } else {
        // The helper takes care by itself that its caller may mount where the path leads.
        by_helper(&point.path, options)
    }
}

fn directly(point: &str, options: &Options) -> io::Result<OwnedFd> {
    let device = OwnedFd::from(OpenOptions::new().read(true).write(true).open("/dev/fuse")?);
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount(options.source.as_str(), point, KIND, flags, &*CString::new(data)?)?;
    Ok(device)
}

/// The helper mounts and sends the connection over the socket whose number it finds in `_FUSE_COMMFD`: here its standard input.
fn by_helper(point: &Path, options: &Options) -> io::Result<OwnedFd> {
    let (ours, its) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut list = format!(
        "fsname={},subtype={SUBTYPE},default_permissions,nosuid,nodev,noexec,noatime,{}",
        options.source,
        if options.read_only { "ro" } else { "rw" },
    );
    if options.allow_other {
        list.push_str(",allow_other");
    }
    let output = Command::new("fusermount3")
        .args(["-o", &list, "--"])
        .arg(point)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(its))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(reason.trim().to_owned()));
    }
    receive(&ours)
}

/// One byte, and with it the descriptor.
fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("fusermount3 sent no connection"))
}
