//! Which format a file is in, and opening it in that format only.

use crate::images::{ImageError, ImageFormat, ReadAt, Source, qcow2, raw::Raw};

/// Magic numbers of formats that are not read, so that they are not taken for raw data.
const FOREIGN: [(&[u8], &str); 6] = [
    (b"LUKS\xba\xbe", "a LUKS volume"),
    (b"KDMV", "a VMDK image"),
    (b"COWD", "a VMDK image"),
    (b"conectix", "a VHD image"),
    (b"vhdxfile", "a VHDX image"),
    (b"QED\0", "a QED image"),
];

/// What the first bytes say. Raw data says nothing.
///
/// # Errors
/// [`ImageError::Unsupported`] for a known format that is not read.
pub(crate) fn probe(file: &dyn ReadAt) -> Result<ImageFormat, ImageError> {
    let mut head = [0; 8];
    let present = usize::try_from(file.len()).unwrap_or(usize::MAX).min(head.len());
    file.read_at(0, &mut head[..present])?;
    if head.starts_with(&qcow2::MAGIC) {
        return Ok(ImageFormat::Qcow2);
    }
    match FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, what)) => Err(ImageError::Unsupported { what }),
        None => Ok(ImageFormat::Raw),
    }
}

/// Opens an image. A declared format must agree with what the first bytes say: a "raw" image that is really
/// another one would be read differently by the next program that looks at it.
///
/// # Errors
/// [`ImageError`].
pub(crate) fn open<R: ReadAt + 'static>(
    file: R,
    declared: Option<ImageFormat>,
) -> Result<(ImageFormat, Box<dyn Source>), ImageError> {
    let found = probe(&file)?;
    if let Some(declared) = declared
        && declared != found
    {
        let found = (found != ImageFormat::Raw).then_some(found);
        return Err(ImageError::OtherFormat { declared, found });
    }
    let source: Box<dyn Source> = match found {
        ImageFormat::Raw => Box::new(Raw::new(file)),
        ImageFormat::Qcow2 => Box::new(qcow2::open(file)?),
    };
    if source.size() == 0 {
        return Err(ImageError::Damaged { what: "it is empty" });
    }
    Ok((found, source))
}
