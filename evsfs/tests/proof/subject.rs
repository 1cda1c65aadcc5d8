//! What the suites can drive: the engine, or a store that is wrong on purpose.

use evsfs::backing::sim::SimBacking;

use crate::oracle::{Shown, State};
use crate::workload::Op;

/// Why an operation, or an open, did not succeed.
pub(crate) type Failure = String;

/// A store on a simulated file. All of it happens on the calling thread, so that a run can be repeated.
pub(crate) trait Subject: Sized {
    /// Sizes and limits.
    type Setup: Sync + Send;

    /// An open writes nothing: recovery only reads.
    const OPEN_WRITES_NOTHING: bool;

    /// What a new store shows.
    fn empty(setup: &Self::Setup) -> State;

    /// Makes a new store in an empty file.
    fn create(setup: &Self::Setup, file: &SimBacking, seed: u64) -> Result<(), Failure>;

    /// Opens it, recovering if need be. Different seeds give different randomness.
    fn open(setup: &Self::Setup, file: &SimBacking, seed: u64) -> Result<Self, Failure>;

    /// Carries out an operation on the open store. `Reopen` and `Kill` are the caller's.
    fn apply(&mut self, op: &Op) -> Result<(), Failure>;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Reads exactly `buf.len()` bytes.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Failure>;

    /// The snapshots, in order of their making.
    fn snapshots(&self) -> Vec<Shown> {
        Vec::new()
    }

    /// Reads exactly `buf.len()` bytes from the snapshot of that name.
    fn read_snapshot(&self, name: &str, _offset: u64, _buf: &mut [u8]) -> Result<(), Failure> {
        Err(format!("it has no {name}"))
    }

    /// Which wrapped key the header holds, 0 in the beginning.
    fn key(&self) -> u8 {
        0
    }

    /// Whether it noticed nothing of its own that must not be. Costs little.
    fn sound(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Verifies everything there is. After reads that failed space may be lost.
    fn check(&self, may_leak: bool) -> Result<(), Failure>;

    /// Closes in good order.
    fn close(self) -> Result<(), Failure>;
}
