//! The engine on a file that is opened for direct I/O (F10): the host itself refuses what is not aligned.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use super::super::{CreateParams, OpenOptions as Options, Volume};
use super::behaviour::use_in_every_way;
use super::{header, keys, read};
use crate::backing::Backing;
use crate::crypto::SeededEntropy;
use crate::format::HeaderCopies;

const MIB: u64 = 1 << 20;

/// A file past the host's cache. Offsets and lengths are the engine's. Its memory is not: where buffers stand is the caller's affair.
struct Direct(File);

/// As many bytes as asked for, at an address that direct I/O takes.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self(memory, start)
    }

    fn bytes(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + len]
    }
}

impl Backing for Direct {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut aligned = Aligned::new(buf.len());
        self.0.read_exact_at(aligned.bytes(buf.len()), offset)?;
        buf.copy_from_slice(aligned.bytes(buf.len()));
        Ok(())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut aligned = Aligned::new(buf.len());
        aligned.bytes(buf.len()).copy_from_slice(buf);
        self.0.write_all_at(aligned.bytes(buf.len()), offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        fallocate(&self.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?;
        Ok(true)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[test]
fn f10_a_volume_is_made_used_and_opened_by_direct_io() {
    // Beside the test program: on a disk, where /tmp may be memory.
    let program = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
    let path = dir.path().join("v.evs");
    let open = || {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT).open(&path);
        Direct(file.expect("the file system of the build has direct I/O"))
    };
    let file = open();
    let entropy = Arc::new(SeededEntropy::new(5));
    Volume::create(&file, &header(64), &CreateParams { size: 32 * MIB }, &keys(), &*entropy).unwrap();
    for (offset, len) in [(0, 100), (100, 4096)] {
        let refused = file.write_at(&vec![0; len], offset).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL), "else nothing is shown here");
    }
    let attach = || {
        let file = open();
        let mut start = vec![0; HeaderCopies::SPAN];
        file.read_at(&mut start, 0).unwrap();
        let header = HeaderCopies::parse(&start).unwrap().verify(&keys()).unwrap();
        let options = Options { background: false, ..Options::default() };
        Volume::open(Arc::new(file), header, keys(), options, Arc::clone(&entropy) as _).unwrap()
    };
    let volume = attach();
    use_in_every_way(&volume);
    volume.flush().unwrap();
    drop(volume);
    attach().close().unwrap();
    let volume = attach();
    assert_eq!(read(&volume, 5, 70_000), vec![1; 70_000]);
    assert!(volume.check(&mut |_, _| {}).unwrap().is_sound());
}
