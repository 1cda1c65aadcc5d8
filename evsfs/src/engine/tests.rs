//! The engine on a backing in memory. Crashes of the power kind are simulated elsewhere (`evsfs/tests`).

mod bad_sectors;
mod behaviour;
mod bounds;
mod cost;
mod direct;
mod model;
mod progress;
mod space;
mod stress;
mod versions;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use uuid::Uuid;

use super::{CreateParams, OpenError, OpenOptions, Volume};
use crate::backing::Backing;
use crate::crypto::{Backend, Dek, SeededEntropy, Suite, VolumeKeys};
use crate::format::{BaseReference, Header, HeaderCopies, Text, VolumeKind, WrappedDekField};

/// A file in memory that counts, and fails when told to.
#[derive(Default)]
struct Memory {
    bytes: RwLock<Vec<u8>>,
    written: AtomicU64,
    syncs: AtomicU64,
    punched: AtomicU64,
    /// Calls that are not of whole slots.
    ragged: AtomicU64,
    fail_sync: AtomicBool,
    /// Bytes that the host has; 0 means no limit.
    capacity: AtomicU64,
}

impl Memory {
    fn note(&self, offset: u64, len: usize) {
        if !offset.is_multiple_of(super::BLOCK) || !len.is_multiple_of(4096) {
            self.ragged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Backing for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.bytes.read().len()).unwrap())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.note(offset, buf.len());
        let bytes = self.bytes.read();
        let at = usize::try_from(offset).unwrap();
        let part = bytes.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.note(offset, buf.len());
        let mut bytes = self.bytes.write();
        let end = usize::try_from(offset).unwrap() + buf.len();
        let capacity = self.capacity.load(Ordering::Relaxed);
        if capacity > 0 && u64::try_from(end).unwrap() > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[end - buf.len()..end].copy_from_slice(buf);
        self.written.fetch_add(u64::try_from(buf.len()).unwrap(), Ordering::Relaxed);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let capacity = self.capacity.load(Ordering::Relaxed);
        if capacity > 0 && len > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.write().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.note(offset, usize::try_from(len).unwrap());
        let at = usize::try_from(offset).unwrap();
        self.bytes.write()[at..at + usize::try_from(len).unwrap()].fill(0);
        self.punched.fetch_add(len, Ordering::Relaxed);
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.fail_sync.load(Ordering::Relaxed) { Err(io::Error::other("no")) } else { Ok(()) }
    }
}

const ID: Uuid = Uuid::from_u128(0x1234);

fn keys() -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[3; 32]), ID, Backend::AwsLc)
}

fn header(ring_pages: u64) -> Header {
    Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 1,
        uuid: ID,
        created: 0,
        ring_pages,
        cmk_id: Text::new("key").unwrap(),
        cmk_version: 1,
        wrapped_dek: WrappedDekField::new(vec![1; 40]).unwrap(),
        next: None,
        base_copied: false,
        base: None,
    }
}

/// A volume in memory that can be opened again and again.
struct Rig {
    memory: Arc<Memory>,
    entropy: Arc<SeededEntropy>,
    options: OpenOptions,
}

impl Rig {
    fn new(size: u64, ring_pages: u64) -> Self {
        let rig = Self {
            memory: Arc::default(),
            entropy: Arc::new(SeededEntropy::new(7)),
            options: OpenOptions { background: false, ..OpenOptions::default() },
        };
        Volume::create(&*rig.memory, &header(ring_pages), &CreateParams { size }, &keys(), &*rig.entropy)
            .unwrap();
        rig
    }

    fn thin(size: u64, base: BaseReference) -> Self {
        let rig = Self {
            memory: Arc::default(),
            entropy: Arc::new(SeededEntropy::new(8)),
            options: OpenOptions { background: false, ..OpenOptions::default() },
        };
        let header = Header { base: Some(base), ..header(64) };
        Volume::create(&*rig.memory, &header, &CreateParams { size }, &keys(), &*rig.entropy).unwrap();
        rig
    }

    fn try_open(&self) -> Result<Volume, OpenError> {
        self.try_open_on(Arc::clone(&self.memory) as _)
    }

    /// With another way to the file.
    fn try_open_on(&self, backing: Arc<dyn Backing>) -> Result<Volume, OpenError> {
        let mut start = vec![0; HeaderCopies::SPAN];
        self.memory.read_at(&mut start, 0).unwrap();
        let keys = keys();
        let header = HeaderCopies::parse(&start).unwrap().verify(&keys).unwrap();
        Volume::open(backing, header, keys, self.options.clone(), Arc::clone(&self.entropy) as _)
    }

    fn open(&self) -> Volume {
        self.try_open().unwrap()
    }
}

fn read(volume: &Volume, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xee; len];
    volume.read(offset, &mut buf).unwrap();
    buf
}
