//! Attaching after a kill that left the log nearly full (F6): the most that recovery ever has to read.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evsfs::backing::{Backing, FileBacking};
use evsfs::crypto::{Backend, SystemEntropy, VolumeKeys};
use evsfs::engine::{CreateParams, OpenOptions, Volume};
use evsfs::format::layout::RING_PAGES_MAX;
use evsfs::unlock;

use crate::disk::{Disk, Kind, create_plain, read};

const BLOCK: u64 = 4096;

/// A file whose syncs do nothing: what a killed process leaves is in the kernel's cache all the same, and it is filled in a moment.
struct Unsynced(FileBacking);

impl Backing for Unsynced {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.0.punch(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The longest log that there is, more than nine tenths full, each block of it flushed by itself: what recovery reads is bounded by it.
#[test]
fn f6_with_a_full_log_attaching_takes_less_than_two_seconds_after_a_kill() {
    const SIZE: u64 = 64 << 30;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("volume");
    let ring = CreateParams { size: SIZE }.ring_pages();
    assert_eq!(ring, RING_PAGES_MAX);
    create_plain(&file, SIZE);
    let offset = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SIZE / BLOCK) * BLOCK;
    let backing = FileBacking::open(&file).unwrap();
    let header = unlock::read_header(&backing).unwrap();
    let uuid = *header.candidates()[0].uuid();
    let keys = VolumeKeys::plain(uuid, Backend::AwsLc);
    let header = header.verify(&keys).unwrap();
    let options = OpenOptions { background: false, ..OpenOptions::default() };
    let volume =
        Volume::open(Arc::new(Unsynced(backing)), header, keys, options, Arc::new(SystemEntropy)).unwrap();
    let flushes = ring / 100 * 92;
    for number in 0..flushes {
        volume.write(offset(number), &[number as u8; 4096]).unwrap();
        volume.flush().unwrap();
    }
    let stats = volume.stats();
    assert_eq!(
        (stats.commits, stats.checkpoints, stats.compactions),
        (flushes, 0, 0),
        "all of it is in the log"
    );
    // As a kill leaves it: not closed, which would empty the log.
    drop(volume);

    let start = Instant::now();
    let disk = Disk::over(Kind::Plain, &file, &[]);
    let took = start.elapsed();
    eprintln!("{flushes} flushes in a log of {ring} pages: attached within {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let view = disk.open();
    for number in (0..flushes).step_by(97) {
        assert_eq!(read(&view, offset(number), 4096), [number as u8; 4096], "{number}");
    }
}
