//! qcow2, versions 2 and 3, as docs/interop/qcow2.rst of QEMU describes it: sparse, compressed by deflate or zstd.
//! Internal snapshots are ignored. What refers to other files, or is encrypted, is refused.

use crate::images::{
    ImageError, ReadAt, be32, be64,
    clusters::{Cluster, Clustered, Codec, Map},
    table::{Tables, bounded_size, section},
};

/// `QFI\xfb`.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bits 9 to 55 of an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 62: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a version 3 entry: reads as zeros.
const ZERO: u64 = 1;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// The two-level table of a qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2Map {
    cluster_bits: u32,
    size: u64,
    version: u32,
    codec: Codec,
    l1: Vec<u64>,
    l2: Tables,
}

/// Opens a qcow2 image.
///
/// # Errors
/// [`ImageError`].
pub(crate) fn open<R: ReadAt>(file: R) -> Result<Clustered<R, Qcow2Map>, ImageError> {
    let map = Qcow2Map::read(&file)?;
    Ok(Clustered::new(file, map))
}

impl Qcow2Map {
    fn read(file: &dyn ReadAt) -> Result<Self, ImageError> {
        let mut header = [0; 112];
        let present = usize::try_from(file.len()).unwrap_or(usize::MAX).min(header.len());
        if present < 72 {
            return Err(ImageError::Damaged { what: "the file is shorter than its header" });
        }
        file.read_at(0, &mut header[..present])?;
        if header[..4] != MAGIC {
            return Err(ImageError::Damaged { what: "the magic number" });
        }
        let version = be32(&header, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(ImageError::Unsupported { what: "a qcow2 version other than 2 and 3" });
        }
        if be64(&header, 8)? != 0 {
            return Err(ImageError::OtherFile { what: "backing file" });
        }
        if be32(&header, 32)? != 0 {
            return Err(ImageError::Encrypted);
        }
        let codec = if version == 3 { features(&header)? } else { Codec::Deflate };
        let cluster_bits = be32(&header, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(ImageError::Damaged { what: "the cluster size" });
        }
        let size = bounded_size(be64(&header, 24)?)?;
        // One L2 table is one cluster of 8-byte entries.
        let entries = size.div_ceil(1 << cluster_bits).div_ceil(1 << (cluster_bits - 3));
        if entries > u64::from(be32(&header, 36)?) {
            return Err(ImageError::Damaged { what: "the first-level table is too short for the disk" });
        }
        let table = section(file, be64(&header, 40)?, entries * 8, "the first-level table")?;
        let l1 = (0..table.len()).step_by(8).map(|at| be64(&table, at)).collect::<Result<_, _>>()?;
        Ok(Self { cluster_bits, size, version, codec, l1, l2: Tables::default() })
    }

    fn l2_entry(&mut self, file: &dyn ReadAt, index: u64) -> Result<u64, ImageError> {
        let (bits, length) = (self.cluster_bits - 3, 1_u64 << self.cluster_bits);
        let slot = index >> bits;
        let Some(&entry) = usize::try_from(slot).ok().and_then(|slot| self.l1.get(slot)) else {
            return Err(ImageError::Damaged { what: "a cluster beyond the first-level table" });
        };
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(0);
        }
        if !offset.is_multiple_of(length) {
            return Err(ImageError::Damaged { what: "a second-level table lies at an odd place" });
        }
        let table = self.l2.load(file, slot, offset, length)?;
        let within = usize::try_from(index & ((1 << bits) - 1)).unwrap_or(usize::MAX);
        be64(table, within.saturating_mul(8))
    }
}

/// Checks the incompatible features of version 3 and returns the compression type.
fn features(header: &[u8]) -> Result<Codec, ImageError> {
    let bits = be64(header, 72)?;
    if bits & EXTERNAL_DATA != 0 {
        return Err(ImageError::OtherFile { what: "external data file" });
    }
    if bits & CORRUPT != 0 {
        return Err(ImageError::Damaged { what: "it is marked corrupt" });
    }
    if bits & EXTENDED_L2 != 0 {
        return Err(ImageError::Unsupported { what: "extended L2 entries" });
    }
    // A dirty image has stale reference counts; nothing here reads them.
    if bits & !(DIRTY | COMPRESSION_TYPE) != 0 {
        return Err(ImageError::Unsupported { what: "an unknown incompatible feature" });
    }
    let long = be32(header, 100)? > 104;
    match if long && bits & COMPRESSION_TYPE != 0 { header[104] } else { 0 } {
        0 => Ok(Codec::Deflate),
        1 => Ok(Codec::Zstd),
        _ => Err(ImageError::Unsupported { what: "an unknown compression" }),
    }
}

impl Map for Qcow2Map {
    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn unlisted(&self, index: u64) -> u64 {
        let bits = self.cluster_bits - 3;
        let entry = usize::try_from(index >> bits).ok().and_then(|slot| self.l1.get(slot));
        let listed = entry.is_none_or(|entry| entry & OFFSET != 0);
        if listed { 0 } else { (1 << bits) - (index & ((1 << bits) - 1)) }
    }

    fn locate(&mut self, file: &dyn ReadAt, index: u64) -> Result<Cluster, ImageError> {
        let entry = self.l2_entry(file, index)?;
        if entry & COMPRESSED != 0 {
            // 62 bits: x bits of offset, the rest counts further 512-byte sectors.
            let shift = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << shift) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> shift;
            let length = (sectors + 1) * 512 - offset % 512;
            return Ok(Cluster::Compressed { offset, length, codec: self.codec });
        }
        let offset = entry & OFFSET;
        if offset == 0 || (self.version == 3 && entry & ZERO != 0) {
            return Ok(Cluster::Zero);
        }
        if !offset.is_multiple_of(self.cluster_size()) {
            return Err(ImageError::Damaged { what: "a cluster lies at an odd place" });
        }
        Ok(Cluster::At(offset))
    }
}
