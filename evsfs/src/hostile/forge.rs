//! Changes, and then seals again, from the leaves to the root.

use super::{Change, Place, keys_of};
use crate::backing::sim::Image;
use crate::crypto::{Chain, FreshEpoch, SeededEntropy, TablePurpose, Tag, VolumeKeys};
use crate::format::layout::{BLOCK, BLOCK_BYTES, HEADER_MAC, HEADER_SLOTS, RING_START, SUPERBLOCK_SLOTS};
use crate::format::{
    Block, Entry, EpochDirectory, Header, HeaderCopies, Kind, LogPageHeader, LogRecord, Superblock,
    TablePayload, Tree, data_aad, map_aad, open_log_page, seal_log_page,
};

/// Pages of a tree, and of the log, that are forged at most.
const MOST: usize = 64;

/// The structures of a plain volume as the parsers get them, each with the name of its fuzz target.
pub(super) fn structures(image: &Image) -> Vec<(&'static str, Vec<u8>)> {
    let mut start = vec![0; HeaderCopies::SPAN];
    image.read(0, &mut start);
    let (forge, header) = Forge::of(image);
    let mut found = vec![("header", start)];
    let superblock = forge.superblock();
    found.push(("superblock", superblock.encode().to_vec()));
    let mut tables = Vec::new();
    if let Some(directory) = forge.table(TablePurpose::EpochDirectory, &superblock.epochs) {
        let pages =
            EpochDirectory::decode(&directory).map_or_else(|_| Vec::new(), |directory| directory.pages);
        tables.push(directory);
        tables.extend(pages.iter().filter_map(|page| forge.table(TablePurpose::EpochPage, page)));
    }
    tables.extend(superblock.versions.iter().filter_map(|page| forge.table(TablePurpose::Versions, page)));
    found.extend(tables.into_iter().map(|payload| ("tables", payload.to_vec())));
    if superblock.root.kind() == Kind::Page {
        let pages = forge.walk(superblock.height - 1, superblock.root);
        found.extend(pages.into_iter().map(|page| ("map_page", page.bytes.to_vec())));
    }
    let head = superblock.log_head.sequence;
    for sequence in head..head.saturating_add(header.ring_pages.min(8)) {
        found.push(("log_page", forge.page(RING_START + sequence % header.ring_pages).to_vec()));
    }
    found
}

struct Forge {
    image: Image,
    keys: VolumeKeys,
    entropy: SeededEntropy,
    fresh: FreshEpoch,
}

/// A page of a tree, and where its parent names it.
struct Page {
    level: u8,
    index: u64,
    slot: u64,
    parent: Option<(usize, usize)>,
    bytes: Box<Block>,
}

pub(super) fn forge(image: &Image, changes: &[Change]) -> Image {
    let (mut forge, header) = Forge::of(image);
    let of = |place| changes.iter().filter(move |change| change.place == place);
    let mut superblock = forge.superblock();

    if of(Place::MapPage).next().is_some() {
        let height = superblock.height;
        let root = superblock.root;
        superblock.root = forge.tree(Tree::Map, height - 1, root, of(Place::MapPage));
    }
    if of(Place::AllocationPage).next().is_some()
        && let Some(upper) = superblock.upper_allocation.first().copied()
    {
        superblock.upper_allocation[0] = forge.tree(Tree::Allocation, 2, upper, of(Place::AllocationPage));
    }
    if of(Place::Table).next().is_some() {
        forge.tables(&mut superblock, of(Place::Table));
    }
    if changes.iter().any(|change| matches!(change.place, Place::LogHeader | Place::LogRecord)) {
        forge.log(&header, &superblock, changes);
    }
    let mut payload = superblock.encode();
    of(Place::Superblock).for_each(|change| change.apply(payload.as_mut()));
    forge.put_superblock(superblock.generation, &payload);
    if of(Place::Header).next().is_some() {
        forge.header(&header, of(Place::Header));
    }
    for change in of(Place::Raw) {
        let slots = forge.image.len() / BLOCK_BYTES;
        let slot = change.index as u64 * slots / 256;
        forge
            .image
            .write(slot * BLOCK_BYTES + change.offset as u64 % BLOCK_BYTES, &change.value[..change.width]);
    }
    forge.image
}

impl Forge {
    fn of(image: &Image) -> (Self, Header) {
        let mut start = vec![0; HeaderCopies::SPAN];
        image.read(0, &mut start);
        let header = HeaderCopies::parse(&start).expect("a volume").candidates()[0].claims().clone();
        let keys = keys_of(header.uuid);
        let entropy = SeededEntropy::new(0xbad);
        let fresh = keys.begin_epoch(&entropy).expect("seeded");
        (Self { image: image.clone(), keys, entropy, fresh }, header)
    }

    fn page(&self, slot: u64) -> Box<Block> {
        let mut bytes = Box::new([0; BLOCK]);
        self.image.read(slot * BLOCK_BYTES, bytes.as_mut_slice());
        bytes
    }

    fn put(&mut self, slot: u64, bytes: &[u8]) {
        // A slot from a changed entry may be anywhere; the file does not grow for it.
        if (slot + 1).checked_mul(BLOCK_BYTES).is_some_and(|end| end <= self.image.len()) {
            self.image.write(slot * BLOCK_BYTES, bytes);
        }
    }

    fn superblock(&self) -> Superblock {
        let read = |slot| {
            let payload = self.keys.open_superblock(&self.page(slot)).ok()?;
            Superblock::decode(&payload).ok()
        };
        let all = SUPERBLOCK_SLOTS.into_iter().flatten().filter_map(read);
        all.max_by_key(|superblock| superblock.generation).expect("a sound volume has a superblock")
    }

    fn put_superblock(&mut self, generation: u64, payload: &TablePayload) {
        let page = self.keys.seal_table(TablePurpose::Superblock, payload, &self.entropy).expect("seeded");
        for slot in SUPERBLOCK_SLOTS[usize::from(generation % 2 == 1)] {
            self.put(slot, page.as_ref());
        }
    }

    fn header<'a>(&mut self, header: &Header, changes: impl Iterator<Item = &'a Change>) {
        let mut bytes = header.encode(&self.keys).expect("it was decoded");
        changes.for_each(|change| change.apply(&mut bytes[..HEADER_MAC]));
        let claimed = uuid::Uuid::from_slice(&bytes[24..40]).expect("16 bytes");
        let mac = keys_of(claimed).header_mac(&bytes[..HEADER_MAC]);
        bytes[HEADER_MAC..].copy_from_slice(&mac);
        HEADER_SLOTS.into_iter().for_each(|slot| self.put(slot, bytes.as_ref()));
    }

    /// The tag of a page as it is now, under a fresh counter: a plain volume has one key.
    fn seal(&self, aad: &[u8], bytes: &mut [u8]) -> (u32, Tag) {
        let nonce = self.fresh.nonces.next().expect("few pages");
        let counter = nonce.counter();
        (counter, self.fresh.keys.map.seal(nonce, aad, bytes))
    }

    /// The pages below and with a root, those above before those below.
    fn walk(&self, level: u8, root: Entry) -> Vec<Page> {
        let bytes = self.page(root.slot());
        let mut pages = vec![Page { level, index: 0, slot: root.slot(), parent: None, bytes }];
        let mut at = 0;
        while at < pages.len() {
            let children = if pages[at].level > 0 { *pages[at].bytes } else { [0; BLOCK] };
            for (child, entry) in children.as_chunks::<{ Entry::LEN }>().0.iter().enumerate() {
                let Ok(entry) = Entry::decode(entry) else { continue };
                if entry.kind() == Kind::Page && pages.len() < MOST {
                    let (level, index) = (pages[at].level - 1, pages[at].index * 128 + child as u64);
                    let (slot, bytes) = (entry.slot(), self.page(entry.slot()));
                    pages.push(Page { level, index, slot, parent: Some((at, child)), bytes });
                }
            }
            at += 1;
        }
        pages
    }

    fn tree<'a>(
        &mut self,
        tree: Tree,
        level: u8,
        root: Entry,
        changes: impl Iterator<Item = &'a Change>,
    ) -> Entry {
        if root.kind() != Kind::Page {
            return root;
        }
        let mut pages = self.walk(level, root);
        for change in changes {
            let count = pages.len();
            change.apply(pages[change.index % count].bytes.as_mut_slice());
        }
        let mut sealed = root;
        for at in (0..pages.len()).rev() {
            let Page { level, index, slot, parent, .. } = pages[at];
            let leaf = tree == Tree::Map && level == 0;
            if leaf {
                self.blocks(index, &mut pages[at].bytes);
            }
            let aad = map_aad(self.keys.uuid(), tree, level, index);
            let mut bytes = pages[at].bytes.clone();
            let (counter, tag) = self.seal(&aad, bytes.as_mut_slice());
            self.put(slot, bytes.as_slice());
            match parent {
                Some((parent, child)) => {
                    let named = &mut pages[parent].bytes[child * Entry::LEN..][..Entry::LEN];
                    named[12..16].copy_from_slice(&counter.to_le_bytes());
                    named[16..].copy_from_slice(&tag.0);
                }
                None => sealed = Entry::page(slot, root.epoch(), counter, tag).with_aux(root.aux()),
            }
        }
        sealed
    }

    /// Every data entry of a leaf fits what lies in its slot, wherever that is: so two blocks can share one.
    fn blocks(&self, leaf: u64, bytes: &mut Block) {
        for (place, entry) in bytes.as_chunks_mut::<{ Entry::LEN }>().0.iter_mut().enumerate() {
            let Ok(found) = Entry::decode(entry) else { continue };
            if found.is_data() && found.slot() < self.image.len() / BLOCK_BYTES {
                let mut block = self.page(found.slot());
                let aad = data_aad(self.keys.uuid(), leaf * 128 + place as u64);
                let (counter, tag) = self.seal(&aad, block.as_mut_slice());
                entry[12..16].copy_from_slice(&counter.to_le_bytes());
                entry[16..].copy_from_slice(&tag.0);
            }
        }
    }

    fn table(&self, purpose: TablePurpose, entry: &Entry) -> Option<Box<TablePayload>> {
        self.keys.open_table(purpose, &self.page(entry.slot()), entry.tag()).ok()
    }

    fn put_table(&mut self, purpose: TablePurpose, payload: &TablePayload, slot: u64) -> Entry {
        let page = self.keys.seal_table(purpose, payload, &self.entropy).expect("seeded");
        self.put(slot, page.as_ref());
        Entry::table(slot, VolumeKeys::table_tag(&page))
    }

    /// Index 0 is the epoch directory, odd ones are epoch pages, the other ones version pages.
    fn tables<'a>(&mut self, superblock: &mut Superblock, changes: impl Iterator<Item = &'a Change>) {
        let changes: Vec<&Change> = changes.collect();
        if !superblock.epochs.is_absent()
            && let Some(mut directory) = self.table(TablePurpose::EpochDirectory, &superblock.epochs)
        {
            if let Ok(EpochDirectory { pages }) = EpochDirectory::decode(&directory) {
                for (place, page) in pages.iter().enumerate() {
                    let Some(mut payload) = self.table(TablePurpose::EpochPage, page) else { continue };
                    let of =
                        |change: &&&Change| change.index % 2 == 1 && change.index / 2 % pages.len() == place;
                    changes.iter().filter(of).for_each(|change| change.apply(payload.as_mut()));
                    let entry = self.put_table(TablePurpose::EpochPage, &payload, page.slot());
                    directory[16 + place * Entry::LEN..][..Entry::LEN].copy_from_slice(&entry.encode());
                }
            }
            changes
                .iter()
                .filter(|change| change.index == 0)
                .for_each(|change| change.apply(directory.as_mut()));
            superblock.epochs =
                self.put_table(TablePurpose::EpochDirectory, &directory, superblock.epochs.slot());
        }
        for place in 0..superblock.versions.len() {
            let slot = superblock.versions[place].slot();
            let Some(mut payload) = self.table(TablePurpose::Versions, &superblock.versions[place]) else {
                continue;
            };
            let of = |change: &&&Change| change.index > 0 && change.index.is_multiple_of(2);
            changes.iter().filter(of).for_each(|change| change.apply(payload.as_mut()));
            superblock.versions[place] = self.put_table(TablePurpose::Versions, &payload, slot);
        }
    }

    /// The pages of the log, changed and chained anew from the superblock's state.
    fn log(&mut self, header: &Header, superblock: &Superblock, changes: &[Change]) {
        let slot = |sequence: u64| RING_START + sequence % header.ring_pages;
        let mut pages: Vec<(LogPageHeader, Vec<LogRecord>)> = Vec::new();
        let mut chain: Chain = superblock.state.chain;
        let mut sequence = superblock.log_head.sequence;
        while pages.len() < MOST {
            let mut page = self.page(slot(sequence));
            let Ok(found) = LogPageHeader::decode(&page) else { break };
            let cipher = self.keys.epoch(&found.salt).log;
            let opened = open_log_page(&found, cipher.as_ref(), self.keys.uuid(), &chain, &mut page);
            let Ok((records, tag)) = opened else { break };
            chain = self.keys.chain_step(&chain, &tag);
            pages.push((found, records));
            sequence += 1;
        }
        let mut chain = superblock.state.chain;
        let count = pages.len();
        for (place, (mut found, mut records)) in pages.into_iter().enumerate() {
            for change in changes.iter().filter(|change| change.index % count == place) {
                match change.place {
                    Place::LogHeader => {
                        let mut raw = [0; BLOCK];
                        raw[..80].copy_from_slice(&found.encode());
                        change.apply(&mut raw[4..80]);
                        found = LogPageHeader::decode(&raw).unwrap_or(found);
                    }
                    Place::LogRecord if !records.is_empty() => {
                        let record = change.index / count % records.len();
                        let mut raw = records[record].encode();
                        change.apply(&mut raw);
                        records[record] = LogRecord::decode(&raw).unwrap_or(records[record]);
                    }
                    _ => {}
                }
            }
            let mut page = [0; BLOCK];
            let nonce = self.fresh.nonces.next().expect("few pages");
            let cipher = self.fresh.keys.log.as_ref();
            let uuid = *self.keys.uuid();
            let tag = seal_log_page(&found, &records, cipher, nonce, &uuid, &chain, &mut page);
            chain = self.keys.chain_step(&chain, &tag);
            let at = slot(superblock.log_head.sequence + place as u64);
            self.put(at, &page);
        }
    }
}
