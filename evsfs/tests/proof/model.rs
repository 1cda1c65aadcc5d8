//! Long random histories against a plain vector of blocks, with crashes in between; failures shrink to short ones.

use evsfs::backing::sim::{Bound, Dice, SimBacking};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};

use crate::engine::{Base, Engine, EngineSetup};
use crate::explore::view;
use crate::naive::{Flaw, Naive, NaiveSetup};
use crate::oracle::{History, bytes, to_usize};
use crate::subject::Subject;
use crate::workload::{ALL_KINDS, BLOCK, Kind, Op, PLAIN_KINDS, Sense, TASKS};

/// One step; the numbers are made to fit when it is taken.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Do(Kind, u64),
    Read(u64),
    /// The power fails; the seed says what survives.
    Crash(u64),
}

pub(crate) fn steps(kinds: &'static [Kind], most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (proptest::sample::select(kinds), any::<u64>()).prop_map(|(kind, seed)| Step::Do(kind, seed)),
        4 => any::<u64>().prop_map(Step::Read),
        1 => any::<u64>().prop_map(Step::Crash),
    ];
    proptest::collection::vec(step, 1..most)
}

/// An open store and what is known of it.
struct Run<'a, S: Subject> {
    setup: &'a S::Setup,
    file: SimBacking,
    subject: Option<S>,
    history: History,
    opens: u64,
}

/// Takes all steps; an error is a difference from the model.
pub(crate) fn follow<S: Subject>(setup: &S::Setup, span: u64, steps: &[Step]) -> Result<(), String> {
    let file = SimBacking::new();
    S::create(setup, &file, 1)?;
    let history = History::from(S::empty(setup));
    let mut run = Run::<S> { setup, file, subject: None, history, opens: 0 };
    run.open()?;
    let mut sense = Sense::of(run.history.now());
    for step in steps {
        match *step {
            Step::Do(kind, seed) => {
                sense.follow(run.history.now());
                if let Some(op) = sense.random(kind, span, &mut Dice::new(seed)) {
                    run.apply(&op).map_err(|e| format!("{op:?}: {e}"))?;
                }
            }
            Step::Read(seed) => run.read(&mut Dice::new(seed))?,
            Step::Crash(seed) => run.crash(seed).map_err(|e| format!("after a crash: {e}"))?,
        }
    }
    run.crash(0).map_err(|e| format!("after the last crash: {e}"))?;
    run.subject.take().expect("open").close()
}

impl<S: Subject> Run<'_, S> {
    fn subject(&mut self) -> &mut S {
        self.subject.as_mut().expect("open between steps")
    }

    fn open(&mut self) -> Result<(), String> {
        self.opens += 1;
        self.subject = Some(S::open(self.setup, &self.file, 1_000 + self.opens)?);
        Ok(())
    }

    fn apply(&mut self, op: &Op) -> Result<(), String> {
        let before = self.history.begin(op);
        self.file.mark(History::mark(before, true));
        match op {
            Op::Reopen => {
                self.subject.take().expect("open").close()?;
                self.open()?;
            }
            Op::Kill => {
                self.subject = None;
                self.open()?;
                let view = self.view()?;
                self.history.know(History::mark(before, true), &view)?;
            }
            op => self.subject().apply(op)?,
        }
        self.history.succeed();
        self.file.mark(History::mark(before + 1, false));
        self.subject().sound()?;
        let state = self.history.now();
        let (size, shown) = (state.size(), state.shown());
        let subject = self.subject();
        if (subject.size(), subject.snapshots()) != (size, shown.clone()) {
            return Err(format!(
                "{} with {:?}, not {size} with {shown:?}",
                subject.size(),
                subject.snapshots()
            ));
        }
        Ok(())
    }

    fn view(&mut self) -> Result<crate::oracle::View, String> {
        let blocks = to_usize(self.subject().size() / BLOCK);
        view(self.subject(), 0..blocks)
    }

    /// Any offset and any length, of the volume or of a snapshot.
    fn read(&mut self, dice: &mut Dice) -> Result<(), String> {
        let state = self.history.now();
        let from = dice.index(state.snapshots.len() + 1);
        let snapshot = state.snapshots.get(from);
        let content = snapshot.map_or(&state.now, |kept| &kept.contents).blocks.as_slice();
        let size = u64::try_from(content.len()).unwrap() * BLOCK;
        let offset = dice.below(size);
        let len = (1 + dice.below(8 * BLOCK)).min(size - offset);
        let blocks = to_usize(offset / BLOCK)..to_usize((offset + len).div_ceil(BLOCK));
        let expected: Vec<u8> = blocks.flat_map(|block| bytes(&content[block]).to_vec()).collect();
        let within = to_usize(offset % BLOCK);
        let mut seen = vec![0xEE; to_usize(len)];
        let name = snapshot.map(|kept| Op::snapshot_name(kept.number));
        let read = match &name {
            None => self.subject().read(offset, &mut seen),
            Some(name) => self.subject().read_snapshot(name, offset, &mut seen),
        };
        read.map_err(|e| format!("{len} bytes at {offset} of {name:?}: {e}"))?;
        if seen == expected[within..within + seen.len()] {
            Ok(())
        } else {
            Err(format!("{len} bytes at {offset} of {name:?} are not what was written"))
        }
    }

    fn crash(&mut self, seed: u64) -> Result<(), String> {
        let point = self.file.crash_point();
        let states = point.states(&Bound { exhaustive: 32, random: 16, torn: 4 }, seed);
        let survivors = &states[Dice::new(seed).index(states.len())];
        self.subject = None;
        self.file = SimBacking::from_image(point.image(survivors));
        self.open()?;
        self.subject().check(false)?;
        let view = self.view()?;
        let cut = self.history.admit(point.mark(), &view)?;
        self.history = History::from(self.history.state_as_seen(cut, &view));
        Ok(())
    }
}

/// How many histories, unless `EVSFS_MODEL_CASES` says otherwise.
pub(crate) fn cases(default: u32) -> u32 {
    std::env::var("EVSFS_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

pub(crate) fn try_all<S: Subject>(
    setup: &S::Setup,
    span: u64,
    kinds: &'static [Kind],
    most_steps: usize,
    default_cases: u32,
    regressions: Option<&'static str>,
) -> Result<(), String> {
    let config = Config {
        cases: cases(default_cases),
        failure_persistence: Some(Box::new(
            regressions.map_or(FileFailurePersistence::Off, FileFailurePersistence::Direct),
        )),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&steps(kinds, most_steps), |steps| follow::<S>(setup, span, &steps).map_err(TestCaseError::fail))
        .map_err(|e| e.to_string())
}

fn naive(flaw: Flaw) -> Result<(), String> {
    let setup = NaiveSetup { blocks: 24, flaw };
    try_all::<Naive>(&setup, 24, PLAIN_KINDS, 60, 60, None)
}

#[test]
fn a_store_that_is_right_follows_the_model() {
    naive(Flaw::None).unwrap();
}

#[test]
fn stores_that_are_wrong_leave_the_model() {
    for flaw in [Flaw::LostTail, Flaw::NoRootSync, Flaw::InPlace, Flaw::OldRoot] {
        let found = naive(flaw).expect_err("it passed");
        println!("{flaw:?}: {found}");
    }
}

const REGRESSIONS: &str = "tests/proof/model.regressions";

#[test]
fn the_engine_follows_the_model_with_a_tiny_log() {
    let setup = EngineSetup { trash_budget: 1, ..EngineSetup::small(150) };
    try_all::<Engine>(&setup, 24, ALL_KINDS, 120, 250, Some(REGRESSIONS)).unwrap();
}

#[test]
fn the_engine_follows_the_model_over_a_wide_map() {
    let setup = EngineSetup { ring_pages: 32, dirty_limit: 64, ..EngineSetup::small(3_000) };
    try_all::<Engine>(&setup, 3_000, ALL_KINDS, 60, 60, Some(REGRESSIONS)).unwrap();
}

#[test]
fn the_engine_follows_the_model_over_a_base() {
    let base = Some(Base::new(100));
    let setup = EngineSetup { base, trash_budget: 2, ..EngineSetup::small(1_100) };
    try_all::<Engine>(&setup, 150, TASKS, 60, 60, Some(REGRESSIONS)).unwrap();
}
