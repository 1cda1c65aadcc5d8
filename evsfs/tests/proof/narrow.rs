//! F4, F7, F11: checkpoints on a host that is full, which are made in pieces or undone, and on one that cannot read a page of the map, which leave
//! something dirty. The guest goes on amid them, calls fail, and the power fails.
//!
//! What is open afterwards is the state after some change, not older than the last promise; it opens with the anchor that was offered last; and no
//! slot is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use evsfs::backing::sim::{Bound, CrashPoint, Fault, FaultPlan, Image, PAGE, SimBacking};
use evsfs::engine::{Anchor, Volume, VolumeError};
use parking_lot::Mutex;

use crate::engine::{EngineSetup, create, open};
use crate::meddler::{Meddler, Moment};
use crate::workload::{BLOCK, bytes_of};

/// Blocks under a leaf of the map.
const LEAF: u64 = 128;

const BOUND: Bound = Bound { exhaustive: 4, random: 3, torn: 0 };
/// One state in so many is checked.
const CHECKED_EVERY: u64 = 16;

/// A block, and the stamp that it got; 0 for a discard.
type Change = (u64, u64);

/// Who writes, and what he was promised.
struct Guest {
    file: SimBacking,
    changes: Mutex<Vec<Change>>,
    promised: AtomicU64,
    stamps: AtomicU64,
}

impl Guest {
    /// Of a volume that holds something.
    fn of(file: &SimBacking, before: &[Change]) -> Arc<Self> {
        let guest = Self {
            file: file.clone(),
            changes: Mutex::new(before.to_vec()),
            promised: AtomicU64::new(u64::try_from(before.len()).unwrap()),
            stamps: AtomicU64::new(1_000),
        };
        guest.mark();
        Arc::new(guest)
    }

    fn begun(&self) -> u64 {
        u64::try_from(self.changes.lock().len()).unwrap()
    }

    fn mark(&self) {
        self.file.mark(self.promised.load(Ordering::Relaxed) << 32 | self.begun());
    }

    fn write(&self, volume: &Volume, block: u64) -> Result<(), VolumeError> {
        let stamp = self.stamps.fetch_add(1, Ordering::Relaxed);
        self.changes.lock().push((block, stamp));
        self.mark();
        volume.write(block * BLOCK, &bytes_of(stamp, BLOCK))
    }

    fn discard(&self, volume: &Volume, block: u64) -> Result<(), VolumeError> {
        self.changes.lock().push((block, 0));
        self.mark();
        volume.discard(block * BLOCK, BLOCK)
    }

    fn promise(&self, done: Result<(), VolumeError>, begun: u64) -> Result<(), VolumeError> {
        done?;
        self.promised.fetch_max(begun, Ordering::Relaxed);
        self.mark();
        Ok(())
    }

    fn flush(&self, volume: &Volume) -> Result<(), VolumeError> {
        let begun = self.begun();
        self.promise(volume.flush(), begun)
    }

    fn checkpoint(&self, volume: &Volume) -> Result<(), VolumeError> {
        let begun = self.begun();
        self.promise(volume.checkpoint(), begun)
    }
}

/// Looks at what crashes leave.
struct Examiner {
    setup: EngineSetup,
    bytes: HashMap<u64, Vec<u8>>,
    seen: BTreeSet<(u64, u64)>,
    checked: u64,
    /// Whether reads have failed: a bitmap that could not be read cannot give slots back.
    may_leak: bool,
}

impl Examiner {
    fn new(setup: &EngineSetup) -> Self {
        let (bytes, seen) = (HashMap::new(), BTreeSet::new());
        Self { setup: setup.clone(), bytes, seen, checked: 0, may_leak: false }
    }

    /// All points, whose last one is that of an offered anchor.
    fn examine(
        &mut self,
        guest: &Guest,
        points: &[CrashPoint],
        anchor: Option<Anchor>,
    ) -> Result<(), String> {
        let last = points.len() - 1;
        for (number, point) in points.iter().enumerate() {
            let anchor = anchor.filter(|_| number == last);
            for survivors in point.states(&BOUND, point.call()) {
                let sum = point.sum(&survivors);
                let is_new = self.seen.insert((sum, point.mark()));
                if is_new || anchor.is_some() {
                    self.state(&point.image(&survivors), sum, point.mark(), guest, anchor).map_err(
                        |reason| format!("{reason}, before call {} (surviving: {survivors:?})", point.call()),
                    )?;
                }
            }
        }
        Ok(())
    }

    fn state(
        &mut self,
        image: &Image,
        sum: u64,
        mark: u64,
        guest: &Guest,
        anchor: Option<Anchor>,
    ) -> Result<(), String> {
        let setup = EngineSetup { anchor, ..self.setup.clone() };
        let volume = open(&setup, &SimBacking::from_image(image.clone()), sum)
            .map_err(|error| format!("does not open after a crash: {error}"))?;
        let (promised, begun) =
            (usize::try_from(mark >> 32).unwrap(), usize::try_from(mark & 0xFFFF_FFFF).unwrap());
        let changes = guest.changes.lock();
        let mut expected: BTreeMap<u64, u64> = changes.iter().map(|(block, _)| (*block, 0)).collect();
        expected.extend(changes[..promised].iter().copied());
        let mut found = BTreeMap::new();
        let mut page = vec![0; PAGE];
        for block in expected.keys() {
            volume.read(block * BLOCK, &mut page).map_err(|error| format!("block {block}: {error}"))?;
            let stamps = changes.iter().filter(|change| change.0 == *block).map(|change| change.1).chain([0]);
            let is = |stamp: &u64| {
                let bytes = self.bytes.entry(*stamp).or_insert_with(|| match stamp {
                    0 => vec![0; PAGE],
                    stamp => bytes_of(*stamp, BLOCK),
                });
                *bytes == page
            };
            let stamp = stamps.collect::<BTreeSet<u64>>().into_iter().find(is);
            found.insert(*block, stamp.ok_or_else(|| format!("block {block} holds what nobody wrote"))?);
        }
        let mut later = changes[promised..begun].iter();
        while found != expected {
            let Some((block, stamp)) = later.next() else {
                return Err(format!("it is not the state after any of the changes {promised} to {begun}"));
            };
            expected.insert(*block, *stamp);
        }
        drop(changes);
        if sum.is_multiple_of(CHECKED_EVERY) {
            self.checked += 1;
            let mut report = volume.check(&mut |_, _| {}).map_err(|error| format!("no check: {error}"))?;
            if self.may_leak {
                report.leaked_slots = 0;
            }
            if !report.is_sound() {
                return Err(format!("{report:?}"));
            }
        }
        Ok(())
    }

    fn tell(&self, what: &str) {
        println!("{what}: {} states, {} of them checked", self.seen.len(), self.checked);
        assert!(self.seen.len() > 250 && self.checked > 10);
    }
}

/// A volume with a block under each of so many leaves.
fn with_leaves(setup: &EngineSetup, leaves: u64) -> (Image, Vec<Change>) {
    let file = SimBacking::new();
    create(setup, &file, 1).unwrap();
    let volume = open(setup, &file, 2).unwrap();
    let guest = Guest::of(&file, &[]);
    (0..leaves).for_each(|leaf| guest.write(&volume, leaf * LEAF).unwrap());
    volume.close().unwrap();
    let changes = guest.changes.lock().clone();
    (file.image(), changes)
}

/// What happens to a run besides.
#[derive(Clone, Copy, Debug)]
enum Besides {
    Nothing,
    /// The guest changes something before the call of that kind and number.
    Change(Moment, usize),
    /// That sync fails.
    Sync(usize),
    /// A call after so many fails.
    Fault(u64, Fault, bool),
}

/// What can happen to a run of so many calls; of many a part.
fn besides(calls: u64) -> impl Iterator<Item = Besides> {
    let some = |of: u64| usize::try_from(calls / of).unwrap().max(1);
    let (few, many) = (some(6), some(25));
    let faults = Fault::ALL.into_iter().flat_map(move |fault| {
        let calls = (0..calls).step_by(few);
        calls.flat_map(move |call| [false, true].map(|lasting| Besides::Fault(call, fault, lasting)))
    });
    let numbers = 0..usize::try_from(calls).unwrap();
    let syncs = numbers.clone().step_by((many / 8).max(1));
    let changes = numbers
        .step_by(many)
        .flat_map(|number| [Besides::Change(Moment::Write, number), Besides::Change(Moment::Read, number)]);
    changes.chain(syncs.map(Besides::Sync)).chain(faults)
}

/// How a run went on that host.
struct Run {
    /// Whether what was to happen besides did.
    met: bool,
    calls: u64,
    checkpoints: u64,
    outcome: Result<(), VolumeError>,
}

/// The host of a run: what it is like, what the guest does before the checkpoint, amid it and after it.
struct Host<'a> {
    setup: &'a EngineSetup,
    image: Image,
    before: Vec<Change>,
    prepare: &'a dyn Fn(&SimBacking),
    begin: &'a dyn Fn(&Guest, &Volume) -> Result<(), VolumeError>,
    amid: fn(&Guest, &Volume),
    end: &'a dyn Fn(&Guest, &Volume) -> Result<(), VolumeError>,
}

impl Host<'_> {
    fn run(&self, examiner: &mut Examiner, besides: Besides) -> Result<Run, String> {
        let file = SimBacking::from_image(self.image.clone());
        (self.prepare)(&file);
        let (meddler, volume) = Meddler::open(self.setup, &file, 3);
        let guest = Guest::of(&file, &self.before);
        (self.begin)(&guest, &volume).unwrap();
        file.record_crash_points();
        let (calls, checkpoints) = (file.calls().total(), volume.stats().checkpoints);
        match besides {
            Besides::Nothing => {}
            Besides::Change(moment, number) => {
                let (guest, amid) = (Arc::clone(&guest), self.amid);
                meddler.at(moment, number, move |volume| amid(&guest, volume));
            }
            Besides::Sync(number) => {
                let file = file.clone();
                meddler.at(Moment::Sync, number, move |_| {
                    file.plan_fault(Some(FaultPlan { call: 0, fault: Fault::Sync, lasting: false }));
                });
            }
            Besides::Fault(call, fault, lasting) => {
                file.plan_fault(Some(FaultPlan { call: calls + call, fault, lasting }));
            }
        }
        let outcome = guest.checkpoint(&volume);
        let met = meddler.met() > 0 || file.faults_met() > 0;
        let calls = file.calls().total() - calls;
        let checkpoints = volume.stats().checkpoints - checkpoints;
        file.plan_fault(None);
        meddler.end();
        // After a fault nothing more may be possible.
        let ended = (self.end)(&guest, &volume);
        if !matches!(besides, Besides::Sync(_) | Besides::Fault(..)) {
            ended.unwrap();
        }
        let anchor = volume.offer_anchor();
        drop(volume);
        let points = file.take_crash_points();
        examiner.may_leak = matches!(besides, Besides::Fault(_, Fault::Io, _));
        examiner
            .examine(&guest, &points, Some(anchor))
            .map_err(|reason| format!("{reason}; besides: {besides:?}; the checkpoint: {outcome:?}"))?;
        Ok(Run { met, calls, checkpoints, outcome })
    }

    /// With nothing, and with everything that can happen.
    fn run_all(&self, what: &str, expected: impl Fn(&Run) -> bool) {
        let mut examiner = Examiner::new(self.setup);
        let plain =
            self.run(&mut examiner, Besides::Nothing).unwrap_or_else(|found| panic!("{what}: {found}"));
        assert!(expected(&plain), "{what}: {} checkpoints, {:?}", plain.checkpoints, plain.outcome);
        // The changes of one kind, or the failing syncs, are through when one does not happen any more.
        let mut through = BTreeSet::new();
        for besides in besides(plain.calls) {
            let kind = match besides {
                Besides::Change(moment, _) => format!("{moment:?}"),
                other => format!("{:?}", std::mem::discriminant(&other)),
            };
            if through.contains(&kind) {
                continue;
            }
            let run = self.run(&mut examiner, besides).unwrap_or_else(|found| panic!("{what}: {found}"));
            if !run.met && !matches!(besides, Besides::Fault(..)) {
                through.insert(kind);
            }
        }
        examiner.tell(what);
    }
}

/// So many leaves are dirty that there is no space for all of them at once.
#[test]
fn f4_f7_f11_a_checkpoint_is_made_in_pieces_on_a_full_host() {
    const OLD: u64 = 40;
    const NEW: u64 = 75;
    let setup = EngineSetup { ring_pages: 64, dirty_limit: 400, ..EngineSetup::small(120 * LEAF) };
    let (image, before) = with_leaves(&setup, OLD);
    let begin = |new: u64| {
        move |guest: &Guest, volume: &Volume| {
            (0..OLD + new).try_for_each(|leaf| guest.write(volume, leaf * LEAF))?;
            guest.flush(volume)
        }
    };
    let host = Host {
        setup: &setup,
        image,
        before,
        prepare: &|file| file.limit_space(Some(OLD + 2)),
        begin: &begin(0),
        amid: |guest, volume| {
            guest.discard(volume, 3 * LEAF).unwrap();
            guest.discard(volume, (OLD - 1) * LEAF).unwrap();
        },
        end: &|guest, volume| {
            guest.write(volume, 5 * LEAF)?;
            guest.flush(volume)
        },
    };
    host.run_all("in pieces", |run| run.outcome.is_ok() && run.checkpoints > 1);

    // New leaves need slots that nothing gives: some pieces, and then the cut is undone. What is dirty still is in bitmaps that are durable, or would be.
    let host = Host {
        prepare: &|file| file.limit_space(Some(OLD + NEW + 2)),
        begin: &begin(NEW),
        amid: |guest, volume| {
            guest.discard(volume, 3 * LEAF).unwrap();
            guest.discard(volume, (OLD + NEW - 1) * LEAF).unwrap();
        },
        end: &|guest, volume| {
            (OLD + NEW - 9..OLD + NEW - 1).try_for_each(|leaf| guest.discard(volume, leaf * LEAF))?;
            guest.flush(volume)
        },
        ..host
    };
    host.run_all("in pieces and undone", |run| {
        matches!(run.outcome, Err(VolumeError::NoSpace)) && run.checkpoints > 0
    });
}

/// What lies under the page stays dirty, with every checkpoint.
#[test]
fn f4_f7_f11_a_checkpoint_leaves_dirty_what_lies_under_a_page_that_cannot_be_read() {
    let setup = EngineSetup { ring_pages: 32, dirty_limit: 400, ..EngineSetup::small(6 * LEAF) };
    let (image, before) = with_leaves(&setup, 4);
    let read = |page: Option<u64>, block: u64| {
        let file = SimBacking::from_image(image.clone());
        file.make_unreadable(page);
        let volume = open(&setup, &file, 4).ok()?;
        Some(volume.read(block * BLOCK, &mut [0; PAGE]))
    };
    let is_leaf = |page: &u64| {
        let fails = matches!(read(Some(*page), LEAF), Some(Err(VolumeError::DamagedPage { level: 0, .. })));
        fails && matches!(read(Some(*page), 0), Some(Ok(())))
    };
    let bad = (0..image.pages()).find(is_leaf).expect("the leaf");
    let host = Host {
        setup: &setup,
        image: image.clone(),
        before,
        prepare: &|file| file.make_unreadable([bad]),
        begin: &|guest, volume| {
            guest.write(volume, LEAF + 1)?;
            guest.write(volume, 3)?;
            guest.flush(volume)?;
            guest.checkpoint(volume)?;
            guest.write(volume, LEAF)?;
            guest.write(volume, 2 * LEAF)?;
            guest.flush(volume)
        },
        amid: |guest, volume| {
            guest.write(volume, LEAF).unwrap();
            guest.discard(volume, LEAF + 1).unwrap();
        },
        end: &|guest, volume| {
            guest.write(volume, LEAF)?;
            guest.flush(volume)?;
            guest.write(volume, LEAF + 1)
        },
    };
    host.run_all("under a page that cannot be read", |run| run.outcome.is_ok());
}
