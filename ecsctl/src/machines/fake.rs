//! Machines without a process, that outlive the app under test.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use uuid::Uuid;

use crate::{
    machines::{Machine, MachineError, MachineTool, Stop, accel::Acceleration},
    model::disk::Serving,
};

/// Shared between the app under test and the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeMachines {
    running: Rc<RefCell<BTreeMap<Uuid, Serving>>>,
    views: Rc<RefCell<Vec<PathBuf>>>,
    deaf: Rc<RefCell<bool>>,
    tick: Rc<RefCell<Option<u64>>>,
}

impl FakeMachines {
    /// Ends every machine, as a power cut of each does.
    pub(crate) fn end_all(&self) {
        self.running.borrow_mut().clear();
    }

    /// Whether guests shut down when they are asked.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        *self.deaf.borrow_mut() = deaf;
    }

    /// Machines start at that tick from now on, else after everything. What `FakeVolumes` mounts n-th starts at tick n.
    pub(crate) fn start_at(&self, tick: u64) {
        *self.tick.borrow_mut() = Some(tick);
    }

    /// The views of the machine that was started last.
    pub(crate) fn views(&self) -> Vec<PathBuf> {
        self.views.borrow().clone()
    }
}

impl MachineTool for FakeMachines {
    fn start(&self, machine: &Machine) -> Result<Acceleration, MachineError> {
        let pid = u32::try_from(self.running.borrow().len()).unwrap();
        let started = format!("{}@boot", self.tick.borrow().unwrap_or(u64::MAX));
        let serving = Serving { pid, started };
        let before = self.running.borrow_mut().insert(machine.id, serving);
        assert_eq!(before, None, "a second machine on the same disks would destroy them");
        *self.views.borrow_mut() = machine.disks.iter().map(|disk| disk.view.clone()).collect();
        Ok(Acceleration::Tcg)
    }

    fn running(&self) -> BTreeMap<Uuid, Serving> {
        self.running.borrow().clone()
    }

    fn volumes(&self, machine: &Serving) -> BTreeSet<Uuid> {
        let runs = self.running.borrow().values().any(|running| running == machine);
        let volume = |view: &PathBuf| view.parent()?.file_name()?.to_str()?.parse().ok();
        self.views.borrow().iter().filter(|_| runs).filter_map(volume).collect()
    }

    fn stop(&self, _: &Path, serving: &Serving, how: Stop) -> Result<(), MachineError> {
        if let Stop::Ask(within) = how
            && *self.deaf.borrow()
        {
            return Err(MachineError::StillRunning { within });
        }
        self.running.borrow_mut().retain(|_, running| running != serving);
        Ok(())
    }
}
