//! The root: what a checkpoint made durable.

use super::TablePayload;
use super::bytes::{array, put, put_u16, put_u32, put_u64, u32_at, u64_at};
use super::entry::{Entry, Kind};
use super::epochs::{EPOCHS_MAX, count_at, page_references, put_entries, table_references};
use super::error::{FormatError, Structure, bounded, zeros};
use super::layout::{BLOCKS_MAX, HEIGHT_MAX, RING_PAGES_MAX, SLOT_MAX, TABLE_PAYLOAD, map_capacity};
use crate::crypto::Chain;

/// Pages of the version table at most.
pub const VERSION_PAGES: usize = 8;
/// Entries above the highest pages of the allocation tree: 64 times 16,384 regions are 128 TiB.
pub const UPPER_ALLOCATION_ENTRIES: usize = 64;

const GENERATION: usize = 0;
const COMMIT: usize = GENERATION + 8;
const CHAIN: usize = COMMIT + 8;
const HEAD_PAGE: usize = CHAIN + 32;
const HEAD_SEQUENCE: usize = HEAD_PAGE + 8;
const SIZE: usize = HEAD_SEQUENCE + 8;
const FILE_SLOTS: usize = SIZE + 8;
const USED_SLOTS: usize = FILE_SLOTS + 8;
const NEXT_EPOCH: usize = USED_SLOTS + 8;
const HEIGHT: usize = NEXT_EPOCH + 4;
const CLEAN: usize = HEIGHT + 1;
const VERSION_COUNT: usize = CLEAN + 1;
const UPPER_COUNT: usize = VERSION_COUNT + 2;
const BASE_COPIED: usize = UPPER_COUNT + 2;
const UNUSED: usize = BASE_COPIED + 1;
const CONFIRMED_COMMIT: usize = UNUSED + 5;
const CONFIRMED_CHAIN: usize = CONFIRMED_COMMIT + 8;
const OFFERED_COMMIT: usize = CONFIRMED_CHAIN + 32;
const OFFERED_CHAIN: usize = OFFERED_COMMIT + 8;
const LEAST_COMMIT: usize = OFFERED_CHAIN + 32;
const ROOT: usize = LEAST_COMMIT + 8;
const EPOCHS: usize = ROOT + Entry::LEN;
const VERSIONS: usize = EPOCHS + Entry::LEN;
const UPPER: usize = VERSIONS + VERSION_PAGES * Entry::LEN;
const TASK: usize = UPPER + UPPER_ALLOCATION_ENTRIES * Entry::LEN;
const TASK_UNUSED: usize = TASK + 1;
const TASK_CURSOR: usize = TASK_UNUSED + 7;
const TASK_RATE: usize = TASK_CURSOR + 8;
const END: usize = TASK_RATE + 8;

/// Offset, size and name, as in docs/volume-format.md.
#[cfg(test)]
pub(super) const FIELDS: &[super::tests::Field] = &[
    (GENERATION, COMMIT - GENERATION, "generation"),
    (COMMIT, CHAIN - COMMIT, "commit"),
    (CHAIN, HEAD_PAGE - CHAIN, "chain"),
    (HEAD_PAGE, HEAD_SEQUENCE - HEAD_PAGE, "log head page"),
    (HEAD_SEQUENCE, SIZE - HEAD_SEQUENCE, "log head sequence"),
    (SIZE, FILE_SLOTS - SIZE, "size"),
    (FILE_SLOTS, USED_SLOTS - FILE_SLOTS, "file length"),
    (USED_SLOTS, NEXT_EPOCH - USED_SLOTS, "used slots"),
    (NEXT_EPOCH, HEIGHT - NEXT_EPOCH, "next epoch"),
    (HEIGHT, CLEAN - HEIGHT, "map height"),
    (CLEAN, VERSION_COUNT - CLEAN, "clean"),
    (VERSION_COUNT, UPPER_COUNT - VERSION_COUNT, "version page count"),
    (UPPER_COUNT, BASE_COPIED - UPPER_COUNT, "upper allocation count"),
    (BASE_COPIED, UNUSED - BASE_COPIED, "base copied"),
    (UNUSED, CONFIRMED_COMMIT - UNUSED, "zero"),
    (CONFIRMED_COMMIT, CONFIRMED_CHAIN - CONFIRMED_COMMIT, "confirmed commit"),
    (CONFIRMED_CHAIN, OFFERED_COMMIT - CONFIRMED_CHAIN, "confirmed chain"),
    (OFFERED_COMMIT, OFFERED_CHAIN - OFFERED_COMMIT, "offered commit"),
    (OFFERED_CHAIN, LEAST_COMMIT - OFFERED_CHAIN, "offered chain"),
    (LEAST_COMMIT, ROOT - LEAST_COMMIT, "least commit"),
    (ROOT, EPOCHS - ROOT, "root"),
    (EPOCHS, VERSIONS - EPOCHS, "epoch directory"),
    (VERSIONS, UPPER - VERSIONS, "version pages"),
    (UPPER, TASK - UPPER, "upper allocation entries"),
    (TASK, TASK_UNUSED - TASK, "task"),
    (TASK_UNUSED, TASK_CURSOR - TASK_UNUSED, "zero"),
    (TASK_CURSOR, TASK_RATE - TASK_CURSOR, "task cursor"),
    (TASK_RATE, END - TASK_RATE, "task rate"),
];

/// A state of the volume: how many groups it contains, and the chain value after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The last group.
    pub commit: u64,
    /// The chain value after it.
    pub chain: Chain,
}

/// The first log page that the checkpoint does not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// Its place in the ring.
    pub page: u64,
    /// Its number since the volume was created.
    pub sequence: u64,
}

/// What goes through all blocks of a volume in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskKind {
    /// Everything is sealed anew under another DEK.
    Reencrypt = 1,
    /// What a thin volume reads from its base becomes its own.
    Flatten = 2,
}

/// How far such a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Which.
    pub kind: TaskKind,
    /// It is done with all blocks before this one; with `u64::MAX`, with all there are.
    pub cursor: u64,
    /// Bytes of data in a second at most; 0 for as fast as it goes.
    pub rate: u64,
}

/// The payload of a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Number of the superblock; its parity says where it lies.
    pub generation: u64,
    /// What this checkpoint contains.
    pub state: Anchor,
    /// Where the log goes on.
    pub log_head: LogHead,
    /// Size of the volume in blocks.
    pub blocks: u64,
    /// Levels of the map (1 to 5).
    pub height: u8,
    /// Root of the map, or absent.
    pub root: Entry,
    /// Length of the file in slots.
    pub file_slots: u64,
    /// Slots in use.
    pub used_slots: u64,
    /// The number of the next epoch.
    pub next_epoch: u32,
    /// The epoch directory, or absent.
    pub epochs: Entry,
    /// Pages of the version table, at most [`VERSION_PAGES`].
    pub versions: Vec<Entry>,
    /// The anchor that kmsd last confirmed.
    pub confirmed: Anchor,
    /// The anchor that was last sent to kmsd; whether it arrived may be unknown. No other is sent before that is known, so kmsd has
    /// `confirmed` or `offered`, whatever happens to this process.
    pub offered: Anchor,
    /// The log behind this superblock must lead to this commit at least: more than `state` after a compaction, or a piece of a checkpoint, whose
    /// group holds what the map does not. A log that ends before it was cut off, and the volume does not open.
    pub least_commit: u64,
    /// Written by a detach: nothing is in the log behind it.
    pub clean: bool,
    /// Entries of the highest pages of the allocation tree, at most [`UPPER_ALLOCATION_ENTRIES`]; they may be absent.
    pub upper_allocation: Vec<Entry>,
    /// What runs in the background.
    pub task: Option<Task>,
    /// The volume was thin, and has all of its base now: what is absent is zeros, whatever base a header names.
    pub base_copied: bool,
}

/// What counts generations, commits and log pages never reaches this; so whoever adds one to it need not look.
pub const COUNTER_MAX: u64 = u64::MAX >> 1;

impl Superblock {
    /// The payload of a table page.
    ///
    /// # Panics
    /// If there are too many entries.
    #[must_use]
    pub fn encode(&self) -> Box<TablePayload> {
        assert!(
            self.versions.len() <= VERSION_PAGES && self.upper_allocation.len() <= UPPER_ALLOCATION_ENTRIES
        );
        let mut payload = Box::new([0; TABLE_PAYLOAD]);
        let out = payload.as_mut();
        put_u64(out, GENERATION, self.generation);
        put_u64(out, COMMIT, self.state.commit);
        put(out, CHAIN, &self.state.chain.0);
        put_u64(out, HEAD_PAGE, self.log_head.page);
        put_u64(out, HEAD_SEQUENCE, self.log_head.sequence);
        put_u64(out, SIZE, self.blocks);
        put_u64(out, FILE_SLOTS, self.file_slots);
        put_u64(out, USED_SLOTS, self.used_slots);
        put_u32(out, NEXT_EPOCH, self.next_epoch);
        out[HEIGHT] = self.height;
        out[CLEAN] = u8::from(self.clean);
        out[BASE_COPIED] = u8::from(self.base_copied);
        put_u16(out, VERSION_COUNT, u16::try_from(self.versions.len()).expect("at most 8"));
        put_u16(out, UPPER_COUNT, u16::try_from(self.upper_allocation.len()).expect("at most 64"));
        put_u64(out, CONFIRMED_COMMIT, self.confirmed.commit);
        put(out, CONFIRMED_CHAIN, &self.confirmed.chain.0);
        put_u64(out, OFFERED_COMMIT, self.offered.commit);
        put(out, OFFERED_CHAIN, &self.offered.chain.0);
        put_u64(out, LEAST_COMMIT, self.least_commit);
        put(out, ROOT, &self.root.encode());
        put(out, EPOCHS, &self.epochs.encode());
        put_entries(out, VERSIONS, &self.versions);
        put_entries(out, UPPER, &self.upper_allocation);
        if let Some(task) = &self.task {
            out[TASK] = task.kind as u8;
            put_u64(out, TASK_CURSOR, task.cursor);
            put_u64(out, TASK_RATE, task.rate);
        }
        payload
    }

    /// From an opened payload.
    ///
    /// # Errors
    /// If no encoder writes such bytes.
    pub fn decode(payload: &TablePayload) -> Result<Self, FormatError> {
        let structure = Structure::Superblock;
        let number = |field, at, min, max| bounded(structure, field, u64_at(payload, at), min, max);
        let counter = |field, at| number(field, at, 0, COUNTER_MAX);
        let blocks = number("size", SIZE, 1, BLOCKS_MAX)?;
        let height = payload[HEIGHT];
        bounded(structure, "map height", height.into(), 1, HEIGHT_MAX.into())?;
        if map_capacity(height) < blocks {
            return Err(FormatError::Contradiction { structure, field: "map height" });
        }
        let clean = bounded(structure, "clean flag", payload[CLEAN].into(), 0, 1)? == 1;
        let base_copied = bounded(structure, "base copied", payload[BASE_COPIED].into(), 0, 1)? == 1;
        zeros(structure, "base copied", &payload[UNUSED..CONFIRMED_COMMIT])?;
        zeros(structure, "task rate", &payload[END..])?;
        let task = decode_task(payload)?;
        let next_epoch = u32_at(payload, NEXT_EPOCH);
        // One past the last: then there is no next one. A greater number would only make the table of salts grow.
        bounded(structure, "next epoch", next_epoch.into(), 1, u64::from(EPOCHS_MAX) + 1)?;
        let file_slots = number("file length", FILE_SLOTS, 0, SLOT_MAX)?;
        let version_count = count_at(structure, "version page count", payload, VERSION_COUNT, VERSION_PAGES)?;
        let upper_count =
            count_at(structure, "upper allocation count", payload, UPPER_COUNT, UPPER_ALLOCATION_ENTRIES)?;
        let root = Entry::decode(&array(payload, ROOT))?;
        if root.kind() == Kind::Data {
            return Err(FormatError::Contradiction { structure, field: "root" });
        }
        let epochs = Entry::decode(&array(payload, EPOCHS))?;
        if !(epochs.is_absent() || epochs.kind() == Kind::Page && epochs.epoch() == 0) {
            return Err(FormatError::Contradiction { structure, field: "epoch directory" });
        }
        Ok(Self {
            generation: counter("generation", GENERATION)?,
            state: Anchor { commit: counter("commit", COMMIT)?, chain: Chain(array(payload, CHAIN)) },
            log_head: LogHead {
                page: number("log head", HEAD_PAGE, 0, RING_PAGES_MAX - 1)?,
                sequence: counter("log head sequence", HEAD_SEQUENCE)?,
            },
            blocks,
            height,
            root,
            file_slots,
            used_slots: number("used slots", USED_SLOTS, 0, file_slots)?,
            next_epoch,
            epochs,
            versions: table_references(
                structure,
                "version pages",
                payload,
                VERSIONS,
                version_count,
                VERSION_PAGES,
            )?,
            confirmed: Anchor {
                commit: counter("confirmed commit", CONFIRMED_COMMIT)?,
                chain: Chain(array(payload, CONFIRMED_CHAIN)),
            },
            offered: Anchor {
                commit: counter("offered commit", OFFERED_COMMIT)?,
                chain: Chain(array(payload, OFFERED_CHAIN)),
            },
            least_commit: number("least commit", LEAST_COMMIT, u64_at(payload, COMMIT), COUNTER_MAX)?,
            clean,
            upper_allocation: page_references(
                structure,
                "upper allocation entries",
                payload,
                UPPER,
                upper_count,
                UPPER_ALLOCATION_ENTRIES,
            )?,
            task,
            base_copied,
        })
    }
}

fn decode_task(payload: &TablePayload) -> Result<Option<Task>, FormatError> {
    let structure = Structure::Superblock;
    zeros(structure, "task", &payload[TASK_UNUSED..TASK_CURSOR])?;
    let kind = match bounded(structure, "task", payload[TASK].into(), 0, 2)? {
        0 => {
            zeros(structure, "task", &payload[TASK_CURSOR..END])?;
            return Ok(None);
        }
        1 => TaskKind::Reencrypt,
        _ => TaskKind::Flatten,
    };
    Ok(Some(Task { kind, cursor: u64_at(payload, TASK_CURSOR), rate: u64_at(payload, TASK_RATE) }))
}

const _: () = assert!(END <= TABLE_PAYLOAD);
