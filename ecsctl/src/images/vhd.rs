//! VHD, fixed and dynamic, as the "Virtual Hard Disk Image Format Specification" 1.0 describes it. A differencing disk
//! is refused. The size is the footer's "current size", as Hyper-V and Azure take it, not the old geometry.

use crate::images::{
    Extent, ImageError, ReadAt, Source, be32, be64,
    clusters::{Cluster, Clustered, Map},
    raw::Raw,
    table::{bounded_size, section, unit},
};

/// The first bytes of the footer, and of its copy at the beginning of a dynamic disk.
pub(crate) const COOKIE: [u8; 8] = *b"conectix";
/// Bytes of the footer.
pub(crate) const FOOTER: u64 = 512;

const DYNAMIC_COOKIE: [u8; 8] = *b"cxsparse";
const DYNAMIC_HEADER: u64 = 1024;
const SECTOR: u64 = 512;
/// Of a block that was never written.
const FREE: u32 = 0xffff_ffff;

/// A VHD image of either kind.
pub(crate) enum Vhd<R> {
    /// The plain contents, with a footer behind.
    Fixed {
        /// All of the file.
        file: Raw<R>,
        /// Bytes before the footer.
        size: u64,
    },
    /// A table of blocks.
    Dynamic(Clustered<R, VhdMap>),
}

/// The block table of a dynamic disk.
#[derive(Debug)]
pub(crate) struct VhdMap {
    size: u64,
    block: u64,
    /// Bytes of a block's bitmap of sectors; it lies before the data.
    bitmap: u64,
    table: Vec<u8>,
}

/// Opens a VHD image.
///
/// # Errors
/// [`ImageError`].
pub(crate) fn open<R: ReadAt>(file: R) -> Result<Vhd<R>, ImageError> {
    let end = file.len().checked_sub(FOOTER).ok_or(ImageError::Outside { what: "the footer" })?;
    let footer = section(&file, end, FOOTER, "the footer")?;
    // A dynamic disk that was cut short or has grown has a copy at its beginning.
    let footer = if footer.starts_with(&COOKIE) { footer } else { section(&file, 0, FOOTER, "the footer")? };
    if !footer.starts_with(&COOKIE) {
        return Err(ImageError::Damaged { what: "the footer" });
    }
    verify(&footer, 64, "the footer's checksum")?;
    if be32(&footer, 12)? >> 16 != 1 {
        return Err(ImageError::Unsupported { what: "a VHD version other than 1" });
    }
    let size = bounded_size(be64(&footer, 48)?)?;
    match be32(&footer, 60)? {
        2 if size > end => Err(ImageError::Damaged { what: "the disk is longer than the file" }),
        2 => Ok(Vhd::Fixed { file: Raw::new(file), size }),
        3 => {
            let map = VhdMap::read(&file, size, be64(&footer, 16)?)?;
            Ok(Vhd::Dynamic(Clustered::new(file, map)))
        }
        4 => Err(ImageError::OtherFile { what: "parent disk" }),
        _ => Err(ImageError::Unsupported { what: "an unknown type of VHD image" }),
    }
}

/// Whether a file without a known beginning ends with the footer of a fixed disk.
///
/// # Errors
/// Those of the file.
pub(crate) fn ends_with_footer(file: &dyn ReadAt) -> Result<bool, ImageError> {
    let Some(end) = file.len().checked_sub(FOOTER) else { return Ok(false) };
    let footer = section(file, end, FOOTER, "the footer")?;
    Ok(footer.starts_with(&COOKIE) && verify(&footer, 64, "").is_ok())
}

/// The checksum is the complement of the sum of all other bytes.
fn verify(bytes: &[u8], at: usize, what: &'static str) -> Result<(), ImageError> {
    let sum = |part: &[u8]| part.iter().fold(0_u32, |sum, byte| sum.wrapping_add((*byte).into()));
    let others = sum(bytes).wrapping_sub(bytes.get(at..at + 4).map_or(0, sum));
    if be32(bytes, at)? == !others { Ok(()) } else { Err(ImageError::Damaged { what }) }
}

impl VhdMap {
    fn read(file: &dyn ReadAt, size: u64, header_at: u64) -> Result<Self, ImageError> {
        let header = section(file, header_at, DYNAMIC_HEADER, "the dynamic header")?;
        if !header.starts_with(&DYNAMIC_COOKIE) {
            return Err(ImageError::Damaged { what: "the dynamic header" });
        }
        verify(&header, 36, "the dynamic header's checksum")?;
        let block = unit(be32(&header, 32)?.into(), 4096, 64 << 20, "the block size")?;
        let blocks = size.div_ceil(block);
        if blocks > be32(&header, 28)?.into() {
            return Err(ImageError::Damaged { what: "the block table is too short for the disk" });
        }
        let table = section(file, be64(&header, 16)?, blocks * 4, "the block table")?;
        let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        Ok(Self { size, block, bitmap, table })
    }
}

impl Map for VhdMap {
    fn cluster_size(&self) -> u64 {
        self.block
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&mut self, _: &dyn ReadAt, index: u64) -> Result<Cluster, ImageError> {
        let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(4);
        match be32(&self.table, at)? {
            FREE => Ok(Cluster::Zero),
            // The bitmap is not asked: a sector that was never written is zero in the block as well.
            sector => Ok(Cluster::At(u64::from(sector) * SECTOR + self.bitmap)),
        }
    }
}

impl<R: ReadAt> Source for Vhd<R> {
    fn size(&self) -> u64 {
        match self {
            Self::Fixed { size, .. } => *size,
            Self::Dynamic(clusters) => clusters.size(),
        }
    }

    fn extent(&mut self, offset: u64) -> Result<Extent, ImageError> {
        match self {
            Self::Fixed { file, size } => {
                let extent = file.extent(offset)?;
                Ok(Extent { length: extent.length.min(size.saturating_sub(offset)).max(1), ..extent })
            }
            Self::Dynamic(clusters) => clusters.extent(offset),
        }
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        match self {
            Self::Fixed { file, .. } => file.read(offset, into),
            Self::Dynamic(clusters) => clusters.read(offset, into),
        }
    }
}
