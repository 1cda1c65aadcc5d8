//! A file in whose calls something else happens: races, without any race.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use evsfs::backing::Backing;
use evsfs::backing::sim::SimBacking;
use evsfs::engine::Volume;
use parking_lot::Mutex;

use crate::engine::{EngineSetup, open_through};

/// The calls that something can be done in the midst of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// Before bytes are read.
    Read,
    /// Before bytes are written.
    Write,
    /// Before a sync takes effect.
    Sync,
}

type Act = Box<dyn FnOnce(&Volume) + Send>;

struct Plan {
    moment: Moment,
    /// Calls of that kind that pass before.
    after: usize,
    act: Act,
}

#[derive(Default)]
struct Plans {
    waiting: Vec<Plan>,
    volume: Option<Arc<Volume>>,
}

/// Between the engine and a simulated file.
#[derive(Clone)]
pub(crate) struct Meddler {
    file: SimBacking,
    plans: Arc<Mutex<Plans>>,
    met: Arc<AtomicUsize>,
}

impl Meddler {
    /// Opens the volume in the file; nothing is planned yet.
    pub(crate) fn open(setup: &EngineSetup, file: &SimBacking, seed: u64) -> (Self, Arc<Volume>) {
        let meddler = Self { file: file.clone(), plans: Arc::default(), met: Arc::default() };
        let volume = Arc::new(open_through(setup, file, Arc::new(meddler.clone()), seed).unwrap());
        meddler.plans.lock().volume = Some(Arc::clone(&volume));
        (meddler, volume)
    }

    /// At the call of that kind that comes after so many others (counted from the plan before), `act` happens first. Plans wait for
    /// each other: what one of them calls does not meet the next.
    pub(crate) fn at(&self, moment: Moment, after: usize, act: impl FnOnce(&Volume) + Send + 'static) {
        self.plans.lock().waiting.push(Plan { moment, after, act: Box::new(act) });
    }

    /// How many plans were carried out.
    pub(crate) fn met(&self) -> usize {
        self.met.load(Ordering::Relaxed)
    }

    fn meet(&self, moment: Moment) {
        let (plan, volume) = {
            let mut plans = self.plans.lock();
            let Some(volume) = plans.volume.take() else { return };
            match plans.waiting.first_mut() {
                Some(plan) if plan.moment == moment && plan.after == 0 => (plans.waiting.remove(0), volume),
                first => {
                    if let Some(plan) = first.filter(|plan| plan.moment == moment) {
                        plan.after -= 1;
                    }
                    plans.volume = Some(volume);
                    return;
                }
            }
        };
        (plan.act)(&volume);
        self.met.fetch_add(1, Ordering::Relaxed);
        self.plans.lock().volume = Some(volume);
    }

    /// Lets go of the volume.
    pub(crate) fn end(&self) {
        *self.plans.lock() = Plans::default();
    }
}

impl Backing for Meddler {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.meet(Moment::Read);
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.meet(Moment::Write);
        self.file.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        self.file.punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.meet(Moment::Sync);
        self.file.sync()
    }
}
