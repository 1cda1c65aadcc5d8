//! VHDX, version 1, as \[MS-VHDX\] describes it: fixed and dynamic disks. A differencing disk, and one whose log was not
//! replayed, are refused.

use crate::images::{
    ImageError, ReadAt,
    clusters::{Cluster, Clustered, Map},
    le16, le32, le64,
    table::{Tables, bounded_size, section, unit},
};

/// The first bytes of the file.
pub(crate) const SIGNATURE: [u8; 8] = *b"vhdxfile";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const HEADER: u64 = 4 * KIB;
const REGION_TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
const REGION_TABLE: u64 = 64 * KIB;
const METADATA_TABLE: u64 = 64 * KIB;
/// How much of the block table is read at once.
const PART: u64 = 64 * KIB;

type Guid = [u8; 16];

/// A GUID as it stands in a file: the first three fields little-endian.
const fn guid(text: u128) -> Guid {
    uuid::Uuid::from_u128(text).to_bytes_le()
}

const BLOCK_TABLE_REGION: Guid = guid(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
const METADATA_REGION: Guid = guid(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);
const FILE_PARAMETERS: Guid = guid(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);
const DISK_SIZE: Guid = guid(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8);
const DISK_ID: Guid = guid(0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746);
const LOGICAL_SECTOR: Guid = guid(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f);
const PHYSICAL_SECTOR: Guid = guid(0xcda3_48c7_445d_4471_9cc9_e988_5251_c556);
const PARENT_LOCATOR: Guid = guid(0xa8d3_5f2d_b30b_454d_abf7_d3d8_4834_ab0c);

/// Bit 2 of an item's flags: who does not know it cannot read the file.
const REQUIRED: u32 = 1 << 2;

/// The block table of a VHDX image.
#[derive(Debug)]
pub(crate) struct VhdxMap {
    size: u64,
    block: u64,
    /// So many blocks are followed by one entry for a bitmap of sectors.
    chunk: u64,
    region: Region,
    parts: Tables,
}

#[derive(Debug, Clone, Copy)]
struct Region {
    offset: u64,
    length: u64,
}

/// Opens a VHDX image.
///
/// # Errors
/// [`ImageError`].
pub(crate) fn open<R: ReadAt>(file: R) -> Result<Clustered<R, VhdxMap>, ImageError> {
    let map = VhdxMap::read(&file)?;
    Ok(Clustered::new(file, map))
}

impl VhdxMap {
    fn read(file: &dyn ReadAt) -> Result<Self, ImageError> {
        if !section(file, 0, 8, "the header")?.starts_with(&SIGNATURE) {
            return Err(ImageError::Damaged { what: "the magic number" });
        }
        let header = current_header(file)?;
        if le16(&header, 66)? != 1 {
            return Err(ImageError::Unsupported { what: "a VHDX version other than 1" });
        }
        if header[48..64].iter().any(|byte| *byte != 0) {
            return Err(ImageError::Unsupported { what: "a log that was not replayed" });
        }
        let (region, metadata) = regions(file)?;
        let facts = Facts::read(file, metadata)?;
        let size = bounded_size(facts.size)?;
        let block = unit(facts.block.into(), MIB, 256 * MIB, "the block size")?;
        let sector = unit(facts.sector.into(), 512, 4096, "the sector size")?;
        if facts.has_parent {
            return Err(ImageError::OtherFile { what: "parent disk" });
        }
        let chunk = (sector << 23) / block;
        let blocks = size.div_ceil(block);
        let entries = blocks + blocks.saturating_sub(1) / chunk;
        if entries * 8 > region.length {
            return Err(ImageError::Damaged { what: "the block table is too short for the disk" });
        }
        Ok(Self { size, block, chunk, region, parts: Tables::default() })
    }
}

/// The newer of the two headers that are whole.
fn current_header(file: &dyn ReadAt) -> Result<Vec<u8>, ImageError> {
    let mut best: Option<(u64, Vec<u8>)> = None;
    for at in HEADERS {
        let header = section(file, at, HEADER, "the header")?;
        let sequence = le64(&header, 8)?;
        if is_whole(&header, *b"head")? && best.as_ref().is_none_or(|(known, _)| sequence > *known) {
            best = Some((sequence, header));
        }
    }
    best.map(|(_, header)| header).ok_or(ImageError::Damaged { what: "both of its headers" })
}

/// Where the block table and the metadata are.
fn regions(file: &dyn ReadAt) -> Result<(Region, Region), ImageError> {
    const BAD: ImageError = ImageError::Damaged { what: "both of its region tables" };
    let mut whole = None;
    for at in REGION_TABLES {
        let table = section(file, at, REGION_TABLE, "the region table")?;
        if is_whole(&table, *b"regi")? {
            whole = Some(table);
            break;
        }
    }
    let table = whole.ok_or(BAD)?;
    let (mut blocks, mut metadata) = (None, None);
    for at in entries(le32(&table, 8)?.into(), 16, 32, table.len()).ok_or(BAD)? {
        let region = Region { offset: le64(&table, at + 16)?, length: le32(&table, at + 24)?.into() };
        match id(&table, at)? {
            BLOCK_TABLE_REGION => blocks = Some(region),
            METADATA_REGION => metadata = Some(region),
            _ if le32(&table, at + 28)? & 1 != 0 => {
                return Err(ImageError::Unsupported { what: "an unknown region" });
            }
            _ => {}
        }
    }
    blocks.zip(metadata).ok_or(ImageError::Damaged { what: "a region is missing" })
}

/// What the metadata say.
#[derive(Debug, Default)]
struct Facts {
    block: u32,
    has_parent: bool,
    size: u64,
    sector: u32,
}

impl Facts {
    fn read(file: &dyn ReadAt, region: Region) -> Result<Self, ImageError> {
        const BAD: ImageError = ImageError::Damaged { what: "the metadata" };
        let table = section(file, region.offset, METADATA_TABLE, "the metadata")?;
        if !table.starts_with(b"metadata") {
            return Err(BAD);
        }
        let mut facts = Self::default();
        for at in entries(le16(&table, 10)?.into(), 32, 32, table.len()).ok_or(BAD)? {
            let offset = region.offset.saturating_add(le32(&table, at + 16)?.into());
            let item = |length| section(file, offset, length, "an item of the metadata");
            match id(&table, at)? {
                FILE_PARAMETERS => {
                    let item = item(8)?;
                    (facts.block, facts.has_parent) = (le32(&item, 0)?, le32(&item, 4)? & 2 != 0);
                }
                DISK_SIZE => facts.size = le64(&item(8)?, 0)?,
                LOGICAL_SECTOR => facts.sector = le32(&item(4)?, 0)?,
                DISK_ID | PHYSICAL_SECTOR => {}
                PARENT_LOCATOR => return Err(ImageError::OtherFile { what: "parent disk" }),
                _ if le32(&table, at + 24)? & REQUIRED != 0 => {
                    return Err(ImageError::Unsupported { what: "unknown metadata" });
                }
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// The places of `count` entries, if the table has room for so many.
fn entries(count: u64, first: usize, each: usize, room: usize) -> Option<impl Iterator<Item = usize>> {
    let count = usize::try_from(count).ok()?;
    (first.checked_add(count.checked_mul(each)?)? <= room).then(|| (0..count).map(move |n| first + n * each))
}

fn id(table: &[u8], at: usize) -> Result<Guid, ImageError> {
    let field = table.get(at..at + 16).and_then(|field| field.try_into().ok());
    field.ok_or(ImageError::Damaged { what: "a table is too short" })
}

/// Whether a structure has its signature, and the checksum that follows it over everything but itself.
fn is_whole(bytes: &[u8], signature: [u8; 4]) -> Result<bool, ImageError> {
    let zeros = [0; 4];
    let sum = bytes[..4].iter().chain(&zeros).chain(&bytes[8..]);
    Ok(bytes.starts_with(&signature) && crc32c(sum) == le32(bytes, 4)?)
}

/// CRC-32C (RFC 3720, B.4). Of a few hundred KiB at most, so that a table is not worth its lines.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

impl Map for VhdxMap {
    fn cluster_size(&self) -> u64 {
        self.block
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&mut self, file: &dyn ReadAt, index: u64) -> Result<Cluster, ImageError> {
        let at = (index + index / self.chunk) * 8;
        let (part, within) = (at / PART, at % PART);
        let length = PART.min(self.region.length.saturating_sub(part * PART));
        let offset = self.region.offset.saturating_add(part * PART);
        let table = self.parts.load(file, part, offset, length)?;
        let entry = le64(table, usize::try_from(within).unwrap_or(usize::MAX))?;
        match entry & 7 {
            // Not present, undefined, zero, unmapped: nothing is below that could shine through.
            0..=3 => Ok(Cluster::Zero),
            6 => Ok(Cluster::At(entry & !(MIB - 1))),
            _ => Err(ImageError::Damaged { what: "the state of a block" }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_published_vector() {
        assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
        assert_eq!(crc32c([0; 32].iter()), 0x8a91_36aa);
    }
}
