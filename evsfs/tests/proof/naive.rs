//! A store just good enough to be right, and ways to make it wrong: the suites must tell them apart.

use std::collections::HashSet;

use evsfs::backing::{Backing, sim::SimBacking};

use crate::oracle::State;
use crate::subject::{Failure, Subject};
use crate::workload::{BLOCK, Op, bytes_of};

/// What is wrong with the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    None,
    /// The root is written before the data is durable.
    NoDataSync,
    /// A flush returns before the root is durable.
    NoRootSync,
    /// A block is overwritten where it lies.
    InPlace,
    /// A slot is used again before the root that no longer needs it is durable.
    EarlyReuse,
    /// A torn root passes for a whole one.
    NoChecksum,
    /// The only root is overwritten.
    OneRoot,
    /// An open forgets the newest root.
    OldRoot,
    /// A partial write keeps the old tail of the block only sometimes.
    LostTail,
    /// A failed sync is asked for again, and its success believed.
    RetriedSync,
    /// What reads as written after a failed sync is believed to be on the disk.
    TrustedCache,
}

impl Flaw {
    pub(crate) const WRONG: [Self; 8] = [
        Self::NoDataSync,
        Self::NoRootSync,
        Self::InPlace,
        Self::EarlyReuse,
        Self::NoChecksum,
        Self::OneRoot,
        Self::OldRoot,
        Self::LostTail,
    ];
}

pub(crate) struct NaiveSetup {
    pub blocks: u64,
    pub flaw: Flaw,
}

/// Two roots that alternate, each with the whole map; data in slots that no durable root needs.
pub(crate) struct Naive {
    file: SimBacking,
    flaw: Flaw,
    poisoned: bool,
    generation: u64,
    map: Vec<u64>,
    /// Slots that the durable root needs.
    durable: HashSet<u64>,
}

const ROOTS: u64 = 2;
/// The map lies in other sectors than the generation, so that a torn root mixes them.
const MAP: usize = 512;

impl Naive {
    fn root(&self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(&self.generation.to_le_bytes());
        page[16..24].copy_from_slice(&(self.map.len() as u64).to_le_bytes());
        for (entry, slot) in page[MAP..].chunks_mut(8).zip(&self.map) {
            entry.copy_from_slice(&slot.to_le_bytes());
        }
        let sum = checksum(&page);
        page[8..16].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn parse(page: &mut [u8], flaw: Flaw) -> Option<(u64, Vec<u64>)> {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let sum = number(&page[8..16]);
        page[8..16].fill(0);
        if sum == 0 || (flaw != Flaw::NoChecksum && sum != checksum(page)) {
            return None;
        }
        let count = usize::try_from(number(&page[16..24])).ok()?.min(440);
        Some((number(&page[..8]), page[MAP..].chunks(8).take(count).map(number).collect()))
    }

    fn free_slot(&self) -> u64 {
        let live: HashSet<u64> = self.map.iter().copied().collect();
        let needed = |slot: &u64| {
            live.contains(slot) || (self.flaw != Flaw::EarlyReuse && self.durable.contains(slot))
        };
        (ROOTS..).find(|slot| !needed(slot)).unwrap()
    }

    fn store(&mut self, block: usize, bytes: &[u8]) -> Result<(), Failure> {
        let slot = match (self.flaw, self.map[block]) {
            (Flaw::InPlace, slot) if slot != 0 => slot,
            _ => self.free_slot(),
        };
        self.file.write_at(bytes, slot * BLOCK).map_err(|e| e.to_string())?;
        self.map[block] = slot;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let mut steps = || {
            if self.flaw != Flaw::NoDataSync {
                self.file.sync()?;
            }
            self.generation += 1;
            let place = if self.flaw == Flaw::OneRoot { 0 } else { self.generation % ROOTS };
            self.file.write_at(&self.root(), place * BLOCK)?;
            if self.flaw != Flaw::NoRootSync {
                self.file.sync()?;
            }
            std::io::Result::Ok(())
        };
        steps().map_err(|e| e.to_string())?;
        self.durable = self.map.iter().copied().collect();
        Ok(())
    }

    fn block(&self, block: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; 4096];
        if self.map[block] != 0 {
            self.file.read_at(&mut bytes, self.map[block] * BLOCK).map_err(|e| e.to_string())?;
        }
        Ok(bytes)
    }

    fn change(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let mut done = 0;
        while done < data.len() {
            let at = usize::try_from(offset).unwrap() + done;
            let (block, within) = (at / 4096, at % 4096);
            let step = (4096 - within).min(data.len() - done);
            let mut bytes = self.block(block)?;
            bytes[within..within + step].copy_from_slice(&data[done..done + step]);
            if self.flaw == Flaw::LostTail && within > 0 {
                bytes[within + step..].fill(0);
            }
            self.store(block, &bytes)?;
            done += step;
        }
        Ok(())
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
        | 1
}

impl Subject for Naive {
    type Setup = NaiveSetup;
    const OPEN_WRITES_NOTHING: bool = true;

    fn empty(setup: &NaiveSetup) -> State {
        State::new(setup.blocks * BLOCK)
    }

    fn create(setup: &NaiveSetup, file: &SimBacking, _seed: u64) -> Result<(), Failure> {
        let map = vec![0; usize::try_from(setup.blocks).unwrap()];
        let mut new = Self {
            file: file.clone(),
            flaw: setup.flaw,
            poisoned: false,
            generation: 0,
            map,
            durable: HashSet::new(),
        };
        file.set_len(ROOTS * BLOCK).map_err(|e| e.to_string())?;
        new.flush()
    }

    fn open(setup: &NaiveSetup, file: &SimBacking, seed: u64) -> Result<Self, Failure> {
        if setup.flaw != Flaw::TrustedCache {
            file.drop_clean_cache(seed);
        }
        let mut best: Vec<(u64, Vec<u64>)> = Vec::new();
        for place in 0..ROOTS {
            let mut page = vec![0; 4096];
            file.read_at(&mut page, place * BLOCK).map_err(|e| e.to_string())?;
            best.extend(Self::parse(&mut page, setup.flaw));
        }
        best.sort_unstable();
        if setup.flaw == Flaw::OldRoot && best.len() > 1 {
            best.pop();
        }
        let (generation, map) = best.pop().ok_or("no root")?;
        let durable = map.iter().copied().collect();
        Ok(Self { file: file.clone(), flaw: setup.flaw, poisoned: false, generation, map, durable })
    }

    fn apply(&mut self, op: &Op) -> Result<(), Failure> {
        if self.poisoned {
            return Err("poisoned".into());
        }
        let outcome = match op {
            Op::Write { offset, len, stamp } => self.change(*offset, &bytes_of(*stamp, *len)),
            Op::Discard { offset, len } => self.change(*offset, &vec![0; usize::try_from(*len).unwrap()]),
            Op::Flush | Op::Checkpoint => self.flush(),
            other => Err(format!("{other:?} is not something that it can do")),
        };
        self.poisoned = outcome.is_err() && self.flaw != Flaw::RetriedSync;
        outcome
    }

    fn size(&self) -> u64 {
        self.map.len() as u64 * BLOCK
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        let mut done = 0;
        while done < buf.len() {
            let at = usize::try_from(offset).unwrap() + done;
            let step = (4096 - at % 4096).min(buf.len() - done);
            buf[done..done + step].copy_from_slice(&self.block(at / 4096)?[at % 4096..at % 4096 + step]);
            done += step;
        }
        Ok(())
    }

    fn check(&self, _may_leak: bool) -> Result<(), Failure> {
        Ok(())
    }

    fn close(mut self) -> Result<(), Failure> {
        if self.poisoned {
            return Err("poisoned".into());
        }
        self.flush()
    }
}
