//! Opening: the newest superblock, then the log behind it. Recovery writes nothing, so it can be cut short and begun again at will
//! (docs/volume-format.md, "Recovery" and "Freshness").

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::commit::Log;
use super::core::Core;
use super::dirty::DirtyMap;
use super::error::{Damage, OpenError, VolumeError};
use super::map::is_lost;
use super::params::{Anchor, OpenOptions};
use super::protection::Protection;
use super::ranges::RangeSet;
use super::store::Store;
use super::write::RANGES_MOST;
use crate::crypto::{Chain, EpochKeys, EpochSalt, Keyring};
use crate::format::layout::{BLOCK, RING_START, SUPERBLOCK_SLOTS};
use crate::format::{Block, Entry, LogPageHeader, LogRecord, Superblock, open_log_page};

/// Log pages that are read together: few at first, because after a clean detach there are none, then twice as many each time.
const READ_FIRST: u64 = 2;
const READ_AHEAD: u64 = 64;
/// Discarded ranges that a log may hold, when those that touch are joined: twice as many as writers keep to in both layers of the dirty map
/// together, whatever became of their cuts. A group that goes beyond it was not written by this program; it would take time and memory without bound, and is taken for the
/// end of the log. (How many records they are in says nothing: pieces of one range that was discarded bit by bit are many.)
pub(crate) const RANGES_REPLAYED: usize = 4 * RANGES_MOST;

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

/// What a group leaves behind.
#[derive(Debug, PartialEq, Eq)]
struct Net {
    /// The newest entry of each block, unless a range that came after it hides it.
    entries: BTreeMap<u64, Entry>,
    /// What it discarded in ranges, joined. An entry is newer than the range that it lies in.
    ranges: RangeSet,
}

impl Net {
    /// Of records, each with the epoch of its data. `None` if they name a block that there is not, or discard more ranges at once than a
    /// writer keeps: the size changes with a superblock only, so both were not written by this program.
    fn of(records: &[(u32, LogRecord)], blocks: u64, hole: Entry) -> Option<Self> {
        let mut net = Self { entries: BTreeMap::new(), ranges: RangeSet::default() };
        for (epoch, record) in records {
            match *record {
                LogRecord::Write { lba, slot, counter, tag } if lba < blocks => {
                    net.entries.insert(lba, Entry::data(slot, *epoch, counter, tag));
                }
                LogRecord::Unmap { lba, count } | LogRecord::Zero { lba, count } if lba + count <= blocks => {
                    if count == 1 {
                        net.entries.insert(lba, hole);
                        continue;
                    }
                    net.ranges.insert(lba..lba + count);
                    let hidden: Vec<u64> =
                        net.entries.range(lba..lba + count).map(|(block, _)| *block).collect();
                    for block in hidden {
                        net.entries.remove(&block);
                    }
                }
                _ => return None,
            }
            // However many records there are, they take as long as so many ranges do.
            if net.ranges.len() > RANGES_REPLAYED {
                return None;
            }
        }
        Some(net)
    }

    fn apply(self, dirty: &DirtyMap) {
        for range in self.ranges.iter() {
            dirty.insert_hole(&range, |_| {});
        }
        for (block, entry) in self.entries {
            dirty.lock(block).insert(block, entry);
        }
    }
}

/// One group of the log.
struct Group {
    /// Its records, each with the epoch of its data.
    records: Vec<(u32, LogRecord)>,
    compaction: bool,
    after: Anchor,
    /// Number of the page behind it.
    next: u64,
}

/// The last whole group so far.
struct Last {
    net: Net,
    compaction: bool,
    first_page: u64,
    before: Anchor,
    after: Anchor,
}

/// What the log says.
pub(super) struct Replay {
    pub(super) log: Log,
    /// The state after each group that counts.
    states: Vec<Anchor>,
    /// Whether it ends where the host failed to read it.
    pub(super) is_unread: bool,
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
    /// Whether what the host fails to read is taken for the end of the log.
    salvage: bool,
    is_unread: bool,
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
            Err(Damage::Unreadable) if self.salvage => {
                self.is_unread = true;
                Ok(None)
            }
            Err(Damage::Unreadable) => Err(unreadable(self.store, RING_START + sequence % self.ring_pages)),
            Err(_) => Ok(None),
        }
    }

    /// The group whose first page has this number, if its last one is there, and whether any page of it is: such a page was written only
    /// after the barrier of the group before.
    fn group(
        &mut self,
        head: u64,
        first: u64,
        before: &Anchor,
    ) -> Result<(bool, Option<Group>), VolumeError> {
        let after = Anchor { commit: before.commit + 1, chain: before.chain };
        let mut group = Group { records: Vec::new(), compaction: false, after, next: first };
        while group.next - head < self.ring_pages {
            let found = self.next(group.next, group.after.commit, &group.after.chain)?;
            let Some((header, records, chain)) = found else { break };
            group.next += 1;
            group.after.chain = chain;
            group.compaction = header.compaction;
            group.records.extend(records.into_iter().map(|record| (header.record_epoch, record)));
            if header.last {
                return Ok((true, Some(group)));
            }
        }
        Ok((group.next > first, None))
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
    salvage: bool,
) -> Result<Replay, OpenError> {
    let (keys, buffer) = (HashMap::new(), Vec::new());
    let ring = store.keys.now();
    let mut reader = Reader {
        store,
        ring_pages,
        buffer,
        buffered: 0..0,
        ahead: READ_FIRST,
        ring,
        keys,
        salvage,
        is_unread: false,
    };
    let head = superblock.log_head.sequence;
    let (mut state, mut next) = (superblock.state, head);
    let mut states = vec![state];
    let mut ranges = RangeSet::default();
    // It is applied when it is known that it counts.
    let mut last: Option<Last> = None;
    let followed = loop {
        let (begun, group) = reader.group(head, next, &state)?;
        let Some(group) = group else { break begun };
        let net = Net::of(&group.records, superblock.blocks, hole).filter(|net| {
            net.ranges.iter().for_each(|range| ranges.insert(range));
            ranges.len() <= RANGES_REPLAYED
        });
        let Some(net) = net else {
            tracing::warn!(volume = %store.uuid, commit = group.after.commit, records = group.records.len(), "a group of the log is not one that this program writes: it is taken for the end of the log");
            break begun;
        };
        if let Some(before) = last.take() {
            before.net.apply(dirty);
            states.push(before.after);
        }
        let Group { compaction, after, .. } = group;
        last = Some(Last { net, compaction, first_page: next, before: state, after });
        (state, next) = (after, group.next);
    };
    if let Some(group) = last {
        // Its barrier may not have returned, so some of its data may be missing; then it was never acknowledged. If a later page is
        // there its barrier did return: what fails now is damage, and shows when it is read.
        let unproved = followed || group.compaction || !store.protections.has(Protection::LastGroup);
        if unproved || is_complete(store, &group.net, salvage)? {
            group.net.apply(dirty);
            states.push(group.after);
        } else {
            tracing::info!(volume = %store.uuid, commit = group.after.commit, "the last group was cut short: dropped");
            state = group.before;
            next = group.first_page;
        }
    }
    let is_unread = reader.is_unread;
    if state.commit < superblock.least_commit && store.protections.has(Protection::LeastCommit) && !is_unread
    {
        let (found, least) = (state.commit, superblock.least_commit);
        return Err(OpenError::LogCut { volume: store.uuid, found, least });
    }
    Ok(Replay { log: Log::new(state, next, head, ring_pages), states, is_unread })
}

/// Whether every block that the group leaves behind is as the group says. A slot whose entry a later record of the same group replaced
/// may have been used again since the group became durable, so it proves nothing.
///
/// # Errors
/// If the host fails to read one: it may be there, and then it was perhaps acknowledged. A `salvage` takes it for what is there.
fn is_complete(store: &Store, net: &Net, salvage: bool) -> Result<bool, VolumeError> {
    let mut blocks: Vec<(&u64, &Entry)> = net.entries.iter().filter(|(_, entry)| entry.is_data()).collect();
    blocks.sort_unstable_by_key(|(_, entry)| entry.slot());
    let mut bytes = Box::new([0; BLOCK]);
    for (block, entry) in blocks {
        let read = store.read(bytes.as_mut_slice(), entry.slot());
        match read.and_then(|()| store.open_data(entry, *block, bytes.as_mut_slice())) {
            Ok(()) => {}
            Err(Damage::Unreadable) if salvage => {}
            Err(reason @ Damage::Unreadable) => {
                return Err(VolumeError::DamagedBlock { volume: store.uuid, block: *block, reason });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Tag;

    const BLOCKS: u64 = 1 << 30;

    fn write(lba: u64, counter: u32) -> (u32, LogRecord) {
        (1, LogRecord::Write { lba, slot: 100 + lba, counter, tag: Tag::default() })
    }

    fn unmap(lba: u64, count: u64) -> (u32, LogRecord) {
        (1, LogRecord::Unmap { lba, count })
    }

    fn net(records: &[(u32, LogRecord)]) -> Option<Net> {
        Net::of(records, BLOCKS, Entry::ABSENT)
    }

    #[test]
    fn the_newest_record_of_each_block_is_left() {
        let records = [
            write(5, 1),
            write(9, 2),
            write(30, 3),
            unmap(4, 6),
            write(6, 4),
            write(6, 5),
            unmap(20, 1),
            write(30, 6),
        ];
        let left = net(&records).unwrap();
        let entry = |lba: u64, counter| Entry::data(100 + lba, 1, counter, Tag::default());
        let expected = BTreeMap::from([(6, entry(6, 5)), (20, Entry::ABSENT), (30, entry(30, 6))]);
        assert_eq!(left.entries, expected);
        assert!(left.ranges.iter().eq(std::iter::once(4..10)));
    }

    /// Earlier programs wrote a record for each of them.
    #[test]
    fn f4_ranges_that_touch_are_one_however_many_records_they_are_in() {
        let mut records: Vec<_> = (0..20_000).map(|number| unmap(number * 1024, 1024)).collect();
        records.extend((0..20_000).map(|_| unmap(0, 2048)));
        records.push(write(7, 1));
        let left = net(&records).unwrap();
        assert!(left.ranges.iter().eq(std::iter::once(0..20_000 * 1024)));
        assert_eq!(left.entries.len(), 1);
    }

    #[test]
    fn what_no_writer_writes_is_refused() {
        let apart =
            |count: usize| (0..).map(|number| unmap(number * 2048, 1024)).take(count).collect::<Vec<_>>();
        assert!(net(&apart(RANGES_REPLAYED)).is_some());
        assert!(net(&apart(RANGES_REPLAYED + 1)).is_none());
        assert!(net(&[write(BLOCKS - 1, 1), unmap(BLOCKS - 2, 2)]).is_some());
        assert!(net(&[write(BLOCKS, 1)]).is_none() && net(&[unmap(BLOCKS - 1, 2)]).is_none());
    }
}
