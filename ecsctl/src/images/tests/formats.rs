//! Every other format, as `qemu-img` writes it.

use std::io::Write;

use super::*;
use crate::images::ImageFormat;

#[test]
fn i1_every_format_reads_as_qemu_img_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, expected) = reference(dir.path());
    let (image, back) = (dir.path().join("image"), dir.path().join("back"));
    let [raw, image_name, back_name] = [&raw, &image, &back].map(|path| path.to_str().unwrap());
    for (format, name, options) in [
        (ImageFormat::Vmdk, "vmdk", "subformat=monolithicSparse"),
        (ImageFormat::Vmdk, "vmdk", "subformat=monolithicSparse,hwversion=10"),
        (ImageFormat::Vmdk, "vmdk", "subformat=streamOptimized"),
        (ImageFormat::Vhd, "vpc", "subformat=dynamic"),
        (ImageFormat::Vhd, "vpc", "subformat=dynamic,force_size=on"),
        (ImageFormat::Vhd, "vpc", "subformat=fixed"),
        (ImageFormat::Vhd, "vpc", "subformat=fixed,force_size=on"),
        (ImageFormat::Vhdx, "vhdx", "subformat=dynamic"),
        (ImageFormat::Vhdx, "vhdx", "subformat=dynamic,block_size=1M"),
        (ImageFormat::Vhdx, "vhdx", "subformat=fixed"),
        (ImageFormat::Vdi, "vdi", ""),
        (ImageFormat::Vdi, "vdi", "static=on"),
    ] {
        let mut arguments = vec!["convert", "-f", "raw", "-O", name];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        arguments.extend([raw, image_name]);
        qemu_img(&arguments);
        qemu_img(&["convert", "-f", name, "-O", "raw", image_name, back_name]);
        let (found, mut source) =
            open(open_file(&image), None).unwrap_or_else(|e| panic!("{name} {options}: {e}"));
        assert_eq!(found, format, "{options}");
        // Some formats round the size up; what follows then are zeros.
        let read = contents(&mut *source).unwrap_or_else(|e| panic!("{name} {options}: {e}"));
        assert!(read == fs::read(&back).unwrap(), "{name}, {options}: not as qemu-img reads it");
        assert!(read.starts_with(&expected), "{name}, {options}: not what was put in");
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn i1_a_block_table_with_chunks_in_between_is_followed() {
    // After 4,096 blocks of 1 MiB a VHDX table has an entry that is none: data on both sides of it.
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    let file = File::create(&raw).unwrap();
    file.set_len(9 << 30).unwrap();
    for at in [0, (4 << 30) - 4096, 4 << 30, (8 << 30) - 4096, 8 << 30, (9 << 30) - 4096_u64] {
        let block: Vec<u8> = (at >> 12).to_le_bytes().repeat(512).iter().map(|byte| byte | 0x40).collect();
        std::os::unix::fs::FileExt::write_all_at(&file, &block, at).unwrap();
    }
    let [raw_name, image_name] = [&raw, &image].map(|path| path.to_str().unwrap());
    let options = "subformat=dynamic,block_size=1M";
    qemu_img(&["convert", "-f", "raw", "-O", "vhdx", "-o", options, raw_name, image_name]);
    let (_, mut source) = open(open_file(&image), None).unwrap();
    let mut original = open(open_file(&raw), None).unwrap().1;
    let (mut at, mut data) = (0, 0);
    while at < source.size() {
        let extent = source.extent(at).unwrap();
        if !extent.zero {
            let [mut one, mut other] = [(); 2].map(|()| vec![0; 1 << 20]);
            source.read(at, &mut one).unwrap();
            original.read(at, &mut other).unwrap();
            assert!(one == other, "at {at}");
            data += one.iter().filter(|byte| **byte != 0).count();
        }
        at += extent.length;
    }
    assert_eq!(data, 6 * 4096);
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
