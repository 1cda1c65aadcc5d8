//! The bytes of a simulated file: copy-on-write pages, so that a crash state costs only what it changes.

use std::sync::{Arc, OnceLock};

/// Bytes in one page, the unit of sharing.
pub const PAGE: usize = 4096;
/// Bytes that a disk writes wholly or not at all.
pub const SECTOR: usize = 512;
/// Sectors in one page.
pub const SECTORS: usize = PAGE / SECTOR;

const PAGE_U64: u64 = PAGE as u64;
const CHUNK: usize = 64;

/// One page of bytes; its checksums are computed when first asked for.
pub struct Page {
    bytes: [u8; PAGE],
    sums: OnceLock<[u64; SECTORS]>,
}

impl Page {
    pub(super) fn new(bytes: [u8; PAGE]) -> Self {
        Self { bytes, sums: OnceLock::new() }
    }

    /// The bytes of the page.
    pub fn bytes(&self) -> &[u8; PAGE] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8; PAGE] {
        self.sums.take();
        &mut self.bytes
    }

    fn sums(&self) -> &[u64; SECTORS] {
        self.sums.get_or_init(|| {
            let mut sums = [0; SECTORS];
            for (sum, sector) in sums.iter_mut().zip(self.bytes.as_chunks::<SECTOR>().0) {
                *sum = digest(sector);
            }
            sums
        })
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes, sums: self.sums.clone() }
    }
}

/// A page, or `None` for one that was never written or was punched.
pub type Cell = Option<Arc<Page>>;

/// A sum that is zero for zeros, so that a hole and written zeros are the same content.
fn digest(sector: &[u8]) -> u64 {
    let mut hash = 0_u64;
    let mut any = 0_u64;
    for word in sector.as_chunks().0 {
        let word = u64::from_le_bytes(*word);
        any |= word;
        hash = fold(hash.rotate_left(5) ^ word ^ 0x9E37_79B9_7F4A_7C15);
    }
    if any == 0 { 0 } else { hash | 1 }
}

fn fold(value: u64) -> u64 {
    let wide = u128::from(value) * 0xA076_1D64_78BD_642F_u128;
    let low = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or(0);
    let high = u64::try_from(wide >> 64).unwrap_or(0);
    low ^ high
}

/// What sector `sector` of `cell` at page `index` adds to an image's sum.
pub(super) fn weight(cell: &Cell, index: u64, sector: usize) -> u64 {
    let Some(page) = cell else { return 0 };
    let sum = page.sums()[sector];
    if sum == 0 {
        return 0;
    }
    let place = index * u64::try_from(SECTORS).unwrap_or(8) + u64::try_from(sector).unwrap_or(0) + 1;
    (sum ^ place.wrapping_mul(0xFF51_AFD7_ED55_8CCD)).wrapping_mul(0xC4CE_B9FE_1A85_EC53).rotate_left(29)
        ^ sum.wrapping_mul(place | 1)
}

pub(super) fn length_weight(len: u64) -> u64 {
    fold(len ^ 0x2545_F491_4F6C_DD1D)
}

type Chunk = [Cell; CHUNK];

/// The content of a file at one moment. Cloning shares all pages.
#[derive(Clone, Default)]
pub struct Image {
    chunks: Vec<Option<Arc<Chunk>>>,
    len: u64,
}

impl Image {
    /// An image with these bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = Self::default();
        image.write(0, bytes);
        image
    }

    /// All bytes, for tests that keep an image as a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("a simulated file fits in memory")];
        self.read(0, &mut bytes);
        bytes
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pages that the length takes, the last one perhaps in part.
    pub fn pages(&self) -> u64 {
        self.len.div_ceil(PAGE_U64)
    }

    /// The page with number `index`.
    pub fn page(&self, index: u64) -> Cell {
        let (chunk, slot) = split(index);
        self.chunks.get(chunk)?.as_ref()?[slot].clone()
    }

    fn holds(&self, index: u64) -> bool {
        let (chunk, slot) = split(index);
        self.chunks.get(chunk).and_then(Option::as_ref).is_some_and(|chunk| chunk[slot].is_some())
    }

    /// Puts a page in place; the length stays.
    pub fn put(&mut self, index: u64, cell: Cell) {
        let (chunk, slot) = split(index);
        if cell.is_none() && !self.holds(index) {
            return;
        }
        if chunk >= self.chunks.len() {
            self.chunks.resize(chunk + 1, None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(|| Arc::new([const { None }; CHUNK]));
        Arc::make_mut(chunk)[slot] = cell;
    }

    /// Bytes from `offset`, zeros where nothing was written or beyond the end.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        let mut done = 0;
        while done < buf.len() {
            let (index, within) = place(offset, done);
            let step = (PAGE - within).min(buf.len() - done);
            match self.chunks.get(split(index).0).and_then(Option::as_ref) {
                Some(chunk) => match &chunk[split(index).1] {
                    Some(page) => buf[done..done + step].copy_from_slice(&page.bytes[within..within + step]),
                    None => buf[done..done + step].fill(0),
                },
                None => buf[done..done + step].fill(0),
            }
            done += step;
        }
    }

    /// Writes bytes and grows the length to hold them.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let (index, within) = place(offset, done);
            let step = (PAGE - within).min(data.len() - done);
            self.edit(index, |bytes| bytes[within..within + step].copy_from_slice(&data[done..done + step]));
            done += step;
        }
        let end = offset + u64::try_from(data.len()).expect("usize fits u64");
        self.len = self.len.max(end);
    }

    /// Sets the length; what is cut off reads as zeros if the file grows again.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.erase(len, self.len - len);
        }
        self.len = len;
    }

    /// Sets the length after pages were put in place; what lies beyond it goes, whatever the length was before.
    pub(super) fn clip(&mut self, len: u64) {
        let held = u64::try_from(self.chunks.len() * CHUNK * PAGE).expect("usize fits u64");
        self.len = held.max(len);
        self.set_len(len);
    }

    /// Zeros a range; whole pages become holes.
    pub fn erase(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len.max(offset));
        let mut at = offset;
        while at < end {
            let index = at / PAGE_U64;
            let next = ((index + 1) * PAGE_U64).min(end);
            let whole = at.is_multiple_of(PAGE_U64) && (next.is_multiple_of(PAGE_U64) || next >= self.len);
            if whole {
                self.put(index, None);
            } else if self.holds(index) {
                let (from, to) = (within(at), within(at) + usize::try_from(next - at).unwrap_or(PAGE));
                self.edit(index, |bytes| bytes[from..to].fill(0));
            }
            at = next;
        }
    }

    /// Changes one page through `edit`, from zeros if it was a hole.
    fn edit(&mut self, index: u64, edit: impl FnOnce(&mut [u8; PAGE])) {
        let (chunk, slot) = split(index);
        if chunk >= self.chunks.len() {
            self.chunks.resize(chunk + 1, None);
        }
        let chunk =
            Arc::make_mut(self.chunks[chunk].get_or_insert_with(|| Arc::new([const { None }; CHUNK])));
        match &mut chunk[slot] {
            Some(page) => edit(Arc::make_mut(page).bytes_mut()),
            empty => {
                let mut bytes = [0; PAGE];
                edit(&mut bytes);
                *empty = Some(Arc::new(Page::new(bytes)));
            }
        }
    }

    /// A sum over content and length by which states are told apart.
    pub fn sum(&self) -> u64 {
        let mut sum = length_weight(self.len);
        for index in 0..self.pages() {
            let cell = self.page(index);
            for sector in 0..SECTORS {
                sum = sum.wrapping_add(weight(&cell, index, sector));
            }
        }
        sum
    }
}

fn split(index: u64) -> (usize, usize) {
    let index = usize::try_from(index).expect("a simulated file fits in memory");
    (index / CHUNK, index % CHUNK)
}

fn place(offset: u64, done: usize) -> (u64, usize) {
    let at = offset + u64::try_from(done).expect("usize fits u64");
    (at / PAGE_U64, within(at))
}

fn within(at: u64) -> usize {
    usize::try_from(at % PAGE_U64).expect("below a page")
}
