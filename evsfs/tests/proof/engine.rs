//! The volume engine as a subject: small rings and limits, so that everything wraps, fills and is used again soon.

use std::sync::Arc;

use evsfs::backing::{Backing, sim::SimBacking};
use evsfs::crypto::{Backend, Dek, Entropy, EntropyUnavailable, SeededEntropy, Suite, VolumeKeys};
use evsfs::engine::{Anchor, CreateParams, OpenOptions, Volume};
use evsfs::format::layout::RING_PAGES_TEST;
use evsfs::format::{Header, HeaderCopies, Text, VolumeKind, WrappedDekField};
use uuid::Uuid;

use crate::subject::{Failure, Subject};
use crate::workload::{BLOCK, Op, bytes_of};

/// Where the engine's random bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Randomness {
    /// From the seed of each open.
    Seeded,
    /// The same for all: what must never be.
    AlwaysTheSame,
}

#[derive(Clone, Debug)]
pub(crate) struct EngineSetup {
    pub(crate) blocks: u64,
    pub(crate) ring_pages: u64,
    pub(crate) dirty_limit: usize,
    pub(crate) background: bool,
    pub(crate) randomness: Randomness,
    pub(crate) anchor: Option<Anchor>,
    /// Whether opening the file makes durable what a killed process left in the cache, as `FileBacking` does.
    pub(crate) opens_with_sync: bool,
    /// Tells volumes apart: identity and key.
    pub(crate) number: u8,
}

impl EngineSetup {
    /// The smallest log, and a checkpoint every few writes.
    pub(crate) fn small(blocks: u64) -> Self {
        Self {
            blocks,
            ring_pages: RING_PAGES_TEST,
            dirty_limit: 12,
            background: false,
            randomness: Randomness::Seeded,
            anchor: None,
            opens_with_sync: true,
            number: 1,
        }
    }

    fn uuid(&self) -> Uuid {
        Uuid::from_u128(0xE5_0000 + u128::from(self.number))
    }

    fn keys(&self) -> VolumeKeys {
        VolumeKeys::new(Dek::new(&[self.number; 32]), self.uuid(), Backend::AwsLc)
    }

    fn entropy(&self, seed: u64) -> Arc<dyn Entropy> {
        match self.randomness {
            Randomness::Seeded => Arc::new(SeededEntropy::new(seed)),
            Randomness::AlwaysTheSame => Arc::new(Constant),
        }
    }
}

struct Constant;

impl Entropy for Constant {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyUnavailable> {
        out.fill(0x5A);
        Ok(())
    }
}

fn wrapped(version: u8) -> WrappedDekField {
    WrappedDekField::new(vec![version; 60]).unwrap()
}

pub(crate) fn create(setup: &EngineSetup, file: &SimBacking, seed: u64) -> Result<(), Failure> {
    let header = Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 1,
        uuid: setup.uuid(),
        created: 1_700_000_000,
        ring_pages: setup.ring_pages,
        cmk_id: Text::new("0d0466b0-e727-4d9c-b35d-f84bb474a37f").unwrap(),
        cmk_version: 1,
        wrapped_dek: wrapped(0),
        next: None,
        base: None,
    };
    let params = CreateParams { size: setup.blocks * BLOCK };
    Volume::create(file, &header, &params, &setup.keys(), &*setup.entropy(seed)).map_err(|e| e.to_string())
}

/// As a mount does it: the file opened as `FileBacking` opens it (what a killed process left is made durable, what a failed sync lost is
/// forgotten), the header proved, then the volume.
pub(crate) fn open(setup: &EngineSetup, file: &SimBacking, seed: u64) -> Result<Volume, Failure> {
    if setup.opens_with_sync {
        file.sync().map_err(|e| e.to_string())?;
    }
    file.drop_clean_cache(seed);
    let len = file.len().map_err(|e| e.to_string())?;
    let mut start = vec![0; HeaderCopies::SPAN.min(usize::try_from(len).unwrap())];
    file.read_at(&mut start, 0).map_err(|e| e.to_string())?;
    let keys = setup.keys();
    let copies = HeaderCopies::parse(&start).map_err(|e| e.to_string())?;
    let header = copies.verify(&keys).map_err(|e| e.to_string())?;
    let options = OpenOptions {
        memory: 1 << 20,
        background: setup.background,
        anchor: setup.anchor,
        dirty_limit: Some(setup.dirty_limit),
        seals_per_epoch: 1,
        ..OpenOptions::default()
    };
    let volume = Volume::open(Arc::new(file.clone()), header, keys, options, setup.entropy(seed))
        .map_err(|e| e.to_string())?;
    if let Some(anchor) = setup.anchor {
        volume.confirm_anchor(anchor);
    }
    Ok(volume)
}

/// An open volume.
pub(crate) struct Engine(pub(crate) Volume);

impl Subject for Engine {
    type Setup = EngineSetup;
    const OPEN_WRITES_NOTHING: bool = true;

    fn create(setup: &EngineSetup, file: &SimBacking, seed: u64) -> Result<(), Failure> {
        create(setup, file, seed)
    }

    fn open(setup: &EngineSetup, file: &SimBacking, seed: u64) -> Result<Self, Failure> {
        open(setup, file, seed).map(Self)
    }

    fn apply(&mut self, op: &Op) -> Result<(), Failure> {
        let volume = &self.0;
        match op {
            Op::Write { offset, len, stamp } => volume.write(*offset, &bytes_of(*stamp, *len)),
            Op::Discard { offset, len } => volume.discard(*offset, *len),
            Op::Flush => volume.flush(),
            Op::Checkpoint => volume.checkpoint(),
            Op::Snapshot(_) | Op::Rollback(_) | Op::DeleteSnapshot(_) | Op::Extend(_) => unreachable!(),
            Op::Rekey(version) => {
                let header = Header { wrapped_dek: wrapped(*version), ..volume.header() };
                volume.rewrite_header(&header)
            }
            Op::Reopen | Op::Kill => unreachable!("the caller's"),
        }
        .map_err(|e| e.to_string())
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        self.0.read(offset, buf).map_err(|e| e.to_string())
    }

    fn snapshots(&self) -> Vec<String> {
        Vec::new()
    }

    fn key(&self) -> u8 {
        self.0.header().wrapped_dek.as_bytes()[0]
    }

    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn close(self) -> Result<(), Failure> {
        self.0.close().map(|_| ()).map_err(|e| e.to_string())
    }
}
