//! Machines without a process, that outlive the app under test.

use std::{
    cell::RefCell,
    collections::BTreeMap,
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

    /// The views of the machine that was started last.
    pub(crate) fn views(&self) -> Vec<PathBuf> {
        self.views.borrow().clone()
    }
}

impl MachineTool for FakeMachines {
    fn start(&self, machine: &Machine) -> Result<Acceleration, MachineError> {
        let serving = Serving { pid: 1, started: machine.id.to_string() };
        let before = self.running.borrow_mut().insert(machine.id, serving);
        assert_eq!(before, None, "a second machine on the same disks would destroy them");
        *self.views.borrow_mut() = machine.disks.iter().map(|disk| disk.view.clone()).collect();
        Ok(Acceleration::Tcg)
    }

    fn running(&self) -> BTreeMap<Uuid, Serving> {
        self.running.borrow().clone()
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
