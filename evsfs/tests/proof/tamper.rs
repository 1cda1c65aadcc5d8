//! F2, F3, F13: whatever is done to the file, a read gives the right data or an error.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use evsfs::backing::Backing;
use evsfs::backing::sim::{Image, PAGE, SimBacking};

use crate::engine::{Base, Engine, EngineSetup};
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::oracle::{Contents, State, to_usize};
use crate::subject::{Failure, Subject};
use crate::workload::{BLOCK, Op};

/// Calls on the file that a tampered volume may cost, to be opened, read, written to and opened again. A few hundred are usual.
const CALLS_MOST: u64 = 10_000;

/// A volume, and what an attacker may have of its past and of others.
pub(crate) struct Exhibit {
    pub(crate) image: Image,
    pub(crate) state: State,
    pub(crate) older: Vec<Image>,
    pub(crate) foreign: Vec<Image>,
}

/// Something done to the file.
#[derive(Clone, Debug)]
pub(crate) enum Tampering {
    Flip {
        at: u64,
        mask: u8,
    },
    /// Two slots change places.
    Swap(u64, u64),
    /// One slot is put in another's place as well.
    Copy {
        from: u64,
        to: u64,
    },
    /// These slots are as they were in an older copy.
    Replay {
        copy: usize,
        slots: Vec<u64>,
    },
    /// The whole file is an older copy.
    Rollback {
        copy: usize,
    },
    /// These slots come from another volume.
    Foreign {
        volume: usize,
        slots: Vec<u64>,
    },
    Zero {
        slot: u64,
        count: u64,
    },
    Truncate {
        len: u64,
    },
}

impl Tampering {
    fn apply(&self, exhibit: &Exhibit) -> Image {
        let mut image = exhibit.image.clone();
        let put = |image: &mut Image, from: &Image, slots: &[u64]| {
            for &slot in slots {
                image.put(slot, from.page(slot));
            }
        };
        match self {
            Self::Flip { at, mask } => {
                let mut byte = [0];
                image.read(*at, &mut byte);
                image.write(*at, &[byte[0] ^ mask]);
            }
            Self::Swap(a, b) => {
                let (first, second) = (image.page(*a), image.page(*b));
                image.put(*a, second);
                image.put(*b, first);
            }
            Self::Copy { from, to } => image.put(*to, image.page(*from)),
            Self::Replay { copy, slots } => put(&mut image, &exhibit.older[*copy], slots),
            Self::Rollback { copy } => image = exhibit.older[*copy].clone(),
            Self::Foreign { volume, slots } => put(&mut image, &exhibit.foreign[*volume], slots),
            Self::Zero { slot, count } => image.erase(slot * BLOCK, count * BLOCK),
            Self::Truncate { len } => image.set_len(*len),
        }
        image
    }
}

/// Every kind of tampering with these slots of the exhibit. `stride` thins out the bytes of slots that are not `dense`.
pub(crate) fn everything(exhibit: &Exhibit, dense: &[u64], stride: u64) -> Vec<Tampering> {
    let pages = exhibit.image.pages();
    let used: Vec<u64> = (0..pages).filter(|&slot| exhibit.image.page(slot).is_some()).collect();
    let mut all = Vec::new();
    for &slot in &used {
        let step = if dense.contains(&slot) { 1 } else { stride };
        for at in (slot * BLOCK..(slot + 1) * BLOCK).step_by(to_usize(step)) {
            all.push(Tampering::Flip { at, mask: 1 << (at % 8) });
        }
    }
    for (number, &a) in used.iter().enumerate() {
        for &b in &used[number + 1..] {
            all.push(Tampering::Swap(a, b));
            all.push(Tampering::Copy { from: a, to: b });
            all.push(Tampering::Copy { from: b, to: a });
        }
        for count in [1, 2, 5] {
            all.push(Tampering::Zero { slot: a, count });
        }
        all.push(Tampering::Truncate { len: a * BLOCK });
        all.push(Tampering::Truncate { len: a * BLOCK + 700 });
    }
    for (copy, older) in exhibit.older.iter().enumerate() {
        all.push(Tampering::Rollback { copy });
        let changed: Vec<u64> = (0..pages)
            .filter(|&slot| {
                let (mut now, mut then) = ([0; PAGE], [0; PAGE]);
                exhibit.image.read(slot * BLOCK, &mut now);
                older.read(slot * BLOCK, &mut then);
                now != then
            })
            .collect();
        for &slot in &changed {
            all.push(Tampering::Replay { copy, slots: vec![slot] });
            all.push(Tampering::Replay {
                copy,
                slots: changed.iter().copied().filter(|&other| other != slot).collect(),
            });
            all.push(Tampering::Replay { copy, slots: (0..=slot).collect() });
            all.push(Tampering::Replay { copy, slots: (slot..pages).collect() });
        }
        // Whole structures, in every combination: headers, superblocks of each generation, allocation, log, all else.
        let groups: [Vec<u64>; 6] = [
            vec![0, 8],
            vec![1, 9],
            vec![2, 10],
            vec![3, 4, 5, 6, 7, 11],
            (16..24).collect(),
            (24..pages).collect(),
        ];
        for choice in 1..1_usize << groups.len() {
            let slots = (0..groups.len()).filter(|g| choice >> g & 1 == 1).flat_map(|g| groups[g].clone());
            all.push(Tampering::Replay { copy, slots: slots.collect() });
        }
    }
    for volume in 0..exhibit.foreign.len() {
        for &slot in &used {
            all.push(Tampering::Foreign { volume, slots: vec![slot] });
            all.push(Tampering::Foreign { volume, slots: (0..=slot).collect() });
            all.push(Tampering::Foreign { volume, slots: (slot..pages).collect() });
        }
    }
    all
}

/// What came of all of it.
#[derive(Default)]
pub(crate) struct Verdicts {
    /// Variants whose every block was right.
    right: AtomicUsize,
    /// Variants that were not opened.
    refused: AtomicUsize,
    /// Variants of which some blocks were refused, the others right.
    partly: AtomicUsize,
    /// Variants that were written to as well.
    written: AtomicUsize,
    slowest: Mutex<Duration>,
}

impl Verdicts {
    pub(crate) fn total(&self) -> usize {
        [&self.right, &self.refused, &self.partly].iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn slowest(&self) -> Duration {
        *self.slowest.lock().unwrap()
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [right, refused, partly, written] = [&self.right, &self.refused, &self.partly, &self.written]
            .map(|number| number.load(Ordering::Relaxed));
        write!(
            f,
            "{} variants: {right} read right, {refused} refused whole, {partly} refused in part; \
             {written} of them written to; slowest {:?}",
            self.total(),
            self.slowest(),
        )
    }
}

/// Tries all; the first wrong byte or panic ends it.
pub(crate) fn judge_all<S: Subject>(
    setup: &S::Setup,
    exhibit: &Exhibit,
    all: &[Tampering],
) -> Result<Verdicts, String> {
    let verdicts = Verdicts::default();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(tampering) = all.get(number) else { break };
                    let image = tampering.apply(exhibit);
                    let start = Instant::now();
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        judge::<S>(setup, exhibit, &image, &verdicts, number)
                    }));
                    let took = start.elapsed();
                    let mut slowest = verdicts.slowest.lock().unwrap();
                    *slowest = took.max(*slowest);
                    drop(slowest);
                    if let Err(reason) = outcome.unwrap_or_else(|_| Err("it panicked".into())) {
                        let mut text = format!("{tampering:?}");
                        text.truncate(300);
                        found.lock().unwrap().get_or_insert(format!("{reason}; {text}"));
                        next.store(all.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap().map_or(Ok(verdicts), Err)
}

fn judge<S: Subject>(
    setup: &S::Setup,
    exhibit: &Exhibit,
    image: &Image,
    verdicts: &Verdicts,
    number: usize,
) -> Result<(), String> {
    let file = SimBacking::from_image(image.clone());
    file.limit_calls(CALLS_MOST);
    let seed = 50 + u64::try_from(number).unwrap();
    let Ok(mut subject) = S::open(setup, &file, seed) else {
        verdicts.refused.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    };
    let state = &exhibit.state;
    if subject.size() != state.size() || subject.snapshots() != state.shown() {
        return Err(format!("it shows {} bytes and {:?}", subject.size(), subject.snapshots()));
    }
    let refused = right_or_refused(&subject, state, "as it is")?;
    let count = if refused == 0 { &verdicts.right } else { &verdicts.partly };
    count.fetch_add(1, Ordering::Relaxed);
    if number.is_multiple_of(8) {
        // A check may find fault or not, but it ends.
        let _ = subject.check(true);
        verdicts.written.fetch_add(1, Ordering::Relaxed);
        let (mut state, mut durable) = (state.clone(), state.clone());
        // What was done since the last flush that succeeded may be there or not when the store is opened again.
        let mut since = Vec::new();
        for op in [
            Op::Write { offset: 7 * BLOCK, len: 2 * BLOCK, stamp: 77 },
            Op::Flush,
            Op::Write { offset: 300, len: 2000, stamp: 78 },
            Op::Discard { offset: 2 * BLOCK, len: BLOCK },
            Op::Checkpoint,
            Op::Snapshot(7),
            Op::Write { offset: 12 * BLOCK, len: BLOCK, stamp: 79 },
            Op::Rollback(0),
            Op::Write { offset: 13 * BLOCK, len: BLOCK, stamp: 80 },
            Op::DeleteSnapshot(0),
            Op::Flush,
        ] {
            match subject.apply(&op) {
                Ok(()) if op.is_durable() => {
                    state.apply(&op);
                    durable = state.clone();
                    since.clear();
                    continue;
                }
                Ok(()) => state.apply(&op),
                Err(_) => state.apply_doubtfully(&op),
            }
            since.push(op);
        }
        right_or_refused(&subject, &state, "written to")?;
        drop(subject);
        since.iter().for_each(|op| durable.apply_doubtfully(op));
        let subject = S::open(setup, &file, seed + 1_000_000)
            .map_err(|reason| format!("written to, it does not open again: {reason}"))?;
        right_or_refused(&subject, &durable, "written to and opened again")?;
    }
    Ok(())
}

/// Counts the blocks that are refused, of the volume and of its snapshots; a wrong one is an error.
pub(crate) fn right_or_refused<S: Subject>(subject: &S, state: &State, when: &str) -> Result<usize, String> {
    let mut refused = all_right(&state.now, &|offset, seen| subject.read(offset, seen))
        .map_err(|block| format!("block {block} is wrong, {when}"))?;
    for kept in &state.snapshots {
        let name = Op::snapshot_name(kept.number);
        refused += all_right(&kept.contents, &|offset, seen| subject.read_snapshot(&name, offset, seen))
            .map_err(|block| format!("block {block} of {name} is wrong, {when}"))?;
    }
    Ok(refused)
}

/// Reads the bytes at an offset.
type Reading<'a> = dyn Fn(u64, &mut [u8]) -> Result<(), Failure> + 'a;

/// Counts the blocks that are refused; an error names one that is wrong.
fn all_right(contents: &Contents, read: &Reading<'_>) -> Result<usize, usize> {
    let mut all = vec![0; contents.blocks.len() * PAGE];
    let whole = read(0, &mut all).is_ok();
    let mut refused = 0;
    for (block, seen) in all.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
        if !whole && read(u64::try_from(block).unwrap() * BLOCK, seen).is_err() {
            refused += 1;
        } else if !contents.allows(block, seen) {
            return Err(block);
        }
    }
    Ok(refused)
}

#[test]
fn a_store_without_authentication_is_found_out() {
    let setup = NaiveSetup { blocks: 16, flaw: Flaw::None };
    let file = SimBacking::new();
    Naive::create(&setup, &file, 0).unwrap();
    let mut store = Naive::open(&setup, &file, 0).unwrap();
    let mut state = State::new(16 * BLOCK);
    let mut older = Vec::new();
    for stamp in 1..4 {
        for op in [Op::Write { offset: stamp * BLOCK, len: 2 * BLOCK, stamp }, Op::Flush] {
            store.apply(&op).unwrap();
            state.apply(&op);
        }
        older.push(file.image());
    }
    let exhibit = Exhibit { image: file.image(), state, older, foreign: Vec::new() };
    let mut found = Vec::new();
    for tampering in everything(&exhibit, &[0, 1], 64) {
        if let Err(reason) = judge_all::<Naive>(&setup, &exhibit, std::slice::from_ref(&tampering)) {
            found.push((format!("{tampering:?}"), reason));
        }
    }
    for kind in ["Flip", "Swap", "Copy", "Replay", "Rollback", "Zero"] {
        assert!(found.iter().any(|(tampering, _)| tampering.starts_with(kind)), "no {kind} was found");
    }
}

/// A volume with a snapshot, holes, overwritten blocks and groups in its log, whose anchor is up to date. With `amid` it is amid a flatten
/// (true) or a re-encryption.
fn exhibit(setup: &EngineSetup, amid: Option<bool>) -> (Exhibit, EngineSetup) {
    let blocks = setup.blocks;
    let file = SimBacking::new();
    Engine::create(setup, &file, 1).unwrap();
    let mut engine = Engine::open(setup, &file, 2).unwrap();
    let mut state = Engine::empty(setup);
    let mut older = vec![file.image()];
    let write =
        |block: u64, count: u64, stamp| Op::Write { offset: block * BLOCK, len: count * BLOCK, stamp };
    let step = |blocks| amid.map(|flatten| Op::Step { flatten, blocks });
    let ops = [
        write(0, 8, 1),
        write(135, 2, 2),
        Op::Flush,
        Op::Checkpoint,
        Op::Snapshot(0),
        write(1, 2, 3),
        Op::Snapshot(1),
        Op::Discard { offset: 4 * BLOCK, len: BLOCK },
        write(2, 1, 4),
        Op::Rollback(1),
        Op::DeleteSnapshot(1),
        Op::Extend((blocks + 10) * BLOCK),
        write(blocks + 2, 1, 9),
        Op::Checkpoint,
        write(3, 1, 5),
        Op::Flush,
        write(3, 1, 6),
        Op::Write { offset: 136 * BLOCK + 100, len: 1000, stamp: 7 },
        Op::Flush,
    ];
    let between = [step(1), Some(write(6, 1, 10)), step(1), Some(Op::Flush)].into_iter().flatten();
    let between = between.filter(|_| amid.is_some());
    for op in ops.into_iter().chain(between) {
        engine.apply(&op).unwrap();
        state.apply(&op);
        if op.is_durable() || matches!(op, Op::Step { .. }) {
            older.push(file.image());
        }
    }
    older.pop();
    let anchored = EngineSetup { anchor: Some(engine.0.anchor()), ..setup.clone() };
    drop(engine);
    (Exhibit { image: file.image(), state, older, foreign: Vec::new() }, anchored)
}

/// The blocks of the volume that are refused after this was done, and those of its snapshots; none if it is not opened.
fn refused_after(
    setup: &EngineSetup,
    exhibit: &Exhibit,
    tampering: &Tampering,
) -> Option<[BTreeSet<usize>; 2]> {
    let engine = Engine::open(setup, &SimBacking::from_image(tampering.apply(exhibit)), 9).ok()?;
    let mut seen = vec![0; PAGE];
    let now = 0..exhibit.state.now.blocks.len();
    let now = now.filter(|&block| engine.read(block as u64 * BLOCK, &mut seen).is_err()).collect();
    let mut kept = BTreeSet::new();
    for snapshot in &exhibit.state.snapshots {
        let name = Op::snapshot_name(snapshot.number);
        let blocks = 0..snapshot.contents.blocks.len();
        kept.extend(
            blocks.filter(|&block| engine.read_snapshot(&name, block as u64 * BLOCK, &mut seen).is_err()),
        );
    }
    Some([now, kept])
}

/// Slots that hold data of the volume: those whose loss makes exactly one block unreadable.
fn data_slots(setup: &EngineSetup, exhibit: &Exhibit) -> Vec<u64> {
    let refused = |slot: u64| refused_after(setup, exhibit, &Tampering::Zero { slot, count: 1 });
    let of_one = |slot: &u64| refused(*slot).is_some_and(|[now, _]| now.len() == 1);
    (24..exhibit.image.pages()).filter(of_one).collect()
}

/// A bit that is flipped in the data of a block costs that block, in the volume and in the snapshots that share it, and no other.
#[test]
fn f2_a_flipped_bit_in_data_costs_its_block_and_nothing_else() {
    let (exhibit, setup) = exhibit(&EngineSetup::small(140), None);
    let data = data_slots(&setup, &exhibit);
    // All blocks with contents but the two of the last group: with one of those the group goes, and the file is older than its anchor.
    let held = exhibit.state.now.blocks.iter().filter(|content| content.is_some()).count();
    assert_eq!(data.len(), held - 2);
    let (mut alone, mut shared) = (BTreeSet::new(), 0);
    for slot in data {
        let mut block = None;
        for at in (slot * BLOCK..(slot + 1) * BLOCK).step_by(61) {
            let tampering = Tampering::Flip { at, mask: 1 << (at % 8) };
            let [now, kept] = refused_after(&setup, &exhibit, &tampering).expect("it is opened");
            assert_eq!(now.len(), 1, "{tampering:?} costs {now:?}");
            assert!(
                kept.is_subset(&now),
                "{tampering:?} costs {kept:?} of a snapshot, {now:?} of the volume"
            );
            assert!(block.replace(now.clone()).is_none_or(|before| before == now), "{tampering:?}: {now:?}");
            shared += kept.len();
        }
        alone.extend(block.into_iter().flatten());
    }
    assert_eq!(alone.len(), held - 2, "each has a block of its own");
    assert!(shared > 0, "nothing was shared with a snapshot");
}

#[test]
fn f2_f3_f13_no_tampering_gives_wrong_data() {
    let (mut exhibit, setup) = exhibit(&EngineSetup::small(140), None);
    let (other, _) = self::exhibit(&EngineSetup { number: 2, ..EngineSetup::small(140) }, None);
    exhibit.foreign.push(other.image);
    // Every byte of what is not data: all that lies before the first block, and the pages that are told apart by not being data.
    let data: Vec<u64> = data_slots(&setup, &exhibit);
    let written =
        |slot: &u64| exhibit.image.page(*slot).is_some_and(|page| page.bytes().iter().any(|&b| b != 0));
    let dense: Vec<u64> =
        (0..exhibit.image.pages()).filter(written).filter(|slot| !data.contains(slot)).collect();
    let step: usize =
        std::env::var("EVSFS_TAMPER_STEP").ok().and_then(|step| step.parse().ok()).unwrap_or(1).max(1);
    let all: Vec<Tampering> = everything(&exhibit, &dense, 64).into_iter().step_by(step).collect();
    println!("{} slots byte by byte, {} of data in part", dense.len(), data.len());
    // What is lost with a slot of data is its block alone. (Of the last group, the group goes.)
    assert!(data.len() >= 8, "of 140 blocks, {} could be damaged alone", data.len());
    let verdicts = judge_all::<Engine>(&setup, &exhibit, &all).unwrap();
    println!("{verdicts}");
    assert!(verdicts.total() >= 100_000 / step, "{verdicts}");
    assert!(verdicts.slowest() < Duration::from_secs(2), "{:?}", verdicts.slowest());
}

/// The same amid a re-encryption and amid a flatten, from whose beginning the attacker has copies: one variant of a few, since most of the file is as
/// it is without them.
#[test]
fn f2_f3_f13_no_tampering_amid_what_runs_in_the_background_gives_wrong_data() {
    for (number, flatten) in [(3, false), (4, true)] {
        let base = flatten.then(|| Base::new(140));
        let (exhibit, setup) =
            exhibit(&EngineSetup { number, base, ..EngineSetup::small(140) }, Some(flatten));
        let all: Vec<Tampering> = everything(&exhibit, &[], 256).into_iter().step_by(6).collect();
        let verdicts = judge_all::<Engine>(&setup, &exhibit, &all).unwrap();
        println!("flatten: {flatten}; {verdicts}");
        assert!(verdicts.total() >= 2_000, "{verdicts}");
    }
}

/// What is free under a damaged page of the allocation tree is lost until the volume is copied. Neither does anybody look for space there
/// again and again, nor does the file grow for ever.
#[test]
fn f2_damage_of_the_allocation_tree_costs_space_and_neither_time_nor_growth() {
    const REGION: u64 = 32_768;
    let setup = EngineSetup::small(140);
    let file = SimBacking::new();
    Engine::create(&setup, &file, 1).unwrap();
    let mut state = State::new(140 * BLOCK);
    let mut go_on = |file: &SimBacking, seed: u64| {
        let file = SimBacking::from_image(file.image());
        file.limit_calls(CALLS_MOST);
        let mut engine = Engine::open(&setup, &file, seed).unwrap();
        let mut outcome = Ok(());
        for op in [
            Op::Write { offset: seed * 5 * BLOCK, len: 7 * BLOCK, stamp: seed },
            Op::Checkpoint,
            Op::Write { offset: seed * 5 * BLOCK + 100, len: BLOCK, stamp: seed + 100 },
            Op::Flush,
        ] {
            outcome = outcome.and_then(|()| engine.apply(&op));
            if outcome.is_ok() {
                state.apply(&op);
            }
        }
        assert_eq!(right_or_refused(&engine, &state, "written to"), Ok(0));
        (file, outcome)
    };
    let damage = |file: &SimBacking, slots: [u64; 2]| {
        for slot in slots {
            file.write_at(&[0xDA; PAGE], slot * BLOCK).unwrap();
        }
    };
    let regions = |file: &SimBacking| file.len().unwrap().div_ceil(REGION * BLOCK);
    let (mut file, outcome) = go_on(&file, 1);
    assert_eq!((outcome, regions(&file)), (Ok(()), 1));
    // One bitmap after the other: the next region serves.
    for region in 0..3 {
        damage(&file, [region * REGION + 3, region * REGION + 4]);
        let (next, outcome) = go_on(&file, 2 + region);
        assert_eq!((outcome, regions(&next)), (Ok(()), region + 2));
        file = next;
    }
    // The page above all bitmaps, or the one above that: no region could be recorded.
    for slots in [[5, 6], [7, 11]] {
        let copy = SimBacking::from_image(file.image());
        damage(&copy, slots);
        let (after, outcome) = go_on(&copy, 8);
        assert!(outcome.unwrap_err().contains("does not verify"), "{slots:?}");
        assert_eq!(after.len().unwrap(), copy.len().unwrap());
    }
}
