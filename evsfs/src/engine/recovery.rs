//! Opening: the newest superblock, then the log behind it. Recovery writes nothing, so it can be cut short and begun again at will
//! (docs/volume-format.md, "Recovery" and "Freshness").

use std::collections::HashMap;
use std::sync::Arc;

use super::commit::Log;
use super::core::Core;
use super::dirty::DirtyMap;
use super::error::{Damage, OpenError, VolumeError};
use super::map::is_lost;
use super::params::{Anchor, OpenOptions};
use super::protection::Protection;
use super::store::Store;
use super::write::RANGES_MOST;
use crate::crypto::{Chain, EpochKeys, EpochSalt, Keyring};
use crate::format::layout::{BLOCK, RING_START, SUPERBLOCK_SLOTS};
use crate::format::{Block, Entry, LogPageHeader, LogRecord, Superblock, open_log_page};

/// Log pages that are read together: few at first, because after a clean detach there are none, then twice as many each time.
const READ_FIRST: u64 = 2;
const READ_AHEAD: u64 = 64;
/// Discarded ranges that a log holds at most: two layers of the dirty map, and what came in while one filled up. A group that goes beyond it
/// was not written by this program; it would take time and memory without bound, and is taken for the end of the log.
const RANGES_REPLAYED: usize = 4 * RANGES_MOST;

/// The superblock with the highest generation of those that verify.
pub(super) fn newest_superblock(store: &Store) -> Result<Superblock, OpenError> {
    let ring = store.keys.now();
    // While there are two DEKs, each generation has its own: the other one's key does not make one.
    let open = |page: &Block| {
        [Some(ring.newest()), ring.before()].into_iter().flatten().find_map(|keys| {
            let superblock = Superblock::decode(&*keys.open_superblock(page).ok()?).ok()?;
            Arc::ptr_eq(keys, ring.of_generation(superblock.generation)).then_some(superblock)
        })
    };
    let mut found: Vec<Superblock> = Vec::new();
    for copies in SUPERBLOCK_SLOTS {
        let (mut unread, before) = (None, found.len());
        for slot in copies {
            let mut page = [0; BLOCK];
            match store.read(&mut page, slot) {
                Ok(()) => found.extend(open(&page)),
                Err(Damage::Unreadable) => unread = Some(slot),
                Err(_) => {}
            }
        }
        // The newest may be one that the host only fails to read now. An older one must not take its place.
        if let Some(slot) = unread.filter(|_| found.len() == before) {
            return Err(unreadable(store, slot).into());
        }
    }
    let newest = found.into_iter().max_by_key(|superblock| superblock.generation);
    newest.ok_or(OpenError::NoSuperblock { volume: store.uuid })
}

fn unreadable(store: &Store, slot: u64) -> VolumeError {
    VolumeError::DamagedTable { volume: store.uuid, slot, reason: Damage::Unreadable }
}

/// One group of the log.
struct Group {
    /// Its records, each with the epoch of its data.
    records: Vec<(u32, LogRecord)>,
    first_page: u64,
    compaction: bool,
    before: Anchor,
    after: Anchor,
}

impl Group {
    /// The size changes with a superblock only, so what lies behind it was not written by this program.
    fn is_within(&self, blocks: u64) -> bool {
        self.records.iter().all(|(_, record)| match *record {
            LogRecord::Write { lba, .. } => lba < blocks,
            LogRecord::Unmap { lba, count } | LogRecord::Zero { lba, count } => lba + count <= blocks,
        })
    }

    fn ranges(&self) -> usize {
        let range = |record: &&(u32, LogRecord)| match record.1 {
            LogRecord::Write { .. } => false,
            LogRecord::Unmap { count, .. } | LogRecord::Zero { count, .. } => count > 1,
        };
        self.records.iter().filter(range).count()
    }
}

/// What the log says.
pub(super) struct Replay {
    pub(super) log: Log,
    /// The state after each group that counts.
    states: Vec<Anchor>,
}

/// A page of the log: its header and records, and the chain value after it.
type Next = (LogPageHeader, Vec<LogRecord>, Chain);

struct Reader<'a> {
    store: &'a Store,
    ring_pages: u64,
    buffer: Vec<u8>,
    buffered: std::ops::Range<u64>,
    /// Pages that the next read asks for.
    ahead: u64,
    ring: Arc<Keyring>,
    keys: HashMap<(u32, EpochSalt), Arc<EpochKeys>>,
}

impl Reader<'_> {
    /// A copy of the page with this number, or what lies in its place.
    fn page(&mut self, sequence: u64) -> Result<Box<Block>, Damage> {
        if !self.buffered.contains(&sequence) {
            let at = sequence % self.ring_pages;
            let count = self.ahead.min(self.ring_pages - at);
            self.ahead = (self.ahead * 2).min(READ_AHEAD);
            self.buffer.resize(usize::try_from(count).expect("small") * BLOCK, 0);
            self.buffered = sequence..sequence + count;
            if self.store.read(&mut self.buffer, RING_START + at).is_err() {
                // The host may fail on a page that nobody needs.
                self.buffer.truncate(BLOCK);
                self.buffered = sequence..sequence;
                self.store.read(&mut self.buffer, RING_START + at)?;
                self.buffered.end += 1;
            }
        }
        let at = usize::try_from(sequence - self.buffered.start).expect("small");
        Ok(Box::new(self.buffer.as_chunks::<BLOCK>().0[at]))
    }

    /// The page, if it is the one that follows in number, group and chain. One that the host fails to read is not the end of the log:
    /// what it holds may have been acknowledged.
    fn next(&mut self, sequence: u64, group: u64, chain: &Chain) -> Result<Option<Next>, VolumeError> {
        match self.page(sequence) {
            Ok(page) => Ok(self.accept(page, sequence, group, chain)),
            Err(Damage::Unreadable) => Err(unreadable(self.store, RING_START + sequence % self.ring_pages)),
            Err(_) => Ok(None),
        }
    }

    fn accept(&mut self, mut page: Box<Block>, sequence: u64, group: u64, chain: &Chain) -> Option<Next> {
        let header = LogPageHeader::decode(&page).ok()?;
        if header.sequence != sequence || header.group != group {
            return None;
        }
        let of_epoch = self.ring.of_epoch(header.epoch);
        let place = (header.epoch, header.salt);
        let keys = self.keys.entry(place).or_insert_with(|| Arc::new(of_epoch.epoch(&header.salt)));
        let link = self.store.link(chain);
        let (records, tag) = open_log_page(&header, &*keys.log, &self.store.uuid, &link, &mut page).ok()?;
        let epochs = &self.store.epochs;
        let salts = [(header.epoch, header.salt), (header.record_epoch, header.record_salt)];
        if self.store.protections.has(Protection::SaltInLog)
            && !salts.iter().all(|(epoch, salt)| epochs.learn(*epoch, salt))
        {
            return None;
        }
        Some((header, records, of_epoch.chain_step(chain, &tag)))
    }
}

/// Reads the log and puts what counts of it into the dirty map.
pub(super) fn replay(
    store: &Store,
    superblock: &Superblock,
    ring_pages: u64,
    dirty: &DirtyMap,
    hole: Entry,
) -> Result<Replay, OpenError> {
    let keys = HashMap::new();
    let ring = store.keys.now();
    let mut reader =
        Reader { store, ring_pages, buffer: Vec::new(), buffered: 0..0, ahead: READ_FIRST, ring, keys };
    let head = superblock.log_head.sequence;
    let mut state = superblock.state;
    let mut states = vec![state];
    let mut next = head;
    // The last whole group so far. It is applied when it is known that it counts.
    let mut last: Option<Group> = None;
    // A page of a later group was written only after the barrier of the group before.
    let mut followed = false;
    'groups: loop {
        let mut group = Group {
            records: Vec::new(),
            first_page: next,
            compaction: false,
            before: state,
            after: Anchor { commit: state.commit + 1, chain: state.chain },
        };
        let mut sequence = next;
        loop {
            if sequence - head >= ring_pages {
                break 'groups;
            }
            let Some((header, records, chain)) =
                reader.next(sequence, group.after.commit, &group.after.chain)?
            else {
                break 'groups;
            };
            followed = true;
            group.after.chain = chain;
            group.compaction = header.compaction;
            group.records.extend(records.into_iter().map(|record| (header.record_epoch, record)));
            sequence += 1;
            if header.last {
                break;
            }
        }
        if dirty.active_ranges() + group.ranges() > RANGES_REPLAYED || !group.is_within(superblock.blocks) {
            break;
        }
        if let Some(before) = last.take() {
            apply(dirty, &before, hole);
            states.push(before.after);
        }
        state = group.after;
        next = sequence;
        followed = false;
        last = Some(group);
    }
    if let Some(group) = last {
        // Its barrier may not have returned, so some of its data may be missing; then it was never acknowledged. If a later page is
        // there its barrier did return: what fails now is damage, and shows when it is read.
        let unproved = followed || group.compaction || !store.protections.has(Protection::LastGroup);
        if unproved || is_complete(store, &group)? {
            apply(dirty, &group, hole);
            states.push(group.after);
        } else {
            tracing::info!(volume = %store.uuid, commit = group.after.commit, "the last group was cut short: dropped");
            state = group.before;
            next = group.first_page;
        }
    }
    if state.commit < superblock.least_commit && store.protections.has(Protection::LeastCommit) {
        let (found, least) = (state.commit, superblock.least_commit);
        return Err(OpenError::LogCut { volume: store.uuid, found, least });
    }
    Ok(Replay { log: Log::new(state, next, head, ring_pages), states })
}

fn apply(dirty: &DirtyMap, group: &Group, hole: Entry) {
    for (epoch, record) in &group.records {
        match *record {
            LogRecord::Write { lba, slot, counter, tag } => {
                dirty.lock(lba).insert(lba, Entry::data(slot, *epoch, counter, tag));
            }
            LogRecord::Unmap { lba, count: 1 } | LogRecord::Zero { lba, count: 1 } => {
                dirty.lock(lba).insert(lba, hole);
            }
            LogRecord::Unmap { lba, count } | LogRecord::Zero { lba, count } => {
                dirty.insert_hole(&(lba..lba + count), |_| {});
            }
        }
    }
}

/// Whether every block that the group leaves behind is as the group says. A slot whose entry a later record of the same group replaced
/// may have been used again since the group became durable, so it proves nothing.
///
/// # Errors
/// If the host fails to read one: it may be there, and then it was perhaps acknowledged.
fn is_complete(store: &Store, group: &Group) -> Result<bool, VolumeError> {
    let mut left: HashMap<u64, Option<Entry>> = HashMap::new();
    for (epoch, record) in &group.records {
        match *record {
            LogRecord::Write { lba, slot, counter, tag } => {
                left.insert(lba, Some(Entry::data(slot, *epoch, counter, tag)));
            }
            LogRecord::Unmap { lba, count } | LogRecord::Zero { lba, count } => {
                let end = lba + count;
                if usize::try_from(count).is_ok_and(|count| count < left.len()) {
                    (lba..end).for_each(|block| {
                        left.remove(&block);
                    });
                } else {
                    left.retain(|block, _| !(lba..end).contains(block));
                }
            }
        }
    }
    let mut blocks: Vec<(u64, Entry)> =
        left.into_iter().filter_map(|(block, entry)| entry.map(|entry| (block, entry))).collect();
    blocks.sort_unstable_by_key(|(_, entry)| entry.slot());
    let mut bytes = Box::new([0; BLOCK]);
    for (block, entry) in blocks {
        let read = store.read(bytes.as_mut_slice(), entry.slot());
        match read.and_then(|()| store.open_data(&entry, block, bytes.as_mut_slice())) {
            Ok(()) => {}
            Err(reason @ Damage::Unreadable) => {
                return Err(VolumeError::DamagedBlock { volume: store.uuid, block, reason });
            }
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// How the state that was found stands to the one that the key service knows.
pub(super) enum Descent {
    /// There is none to compare it with.
    Unknown,
    /// It descends from this one.
    From(Anchor),
    /// It does not, and the operator accepts that.
    Accepted,
}

impl Descent {
    /// What the key service has, if the volume passes through it.
    pub(super) const fn anchor(&self) -> Option<Anchor> {
        match self {
            Self::From(anchor) => Some(*anchor),
            Self::Unknown | Self::Accepted => None,
        }
    }

    pub(super) const fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted)
    }
}

/// Whether the state that was found descends from the one that the key service knows (F3).
pub(super) fn check_anchor(
    store: &Store,
    superblock: &Superblock,
    replay: &Replay,
    options: &OpenOptions,
) -> Result<Descent, OpenError> {
    let compared = store.protections.has(Protection::Anchor);
    let Some(anchor) = options.anchor.filter(|_| compared) else { return Ok(Descent::Unknown) };
    let volume = store.uuid;
    let found = replay.log.state.commit;
    let passed =
        replay.states.contains(&anchor) || [superblock.confirmed, superblock.offered].contains(&anchor);
    if found >= anchor.commit && passed {
        return Ok(Descent::From(anchor));
    }
    if options.accept_rollback {
        return Ok(Descent::Accepted);
    }
    if found < anchor.commit {
        return Err(OpenError::RolledBack { volume, found, anchor: anchor.commit });
    }
    Err(OpenError::Forked { volume, anchor: anchor.commit })
}

impl Core {
    /// Slots that the recovered log refers to.
    pub(super) fn recovered_slots(dirty: &DirtyMap) -> Vec<u64> {
        let entries = dirty.active().0;
        let data = entries.iter().filter(|(_, entry)| entry.is_data() && !is_lost(entry));
        data.map(|(_, entry)| entry.slot()).collect()
    }
}
