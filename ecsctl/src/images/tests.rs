//! Readers against images that `qemu-img` makes, and hostile ones made by hand.

mod formats;
mod hostile;
mod mutations;
mod qcow2;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use super::{ImageError, ReadAt, Source, probe::open, raw::OpenFile};

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        u64::try_from(self.as_slice().len()).unwrap()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        let part = self.get(from..from + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(part);
        Ok(())
    }
}

/// Everything that a source holds, read extent by extent.
fn contents(source: &mut dyn Source) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![0xff; usize::try_from(source.size()).unwrap()];
    let mut at = 0;
    while at < source.size() {
        let extent = source.extent(at)?;
        let (from, until) = (usize::try_from(at).unwrap(), usize::try_from(at + extent.length).unwrap());
        if extent.zero {
            out[from..until].fill(0);
        } else {
            source.read(at, &mut out[from..until])?;
        }
        at += extent.length;
    }
    Ok(out)
}

/// 9 MiB and a bit with text, noise, holes and zeros in odd places.
fn reference(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut bytes = vec![0; (9 << 20) + 512];
    for (n, byte) in bytes[..1 << 20].iter_mut().enumerate() {
        *byte = b"all work and no play "[n % 21];
    }
    let mut state = 1_u32;
    for byte in &mut bytes[3 << 20..(4 << 20) + 12_345] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    bytes[(9 << 20) + 500] = 7;
    let path = dir.join("reference.raw");
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn qemu_img(arguments: &[&str]) {
    let out = Command::new("qemu-img").args(arguments).output().expect("qemu-img (package qemu-utils) runs");
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn open_file(path: &Path) -> OpenFile {
    OpenFile::new(File::open(path).unwrap()).unwrap()
}

/// An image of `contents` in a format of `qemu-img`'s, as bytes.
fn made(contents: &[u8], format: &str, options: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("r"), dir.path().join("i"));
    fs::write(&raw, contents).unwrap();
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    arguments.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
    qemu_img(&arguments);
    fs::read(image).unwrap()
}

fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// Reads everything as an import does, but keeps nothing. Returns the number of extents.
fn walk(source: &mut dyn Source) -> Result<u64, ImageError> {
    let mut buffer = vec![0; 1 << 20];
    let (mut at, mut extents) = (0, 0);
    while at < source.size() {
        let extent = source.extent(at)?;
        let until = at + extent.length;
        while at < until {
            let length = usize::try_from(until - at).unwrap().min(buffer.len());
            if extent.zero {
                break;
            }
            source.read(at, &mut buffer[..length])?;
            at += u64::try_from(length).unwrap();
        }
        (at, extents) = (until, extents + 1);
    }
    Ok(extents)
}

/// Why a hostile file is refused, at the latest while it is read.
fn refusal(bytes: Vec<u8>) -> ImageError {
    match open(bytes, None) {
        Ok((_, mut source)) => walk(&mut *source).expect_err("it is hostile"),
        Err(error) => error,
    }
}
