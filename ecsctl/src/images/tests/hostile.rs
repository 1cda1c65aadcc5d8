//! Files that are made to do harm: refused for the right reason, before much is read or allocated.

use super::*;
use crate::images::{ImageFormat, probe::probe};

#[test]
fn i3_a_format_that_is_not_the_declared_one_is_refused() {
    let confused = open(made(&[7; 4096], "qcow2", ""), Some(ImageFormat::Raw)).err().unwrap();
    assert!(matches!(
        confused,
        ImageError::OtherFormat { declared: ImageFormat::Raw, found: Some(ImageFormat::Qcow2) }
    ));
    let confused = open(vec![0; 4096], Some(ImageFormat::Qcow2)).err().unwrap();
    assert!(matches!(confused, ImageError::OtherFormat { declared: ImageFormat::Qcow2, found: None }));
    let mut luks = b"LUKS\xba\xbe".to_vec();
    luks.resize(4096, 0);
    assert!(matches!(probe(&luks), Err(ImageError::Encrypted)));
    assert!(matches!(open(luks, Some(ImageFormat::Raw)), Err(ImageError::Encrypted)), "not even as raw data");
    assert!(open(Vec::new(), None).is_err());
}

#[test]
fn i3_no_format_passes_for_another_one() {
    let formats = [
        (ImageFormat::Qcow2, "qcow2", ""),
        (ImageFormat::Vmdk, "vmdk", ""),
        (ImageFormat::Vmdk, "vmdk", "subformat=streamOptimized"),
        (ImageFormat::Vhd, "vpc", "subformat=dynamic"),
        (ImageFormat::Vhd, "vpc", "subformat=fixed"),
        (ImageFormat::Vhdx, "vhdx", ""),
        (ImageFormat::Vdi, "vdi", ""),
        (ImageFormat::Raw, "raw", ""),
    ];
    for (real, name, options) in formats {
        let bytes = made(&vec![7; 1 << 20], name, options);
        for (declared, ..) in formats {
            let opened = open(bytes.clone(), Some(declared));
            assert_eq!(opened.is_ok(), declared == real, "{name} {options} declared as {declared:?}");
            if let Err(error) = opened {
                assert!(matches!(error, ImageError::OtherFormat { .. }), "{error}");
            }
        }
    }
}

#[test]
fn i3_an_image_that_needs_another_file_is_refused_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, vec![b's'; 1 << 20]).unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let named = fs::read_to_string(&secret).unwrap();
    assert_eq!(named.as_str().len(), 1 << 20);

    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", secret.to_str().unwrap(), &at("base.vmdk")]);
    qemu_img(&["create", "-f", "vmdk", "-b", &at("base.vmdk"), "-F", "vmdk", &at("child.vmdk")]);
    qemu_img(&["create", "-f", "vmdk", "-o", "subformat=monolithicFlat", &at("flat.vmdk"), "1M"]);
    qemu_img(&["create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", &at("two.vmdk"), "1M"]);
    for name in ["child.vmdk", "flat.vmdk", "two.vmdk"] {
        let refused = refusal(fs::read(at(name)).unwrap());
        assert!(matches!(refused, ImageError::OtherFile { .. }), "{name}: {refused}");
    }

    // Differencing disks of the others: `qemu-img` does not make them; the field that says so is set by hand.
    let mut vdi = made(&[7; 4096], "vdi", "");
    put(&mut vdi, 0x4c, &4_u32.to_le_bytes());
    let mut linked = made(&[7; 4096], "vdi", "");
    put(&mut linked, 0x1b8, &[1; 16]);
    let mut vhd = made(&vec![7; 1 << 20], "vpc", "subformat=dynamic");
    let end = vhd.as_slice().len() - 512;
    put(&mut vhd, end + 60, &4_u32.to_be_bytes());
    let sum =
        vhd[end..end + 64].iter().chain(&vhd[end + 68..]).fold(0_u32, |sum, byte| sum + u32::from(*byte));
    put(&mut vhd, end + 64, &(!sum).to_be_bytes());
    let mut vhdx = made(&vec![7; 1 << 20], "vhdx", "");
    let parameters = 0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b_u128;
    let id = uuid::Uuid::from_u128(parameters).to_bytes_le();
    let entry = vhdx.windows(16).position(|window| window == id).unwrap();
    let table = entry - entry % (64 << 10);
    let item = table + usize::try_from(super::super::le32(&vhdx, entry + 16).unwrap()).unwrap();
    vhdx[item + 4] |= 2;
    for (name, bytes) in [("vdi", vdi), ("linked vdi", linked), ("vhd", vhd), ("vhdx", vhdx)] {
        let refused = refusal(bytes);
        assert!(matches!(refused, ImageError::OtherFile { .. }), "{name}: {refused}");
    }
}

#[test]
fn i3_tables_of_absurd_length_are_refused_before_they_are_read() {
    let grown = |format, at: usize, with: &[u8]| {
        let mut bytes = made(&vec![7; 1 << 20], format, "");
        put(&mut bytes, at, with);
        refusal(bytes)
    };
    let huge = (1_u64 << 50).to_le_bytes();
    for (name, refused) in [
        ("vmdk capacity", grown("vmdk", 12, &huge)),
        ("vdi size", grown("vdi", 0x170, &huge)),
        ("vmdk descriptor", grown("vmdk", 36, &(1_u64 << 30).to_le_bytes())),
    ] {
        assert!(matches!(refused, ImageError::TooLarge { .. }), "{name}: {refused}");
    }
    // 60 TiB in blocks of 4 KiB: a table of 60 GiB.
    let mut vdi = made(&vec![7; 1 << 20], "vdi", "");
    put(&mut vdi, 0x170, &(60_u64 << 40).to_le_bytes());
    put(&mut vdi, 0x178, &4096_u32.to_le_bytes());
    put(&mut vdi, 0x180, &u32::MAX.to_le_bytes());
    let refused = refusal(vdi);
    assert!(matches!(refused, ImageError::Damaged { .. } | ImageError::TooLarge { .. }), "{refused}");
}

#[test]
fn i3_blocks_that_are_named_again_and_again_are_refused() {
    // A table of 1,000 blocks that are all the same one.
    let mut vdi = made(&vec![7; 1 << 20], "vdi", "");
    put(&mut vdi, 0x170, &(1000_u64 << 20).to_le_bytes());
    put(&mut vdi, 0x180, &1000_u32.to_le_bytes());
    let table = u32::try_from(vdi.as_slice().len()).unwrap();
    put(&mut vdi, 0x154, &table.to_le_bytes());
    vdi.extend([0; 4000]);
    assert!(matches!(refusal(vdi), ImageError::Overlap));

    // A directory whose entries all name one table of grains that were never written.
    let mut vmdk = made(&vec![7; 1 << 20], "vmdk", "");
    put(&mut vmdk, 12, &(1_u64 << 31).to_le_bytes());
    let end = vmdk.as_slice().len();
    let sector = u32::try_from(end.div_ceil(512)).unwrap();
    vmdk.resize(usize::try_from(sector).unwrap() * 512, 0);
    put(&mut vmdk, 56, &u64::from(sector + 4).to_le_bytes());
    vmdk.extend([0; 4 * 512]);
    for _ in 0..(1_u64 << 31) / (128 * 512) {
        vmdk.extend(sector.to_le_bytes());
    }
    assert!(matches!(refusal(vmdk), ImageError::Overlap));
}

#[test]
fn i3_what_a_compressed_grain_says_of_itself_is_checked() {
    let good = made(&vec![7; 1 << 20], "vmdk", "subformat=streamOptimized");
    // By way of the directory and its first table to the first grain: its place (8 bytes), its length (4), its data.
    let sector = |at: usize| usize::try_from(super::super::le32(&good, at).unwrap()).unwrap() * 512;
    let grain = sector(sector(sector(56)));
    for (at, with) in [(0, 9_u8), (10, 0xff), (11, 0xff), (20, 0xff)] {
        let mut bytes = good.clone();
        bytes[grain + at] ^= with;
        let refused = refusal(bytes);
        assert!(
            matches!(refused, ImageError::Damaged { .. } | ImageError::Outside { .. }),
            "{at}: {refused}"
        );
    }
}
