//! Where things lie. docs/volume-format.md says the same; a test holds the two against each other.

/// Bytes of a block, a page and a slot.
pub const BLOCK: usize = 4096;
/// The same as an offset.
pub const BLOCK_BYTES: u64 = 4096;

/// First bytes of a volume file.
pub const MAGIC: [u8; 8] = *b"EVSVOL1\0";
/// Version of the format.
pub const VERSION: u16 = 1;
/// First bytes of a log page.
pub const LOG_MAGIC: [u8; 4] = *b"EVLG";

/// Slots of the header's two copies.
pub const HEADER_SLOTS: [u64; 2] = [0, 8];
/// Slots of the superblocks: `[generation % 2][copy]`.
pub const SUPERBLOCK_SLOTS: [[u64; 2]; 2] = [[1, 9], [2, 10]];

/// First slot of the log ring.
pub const RING_START: u64 = 16;
/// Pages of the ring at least, for the size that a volume gets ([`ring_pages`]).
pub const RING_PAGES_MIN: u64 = 1_024;
/// Pages of the ring at most.
pub const RING_PAGES_MAX: u64 = 16_384;
/// The smallest ring that a header may name: tests use it to make the log wrap.
pub const RING_PAGES_TEST: u64 = 8;

/// Pages of the ring of a volume of `blocks` blocks: size / 512, within bounds.
#[must_use]
pub const fn ring_pages(blocks: u64) -> u64 {
    let pages = blocks / 512;
    if pages < RING_PAGES_MIN {
        RING_PAGES_MIN
    } else if pages > RING_PAGES_MAX {
        RING_PAGES_MAX
    } else {
        pages
    }
}

/// Blocks of a group at most.
pub const GROUP_BLOCKS: u64 = 16_384;

/// Entries of a map page.
pub const FANOUT: usize = 128;
/// log2 of [`FANOUT`].
pub const FANOUT_BITS: u32 = 7;
/// Levels of the map at most.
pub const HEIGHT_MAX: u8 = 5;
/// Blocks of a volume at most: 128 TiB.
pub const BLOCKS_MAX: u64 = 1 << (FANOUT_BITS * 5);
/// Greatest slot number that an entry can hold.
pub const SLOT_MAX: u64 = (1 << 40) - 1;

/// Blocks that a map of this height covers.
#[must_use]
pub const fn map_capacity(height: u8) -> u64 {
    1 << (FANOUT_BITS * height as u32)
}

/// The least height (1 to 5) of a map of `blocks` blocks.
#[must_use]
pub const fn map_height(blocks: u64) -> u8 {
    let mut height = 1;
    while height < HEIGHT_MAX && map_capacity(height) < blocks {
        height += 1;
    }
    height
}

/// Which page of `level` (0: leaves) leads to block `lba`.
#[must_use]
pub const fn map_index(lba: u64, level: u8) -> u64 {
    lba >> (FANOUT_BITS * (level as u32 + 1))
}

/// Which entry of that page.
#[must_use]
pub const fn map_entry(lba: u64, level: u8) -> usize {
    ((lba >> (FANOUT_BITS * level as u32)) & 127) as usize
}

/// Slots of an allocation region: the bits of one page.
pub const REGION_SLOTS: u64 = 32_768;
/// Levels of the allocation tree: bitmaps, pages of their entries, pages of those.
pub const ALLOCATION_LEVELS: u8 = 3;

/// The two places of a page of the allocation tree; `index` counts pages of that level.
///
/// # Panics
/// If there is no such level.
#[must_use]
pub const fn allocation_slots(level: u8, index: u64) -> [u64; 2] {
    match level {
        0 => {
            let base = index * REGION_SLOTS;
            [base + 3, base + 4]
        }
        1 => {
            let base = index * 128 * REGION_SLOTS;
            [base + 5, base + 6]
        }
        2 => {
            let base = index * 16_384 * REGION_SLOTS;
            [base + 7, base + 11]
        }
        _ => panic!("the allocation tree has three levels"),
    }
}

/// Offset of a header's MAC, the last 32 bytes.
pub const HEADER_MAC: usize = BLOCK - 32;
/// Offset of the MAC of the DEK that a re-encryption goes to.
pub const HEADER_NEXT_MAC: usize = HEADER_MAC - 32;
/// Offset of the salt of a table page.
pub const TABLE_SALT: usize = 0;
/// Offset of the sealed payload of a table page.
pub const TABLE_BODY: usize = 32;
/// Bytes of that payload.
pub const TABLE_PAYLOAD: usize = BLOCK - TABLE_BODY - 16;

/// Bytes of a log page's clear header.
pub const LOG_HEADER: usize = 80;
/// Bytes of its sealed records.
pub const LOG_BODY: usize = BLOCK - LOG_HEADER - 16;

const _: () = assert!(RING_START + RING_PAGES_MAX < REGION_SLOTS); // the ring lies in the first region

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_covers_its_blocks() {
        assert_eq!([1, 128, 129, 1 << 14, BLOCKS_MAX].map(map_height), [1, 1, 2, 2, 5]);
        assert_eq!(BLOCKS_MAX * BLOCK_BYTES, 128 << 40);
        let lba = 0b101_0000011_0000010_0000001;
        assert_eq!([0, 1, 2].map(|level| map_entry(lba, level)), [1, 2, 3]);
        assert_eq!([0, 1, 2].map(|level| map_index(lba, level)), [lba >> 7, lba >> 14, 5]);
    }

    #[test]
    fn the_ring_follows_the_size() {
        assert_eq!(
            [1, 1 << 19, 1 << 20, 1 << 23, BLOCKS_MAX].map(ring_pages),
            [1_024, 1_024, 2_048, 16_384, 16_384]
        );
    }

    #[test]
    fn fixed_places_do_not_collide() {
        let mut taken = Vec::from(HEADER_SLOTS);
        taken.extend(SUPERBLOCK_SLOTS.concat());
        for region in [0, 1, 128, 16_384] {
            taken.extend(allocation_slots(0, region));
        }
        for index in [0, 1, 128] {
            taken.extend(allocation_slots(1, index));
        }
        for index in [0, 1] {
            taken.extend(allocation_slots(2, index));
        }
        let all = taken.len();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), all);
        assert!(taken.iter().all(|slot| !(RING_START..RING_START + RING_PAGES_MAX).contains(slot)));
    }
}
