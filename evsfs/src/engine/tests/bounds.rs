//! What one operation costs at most, whatever the volume's size and what is in it: pages read and written, and barriers.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::super::{BLOCK, Volume};
use super::cost::scattered;
use super::{Memory, Rig, read};
use crate::backing::Backing;
use crate::format::layout::{HEADER_SLOTS, SUPERBLOCK_SLOTS};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// A call that changes the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Slots from this one on.
    Write(u64, u64),
    Sync,
}

/// A file in memory that keeps a list of what is done to it.
#[derive(Default)]
struct Listed {
    memory: Arc<Memory>,
    calls: Mutex<Vec<Call>>,
    /// Told of the next write of a superblock, which then waits for an answer.
    superblock: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

fn is_superblock(slot: u64) -> bool {
    SUPERBLOCK_SLOTS.as_flattened().contains(&slot)
}

impl Listed {
    fn of(rig: &Rig) -> Arc<Self> {
        Arc::new(Self { memory: Arc::clone(&rig.memory), ..Self::default() })
    }

    /// What `run` does to the file.
    fn during(&self, run: impl FnOnce()) -> Vec<Call> {
        self.calls.lock().clear();
        run();
        std::mem::take(&mut *self.calls.lock())
    }
}

impl Backing for Listed {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.memory.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let slot = offset / BLOCK;
        self.calls.lock().push(Call::Write(slot, u64::try_from(buf.len()).unwrap() / BLOCK));
        if is_superblock(slot)
            && let Some((reached, go_on)) = self.superblock.lock().take()
        {
            reached.send(()).unwrap();
            go_on.recv_timeout(Duration::from_secs(30)).expect("a writer waits for a checkpoint");
        }
        self.memory.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.memory.punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.calls.lock().push(Call::Sync);
        self.memory.sync()
    }
}

fn pages(calls: &[Call]) -> u64 {
    calls.iter().map(|call| if let Call::Write(_, count) = call { *count } else { 0 }).sum()
}

fn barriers(calls: &[Call]) -> usize {
    calls.iter().filter(|call| **call == Call::Sync).count()
}

/// The calls up to the barrier of the first superblock, and those after it.
fn of_each_superblock(calls: &[Call]) -> (&[Call], &[Call]) {
    let written = calls.iter().position(|call| matches!(call, Call::Write(slot, _) if is_superblock(*slot)));
    let written = written.expect("a superblock");
    let durable =
        written + calls[written..].iter().position(|call| *call == Call::Sync).expect("its barrier");
    calls.split_at(durable + 1)
}

/// What is dirty, up to the limit, is brought into the map beforehand, while writers go on. While they wait a snapshot writes no more pages, and waits
/// for no more barriers, than where nothing is dirty.
#[test]
fn f8_writers_wait_for_a_few_pages_whatever_is_dirty_and_whatever_the_size() {
    const LIMIT: u64 = 4_000;
    let mut paused = BTreeSet::new();
    for (size, dirty) in [(16 * MIB, 0), (16 * MIB, LIMIT), (32 * TIB, 0), (32 * TIB, LIMIT)] {
        let mut rig = Rig::new(size, 1024);
        rig.options.dirty_limit = Some(usize::try_from(LIMIT).unwrap() + 256);
        let listed = Listed::of(&rig);
        let volume = rig.try_open_on(Arc::clone(&listed) as _).unwrap();
        volume.write(0, &[1; 4096]).unwrap();
        volume.checkpoint().unwrap();
        for number in 0..dirty {
            volume.write(scattered(number, size / BLOCK) * BLOCK, &[2; 4096]).unwrap();
        }
        volume.flush().unwrap();
        let entries = volume.stats().dirty_entries;
        assert!(entries >= dirty * 9 / 10, "{entries} of {dirty} are dirty");
        // Something that came in since the checkpoint before it, so that there is one in both cases.
        volume.write(size / 2, &[3; 4096]).unwrap();
        let (reached, at_superblock) = channel();
        let (wrote, go_on) = channel();
        *listed.superblock.lock() = Some((reached, go_on));
        let calls = std::thread::scope(|scope| {
            let volume = &volume;
            scope.spawn(move || {
                at_superblock.recv().unwrap();
                volume.write(size / 2 + 7 * BLOCK, &[4; 4096]).unwrap();
                wrote.send(()).unwrap();
            });
            listed.during(|| drop(volume.snapshot("s", Uuid::from_u128(1), 0).unwrap()))
        });
        let (beforehand, waiting) = of_each_superblock(&calls);
        println!(
            "{size} bytes, {entries} dirty: {} pages and {} barriers beforehand, {} and {} while writers wait",
            pages(beforehand),
            barriers(beforehand),
            pages(waiting),
            barriers(waiting)
        );
        if dirty > 0 {
            assert!(pages(beforehand) > 32, "{beforehand:?}");
        }
        assert!(pages(waiting) <= 20 && barriers(waiting) <= 3, "{waiting:?}");
        paused.insert((size, pages(waiting), barriers(waiting)));
        let id = Uuid::from_u128(1);
        let mut block = [0; 4096];
        volume.read_snapshot(id, size / 2 + 7 * BLOCK, &mut block).unwrap();
        assert_eq!(block, [4; 4096], "what was written before the pause is in it");
    }
    // The same for each size, whatever is dirty.
    assert_eq!(paused.len(), 2, "{paused:?}");
}

/// Neither what is in the volume nor what is dirty matters.
#[test]
fn f9_another_wrapping_of_the_key_writes_the_two_copies_of_the_header_and_nothing_else() {
    for size in [4 * MIB, 32 * TIB] {
        let rig = Rig::new(size, 64);
        let listed = Listed::of(&rig);
        let volume = rig.try_open_on(Arc::clone(&listed) as _).unwrap();
        for number in 0..500 {
            volume.write(scattered(number, size / BLOCK) * BLOCK, &[1; 4096]).unwrap();
            if number == 250 {
                volume.checkpoint().unwrap();
            }
        }
        let mut header = volume.header();
        header.cmk_version += 1;
        let calls = listed.during(|| volume.rewrite_header(&header).unwrap());
        let [first, second] = HEADER_SLOTS;
        let copies = [Call::Write(second, 1), Call::Sync, Call::Write(first, 1), Call::Sync];
        assert_eq!(calls, copies, "{size} bytes");
        drop(volume);
        assert_eq!(rig.open().header().cmk_version, header.cmk_version);
    }
}

/// Checkpoints until nothing waits to be freed, each of which frees a bounded piece; gives how many there were.
fn freed_in_pieces(volume: &Volume, budget: u64) -> u64 {
    // With each leaf go its one block and the page above it, which has no other; and a few further up.
    let most = 3 * budget + budget / 8;
    let mut pieces = 0;
    while volume.stats().trash || pieces == 0 {
        let before = volume.stats();
        volume.checkpoint().unwrap();
        let after = volume.stats();
        pieces += 1;
        let freed = before.used_slots.saturating_sub(after.used_slots);
        assert!(freed <= most, "{freed} slots at once");
        let opened = after.opens - before.opens;
        assert!(opened <= most, "{opened} pages opened at once");
        assert!(pieces < 10_000, "trash for ever: {after:?}");
    }
    pieces
}

/// Whoever discards everything, or deletes a snapshot, is not held up by how much that was; nor is anybody else, later.
#[test]
fn f7_a_huge_discard_or_deletion_is_one_record_and_is_freed_in_bounded_pieces() {
    const DISCARDED: u64 = 60_000;
    const DELETED: u64 = 20_000;
    const SIZE: u64 = 32 * TIB;
    const BUDGET: u64 = 2_000;
    let mut rig = Rig::new(SIZE, 1024);
    rig.options.trash_budget = usize::try_from(BUDGET).unwrap();
    let volume = rig.open();
    let empty = volume.stats().used_slots;
    let fill = |byte: u8, blocks: u64| {
        for number in 0..blocks {
            volume.write(scattered(number, SIZE / BLOCK) * BLOCK, &[byte; 4096]).unwrap();
        }
        volume.checkpoint().unwrap();
        assert!(volume.stats().used_slots > empty + 2 * blocks, "each has a leaf of its own");
    };
    let one = scattered(DELETED - 1, SIZE / BLOCK) * BLOCK;
    let discard_all = || {
        let before = volume.stats();
        volume.discard(0, SIZE).unwrap();
        let after = volume.stats();
        assert!(after.opens - before.opens <= 10, "{} pages opened", after.opens - before.opens);
        assert_eq!((before.pending_records, after.pending_records), (0, 1));
        assert_eq!(read(&volume, one, 4096), [0; 4096]);
    };
    let nearly_all_is_free = || {
        let used = volume.stats().used_slots;
        assert!(used <= empty + 64, "{used} slots in use, {empty} when it was empty");
    };

    fill(1, DISCARDED);
    discard_all();
    let pieces = freed_in_pieces(&volume, BUDGET);
    assert!(pieces >= DISCARDED / BUDGET, "{pieces}");
    nearly_all_is_free();

    fill(2, DELETED);
    let id = Uuid::from_u128(1);
    volume.snapshot("s", id, 0).unwrap();
    discard_all();
    freed_in_pieces(&volume, BUDGET);
    let mut block = [0; 4096];
    volume.read_snapshot(id, one, &mut block).unwrap();
    assert_eq!(block, [2; 4096]);
    let before = volume.stats();
    volume.delete_snapshot(id).unwrap();
    let after = volume.stats();
    assert!(after.opens - before.opens <= 10, "{} pages opened", after.opens - before.opens);
    assert!(before.used_slots - after.used_slots.min(before.used_slots) <= 64, "{before:?} {after:?}");
    let pieces = freed_in_pieces(&volume, BUDGET);
    assert!(pieces >= DELETED / BUDGET, "{pieces}");
    nearly_all_is_free();
}
