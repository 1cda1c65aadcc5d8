//! A simulated file whose power can be cut at any moment and any of whose calls can fail.
//!
//! ```text
//!   engine ── write_at, set_len, punch ──> current image        what reads see, and what is left when only the process dies
//!                                          pending versions     per page, and of the length: any may be what the disk has
//!          ── sync ─────────────────────> durable image         pending emptied; a crash point is kept just before
//! ```
//!
//! The model is that of a page cache over a disk that writes whole sectors of 512 bytes: until a sync succeeds, each sector
//! of each page may hold its durable content or that of any later write, independently of all others; the length
//! may be any that it had. After a failed sync the pages that it covered read as written but are never made durable by a later
//! one, unless they are written again.
//!
//! It may have pages that cannot be read, and a host with no space but for so many pages more.
//!
//! It does not model reordering beyond a successful sync, nor a disk that lies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Backing;

mod crash;
mod fault;
mod image;
#[cfg(test)]
mod tests;

pub use crash::{Bound, CrashPoint, Dice, Survivors};
pub use fault::{Call, Fault, FaultPlan, IgnoredSyncs, SyncSite};
pub use image::{Cell, Image, PAGE, Page, SECTOR, SECTORS};

/// A simulated file. Clones are handles to the same file.
#[derive(Clone, Default)]
pub struct SimBacking(Arc<Mutex<Disk>>);

/// Calls so far, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Calls {
    /// `read_at`
    pub reads: u64,
    /// `write_at`
    pub writes: u64,
    /// `set_len`
    pub lengths: u64,
    /// `punch`
    pub punches: u64,
    /// `sync`
    pub syncs: u64,
    /// Bytes given to `write_at`.
    pub bytes_written: u64,
}

impl Calls {
    /// Calls that change the file.
    pub fn changes(&self) -> u64 {
        self.writes + self.lengths + self.punches
    }

    /// All calls.
    pub fn total(&self) -> u64 {
        self.changes() + self.reads + self.syncs
    }
}

#[derive(Default)]
struct Disk {
    current: Image,
    durable: Image,
    pending: BTreeMap<u64, Pending>,
    lengths: Vec<(u64, u64)>,
    calls: Calls,
    /// Orders the changes of the pages and of the length.
    seq: u64,
    mark: u64,
    recording: bool,
    points: Vec<CrashPoint>,
    fault: Option<FaultPlan>,
    faults_met: u64,
    reads_failed: bool,
    ignored: IgnoredSyncs,
    sites: BTreeMap<SyncSite, u64>,
    most_calls: Option<u64>,
    without_holes: bool,
    unreadable: BTreeSet<u64>,
    /// Pages that hold nothing yet and that there is space for.
    space: Option<u64>,
}

/// Contents of one page since the last sync, oldest first.
#[derive(Default)]
struct Pending {
    versions: Vec<(u64, Cell)>,
    /// Leading versions that a failed sync gave up.
    doomed: usize,
}

impl SimBacking {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file with durable content.
    pub fn from_image(image: Image) -> Self {
        Self(Arc::new(Mutex::new(Disk { current: image.clone(), durable: image, ..Disk::default() })))
    }

    /// The content as a reader sees it: what is left when the process dies and the machine does not.
    pub fn image(&self) -> Image {
        self.0.lock().current.clone()
    }

    /// Keeps a crash point before every sync from now on.
    pub fn record_crash_points(&self) {
        self.0.lock().recording = true;
    }

    /// The crash points kept since they were last taken, and one for now.
    pub fn take_crash_points(&self) -> Vec<CrashPoint> {
        let mut disk = self.0.lock();
        let now = disk.crash_point();
        let mut points = std::mem::take(&mut disk.points);
        points.push(now);
        points
    }

    /// The crash point of this moment.
    pub fn crash_point(&self) -> CrashPoint {
        self.0.lock().crash_point()
    }

    /// Notes a number that later crash points carry.
    pub fn mark(&self, mark: u64) {
        self.0.lock().mark = mark;
    }

    /// Plans a fault, or none.
    pub fn plan_fault(&self, plan: Option<FaultPlan>) {
        self.0.lock().fault = plan;
    }

    /// How many calls have failed by plan.
    pub fn faults_met(&self) -> u64 {
        self.0.lock().faults_met
    }

    /// What opening a file afresh does (`posix_fadvise`, `POSIX_FADV_DONTNEED`): pages that a failed sync gave up are read from the
    /// disk again, where `seed` decides how much of them had arrived.
    pub fn drop_clean_cache(&self, seed: u64) {
        self.0.lock().drop_clean_cache(&mut Dice::new(seed));
    }

    /// Whether the process has died by plan.
    pub fn is_dead(&self) -> bool {
        let disk = self.0.lock();
        disk.fault.is_some_and(|plan| plan.fault == Fault::Death && disk.calls.total() > plan.call)
    }

    /// Makes pages unreadable, and all others readable: a read that touches one fails with `EIO`.
    pub fn make_unreadable(&self, pages: impl IntoIterator<Item = u64>) {
        self.0.lock().unreadable = pages.into_iter().collect();
    }

    /// So many pages that hold nothing may still be written to, besides what is punched from now on; then writes fail with `ENOSPC`.
    pub fn limit_space(&self, pages: Option<u64>) {
        self.0.lock().space = pages;
    }

    /// Whether a read has failed by plan, or will.
    pub fn reads_fail(&self) -> bool {
        let disk = self.0.lock();
        disk.reads_failed
            || !disk.unreadable.is_empty()
            || disk.fault.is_some_and(|plan| plan.fault.befalls(Call::Read))
    }

    /// Makes some syncs do nothing although they say that they succeeded.
    pub fn ignore_syncs(&self, ignored: IgnoredSyncs) {
        self.0.lock().ignored = ignored;
    }

    /// Panics at the call after so many: whoever makes them goes round in circles.
    pub fn limit_calls(&self, most: u64) {
        self.0.lock().most_calls = Some(most);
    }

    /// The file is on a file system that has no holes: nothing is punched.
    pub fn without_holes(&self) {
        self.0.lock().without_holes = true;
    }

    /// The places in the source that asked for syncs, and how often.
    pub fn sync_sites(&self) -> Vec<(SyncSite, u64)> {
        self.0.lock().sites.iter().map(|(&site, &count)| (site, count)).collect()
    }

    /// Calls so far.
    pub fn calls(&self) -> Calls {
        self.0.lock().calls
    }
}

impl Disk {
    fn crash_point(&self) -> CrashPoint {
        let pending = self.pending.iter().map(|(&index, pending)| (index, pending.versions.clone()));
        CrashPoint::new(self.durable.clone(), pending, &self.lengths, self.mark, self.calls.total())
    }

    /// The fault that befalls this call, if one does. Called before the call is counted.
    fn meet(&mut self, call: Call) -> Option<Fault> {
        let calls = self.calls.total();
        assert!(self.most_calls.is_none_or(|most| calls < most), "it does not end: {:?}", self.calls);
        let plan = self.fault?;
        if self.calls.total() < plan.call || !plan.fault.befalls(call) {
            return None;
        }
        // A fault that does not last is for one call only, the first that it can befall.
        if !plan.lasting && plan.fault != Fault::Death {
            self.fault = None;
        }
        self.faults_met += 1;
        self.reads_failed |= call == Call::Read;
        Some(plan.fault)
    }

    fn write(&mut self, data: &[u8], offset: u64) {
        if data.is_empty() {
            return;
        }
        let before = self.current.len();
        self.current.write(offset, data);
        self.seq += 1;
        let end = offset + size(data.len());
        self.touched(offset / size(PAGE), end.div_ceil(size(PAGE)));
        if self.current.len() != before {
            self.lengths.push((self.seq, self.current.len()));
        }
    }

    /// How many of these pages hold something, or do not.
    fn held(&self, pages: Range<u64>, something: bool) -> u64 {
        if self.space.is_none() {
            return 0;
        }
        size(pages.filter(|page| self.current.page(*page).is_some() == something).count())
    }

    /// Adds the current content of pages as their newest version.
    fn touched(&mut self, from: u64, to: u64) {
        for index in from..to {
            let cell = self.current.page(index);
            let pending = self.pending.entry(index).or_default();
            pending.versions.push((self.seq, cell));
        }
    }

    fn sync(&mut self) {
        let durable = &mut self.durable;
        self.pending.retain(|&index, pending| {
            if pending.versions.len() == pending.doomed {
                return true;
            }
            if let Some((_, cell)) = pending.versions.pop() {
                durable.put(index, cell);
            }
            false
        });
        if let Some((_, len)) = self.lengths.pop() {
            durable.clip(len);
        }
        self.lengths.clear();
    }

    /// The length is metadata of the host's file system, which stays dirty there when data is lost.
    fn give_up_pending(&mut self) {
        for pending in self.pending.values_mut() {
            pending.doomed = pending.versions.len();
        }
    }

    fn drop_clean_cache(&mut self, dice: &mut Dice) {
        let (durable, current) = (&mut self.durable, &mut self.current);
        self.pending.retain(|&index, pending| {
            if pending.versions.len() > pending.doomed {
                return true;
            }
            let pick = dice.index(pending.doomed + 1);
            if pick > 0 {
                durable.put(index, pending.versions[pick - 1].1.clone());
            }
            current.put(index, durable.page(index));
            false
        });
    }
}

impl Backing for SimBacking {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().current.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut disk = self.0.lock();
        let fault = disk.meet(Call::Read);
        disk.calls.reads += 1;
        if let Some(fault) = fault {
            return Err(fault.error());
        }
        if offset.checked_add(size(buf.len())).is_none_or(|end| end > disk.current.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if disk.unreadable.range(pages_of(offset, buf.len())).next().is_some() {
            return Err(Fault::Io.error());
        }
        disk.current.read(offset, buf);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.0.lock();
        let fault = disk.meet(Call::Write);
        disk.calls.writes += 1;
        disk.calls.bytes_written += size(buf.len());
        let new = disk.held(pages_of(offset, buf.len()), false);
        let fault = fault.or(disk.space.is_some_and(|space| new > space).then_some(Fault::NoSpace));
        match fault {
            None => {
                disk.space = disk.space.map(|space| space - new);
                disk.write(buf, offset);
            }
            Some(fault) => {
                if fault == Fault::ShortWrite {
                    let some = buf.len() / 2 / SECTOR * SECTOR;
                    disk.write(&buf[..some], offset);
                }
                return Err(fault.error());
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock();
        let fault = disk.meet(Call::SetLen);
        disk.calls.lengths += 1;
        if let Some(fault) = fault {
            return Err(fault.error());
        }
        let before = disk.current.len();
        if len == before {
            return Ok(());
        }
        disk.current.set_len(len);
        disk.seq += 1;
        if len < before {
            disk.touched(len / size(PAGE), before.div_ceil(size(PAGE)));
        }
        let seq = disk.seq;
        disk.lengths.push((seq, len));
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        let mut disk = self.0.lock();
        let fault = disk.meet(Call::Punch);
        disk.calls.punches += 1;
        if let Some(fault) = fault {
            return Err(fault.error());
        }
        if disk.without_holes {
            return Ok(false);
        }
        let end = offset.saturating_add(len).min(disk.current.len());
        if offset < end {
            let gone = disk.held(offset.div_ceil(size(PAGE))..end / size(PAGE), true);
            disk.space = disk.space.map(|space| space + gone);
            disk.current.erase(offset, end - offset);
            disk.seq += 1;
            disk.touched(offset / size(PAGE), end.div_ceil(size(PAGE)));
        }
        Ok(true)
    }

    #[track_caller]
    fn sync(&self) -> io::Result<()> {
        let site = SyncSite::of(Location::caller());
        let mut disk = self.0.lock();
        *disk.sites.entry(site).or_default() += 1;
        if disk.recording {
            let point = disk.crash_point();
            disk.points.push(point);
        }
        let fault = disk.meet(Call::Sync);
        let number = disk.calls.syncs;
        disk.calls.syncs += 1;
        if let Some(fault) = fault {
            if fault == Fault::Sync {
                disk.give_up_pending();
            }
            return Err(fault.error());
        }
        let ignored = match disk.ignored {
            IgnoredSyncs::None => false,
            IgnoredSyncs::All => true,
            IgnoredSyncs::Site(ignored) => ignored == site,
            IgnoredSyncs::Number(ignored) => ignored == number,
        };
        if !ignored {
            disk.sync();
        }
        Ok(())
    }
}

/// The pages that these bytes touch.
fn pages_of(offset: u64, len: usize) -> Range<u64> {
    offset / size(PAGE)..(offset + size(len)).div_ceil(size(PAGE))
}

fn size(len: usize) -> u64 {
    u64::try_from(len).expect("usize fits u64")
}
