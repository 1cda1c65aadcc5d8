//! VDI, version 1.1, as VirtualBox writes it (`VDICore.h` of its published source): one table of blocks, dynamic or
//! of fixed size. An image that is the difference to another one is refused.

use crate::images::{
    ImageError, ReadAt,
    clusters::{Cluster, Clustered, Map},
    le32, le64,
    table::{bounded_size, section, unit},
};

/// At [`SIGNATURE_AT`].
pub(crate) const SIGNATURE: [u8; 4] = 0xbeda_107f_u32.to_le_bytes();
/// After the text that names the program that wrote it.
pub(crate) const SIGNATURE_AT: usize = 0x40;

const HEADER: u64 = 0x200;
/// Of a block that was never written.
const FREE: u32 = 0xffff_ffff;
/// Of a block that was discarded.
const ZERO: u32 = 0xffff_fffe;

/// The block table of a VDI image.
#[derive(Debug)]
pub(crate) struct VdiMap {
    size: u64,
    block: u64,
    data: u64,
    table: Vec<u8>,
}

/// Opens a VDI image.
///
/// # Errors
/// [`ImageError`].
pub(crate) fn open<R: ReadAt>(file: R) -> Result<Clustered<R, VdiMap>, ImageError> {
    let map = VdiMap::read(&file)?;
    Ok(Clustered::new(file, map))
}

impl VdiMap {
    fn read(file: &dyn ReadAt) -> Result<Self, ImageError> {
        let header = section(file, 0, HEADER, "the header")?;
        if header[SIGNATURE_AT..SIGNATURE_AT + 4] != SIGNATURE {
            return Err(ImageError::Damaged { what: "the magic number" });
        }
        if le32(&header, 0x44)? != 0x0001_0001 {
            return Err(ImageError::Unsupported { what: "a VDI version other than 1.1" });
        }
        let parents = header[0x1a8..0x1c8].iter().any(|byte| *byte != 0);
        match le32(&header, 0x4c)? {
            1 | 2 if !parents => {}
            1 | 2 | 4 => return Err(ImageError::OtherFile { what: "parent image" }),
            _ => return Err(ImageError::Unsupported { what: "an unknown type of VDI image" }),
        }
        if le32(&header, 0x17c)? != 0 {
            return Err(ImageError::Unsupported { what: "blocks with extra data" });
        }
        let size = bounded_size(le64(&header, 0x170)?)?;
        let block = unit(le32(&header, 0x178)?.into(), 4096, 16 << 20, "the block size")?;
        let blocks = size.div_ceil(block);
        if blocks > le32(&header, 0x180)?.into() {
            return Err(ImageError::Damaged { what: "the block table is too short for the disk" });
        }
        let table = section(file, le32(&header, 0x154)?.into(), blocks * 4, "the block table")?;
        Ok(Self { size, block, data: le32(&header, 0x158)?.into(), table })
    }
}

impl Map for VdiMap {
    fn cluster_size(&self) -> u64 {
        self.block
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&mut self, _: &dyn ReadAt, index: u64) -> Result<Cluster, ImageError> {
        let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(4);
        match le32(&self.table, at)? {
            FREE | ZERO => Ok(Cluster::Zero),
            number => Ok(Cluster::At(self.data + u64::from(number) * self.block)),
        }
    }
}
