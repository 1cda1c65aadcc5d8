//! Virtual machines as this program needs them: a small trait, the adapter that runs QEMU, and a fake for unit tests.
//!
//! A machine is a process of its own that outlives the command that started it. It is known by its arguments, which
//! hold the server's ID, and spoken to over the monitor socket in the run directory.

pub(crate) mod accel;
mod arguments;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod qemu;
mod qmp;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use uuid::Uuid;

use crate::{machines::accel::Acceleration, model::disk::Serving};

/// A machine to be started.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The server.
    pub(crate) id: Uuid,
    /// Its name.
    pub(crate) name: String,
    /// Memory, MiB.
    pub(crate) memory: u64,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// What runs its instructions.
    pub(crate) acceleration: Acceleration,
    /// Its disks, the one that it boots from first.
    pub(crate) disks: Vec<MachineDisk>,
    /// A kernel to be started without asking the first disk.
    pub(crate) kernel: Option<Kernel>,
    /// Where its files lie.
    pub(crate) place: MachinePlace,
}

/// One virtio disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineDisk {
    /// The raw view.
    pub(crate) view: PathBuf,
    /// What the guest reads as its serial number: the first 20 bytes of the disk's name.
    pub(crate) serial: String,
}

/// A kernel that is loaded from files of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// Its first file system.
    pub(crate) initrd: Option<PathBuf>,
    /// Its command line.
    pub(crate) append: String,
}

/// Where the files of a machine lie.
#[derive(Debug, Clone)]
pub(crate) struct MachinePlace {
    /// The monitor socket.
    pub(crate) monitor: PathBuf,
    /// What the guest writes to its first serial port.
    pub(crate) console: PathBuf,
    /// What QEMU has to say while the machine runs.
    pub(crate) log: PathBuf,
}

/// How a machine is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its power button is pressed, and the guest has this long to shut down.
    Ask(Duration),
    /// Its power is cut; what its disks have been told to keep is kept.
    Cut,
}

/// Machines, from outside.
pub(crate) trait MachineTool {
    /// Starts one; returns when it runs, with what runs its instructions.
    ///
    /// # Errors
    /// [`MachineError`]; then no process is left.
    fn start(&self, machine: &Machine) -> Result<Acceleration, MachineError>;
    /// Every machine that runs at this moment, by its server's ID.
    fn running(&self) -> BTreeMap<Uuid, Serving>;
    /// The volumes whose views a machine was started on. One that has ended has none.
    fn volumes(&self, machine: &Serving) -> BTreeSet<Uuid>;
    /// Stops one and waits until its process has ended.
    ///
    /// # Errors
    /// [`MachineError::StillRunning`] when the guest did not shut down in time.
    fn stop(&self, monitor: &Path, serving: &Serving, how: Stop) -> Result<(), MachineError>;
}

/// Why a machine did not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum MachineError {
    /// The program could not be run.
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or socket of the machine.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ran, and did not come up.
    #[error("QEMU ended with {status} and said: {said}")]
    Failed {
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The end of what it wrote.
        said: String,
    },
    /// It neither came up nor ended.
    #[error("QEMU did not come up within {} s", within.as_secs())]
    Slow {
        /// How long it was waited for.
        within: Duration,
    },
    /// KVM was demanded, and cannot be used.
    #[error("KVM does not work on this host: {reason}")]
    NoKvm {
        /// What the check found.
        reason: String,
    },
    /// The monitor does not answer, or not as it should.
    #[error("the monitor at {} does not answer: {source}", path.display())]
    Monitor {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The guest did not shut down.
    #[error("the guest did not shut down within {} s", within.as_secs())]
    StillRunning {
        /// How long it had.
        within: Duration,
    },
}
