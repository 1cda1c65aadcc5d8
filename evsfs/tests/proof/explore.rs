//! Runs workloads, cuts the power everywhere, opens what is left and asks the oracle.

use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use evsfs::backing::sim::{Bound, CrashPoint, Fault, FaultPlan, IgnoredSyncs, Image, SimBacking, Survivors};

use crate::oracle::{Content, History, State, View, content, to_usize};
use crate::subject::{Failure, Subject};
use crate::workload::{BLOCK, Op};

/// A promise that was not kept, with what is needed to see it again.
#[derive(Debug)]
pub(crate) struct Violation {
    pub workload: Vec<Op>,
    pub call: u64,
    pub survivors: Option<Survivors>,
    pub reason: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.reason)?;
        writeln!(f, "after call {} of {:?}", self.call, self.workload)?;
        write!(f, "surviving: {:?}", self.survivors)
    }
}

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    pub bound: Bound,
    /// One state in so many is read wholly and checked.
    pub full_every: u64,
    /// One state in so many is written to after its recovery, and crashes again.
    pub again_every: u64,
    pub again_bound: Bound,
}

impl Default for Depth {
    fn default() -> Self {
        Self {
            bound: Bound { exhaustive: 4096, random: 300, torn: 24 },
            full_every: 64,
            again_every: 256,
            again_bound: Bound { exhaustive: 64, random: 24, torn: 4 },
        }
    }
}

/// A store at the beginning of workloads: an image and what it holds.
#[derive(Clone)]
pub(crate) struct Start {
    pub image: Image,
    pub state: State,
}

/// What was looked at.
#[derive(Default)]
pub(crate) struct Tally {
    /// States that were opened.
    pub opened: AtomicU64,
    /// Of these, read wholly and checked.
    pub checked: AtomicU64,
    /// Crashes after a recovery.
    pub again: AtomicU64,
    pub workloads: AtomicU64,
    images: [Mutex<HashSet<u64>>; 16],
    seen: [Mutex<HashSet<u64>>; 16],
}

impl Tally {
    /// Different images that were opened.
    pub(crate) fn distinct(&self) -> usize {
        self.images.iter().map(|set| set.lock().unwrap().len()).sum()
    }

    fn first_time(sets: &[Mutex<HashSet<u64>>; 16], key: u64) -> bool {
        sets[to_usize(key >> 60)].lock().unwrap().insert(key)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} workloads, {} distinct crash states ({} opened, {} read wholly and checked, {} crashed again after recovery)",
            self.workloads.load(Ordering::Relaxed),
            self.distinct(),
            self.opened.load(Ordering::Relaxed),
            self.checked.load(Ordering::Relaxed),
            self.again.load(Ordering::Relaxed),
        )
    }
}

/// Explores the crashes of a subject.
pub(crate) struct Explorer<'a, S: Subject> {
    pub setup: &'a S::Setup,
    pub depth: Depth,
    pub ignored: IgnoredSyncs,
    /// May be shared with others, whose states are then counted together.
    pub tally: Arc<Tally>,
    /// Each workload is also run with the process dying at one call in so many; 0 for never.
    pub deaths_every: usize,
    /// Counts opens, if each is to have randomness of its own. Else the same states are opened with the same, so that what is found
    /// can be found again, and states that workloads share are opened once.
    pub opens: Option<AtomicU64>,
    subject: PhantomData<fn() -> S>,
}

impl<'a, S: Subject> Explorer<'a, S> {
    pub(crate) fn new(setup: &'a S::Setup, depth: Depth) -> Self {
        Self {
            setup,
            depth,
            ignored: IgnoredSyncs::None,
            tally: Arc::default(),
            deaths_every: 0,
            opens: None,
            subject: PhantomData,
        }
    }

    fn seed(&self, otherwise: u64) -> u64 {
        self.opens.as_ref().map_or(otherwise, |opens| 1_000 + opens.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a store, carries out `ops` and closes it.
    pub(crate) fn start(&self, ops: &[Op]) -> Result<Start, String> {
        let file = SimBacking::new();
        S::create(self.setup, &file, 1)?;
        let mut subject = S::open(self.setup, &file, 2)?;
        let mut state = S::empty(self.setup);
        for op in ops {
            subject.apply(op).map_err(|e| format!("{op:?}: {e}"))?;
            state.apply(op);
        }
        subject.close()?;
        Ok(Start { image: file.image(), state })
    }

    /// Runs all workloads on as many threads as there are cores; the first violation ends it.
    pub(crate) fn run_all(&self, start: &Start, workloads: &[Vec<Op>]) -> Result<(), Box<Violation>> {
        let next = AtomicUsize::new(0);
        let found = Mutex::new(None);
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(ops) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(violation) = self.run(start, ops) {
                            found.lock().unwrap().get_or_insert(violation);
                            next.store(workloads.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        found.into_inner().unwrap().map_or(Ok(()), Err)
    }

    /// Runs one workload and all its crashes.
    pub(crate) fn run(&self, start: &Start, ops: &[Op]) -> Result<(), Box<Violation>> {
        let (_, calls) = self.run_with(start, ops, None)?;
        if self.deaths_every > 0 {
            let offset = calls % u64::try_from(self.deaths_every).unwrap();
            for call in (offset..calls).step_by(self.deaths_every) {
                self.run_with(start, ops, Some(FaultPlan { call, fault: Fault::Death, lasting: true }))?;
            }
        }
        Ok(())
    }

    /// The same with a fault; tells whether that fault was met, and how many calls there were.
    pub(crate) fn run_with(
        &self,
        start: &Start,
        ops: &[Op],
        fault: Option<FaultPlan>,
    ) -> Result<(bool, u64), Box<Violation>> {
        self.tally.workloads.fetch_add(1, Ordering::Relaxed);
        let may_leak = fault.is_some_and(|plan| plan.fault == Fault::Io);
        self.explore(start, ops, &Run { seed: 3, bound: self.depth.bound, again: true, fault, may_leak })
    }

    fn explore(&self, start: &Start, ops: &[Op], run: &Run) -> Result<(bool, u64), Box<Violation>> {
        let file = SimBacking::from_image(start.image.clone());
        file.ignore_syncs(self.ignored);
        file.plan_fault(run.fault);
        file.record_crash_points();
        let mut history = History::from(start.state.clone());
        if let Err(reason) = self.carry_out(&file, ops, &mut history, run.seed) {
            let call = file.calls().total();
            let reason = format!("{reason}; fault: {:?}", run.fault);
            return Err(Box::new(Violation { workload: ops.to_vec(), call, survivors: None, reason }));
        }
        let points = file.take_crash_points();
        let interesting = interesting(ops, &start.state, to_usize(history.now().size() / BLOCK));
        let mut past = DefaultHasher::new();
        (start.image.sum(), format!("{:?}", run.fault)).hash(&mut past);
        let pasts: Vec<u64> = std::iter::once(past.finish())
            .chain(history.ops().iter().map(|op| {
                op.hash(&mut past);
                past.finish()
            }))
            .collect();
        // Before its fault a run is like the one without.
        let first = run.fault.map_or(0, |plan| plan.call);
        for point in points.into_iter().filter(|point| point.call() >= first) {
            self.crash(&point, &history, &pasts, &interesting, run).map_err(|mut found| {
                found.reason = format!("{}; fault: {:?}", found.reason, run.fault);
                found
            })?;
        }
        Ok((file.faults_met() > 0, file.calls().total()))
    }

    /// Does all of `ops`, and notes in `history` what came of it. An error is a promise that was not kept.
    fn carry_out(
        &self,
        file: &SimBacking,
        ops: &[Op],
        history: &mut History,
        seed: u64,
    ) -> Result<(), String> {
        let open = |seed| S::open(self.setup, file, self.seed(seed));
        let mut subject = match open(seed) {
            Ok(subject) => subject,
            Err(_) if file.faults_met() > 0 => return Ok(()),
            Err(e) => return Err(format!("the start does not open: {e}")),
        };
        for (number, op) in ops.iter().enumerate() {
            let seed = seed + 100 + u64::try_from(number).unwrap();
            let before = history.begin(op);
            file.mark(History::mark(before, true));
            let outcome = match op {
                Op::Reopen | Op::Kill => {
                    let closed = match op {
                        Op::Reopen => subject.close(),
                        _ => {
                            drop(subject);
                            Ok(())
                        }
                    };
                    subject = match open(seed) {
                        Ok(subject) => subject,
                        Err(_) if file.faults_met() > 0 && !file.is_dead() => return Ok(()),
                        Err(_) if file.is_dead() => {
                            file.plan_fault(None);
                            open(seed + 40)
                                .map_err(|e| format!("does not open after the process died: {e}"))?
                        }
                        Err(e) => return Err(format!("does not open again: {e} (closing: {closed:?})")),
                    };
                    closed
                }
                op => subject.apply(op),
            };
            let died = file.is_dead();
            if died {
                file.plan_fault(None);
                subject =
                    open(seed + 50).map_err(|e| format!("does not open after the process died: {e}"))?;
            }
            match outcome {
                Ok(()) if *op != Op::Kill && !died => {
                    history.succeed();
                    file.mark(History::mark(before + 1, false));
                    tolerate(file, sees_everything(&subject, history))?;
                }
                Err(e) if file.faults_met() == 0 => {
                    return Err(format!("{op:?} failed without a fault: {e}"));
                }
                Err(_) if op.is_divisible() && !died => {
                    history.fail();
                    file.mark(History::mark(before + 1, false));
                    tolerate(file, sees_everything(&subject, history))?;
                }
                // The process died, or the whole operation may have happened or not: what is there now is what counts.
                outcome => {
                    if outcome.is_ok() {
                        history.succeed();
                    }
                    let after = history.begin(&Op::Kill);
                    match view(&subject, 0..to_usize(subject.size() / BLOCK)) {
                        Ok(view) => history.know(History::mark(after, false), &view)?,
                        Err(e) => return tolerate(file, Err(e)),
                    }
                    file.mark(History::mark(after + 1, false));
                }
            }
        }
        Ok(())
    }

    fn crash(
        &self,
        point: &CrashPoint,
        history: &History,
        pasts: &[u64],
        interesting: &[usize],
        run: &Run,
    ) -> Result<(), Box<Violation>> {
        // What was under way counts too; what comes later does not, so that workloads with a common beginning share its states.
        let past = pasts[to_usize(point.mark().div_ceil(2))];
        for survivors in point.states(&run.bound, past ^ point.call()) {
            let sum = point.sum(&survivors);
            let mut key = DefaultHasher::new();
            (sum, past, point.mark()).hash(&mut key);
            if !Tally::first_time(&self.tally.seen, key.finish()) {
                continue;
            }
            Tally::first_time(&self.tally.images, sum);
            self.tally.opened.fetch_add(1, Ordering::Relaxed);
            let image = point.image(&survivors);
            self.recover(&image, sum, point.mark(), history, interesting, run).map_err(|mut violation| {
                if violation.survivors.is_none() {
                    violation.survivors = Some(survivors);
                    violation.reason = format!("{} (workload {:?})", violation.reason, history.ops());
                    violation.call = point.call();
                }
                violation
            })?;
        }
        Ok(())
    }

    /// Opens what a crash left.
    fn recover(
        &self,
        image: &Image,
        sum: u64,
        mark: u64,
        history: &History,
        interesting: &[usize],
        run: &Run,
    ) -> Result<(), Box<Violation>> {
        let fail = |reason: String| {
            let workload = history.ops().to_vec();
            Box::new(Violation { workload, call: 0, survivors: None, reason })
        };
        let file = SimBacking::from_image(image.clone());
        let subject = S::open(self.setup, &file, self.seed(sum))
            .map_err(|e| fail(format!("does not open after a crash: {e}")))?;
        if S::OPEN_WRITES_NOTHING && file.calls().changes() != 0 {
            return Err(fail(format!("opening changed the file: {:?}", file.calls())));
        }
        let full = sum.is_multiple_of(self.depth.full_every);
        let crash_again = run.again && (sum >> 8).is_multiple_of(self.depth.again_every);
        let view = if full || crash_again {
            self.tally.checked.fetch_add(1, Ordering::Relaxed);
            subject.check(run.may_leak).map_err(|e| fail(format!("check after recovery: {e}")))?;
            view(&subject, 0..to_usize(subject.size() / BLOCK))
        } else {
            let most = to_usize(subject.size() / BLOCK);
            view(&subject, interesting.iter().copied().filter(|&block| block < most))
        };
        let view = view.map_err(|e| fail(format!("after recovery, {e}")))?;
        let cut = history.admit(mark, &view).map_err(fail)?;
        drop(subject);
        if crash_again {
            self.tally.again.fetch_add(1, Ordering::Relaxed);
            let start = Start { image: image.clone(), state: history.state_as_seen(cut, &view) };
            let run = Run {
                seed: sum ^ 0xA6,
                bound: self.depth.again_bound,
                again: false,
                fault: None,
                may_leak: run.may_leak,
            };
            let ops = after_recovery(sum, &start.state);
            self.explore(&start, &ops, &run)?;
        }
        Ok(())
    }
}

/// How one workload is run.
struct Run {
    seed: u64,
    bound: Bound,
    /// Whether some of the recovered states are written to and crash again.
    again: bool,
    fault: Option<FaultPlan>,
    /// Whether reads fail or have failed, so that slots may be lost: a bitmap that could not be read cannot give them back.
    may_leak: bool,
}

/// Reads may fail when the file does; they may never be wrong.
fn tolerate(file: &SimBacking, outcome: Result<(), String>) -> Result<(), String> {
    match outcome {
        Err(reason) if file.reads_fail() && reason.contains(UNREADABLE) => Ok(()),
        outcome => outcome,
    }
}

const UNREADABLE: &str = "cannot be read";

/// What is done after a recovery before the next crash.
fn after_recovery(sum: u64, state: &State) -> Vec<Op> {
    let write = |block: u64, stamp| Op::Write { offset: block * BLOCK, len: BLOCK, stamp };
    let unaligned = Op::Write { offset: BLOCK + 100, len: BLOCK, stamp: sum | 1 };
    // Only a store that has snapshots goes on with them.
    let versions = state.snapshots.first().map(|kept| kept.number);
    match (sum >> 20) % if versions.is_some() { 6 } else { 4 } {
        0 => vec![write(0, sum | 1), Op::Flush, write(1, sum | 2), Op::Flush],
        1 => vec![unaligned, Op::Flush, Op::Checkpoint, write(0, sum | 4)],
        2 => vec![Op::Discard { offset: 0, len: 3 * BLOCK }, Op::Reopen, write(2, sum | 1), Op::Flush],
        3 => vec![write(3, sum | 1), Op::Kill, write(4, sum | 2), Op::Flush, Op::Kill, Op::Checkpoint],
        4 => {
            vec![Op::DeleteSnapshot(versions.unwrap()), write(0, sum | 1), Op::Checkpoint, write(1, sum | 2)]
        }
        _ => vec![write(1, sum | 1), Op::Rollback(versions.unwrap()), write(2, sum | 2), Op::Flush],
    }
}

/// Blocks of a wide operation that are looked at.
const SAMPLE: usize = 24;

/// The blocks that a workload touches (of many some), those that hold something at its start, and a few neighbours.
fn interesting(ops: &[Op], start: &State, size: usize) -> Vec<usize> {
    let sample = |blocks: Range<usize>| {
        let step = blocks.len().div_ceil(SAMPLE).max(1);
        blocks.step_by(step)
    };
    let mut blocks: Vec<usize> = ops.iter().map(State::touched).flat_map(sample).collect();
    let held: Vec<usize> =
        (0..start.now.blocks.len()).filter(|&block| start.now.blocks[block].is_some()).collect();
    let wide = |op: &Op| matches!(op, Op::Rollback(_) | Op::Step { .. }) || State::touched(op).len() > SAMPLE;
    if ops.iter().any(wide) {
        blocks.extend(held.iter().step_by(held.len().div_ceil(SAMPLE).max(1)));
    }
    blocks.extend(0..size.min(4));
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Blocks that are read together.
const TOGETHER: usize = 16;

thread_local! {
    static READ: RefCell<[u8; TOGETHER * 4096]> = const { RefCell::new([0xEE; TOGETHER * 4096]) };
}

/// What those blocks hold, and what else an open store shows.
pub(crate) fn view<S: Subject>(subject: &S, blocks: impl Iterator<Item = usize>) -> Result<View, String> {
    let (mut seen, mut kept) = (Vec::new(), Vec::new());
    let snapshots = subject.snapshots();
    for run in runs(blocks) {
        for (place, (name, size)) in snapshots.iter().enumerate() {
            let within = run.start..run.end.min(to_usize(size / BLOCK));
            let read = |offset, buf: &mut [u8]| subject.read_snapshot(name, offset, buf);
            contents(&within, read, |block, content| kept.push((place, block, content)))
                .map_err(|(block, e)| format!("block {block} of {size} bytes of {name} {UNREADABLE}: {e}"))?;
        }
        contents(&run, |offset, buf| subject.read(offset, buf), |block, content| seen.push((block, content)))
            .map_err(|(block, e)| format!("block {block} {UNREADABLE}: {e}"))?;
    }
    Ok(View { size: subject.size(), snapshots, key: subject.key(), blocks: seen, kept })
}

/// Blocks that follow one another, at most [`TOGETHER`] of them.
fn runs(blocks: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.end == block && run.len() < TOGETHER => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

/// Reads a run of blocks and hands out what each holds; the first block goes with an error.
fn contents(
    run: &Range<usize>,
    read: impl FnOnce(u64, &mut [u8]) -> Result<(), Failure>,
    mut each: impl FnMut(usize, Content),
) -> Result<(), (usize, Failure)> {
    if run.is_empty() {
        return Ok(());
    }
    READ.with_borrow_mut(|bytes| {
        let bytes = &mut bytes[..run.len() * 4096];
        read(u64::try_from(run.start).unwrap() * BLOCK, bytes).map_err(|error| (run.start, error))?;
        run.clone().zip(bytes.as_chunks::<4096>().0).for_each(|(block, bytes)| each(block, content(bytes)));
        Ok(())
    })
}

/// An open store shows every operation that has ended.
pub(crate) fn sees_everything<S: Subject>(subject: &S, history: &History) -> Result<(), String> {
    subject.sound()?;
    let state = history.now();
    if subject.size() != state.size() {
        return Err(format!("size is {} instead of {}", subject.size(), state.size()));
    }
    if subject.snapshots() != state.shown() {
        return Err(format!("snapshots are {:?} instead of {:?}", subject.snapshots(), state.shown()));
    }
    let last = history.ops().last().map(State::touched).unwrap_or_default();
    let all = state.now.blocks.len();
    let blocks = if last.is_empty() { 0..all } else { last.start.min(all)..last.end.min(all) };
    for (block, seen) in view(subject, blocks)?.blocks {
        if !state.shows(block, &seen) {
            return Err(format!("block {block} is not what was last written"));
        }
    }
    Ok(())
}
