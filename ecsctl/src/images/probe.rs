//! Which format a file is in, and opening it in that format only.

use crate::images::{ImageError, ImageFormat, ReadAt, Source, qcow2, raw::Raw, vdi, vhd, vhdx, vmdk};

/// Magic numbers of formats that are not read, so that they are not taken for raw data.
const FOREIGN: [(&[u8], &str); 6] = [
    (b"COWD", "the VMDK format of early ESX hosts"),
    (b"QED\0", "the QED format"),
    (b"WithoutFreeSpace", "the Parallels format"),
    (b"WithouFreSpacExt", "the Parallels format"),
    (b"Bochs Virtual HD Image", "the Bochs format"),
    (b"#!/bin/sh\n#V2.0 Format", "the cloop format"),
];
/// A volume that is encrypted by its own means.
const LUKS: &[u8] = b"LUKS\xba\xbe";

/// What the first bytes say, and the last ones where a format has nothing else. Raw data says nothing.
///
/// # Errors
/// [`ImageError::Unsupported`] for a known format that is not read, [`ImageError::Encrypted`], [`ImageError::OtherFile`].
pub(crate) fn probe(file: &dyn ReadAt) -> Result<ImageFormat, ImageError> {
    let mut head = [0; 128];
    let present = usize::try_from(file.len()).unwrap_or(usize::MAX).min(head.len());
    file.read_at(0, &mut head[..present])?;
    let starts: [(&[u8], ImageFormat); 4] = [
        (&qcow2::MAGIC, ImageFormat::Qcow2),
        (&vmdk::MAGIC, ImageFormat::Vmdk),
        (&vhd::COOKIE, ImageFormat::Vhd),
        (&vhdx::SIGNATURE, ImageFormat::Vhdx),
    ];
    if let Some((_, format)) = starts.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Ok(*format);
    }
    if head[vdi::SIGNATURE_AT..].starts_with(&vdi::SIGNATURE) {
        return Ok(ImageFormat::Vdi);
    }
    if head.starts_with(vmdk::DESCRIPTOR) {
        return Err(ImageError::OtherFile { what: "extents of a VMDK descriptor" });
    }
    if head.starts_with(LUKS) {
        return Err(ImageError::Encrypted);
    }
    if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(ImageError::Unsupported { what });
    }
    Ok(if vhd::ends_with_footer(file)? { ImageFormat::Vhd } else { ImageFormat::Raw })
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
        ImageFormat::Vmdk => Box::new(vmdk::open(file)?),
        ImageFormat::Vhd => Box::new(vhd::open(file)?),
        ImageFormat::Vhdx => Box::new(vhdx::open(file)?),
        ImageFormat::Vdi => Box::new(vdi::open(file)?),
    };
    if source.size() == 0 {
        return Err(ImageError::Damaged { what: "it is empty" });
    }
    Ok((found, source))
}
