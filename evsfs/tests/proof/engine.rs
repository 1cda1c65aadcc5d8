//! The volume engine as a subject: small rings and limits, so that everything wraps, fills and is used again soon.

use std::sync::Arc;

use evsfs::backing::{Backing, sim::SimBacking};
use evsfs::crypto::{Backend, Dek, Entropy, EntropyUnavailable, Keyring, SeededEntropy, Suite, VolumeKeys};
use evsfs::engine::{Anchor, BaseImage, CreateParams, OpenOptions, Protection, Volume, VolumeError};
use evsfs::format::layout::RING_PAGES_TEST;
use evsfs::format::{BaseReference, Header, HeaderCopies, NextKey, Text, VolumeKind, WrappedDekField};
use uuid::Uuid;

use crate::oracle::{Content, Shown, State};
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

/// What a thin volume stands on: a volume of its own, closed and opened for reading only.
#[derive(Clone)]
pub(crate) struct Base {
    reference: BaseReference,
    volume: Arc<Volume>,
    blocks: Vec<Content>,
}

impl Base {
    /// With so many blocks, of which about half are written.
    pub(crate) fn new(blocks: u64) -> Self {
        let setup = EngineSetup { number: 90, ..EngineSetup::small(blocks) };
        let file = SimBacking::new();
        create(&setup, &file, 1).unwrap();
        let volume = open(&setup, &file, 2).unwrap();
        let mut state = State::new(blocks * BLOCK);
        for block in (0..blocks).filter(|block| block % 5 < 3) {
            let op = Op::Write { offset: block * BLOCK, len: BLOCK, stamp: (9 << 40) + block };
            let Op::Write { offset, len, stamp } = op else { unreachable!() };
            volume.write(offset, &bytes_of(stamp, len)).unwrap();
            state.apply(&op);
        }
        volume.close().unwrap();
        let volume = Arc::new(open(&EngineSetup { read_only: true, ..setup }, &file, 3).unwrap());
        let reference = volume.identity().reference(Text::new("base.evs").unwrap());
        Self { reference, volume, blocks: state.now.blocks }
    }
}

#[derive(Clone)]
pub(crate) struct EngineSetup {
    pub(crate) blocks: u64,
    pub(crate) ring_pages: u64,
    pub(crate) dirty_limit: usize,
    pub(crate) background: bool,
    pub(crate) randomness: Randomness,
    pub(crate) anchor: Option<Anchor>,
    /// Whether opening the file makes durable what a killed process left in the cache, as `FileBacking` does.
    pub(crate) opens_with_sync: bool,
    pub(crate) read_only: bool,
    /// Pages of trash that one checkpoint frees.
    pub(crate) trash_budget: usize,
    pub(crate) base: Option<Base>,
    /// What the engine does without.
    pub(crate) omitted: &'static [Protection],
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
            read_only: false,
            trash_budget: 1 << 20,
            base: None,
            omitted: &[],
            number: 1,
        }
    }

    fn uuid(&self) -> Uuid {
        Uuid::from_u128(0xE5_0000 + u128::from(self.number))
    }

    /// The keys of a data key by its number.
    fn keys(&self, dek: u8) -> VolumeKeys {
        VolumeKeys::new(Dek::new(&[dek; 32]), self.uuid(), Backend::AwsLc)
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

/// A data key, wrapped so and so often: what it opens to stands in the second byte.
fn wrapped(version: u8, dek: u8) -> WrappedDekField {
    WrappedDekField::new([vec![version, dek], vec![version; 58]].concat()).unwrap()
}

fn dek_of(wrapped: &WrappedDekField) -> u8 {
    wrapped.as_bytes()[1]
}

/// Proves a header as a mount does: with the data keys that its wrapped forms open to.
fn unlock(setup: &EngineSetup, start: &[u8]) -> Result<(Header, Keyring), Failure> {
    let copies = HeaderCopies::parse(start).map_err(|e| e.to_string())?;
    let mut refused = String::new();
    for copy in copies.candidates() {
        let claims = copy.claims();
        let first = setup.keys(dek_of(&claims.wrapped_dek));
        let next = claims.next.as_ref().map(|next| (setup.keys(dek_of(&next.wrapped_dek)), next.switch));
        match copy.verify_with(&first, next.as_ref().map(|(keys, _)| keys)) {
            Ok(header) => {
                let ring = Keyring::from(first);
                let ring = match next {
                    Some((next, switch)) => ring.switched(next, switch),
                    None => ring,
                };
                return Ok((header, ring));
            }
            Err(error) => refused = error.to_string(),
        }
    }
    Err(refused)
}

/// A step of what runs, or the beginning of it.
fn go_on(setup: &EngineSetup, volume: &Volume, flatten: bool, blocks: u64) -> Result<(), VolumeError> {
    if volume.reencryption().is_none() && volume.flatten().is_none() {
        let header = volume.header();
        if flatten {
            if header.base.is_none() {
                return Ok(());
            }
            volume.start_flatten(None)?;
        } else {
            begin_reencryption(setup, volume, 0)?;
        }
    }
    volume.task_step(blocks).map(|_| ())
}

/// Begins a re-encryption to another data key, at so many bytes in a second.
pub(crate) fn begin_reencryption(setup: &EngineSetup, volume: &Volume, rate: u64) -> Result<(), VolumeError> {
    let header = volume.header();
    let next = dek_of(&header.wrapped_dek).wrapping_add(16);
    let version = header.wrapped_dek.as_bytes()[0];
    volume.start_reencryption(setup.keys(next), wrapped(version, next), rate)
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
        wrapped_dek: wrapped(0, setup.number),
        next: None,
        base_copied: false,
        base: setup.base.as_ref().map(|base| base.reference),
    };
    let params = CreateParams { size: setup.blocks * BLOCK };
    Volume::create(file, &header, &params, &setup.keys(setup.number), &*setup.entropy(seed))
        .map_err(|e| e.to_string())
}

/// As a mount does it: the file opened as `FileBacking` opens it (what a killed process left is made durable, what a failed sync lost is
/// forgotten), the header proved, then the volume.
pub(crate) fn open(setup: &EngineSetup, file: &SimBacking, seed: u64) -> Result<Volume, Failure> {
    open_through(setup, file, Arc::new(file.clone()), seed)
}

/// The same, with something between the engine and the file.
pub(crate) fn open_through(
    setup: &EngineSetup,
    file: &SimBacking,
    backing: Arc<dyn Backing>,
    seed: u64,
) -> Result<Volume, Failure> {
    if setup.opens_with_sync {
        file.sync().map_err(|e| e.to_string())?;
    }
    file.drop_clean_cache(seed);
    let len = file.len().map_err(|e| e.to_string())?;
    let mut start = vec![0; HeaderCopies::SPAN.min(usize::try_from(len).unwrap())];
    file.read_at(&mut start, 0).map_err(|e| e.to_string())?;
    let (header, keys) = unlock(setup, &start)?;
    let options = OpenOptions {
        memory: 1 << 20,
        background: setup.background,
        anchor: setup.anchor,
        read_only: setup.read_only,
        // Only a header that names one gets it.
        base: setup.base.as_ref().filter(|_| header.base.is_some()).map(|base| Arc::clone(&base.volume) as _),
        dirty_limit: Some(setup.dirty_limit),
        trash_budget: setup.trash_budget,
        omitted: setup.omitted,
        seals_per_epoch: 1,
        ..OpenOptions::default()
    };
    let volume =
        Volume::open(backing, header, keys, options, setup.entropy(seed)).map_err(|e| e.to_string())?;
    if let Some(anchor) = setup.anchor {
        volume.confirm_anchor(anchor);
    }
    Ok(volume)
}

fn id_of(snapshot: u8) -> Uuid {
    Uuid::from_u128(0x5A_0000 + u128::from(snapshot))
}

/// An open volume.
pub(crate) struct Engine(pub(crate) Volume, EngineSetup);

impl Subject for Engine {
    type Setup = EngineSetup;
    const OPEN_WRITES_NOTHING: bool = true;

    fn empty(setup: &EngineSetup) -> State {
        let base = setup.base.as_ref().map_or(&[][..], |base| &base.blocks);
        State::over(base, setup.blocks * BLOCK)
    }

    fn create(setup: &EngineSetup, file: &SimBacking, seed: u64) -> Result<(), Failure> {
        create(setup, file, seed)
    }

    fn open(setup: &EngineSetup, file: &SimBacking, seed: u64) -> Result<Self, Failure> {
        open(setup, file, seed).map(|volume| Self(volume, setup.clone()))
    }

    fn apply(&mut self, op: &Op) -> Result<(), Failure> {
        let volume = &self.0;
        match op {
            Op::Write { offset, len, stamp } => volume.write(*offset, &bytes_of(*stamp, *len)),
            Op::Discard { offset, len } => volume.discard(*offset, *len),
            Op::Flush => volume.flush(),
            Op::Checkpoint => volume.checkpoint(),
            Op::Snapshot(number) => {
                volume.snapshot(&Op::snapshot_name(*number), id_of(*number), 0).map(|_| ())
            }
            Op::Rollback(number) => volume.rollback(id_of(*number)),
            Op::DeleteSnapshot(number) => volume.delete_snapshot(id_of(*number)),
            Op::Extend(size) => volume.extend(*size),
            Op::Rekey(version) => {
                let old = volume.header();
                let rewrap = |field: &WrappedDekField| wrapped(*version, dek_of(field));
                let next =
                    old.next.clone().map(|next| NextKey { wrapped_dek: rewrap(&next.wrapped_dek), ..next });
                let header = Header { wrapped_dek: rewrap(&old.wrapped_dek), next, ..old };
                volume.rewrite_header(&header)
            }
            Op::Step { flatten, blocks } => go_on(&self.1, volume, *flatten, *blocks),
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

    fn snapshots(&self) -> Vec<Shown> {
        self.0.snapshots().into_iter().map(|snapshot| (snapshot.name, snapshot.size)).collect()
    }

    fn read_snapshot(&self, name: &str, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        let found = self.0.snapshots().into_iter().find(|snapshot| snapshot.name == name);
        let id = found.ok_or_else(|| format!("there is no {name}"))?.id;
        self.0.read_snapshot(id, offset, buf).map_err(|e| e.to_string())
    }

    fn key(&self) -> u8 {
        self.0.header().wrapped_dek.as_bytes()[0]
    }

    fn sound(&self) -> Result<(), Failure> {
        match self.0.stats().double_frees {
            0 => Ok(()),
            count => Err(format!("{count} slots were freed twice")),
        }
    }

    fn check(&self, may_leak: bool) -> Result<(), Failure> {
        let mut report = self.0.check(&mut |_, _| {}).map_err(|e| e.to_string())?;
        if may_leak {
            report.leaked_slots = 0;
        }
        if report.is_sound() { Ok(()) } else { Err(format!("{report:?}")) }
    }

    fn close(self) -> Result<(), Failure> {
        self.0.close().map(|_| ()).map_err(|e| e.to_string())
    }
}
