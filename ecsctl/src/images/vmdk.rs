//! VMDK in one file: monolithicSparse and streamOptimized, as "Virtual Disk Format 5.0" describes them. The text
//! descriptor inside is read only to refuse what it names: extents in other files, a parent, any other kind of disk.

use crate::images::{
    ImageError, ReadAt,
    clusters::{Cluster, Clustered, Codec, Map},
    le16, le32, le64,
    table::{Tables, bounded_size, section, unit},
};

/// The first bytes of a sparse extent.
pub(crate) const MAGIC: [u8; 4] = *b"KDMV";
/// How a descriptor file begins, which consists of names of other files.
pub(crate) const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";

const SECTOR: u64 = 512;
const HEADER: u64 = 512;
/// Where the grain directory is when it is known only at the end: in a second header there.
const AT_END: u64 = u64::MAX;
/// The longest descriptor that is read, bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// The largest grain, bytes.
const MAX_GRAIN: u64 = 4 << 20;
/// Bytes before the data of a compressed grain: where it belongs, and its length.
const GRAIN_MARKER: u64 = 12;

const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;

/// The grain directory and tables of a sparse extent.
#[derive(Debug)]
pub(crate) struct VmdkMap {
    size: u64,
    grain: u64,
    per_table: u64,
    zeroed: bool,
    compressed: bool,
    directory: Vec<u8>,
    tables: Tables,
}

/// Opens a VMDK image.
///
/// # Errors
/// [`ImageError`].
pub(crate) fn open<R: ReadAt>(file: R) -> Result<Clustered<R, VmdkMap>, ImageError> {
    let map = VmdkMap::read(&file)?;
    Ok(Clustered::new(file, map))
}

impl VmdkMap {
    fn read(file: &dyn ReadAt) -> Result<Self, ImageError> {
        let first = section(file, 0, HEADER, "the header")?;
        let header = if le64(&first, 56)? == AT_END { at_end(file, &first)? } else { first };
        if !header.starts_with(&MAGIC) {
            return Err(ImageError::Damaged { what: "the magic number" });
        }
        if !(1..=3).contains(&le32(&header, 4)?) {
            return Err(ImageError::Unsupported { what: "a VMDK version other than 1 to 3" });
        }
        let flags = le32(&header, 8)?;
        let compressed = flags & COMPRESSED != 0;
        if compressed && le16(&header, 77)? != 1 {
            return Err(ImageError::Unsupported { what: "an unknown compression" });
        }
        let descriptor_at = le64(&header, 28)?.saturating_mul(SECTOR);
        let descriptor_length = le64(&header, 36)?.saturating_mul(SECTOR);
        if descriptor_at == 0 {
            return Err(ImageError::OtherFile { what: "descriptor" });
        }
        if descriptor_length > MAX_DESCRIPTOR {
            let (what, limit) = ("the descriptor", MAX_DESCRIPTOR);
            return Err(ImageError::TooLarge { what, value: descriptor_length, limit });
        }
        judge(&section(file, descriptor_at, descriptor_length, "the descriptor")?)?;

        let size = bounded_size(le64(&header, 12)?.saturating_mul(SECTOR))?;
        let grain =
            unit(le64(&header, 20)?.saturating_mul(SECTOR), 4096, MAX_GRAIN, "the size of its grains")?;
        let per_table = u64::from(le32(&header, 44)?);
        if !(1..=512).contains(&per_table) {
            return Err(ImageError::Damaged { what: "the length of its grain tables" });
        }
        let entries = size.div_ceil(grain).div_ceil(per_table);
        let directory_at = le64(&header, 56)?.saturating_mul(SECTOR);
        let directory = section(file, directory_at, entries * 4, "the grain directory")?;
        let zeroed = flags & ZEROED_GRAINS != 0;
        Ok(Self { size, grain, per_table, zeroed, compressed, directory, tables: Tables::default() })
    }
}

/// The header before the last sector. It must say what the first one says, but for the place of the directory.
fn at_end(file: &dyn ReadAt, first: &[u8]) -> Result<Vec<u8>, ImageError> {
    let at = file.len().checked_sub(2 * SECTOR).ok_or(ImageError::Outside { what: "the footer" })?;
    let footer = section(file, at, HEADER, "the footer")?;
    let same = first[..56] == footer[..56] && first[64..] == footer[64..];
    if !same || le64(&footer, 56)? == AT_END {
        return Err(ImageError::Damaged { what: "its header and footer differ" });
    }
    Ok(footer)
}

/// Refuses a descriptor that names another file, or a disk of another kind. A line of an unknown form may not hold a path.
fn judge(descriptor: &[u8]) -> Result<(), ImageError> {
    const ODD: ImageError = ImageError::Damaged { what: "the descriptor" };
    let end = descriptor.iter().position(|byte| *byte == 0).unwrap_or(descriptor.len());
    if !descriptor.starts_with(DESCRIPTOR) {
        return Err(ODD);
    }
    let mut extents = 0;
    let mut kind = false;
    for line in String::from_utf8_lossy(&descriptor[..end]).lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') || line.starts_with("ddb.") {
            continue;
        }
        if let Some((key, value)) = line.split_once('=')
            && !key.contains('"')
        {
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "createType" if matches!(value, "monolithicSparse" | "streamOptimized") => kind = true,
                "createType" => return Err(ImageError::OtherFile { what: "extent of another kind of disk" }),
                "parentCID" if value.eq_ignore_ascii_case("ffffffff") => {}
                "parentCID" | "parentFileNameHint" => {
                    return Err(ImageError::OtherFile { what: "parent disk" });
                }
                "changeTrackPath" => return Err(ImageError::OtherFile { what: "change tracking file" }),
                _ => {}
            }
            continue;
        }
        // An extent: access, sectors, kind, and the name of its file, which is this one whatever it says.
        let mut words = line.splitn(4, ' ');
        let (access, sectors, what, name) = (words.next(), words.next(), words.next(), words.next());
        let is_extent = matches!(access, Some("RW" | "RDONLY" | "NOACCESS"))
            && sectors.is_some_and(|text| text.parse::<u64>().is_ok());
        if !is_extent {
            return Err(ODD);
        }
        if what != Some("SPARSE") || name.is_none_or(|name| name.contains(['/', '\\'])) {
            return Err(ImageError::OtherFile { what: "extent" });
        }
        extents += 1;
    }
    match (kind, extents) {
        (true, 1) => Ok(()),
        (true, 2..) => Err(ImageError::OtherFile { what: "extents in more than one file" }),
        _ => Err(ODD),
    }
}

impl Map for VmdkMap {
    fn cluster_size(&self) -> u64 {
        self.grain
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn unlisted(&self, index: u64) -> u64 {
        let at = usize::try_from(index / self.per_table).unwrap_or(usize::MAX).saturating_mul(4);
        let listed = le32(&self.directory, at).map_or(true, |entry| entry != 0);
        if listed { 0 } else { self.per_table - index % self.per_table }
    }

    fn locate(&mut self, file: &dyn ReadAt, index: u64) -> Result<Cluster, ImageError> {
        let slot = index / self.per_table;
        let at = usize::try_from(slot).unwrap_or(usize::MAX).saturating_mul(4);
        let table_at = u64::from(le32(&self.directory, at)?) * SECTOR;
        if table_at == 0 {
            return Ok(Cluster::Zero);
        }
        let table = self.tables.load(file, slot, table_at, self.per_table * 4)?;
        let within = usize::try_from(index % self.per_table).unwrap_or(usize::MAX);
        let offset = match le32(table, within.saturating_mul(4))? {
            0 => return Ok(Cluster::Zero),
            1 if self.zeroed => return Ok(Cluster::Zero),
            sector => u64::from(sector) * SECTOR,
        };
        if !self.compressed {
            return Ok(Cluster::At(offset));
        }
        let marker = section(file, offset, GRAIN_MARKER, "a compressed grain")?;
        if le64(&marker, 0)? != index * (self.grain / SECTOR) {
            return Err(ImageError::Damaged { what: "a compressed grain that belongs elsewhere" });
        }
        // Data that cannot be compressed grows a little.
        let length = u64::from(le32(&marker, 8)?);
        if length == 0 || length > 2 * self.grain {
            return Err(ImageError::Damaged { what: "the length of a compressed grain" });
        }
        Ok(Cluster::Compressed { offset: offset + GRAIN_MARKER, length, codec: Codec::Zlib })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &str) -> Result<(), ImageError> {
        judge(format!("# Disk DescriptorFile\nversion=1\nCID=12345678\n{lines}\0\0\0").as_bytes())
    }

    #[test]
    fn i3_a_descriptor_that_names_another_file_is_refused() {
        const GOOD: &str = "parentCID=ffffffff\ncreateType=\"monolithicSparse\"\n";
        verdict(&format!("{GOOD}RW 2048 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n")).unwrap();
        for (lines, what) in [
            ("RW 2048 FLAT \"/etc/shadow\" 0", "extent"),
            ("RW 2048 SPARSE \"/etc/shadow\"", "extent"),
            ("RW 2048 SPARSE \"..\\\\x\"", "extent"),
            ("RW 2048 VMFS \"x\"", "extent"),
            ("RW 1 SPARSE \"a\"\nRW 1 SPARSE \"b\"", "extents in more than one file"),
            ("RW 1 SPARSE \"a\"\nparentFileNameHint=\"/etc/shadow\"", "parent disk"),
            ("RW 1 SPARSE \"a\"\nparentCID=1234abcd", "parent disk"),
            ("RW 1 SPARSE \"a\"\nchangeTrackPath=\"/etc/shadow\"", "change tracking file"),
            ("RW 1 SPARSE \"a\"\ncreateType=\"monolithicFlat\"", "extent of another kind of disk"),
        ] {
            let refused = verdict(&format!("{GOOD}{lines}\n")).unwrap_err();
            assert!(
                matches!(refused, ImageError::OtherFile { what: found } if found == what),
                "{lines}: {refused}"
            );
        }
        for lines in [GOOD, "RW 1 SPARSE \"a\"", "createType=\"streamOptimized\"\n/etc/shadow"] {
            assert!(matches!(verdict(lines), Err(ImageError::Damaged { .. })), "{lines}");
        }
    }
}
