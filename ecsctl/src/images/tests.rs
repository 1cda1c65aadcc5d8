//! Readers against images that `qemu-img` makes, and hostile ones made by hand.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    ImageError, ImageFormat, ReadAt, Source,
    probe::{open, probe},
    raw::OpenFile,
};

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

#[test]
fn i1_qcow2_of_every_kind_reads_as_qemu_img_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, expected) = reference(dir.path());
    for options in [
        "compat=v3",
        "compat=0.10",
        "compat=v3,cluster_size=512",
        "compat=v3,cluster_size=2M",
        "compat=v3,compression_type=zstd",
        "compat=v3,preallocation=metadata",
        "compat=v3,lazy_refcounts=on",
    ] {
        for compress in [false, true] {
            if compress && options.contains("preallocation") {
                continue;
            }
            let image = dir.path().join("image.qcow2");
            let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            if compress {
                arguments.push("-c");
            }
            arguments.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
            qemu_img(&arguments);
            let (format, mut source) = open(open_file(&image), None).unwrap();
            assert_eq!(format, ImageFormat::Qcow2);
            assert!(contents(&mut *source).unwrap() == expected, "{options}, compressed: {compress}");
        }
    }
}

#[test]
fn i1_internal_snapshots_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, expected) = reference(dir.path());
    let image = dir.path().join("image.qcow2");
    let name = image.to_str().unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), name]);
    qemu_img(&["snapshot", "-c", "before", name]);
    let (_, mut source) = open(open_file(&image), None).unwrap();
    assert!(contents(&mut *source).unwrap() == expected);
}

#[test]
fn i1_a_sparse_raw_file_reads_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.raw");
    let mut file = File::create(&path).unwrap();
    file.write_all(&[1; 4096]).unwrap();
    file.set_len(64 << 20).unwrap();
    let (format, mut source) = open(open_file(&path), Some(ImageFormat::Raw)).unwrap();
    assert_eq!(format, ImageFormat::Raw);
    assert!(source.extent(32 << 20).unwrap().zero);
    let read = contents(&mut *source).unwrap();
    assert_eq!((&read[..4096], read[4096..].iter().any(|b| *b != 0)), (&[1; 4096][..], false));
}

/// A small qcow2 of one data cluster, to be spoiled.
fn small() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("r"), dir.path().join("q"));
    fs::write(&raw, vec![7; 1 << 20]).unwrap();
    let (raw, name) = (raw.to_str().unwrap(), image.to_str().unwrap());
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-o", "compat=v3,cluster_size=4k", raw, name]);
    fs::read(image).unwrap()
}

fn spoil(at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

fn refusal(bytes: Vec<u8>) -> ImageError {
    match open(bytes, None) {
        Ok((_, mut source)) => contents(&mut *source).expect_err("it is hostile"),
        Err(error) => error,
    }
}

#[test]
fn i3_an_image_that_names_another_file_is_refused() {
    // Header fields: backing file offset at 8, encryption at 32, incompatible features at 72.
    assert!(matches!(
        refusal(spoil(8, &512_u64.to_be_bytes())),
        ImageError::OtherFile { what: "backing file" }
    ));
    let external = refusal(spoil(72, &4_u64.to_be_bytes()));
    assert!(matches!(external, ImageError::OtherFile { what: "external data file" }), "{external}");
}

#[test]
fn i3_hostile_headers_are_refused_before_anything_is_allocated() {
    assert!(matches!(refusal(spoil(32, &2_u32.to_be_bytes())), ImageError::Encrypted));
    assert!(matches!(refusal(spoil(72, &(1_u64 << 40).to_be_bytes())), ImageError::Unsupported { .. }));
    assert!(matches!(refusal(spoil(72, &2_u64.to_be_bytes())), ImageError::Damaged { .. }));
    assert!(matches!(refusal(spoil(4, &4_u32.to_be_bytes())), ImageError::Unsupported { .. }));
    for bits in [0_u32, 8, 22, 63, u32::MAX] {
        assert!(matches!(refusal(spoil(20, &bits.to_be_bytes())), ImageError::Damaged { .. }), "{bits}");
    }
    assert!(matches!(refusal(spoil(24, &u64::MAX.to_be_bytes())), ImageError::TooLarge { .. }));
    // A disk of 64 TiB with clusters of 4 KiB needs a table of 256 MiB; the file claims to have it.
    let mut huge = spoil(24, &(64_u64 << 40).to_be_bytes());
    huge[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(refusal(huge), ImageError::TooLarge { .. }));
    assert!(matches!(refusal(spoil(40, &u64::MAX.to_be_bytes())), ImageError::Damaged { .. }));
    assert!(matches!(refusal(small()[..50].to_vec()), ImageError::Damaged { .. }));
}

#[test]
fn i3_a_file_whose_parts_are_used_again_and_again_is_refused() {
    let mut bytes = small();
    let l1 = usize::try_from(super::be64(&bytes, 40).unwrap()).unwrap();
    let l2 = usize::try_from(super::be64(&bytes, l1).unwrap() & 0x00ff_ffff_ffff_fe00).unwrap();
    // A thousand times the same first-level entry, for a disk of 2 GiB in a file of 1 MiB.
    bytes[24..32].copy_from_slice(&(2_u64 << 30).to_be_bytes());
    bytes[36..40].copy_from_slice(&1024_u32.to_be_bytes());
    let entry: [u8; 8] = bytes[l1..l1 + 8].try_into().unwrap();
    let table: Vec<u8> = entry.iter().copied().cycle().take(8192).collect();
    let end = u64::try_from(bytes.as_slice().len()).unwrap();
    bytes[40..48].copy_from_slice(&end.to_be_bytes());
    bytes.extend(table);
    // And every second-level entry names the same cluster.
    let cluster: [u8; 8] = bytes[l2..l2 + 8].try_into().unwrap();
    for slot in 0..512 {
        bytes[l2 + slot * 8..l2 + slot * 8 + 8].copy_from_slice(&cluster);
    }
    let (_, mut source) = open(bytes, None).unwrap();
    let mut at = 0;
    let refused = loop {
        match source.extent(at) {
            Ok(extent) => at += extent.length,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ImageError::Overlap), "{refused}");
    assert!(at < 4 << 20, "noticed only after {at} bytes");
}

#[test]
fn i3_a_format_that_is_not_the_declared_one_is_refused() {
    let confused = open(small(), Some(ImageFormat::Raw)).err().unwrap();
    assert!(matches!(
        confused,
        ImageError::OtherFormat { declared: ImageFormat::Raw, found: Some(ImageFormat::Qcow2) }
    ));
    let confused = open(vec![0; 4096], Some(ImageFormat::Qcow2)).err().unwrap();
    assert!(matches!(confused, ImageError::OtherFormat { declared: ImageFormat::Qcow2, found: None }));
    let mut luks = b"LUKS\xba\xbe".to_vec();
    luks.resize(4096, 0);
    assert!(matches!(probe(&luks), Err(ImageError::Unsupported { .. })));
    assert!(open(Vec::new(), None).is_err());
}

#[test]
fn i3_no_single_byte_of_the_tables_makes_a_reader_panic_or_run_away() {
    let good = small();
    let l1 = usize::try_from(super::be64(&good, 40).unwrap()).unwrap();
    let l2 = usize::try_from(super::be64(&good, l1).unwrap() & 0x00ff_ffff_ffff_fe00).unwrap();
    let places = (0..112).chain(l1..l1 + 8).chain(l2..l2 + 64);
    let mut tried = 0;
    for at in places {
        for flip in [0x01, 0x40, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            if let Ok((_, mut source)) = open(bytes, None)
                && source.size() <= 4 << 20
            {
                let _ = contents(&mut *source);
            }
            tried += 1;
        }
    }
    assert!(tried > 700);
}
