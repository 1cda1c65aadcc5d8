//! F13: headers and files of different moments put together. Whatever opens shows what the volume holds, or nothing does.

use evsfs::backing::Backing;
use evsfs::backing::sim::{Image, SimBacking};
use evsfs::engine::{Anchor, OpenOptions};

use crate::volume::{
    BLOCK, begin, contents, finish, keys, open, options, try_open, unlock, with_past, wrapped,
};

const BLOCKS: usize = 300;

/// The file, and the anchor that the key service has at that moment.
struct Moment {
    name: &'static str,
    image: Image,
    anchor: Anchor,
}

fn moments() -> (Vec<Moment>, Vec<u8>) {
    let (file, known, _) = with_past(BLOCKS, 21);
    let mut all = Vec::new();
    let mut keep = |name, file: &SimBacking, anchor| all.push(Moment { name, image: file.image(), anchor });
    let volume = open(&file, 1);
    keep("before", &file, volume.anchor());
    begin(&volume, 2);
    keep("begun", &file, volume.anchor());
    for _ in 0..3 {
        volume.task_step(40).unwrap();
    }
    volume.write(0, &[known[0]; BLOCK]).unwrap();
    volume.flush().unwrap();
    keep("half-way", &file, volume.anchor());
    finish(&volume, 40);
    keep("done", &file, volume.anchor());
    let anchor = volume.close().unwrap();
    keep("closed", &file, anchor);
    (all, known)
}

/// Parts of the file that are exchanged as a whole.
const PARTS: [(&str, &[u64]); 6] = [
    ("both headers", &[0, 8]),
    ("header copy 0", &[0]),
    ("header copy 1", &[8]),
    ("all superblocks", &[1, 2, 9, 10]),
    ("even superblocks", &[1, 9]),
    ("headers and superblocks", &[0, 8, 1, 2, 9, 10]),
];

#[test]
fn f13_parts_of_another_moment_give_right_data_or_an_error() {
    let (moments, known) = moments();
    let (mut opened, mut refused) = (0, 0);
    for of in &moments {
        for donor in &moments {
            for (part, slots) in PARTS {
                let file = SimBacking::from_image(of.image.clone());
                let mut bytes = [0; BLOCK];
                for slot in slots {
                    donor.image.read(slot * 4096, &mut bytes);
                    file.write_at(&bytes, slot * 4096).unwrap();
                }
                for anchor in [None, Some(of.anchor)] {
                    match try_open(&file, 50, OpenOptions { anchor, ..options() }) {
                        Err(_) => refused += 1,
                        Ok(volume) => {
                            opened += 1;
                            for (block, expected) in known.iter().enumerate() {
                                let mut data = [0; BLOCK];
                                let read = volume.read(u64::try_from(block * BLOCK).unwrap(), &mut data);
                                assert!(
                                    read.is_err() || data == [*expected; BLOCK],
                                    "{} with {part} of {}: block {block}",
                                    of.name,
                                    donor.name
                                );
                            }
                        }
                    }
                }
                // The file as it was at an earlier moment is older than the anchor of a later one.
                let whole = SimBacking::from_image(donor.image.clone());
                let older = donor.anchor.commit < of.anchor.commit;
                let anchor = Some(of.anchor);
                let fits = try_open(&whole, 51, OpenOptions { anchor, ..options() }).is_ok();
                assert!(!(older && fits), "{} passes for {}", donor.name, of.name);
                assert!(fits || donor.name != of.name, "{} is refused", of.name);
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > 50 && refused > 50, "{opened} {refused}");
}

/// Somebody who may use the key service for this volume, and so can have a data key of his own wrapped, but does not know the volume's: he
/// makes no volume go on to his key.
#[test]
fn f13_a_re_encryption_to_a_key_of_somebody_else_is_refused() {
    let (moments, _) = moments();
    for moment in &moments {
        let file = SimBacking::from_image(moment.image.clone());
        let (header, _) = unlock(&file).unwrap();
        let mine = || keys(77);
        let switch = evsfs::crypto::Switch { epoch: 1, generation: 1 };
        let next = |dek| evsfs::format::NextKey { wrapped_dek: wrapped(dek, 1), switch };
        let sequence = header.sequence + 1;
        let old = evsfs::format::Header { sequence, next: None, ..header };
        for forged in [
            evsfs::format::Header { next: Some(next(77)), ..old.clone() }.encode_with(&mine(), Some(&mine())),
            evsfs::format::Header { next: Some(next(2)), ..old.clone() }.encode_with(&mine(), Some(&keys(2))),
            evsfs::format::Header { wrapped_dek: wrapped(77, 1), ..old }.encode(&mine()),
        ] {
            let forged = forged.unwrap();
            let file = SimBacking::from_image(moment.image.clone());
            for slot in [0, 8] {
                file.write_at(forged.as_ref(), slot * 4096).unwrap();
            }
            assert!(try_open(&file, 60, options()).is_err(), "{}", moment.name);
            // In one copy only: the other one counts.
            let file = SimBacking::from_image(moment.image.clone());
            file.write_at(forged.as_ref(), 8 * 4096).unwrap();
            if let Ok(volume) = try_open(&file, 61, options()) {
                assert!(!volume.has_key(&evsfs::crypto::Dek::new(&[77; 32])), "{}", moment.name);
                assert!(contents(&volume, None, BLOCKS).is_ok());
            }
        }
    }
}
