//! qcow2: every kind that `qemu-img` writes, and what is refused.

use super::{super::be64, *};
use crate::images::ImageFormat;

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

/// A small qcow2 of one data cluster after another, to be spoiled.
fn small() -> Vec<u8> {
    made(&vec![7; 1 << 20], "qcow2", "compat=v3,cluster_size=4k")
}

fn spoil(at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = small();
    put(&mut bytes, at, with);
    bytes
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
    assert!(matches!(refusal(spoil(40, &u64::MAX.to_be_bytes())), ImageError::Outside { .. }));
    assert!(matches!(refusal(small()[..50].to_vec()), ImageError::Damaged { .. }));
}

#[test]
fn i3_a_file_whose_parts_are_used_again_and_again_is_refused() {
    let mut bytes = small();
    let l1 = usize::try_from(be64(&bytes, 40).unwrap()).unwrap();
    let l2 = usize::try_from(be64(&bytes, l1).unwrap() & 0x00ff_ffff_ffff_fe00).unwrap();
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

/// A qcow2 of 512 GiB in clusters of 2 MiB, each a few bytes of zstd: always the same ones, or ones of its own.
fn bomb(same: bool) -> Vec<u8> {
    const CLUSTER: usize = 2 << 20;
    /// Compressed, in up to two sectors.
    const ENTRY: u64 = 1 << 62 | 1 << 49;
    let mut bytes = made(&[], "qcow2", "compat=v3,cluster_size=2M,compression_type=zstd");
    put(&mut bytes, 24, &(512_u64 << 30).to_be_bytes());
    let table = bytes.as_slice().len().next_multiple_of(CLUSTER);
    let (l1, l2, packed) = (table, table + CLUSTER, table + 2 * CLUSTER);
    // A frame of unknown size with a window of 2 MiB, and 16 blocks of 128 KiB that repeat a byte.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    for n in 0..16_u32 {
        let block = (128 << 10) << 3 | 1 << 1 | u32::from(n == 15);
        frame.extend(&block.to_le_bytes()[..3]);
        frame.push(0xa5);
    }
    let length = frame.as_slice().len();
    bytes.resize(packed, 0);
    put(&mut bytes, 36, &1_u32.to_be_bytes());
    put(&mut bytes, 40, &u64::try_from(l1).unwrap().to_be_bytes());
    put(&mut bytes, l1, &u64::try_from(l2).unwrap().to_be_bytes());
    for n in 0..262_144 {
        let at = packed + if same { 0 } else { n * length };
        put(&mut bytes, l2 + n * 8, &(ENTRY | u64::try_from(at).unwrap()).to_be_bytes());
    }
    // The first few thousand are there; nobody gets so far.
    for _ in 0..if same { 1 } else { 4096 } {
        bytes.extend(&frame);
    }
    bytes.resize(bytes.as_slice().len().next_multiple_of(4096), 0);
    bytes
}

/// How far an import gets, and why it ends.
fn read_until_refused(bytes: Vec<u8>) -> (u64, ImageError) {
    let (_, mut source) = open(bytes, None).unwrap();
    let mut cluster = vec![0; 2 << 20];
    let mut at = 0;
    loop {
        let read = source.extent(at).and_then(|_| source.read(at, &mut cluster));
        match read {
            Ok(()) => assert!(
                cluster.iter().all(|byte| *byte == 0xa5),
                "a good image but for its number of clusters"
            ),
            Err(error) => return (at, error),
        }
        at += 2 << 20;
    }
}

#[test]
fn i3_a_compressed_part_is_unpacked_once_only() {
    let (at, refused) = read_until_refused(bomb(true));
    assert!(matches!(refused, ImageError::Overlap), "{refused}");
    assert_eq!(at, 2 << 20, "the second cluster is the first again");
}

#[test]
fn i3_a_disk_that_unpacks_far_beyond_its_length_is_refused() {
    let (at, refused) = read_until_refused(bomb(false));
    assert!(matches!(refused, ImageError::Bomb { .. }), "{refused}");
    assert!((60 << 20..80 << 20).contains(&at), "after {at} bytes");
}

/// As well as deflate can do, which is no bomb: 200 MiB of one byte, beside 64 MiB that are free.
#[test]
fn i1_a_disk_of_one_byte_again_and_again_is_read_in_every_format_that_deflates() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    fs::write(&raw, vec![0xff; 200 << 20]).unwrap();
    for (format, options) in [
        ("qcow2", "compat=v3,cluster_size=2M"),
        ("qcow2", "compat=0.10"),
        ("vmdk", "subformat=streamOptimized"),
    ] {
        let names = [raw.to_str().unwrap(), image.to_str().unwrap()];
        let mut arguments = vec!["convert", "-f", "raw", "-O", format, "-o", options];
        if format == "qcow2" {
            arguments.push("-c");
        }
        qemu_img(&[&arguments[..], &names].concat());
        let (_, mut source) = open(open_file(&image), None).unwrap();
        walk(&mut *source).unwrap_or_else(|error| panic!("{format} {options}: {error}"));
    }
}

/// QEMU packs streams byte by byte and counts their lengths in sectors: here each is a twentieth of the sector that it says it is.
#[test]
fn i1_streams_far_shorter_than_a_sector_are_no_overlap() {
    let contents = vec![0xff; 32 << 20];
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    fs::write(&raw, &contents).unwrap();
    for options in ["cluster_size=4k", "cluster_size=4k,compression_type=zstd", ""] {
        let names = [raw.to_str().unwrap(), image.to_str().unwrap()];
        let options = format!("compat=v3,{options}");
        qemu_img(
            &[
                &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options.trim_end_matches(',')][..],
                &names,
            ]
            .concat(),
        );
        let length = fs::metadata(&image).unwrap().len();
        assert!(length < 1 << 20, "{options}: {length} bytes");
        let (_, mut source) = open(open_file(&image), None).unwrap();
        walk(&mut *source).unwrap_or_else(|error| panic!("{options}: {error}"));
    }
}

#[test]
fn i3_an_empty_disk_of_the_largest_size_is_walked_in_few_steps() {
    let dir = tempfile::tempdir().unwrap();
    for (format, size) in
        [("qcow2", "64T"), ("vmdk", "32G"), ("vdi", "2T"), ("vpc", "2000G"), ("vhdx", "63T")]
    {
        let image = dir.path().join(format);
        qemu_img(&["create", "-f", format, image.to_str().unwrap(), size]);
        let (_, mut source) = open(open_file(&image), None).unwrap();
        let extents = walk(&mut *source).unwrap();
        assert!(extents < 3_000_000, "{format}: {extents}");
    }
}
