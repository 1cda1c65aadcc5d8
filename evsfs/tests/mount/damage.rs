//! Real files, damaged: `check` says which blocks are bad and why, `salvage` saves what verifies and lists the rest.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use evsfs::format::{MapPage, layout::allocation_slots};
use serde_json::Value;

use crate::disk::{Disk, Kind, MIB, evsfs, read, refusal, run};

const SIZE: u64 = 64 * MIB;
const BLOCK: u64 = 4096;
/// Written before the damage: 300 blocks from here, under three leaves.
const FIRST: u64 = 2048;
const COUNT: u64 = 300;

fn contents(block: u64) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    bytes.as_chunks_mut::<8>().0.fill((0xc0de_0000_0000_0000 | block).to_le_bytes());
    bytes
}

/// A detached disk with [`COUNT`] blocks.
fn filled() -> Disk {
    let mut disk = Disk::new(Kind::Plain, SIZE);
    let view = disk.open();
    for block in FIRST..FIRST + COUNT {
        view.write_all_at(&contents(block), block * BLOCK).unwrap();
    }
    drop(view);
    disk.detach();
    disk
}

/// Slots of the file that hold this.
fn slots(bytes: &[u8], wanted: impl Fn(&[u8; 4096]) -> bool) -> Vec<usize> {
    let all = bytes.as_chunks::<4096>().0.iter().enumerate();
    all.filter(|(_, slot)| wanted(slot)).map(|(number, _)| number).collect()
}

fn is_leaf(slot: &[u8; 4096]) -> bool {
    MapPage::decode(slot, true).is_ok_and(|page| page.entries().iter().any(evsfs::format::Entry::is_data))
}

/// Changes a bit in each of these slots.
fn damage(disk: &Disk, choose: impl FnOnce(&[u8]) -> Vec<usize>) {
    let mut bytes = fs::read(disk.file()).unwrap();
    let chosen = choose(&bytes);
    assert!(!chosen.is_empty(), "nothing to damage");
    for slot in chosen {
        bytes[slot * 4096 + 1000] ^= 4;
    }
    fs::write(disk.file(), bytes).unwrap();
}

/// Exit status and report of `evsfs check`; the file stays as it was.
fn check(disk: &Disk) -> (Option<i32>, Value) {
    let before = fs::read(disk.file()).unwrap();
    let output = evsfs(&["check".as_ref(), disk.file().as_os_str(), "--json".as_ref()]);
    assert!(fs::read(disk.file()).unwrap() == before, "a check changes nothing");
    (
        output.status.code(),
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}")),
    )
}

/// Exit status, report and output of `evsfs salvage`.
fn salvage(disk: &Disk) -> (Option<i32>, Value, File) {
    salvage_with(disk, "saved", &[])
}

fn salvage_with(disk: &Disk, name: &str, more: &[&str]) -> (Option<i32>, Value, File) {
    let (file, saved): (PathBuf, PathBuf) = (disk.file(), disk.dir().join(name));
    let mut arguments = vec![OsStr::new("salvage"), file.as_os_str(), saved.as_os_str(), "--json".as_ref()];
    arguments.extend(more.iter().map(OsStr::new));
    let output = evsfs(&arguments);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code(), report, File::open(saved).unwrap())
}

/// Whether a range that is listed has this block.
fn listed(report: &Value, block: u64) -> bool {
    report["lost"].as_array().unwrap().iter().any(|range| {
        let start = range["offset"].as_u64().unwrap();
        (start..start + range["length"].as_u64().unwrap()).contains(&(block * BLOCK))
    })
}

/// Every block is in the output as it was, or is listed and zero there; gives how many are listed.
#[track_caller]
fn saved_or_listed(report: &Value, saved: &File, expected: impl Fn(u64) -> [u8; 4096]) -> u64 {
    let mut gone = 0;
    for block in FIRST..FIRST + COUNT {
        let found = read(saved, block * BLOCK, 4096);
        if listed(report, block) {
            gone += 1;
            assert!(
                found.iter().all(|byte| *byte == 0),
                "block {block} is lost, and something stands in its place"
            );
        } else {
            assert!(found == expected(block), "block {block} is not listed, and not what it was");
        }
    }
    gone
}

#[test]
fn d10_a_damaged_leaf_is_named_with_all_its_blocks_and_costs_no_others() {
    let disk = filled();
    // The leaf of block 2048 + 128, by what it points to; earlier versions of it do no harm.
    damage(&disk, |bytes| {
        let data: Vec<u64> =
            slots(bytes, |slot| *slot == contents(FIRST + 128)).into_iter().map(|slot| slot as u64).collect();
        slots(bytes, |slot| {
            is_leaf(slot) && data.contains(&MapPage::decode(slot, true).unwrap().entry(0).slot())
        })
    });
    let (code, report) = check(&disk);
    assert_eq!((code, &report["sound"]), (Some(5), &false.into()), "{report}");
    let bad = &report["bad"][0];
    assert_eq!(report["bad_count"], 1, "{report}");
    assert_eq!((&bad["block"], &bad["count"]), (&(FIRST + 128).into(), &128.into()));
    assert_eq!((&bad["offset"], &bad["length"]), (&((FIRST + 128) * BLOCK).into(), &(128 * BLOCK).into()));
    assert_eq!((&bad["page_level"], &bad["snapshot"]), (&0.into(), &Value::Null));
    assert!(bad["reason"].as_str().unwrap().contains("does not verify"), "{bad}");
    assert_eq!(report["blocks"], COUNT - 128, "all others verify");

    let text = String::from_utf8(evsfs(&["check".as_ref(), disk.file().as_os_str()]).stdout).unwrap();
    assert!(text.contains("blocks 2176+128 (map page of level 0): it does not verify"), "{text}");

    let (code, report, saved) = salvage(&disk);
    assert_eq!(code, Some(5));
    assert_eq!(saved_or_listed(&report, &saved, contents), 128);
    assert_eq!(report["lost_bytes"], 128 * BLOCK);
    assert_eq!(
        (&report["salvaged_bytes"], &report["unlisted_bytes"]),
        (&((COUNT - 128) * BLOCK).into(), &0.into())
    );
}

#[test]
fn d10_what_is_in_the_log_is_saved_although_the_page_above_it_is_damaged() {
    let mut disk = filled();
    disk.attach();
    let new = |block: u64| contents(block + 1_000_000);
    let view = disk.open();
    for block in [FIRST + 130, FIRST + 131, FIRST + 200] {
        view.write_all_at(&new(block), block * BLOCK).unwrap();
    }
    view.sync_all().unwrap();
    drop(view);
    disk.kill();
    disk.umount();
    damage(&disk, |bytes| slots(bytes, is_leaf));
    let (code, report, saved) = salvage(&disk);
    assert_eq!(code, Some(5));
    assert_eq!(saved_or_listed(&report, &saved, new), COUNT - 3, "{report}");
    assert_eq!(report["salvaged_bytes"], 3 * BLOCK);
}

#[test]
fn d5_damage_in_a_snapshot_is_told_from_damage_in_the_volume() {
    let mut disk = filled();
    let id = snapshot(&disk, "s");
    disk.attach();
    disk.open().write_all_at(&contents(1), (FIRST + 7) * BLOCK).unwrap();
    disk.detach();
    damage(&disk, |bytes| slots(bytes, |slot| *slot == contents(FIRST + 7)));
    let (code, report) = check(&disk);
    assert_eq!((code, &report["bad_count"]), (Some(5), &1.into()), "{report}");
    let bad = &report["bad"][0];
    assert_eq!((&bad["block"], &bad["snapshot"]), (&(FIRST + 7).into(), &id.as_str().into()));
    let text = String::from_utf8(evsfs(&["check".as_ref(), disk.file().as_os_str()]).stdout).unwrap();
    assert!(text.contains(&format!("blocks 2055+1 of snapshot {id}: it does not verify")), "{text}");
    // The volume itself has nothing to lose.
    let (code, report, saved) = salvage(&disk);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["snapshot"], Value::Null);
    let expected = |block| if block == FIRST + 7 { contents(1) } else { contents(block) };
    assert_eq!(saved_or_listed(&report, &saved, expected), 0);
    // The snapshot has lost that block, and nothing else.
    let (code, report, saved) = salvage_with(&disk, "saved snapshot", &["--snapshot", &id]);
    assert_eq!((code, &report["snapshot"]), (Some(5), &id.as_str().into()), "{report}");
    assert_eq!(saved_or_listed(&report, &saved, contents), 1, "{report}");
    assert_eq!(
        (&report["lost"][0]["offset"], &report["lost_bytes"]),
        (&((FIRST + 7) * BLOCK).into(), &BLOCK.into())
    );
    assert!(report["lost"][0]["reason"].as_str().unwrap().starts_with("it does not verify"), "{report}");
}

/// Makes a snapshot and gives its id.
fn snapshot(disk: &Disk, name: &str) -> String {
    let output = evsfs(&["snapshot".as_ref(), disk.file().as_os_str(), name.as_ref(), "--json".as_ref()]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["id"].as_str().unwrap().to_owned()
}

/// Each as it was: before it was written to, discarded and grown. The disk itself cannot be read any more where a page above it is damaged; the older
/// one has pages of its own.
#[test]
fn d5_what_a_snapshot_holds_is_saved_whatever_became_of_the_disk() {
    const LARGER: u64 = 2 * SIZE;
    let mut disk = filled();
    let first = snapshot(&disk, "first");
    disk.attach();
    let view = disk.open();
    let new = |block: u64| contents(block + 1_000_000);
    for block in FIRST..FIRST + COUNT {
        view.write_all_at(&new(block), block * BLOCK).unwrap();
    }
    drop(view);
    disk.detach();
    let size = LARGER.to_string();
    run(
        env!("CARGO_BIN_EXE_evsfs"),
        &["extend".as_ref(), disk.file().as_os_str(), "--size".as_ref(), size.as_ref()],
    );
    let second = snapshot(&disk, "second");
    // The leaf of blocks 2048 to 2175 that names what was written last.
    damage(&disk, |bytes| {
        let data: Vec<u64> =
            slots(bytes, |slot| *slot == new(FIRST)).into_iter().map(|slot| slot as u64).collect();
        slots(bytes, |slot| {
            is_leaf(slot) && data.contains(&MapPage::decode(slot, true).unwrap().entry(0).slot())
        })
    });
    let (code, report, saved) = salvage(&disk);
    assert_eq!((code, saved_or_listed(&report, &saved, new)), (Some(5), 128), "{report}");
    for (name, size, then) in [
        (&first, SIZE, contents as fn(u64) -> [u8; 4096]),
        (&second, LARGER, |block| contents(block + 1_000_000)),
    ] {
        let (code, report, saved) = salvage_with(&disk, name, &["--snapshot", name]);
        let lost = if name == &first { 0 } else { 128 };
        assert_eq!(
            (code, report["size"].as_u64()),
            (Some(if lost > 0 { 5 } else { 0 }), Some(size)),
            "{report}"
        );
        assert_eq!(saved.metadata().unwrap().len(), size);
        assert_eq!(saved_or_listed(&report, &saved, then), lost, "{report}");
        assert_eq!(report["lost"].as_array().unwrap().len(), usize::from(lost > 0), "{report}");
    }

    let nowhere = disk.dir().join("nowhere");
    let unknown = "00000000-0000-0000-0000-00000000abcd";
    let (code, error) = refusal(&evsfs(&[
        "salvage".as_ref(),
        disk.file().as_os_str(),
        nowhere.as_os_str(),
        "--snapshot".as_ref(),
        unknown.as_ref(),
        "--json".as_ref(),
    ]));
    assert_eq!((code, error["code"].as_str()), (3, Some("no_such_snapshot")), "{error}");
    let message = error["message"].as_str().unwrap();
    for named in [unknown, &format!("{first} (first)"), &format!("{second} (second)")] {
        assert!(message.contains(named), "{message}");
    }
    assert!(!nowhere.exists(), "an output without contents stays");
}

/// More damage than a report can list: it is counted, and nothing else is missing.
#[test]
fn d10_damage_beyond_what_is_listed_is_counted() {
    const WRITTEN: u64 = 20_480;
    const BAD: u64 = WRITTEN / 2;
    let mut disk = Disk::new(Kind::Plain, 96 * MIB);
    let view = disk.open();
    for piece in 0..WRITTEN / 256 {
        let bytes: Vec<u8> = (piece * 256..(piece + 1) * 256).flat_map(contents).collect();
        view.write_all_at(&bytes, piece * MIB).unwrap();
    }
    drop(view);
    disk.detach();
    damage(&disk, |bytes| {
        let number = |slot: &[u8; 4096]| u64::from_le_bytes(slot[..8].try_into().unwrap()) & 0xffff_ffff;
        slots(bytes, |slot| {
            number(slot) < WRITTEN && number(slot) % 2 == 1 && *slot == contents(number(slot))
        })
    });
    let (code, report) = check(&disk);
    assert_eq!((code, &report["bad_count"]), (Some(5), &BAD.into()));
    assert_eq!(report["bad"].as_array().unwrap().len(), 1_000);
    assert_eq!(report["blocks"], WRITTEN - BAD, "all others verify");
    let text = String::from_utf8(evsfs(&["check".as_ref(), disk.file().as_os_str()]).stdout).unwrap();
    assert!(
        text.contains(&format!("\n{} more damaged places", BAD - 1_000)),
        "{}",
        &text[text.len() - 200..]
    );

    let (code, report, saved) = salvage(&disk);
    assert_eq!((code, &report["lost_bytes"]), (Some(5), &(BAD * BLOCK).into()));
    let listed = report["lost"].as_array().unwrap();
    assert_eq!((listed.len(), &report["unlisted_bytes"]), (10_000, &((BAD - 10_000) * BLOCK).into()));
    assert!(
        listed.iter().zip(0..).all(|(range, number): (_, u64)| range["offset"] == (2 * number + 1) * BLOCK)
    );
    assert_eq!(report["salvaged_bytes"], (WRITTEN - BAD) * BLOCK);
    let saved = read(&saved, 0, usize::try_from(WRITTEN * BLOCK).unwrap());
    for (bytes, block) in saved.as_chunks::<4096>().0.iter().zip(0..) {
        assert!(*bytes == if block % 2 == 1 { [0; 4096] } else { contents(block) }, "block {block}");
    }
}

#[test]
fn f7_a_damaged_bitmap_is_reported_and_costs_no_data() {
    let disk = filled();
    damage(&disk, |_| allocation_slots(0, 0).map(|slot| usize::try_from(slot).unwrap()).to_vec());
    let (code, report) = check(&disk);
    assert_eq!(
        (code, &report["sound"], &report["bad_count"]),
        (Some(5), &false.into(), &0.into()),
        "{report}"
    );
    assert_eq!((&report["bad_allocation_pages"], &report["blocks"]), (&1.into(), &COUNT.into()), "{report}");
    let (code, report, saved) = salvage(&disk);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(saved_or_listed(&report, &saved, contents), 0);
}

/// Without its tables no key can be derived: nothing is shown, and nothing is left behind. They lie near the start.
#[test]
fn d10_a_file_of_which_next_to_nothing_is_left_says_so() {
    let disk = filled();
    let (file, saved) = (disk.file(), disk.dir().join("saved"));
    // In front of the tables, and within the log.
    for slots in [16 + 1024 + 256, 500] {
        File::options().write(true).open(&file).unwrap().set_len(slots * BLOCK).unwrap();
        for arguments in
            [&[OsStr::new("check"), file.as_ref()][..], &["salvage".as_ref(), file.as_ref(), saved.as_ref()]]
        {
            let (code, error) = refusal(&evsfs(&[arguments, &["--json".as_ref()]].concat()));
            assert_eq!(code, 5, "{error}");
            assert!(error["message"].as_str().unwrap().contains("cut off"), "{error}");
        }
        assert!(!saved.exists(), "an output without contents stays");
    }
}

/// The end of the file is missing, with what was written last. All else is there, also when the disk is used again.
#[test]
fn d10_of_a_file_that_was_cut_off_what_is_left_is_read_saved_and_written_on() {
    const LATER: u64 = 8192;
    let mut disk = filled();
    disk.attach();
    let write = |disk: &Disk, first: u64, version: u64| {
        let view = disk.open();
        for block in first..first + 100 {
            view.write_all_at(&contents(block + version), block * BLOCK).unwrap();
        }
        view.sync_all().unwrap();
    };
    write(&disk, LATER, 0);
    disk.detach();
    let bytes = fs::read(disk.file()).unwrap();
    let cut = slots(&bytes, |slot| *slot == contents(LATER))[0];
    File::options().write(true).open(disk.file()).unwrap().set_len(cut as u64 * BLOCK + 100).unwrap();

    let (code, report) = check(&disk);
    assert_eq!(
        (code, &report["sound"], &report["bad_count"]),
        (Some(5), &false.into(), &1.into()),
        "{report}"
    );
    let bad = &report["bad"][0];
    assert_eq!((&bad["block"], &bad["count"], &bad["page_level"]), (&LATER.into(), &128.into(), &0.into()));
    assert!(bad["reason"].as_str().unwrap().contains("cut off"), "{bad}");
    assert_eq!(report["blocks"], COUNT, "all others verify");
    let (code, report, saved) = salvage(&disk);
    assert_eq!((code, &report["salvaged_bytes"]), (Some(5), &(COUNT * BLOCK).into()), "{report}");
    assert_eq!(saved_or_listed(&report, &saved, contents), 0);
    assert!((LATER..LATER + 100).all(|block| listed(&report, block)), "{report}");

    disk.attach();
    let view = disk.open();
    let error = view.read_at(&mut [0; 4096], (LATER + 50) * BLOCK).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    drop(view);
    let log = disk.log();
    let told = |line: &&str| {
        line.contains(&format!("block {LATER}")) && line.contains("cut off") && line.contains("volume")
    };
    assert!(log.lines().any(|line| told(&line)), "{log}");
    write(&disk, LATER + 20, 5);
    write(&disk, 12_000, 0);
    disk.detach();
    disk.attach();
    let view = disk.open();
    for block in (FIRST..FIRST + COUNT).chain(12_000..12_100) {
        assert!(read(&view, block * BLOCK, 4096) == contents(block), "block {block}");
    }
    for block in LATER + 20..LATER + 120 {
        assert!(read(&view, block * BLOCK, 4096) == contents(block + 5), "block {block}");
    }
    assert!(view.read_at(&mut [0; 4096], (LATER + 3) * BLOCK).is_err(), "what was lost is no hole");
}

/// A guest that reads a bad block in a loop does not fill the disk that the log is on.
#[test]
fn d10_a_bad_block_that_is_read_again_and_again_is_told_of_once() {
    let mut disk = filled();
    damage(&disk, |bytes| slots(bytes, |slot| *slot == contents(FIRST + 3) || *slot == contents(FIRST + 90)));
    disk.attach();
    let view = disk.open();
    let mut block = [0; 4096];
    for _ in 0..500 {
        for bad in [FIRST + 3, FIRST + 90] {
            let error = view.read_at(&mut block, bad * BLOCK).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
        }
    }
    let log = disk.log();
    for bad in [FIRST + 3, FIRST + 90] {
        let told = log.lines().filter(|line| line.contains(&format!("block {bad}:"))).count();
        assert!((1..=4).contains(&told), "{told} lines\n{log}");
    }
}

/// A file with sectors that the host cannot read: it lies on a disk that has been damaged itself.
struct Worn {
    under: Disk,
    whole: Vec<u8>,
    /// Where the disk below has the two copies of the header.
    copies: [usize; 2],
}

impl Worn {
    fn new() -> Self {
        let mut under = Disk::new(Kind::Plain, 32 * MIB);
        let file = under.dir().join("inner");
        crate::disk::create_plain(&file, 16 * MIB);
        let bytes = fs::read(&file).unwrap();
        under.open().write_all_at(&bytes, 0).unwrap();
        under.detach();
        let whole = fs::read(under.file()).unwrap();
        let found = slots(&whole, |slot| slot[..] == bytes[..4096]);
        let copies = found.try_into().expect("both copies, once each");
        Self { under, whole, copies }
    }

    /// Makes these copies unreadable, and gives the path of the file.
    fn wear(&mut self, which: &[usize]) -> PathBuf {
        let mut bytes = self.whole.clone();
        for copy in which {
            bytes[self.copies[*copy] * 4096 + 500] ^= 1;
        }
        fs::write(self.under.file(), bytes).unwrap();
        self.under.attach();
        self.under.path()
    }
}

#[test]
fn d10_one_copy_of_the_header_that_cannot_be_read_is_made_good_by_the_other() {
    let mut worn = Worn::new();
    for copy in [0, 1] {
        let file = worn.wear(&[copy]);
        let json = |arguments: &[&OsStr]| -> Value {
            let output = evsfs(&[arguments, &["--json".as_ref()]].concat());
            assert!(output.status.success(), "copy {copy}: {output:?}");
            serde_json::from_slice(&output.stdout).unwrap()
        };
        assert_eq!(json(&["info".as_ref(), file.as_ref()])["header_copies"], 1);
        assert_eq!(json(&["check".as_ref(), file.as_ref()])["sound"], true);
        let saved = worn.under.dir().join(format!("saved {copy}"));
        json(&["salvage".as_ref(), file.as_ref(), saved.as_ref()]);
        // Who writes to it writes the copy anew.
        let point = worn.under.dir().join(format!("inner point {copy}"));
        fs::create_dir(&point).unwrap();
        json(&["mount".as_ref(), file.as_ref(), point.as_ref()]);
        let view = File::options().write(true).open(point.join("disk")).unwrap();
        view.write_all_at(b"written", 0).and_then(|()| view.sync_all()).unwrap();
        drop(view);
        json(&["umount".as_ref(), point.as_ref()]);
        assert_eq!(json(&["info".as_ref(), file.as_ref()])["header_copies"], 2);
        worn.under.detach();
    }
    let file = worn.wear(&[0, 1]);
    for arguments in [&["info".as_ref(), file.as_os_str()][..], &["check".as_ref(), file.as_os_str()]] {
        let (code, error) = refusal(&evsfs(&[arguments, &["--json".as_ref()]].concat()));
        assert_eq!((code, error["code"].as_str()), (1, Some("io_error")), "{error}");
    }
}

/// Percent on a terminal; nothing of it where another program listens.
#[test]
fn progress_is_for_terminals() {
    let disk = filled();
    let line = format!("{} check {} --json", env!("CARGO_BIN_EXE_evsfs"), disk.file().display());
    let seen = run("script", &["--quiet", "--return", "--command", &line, "/dev/null"]);
    let seen = String::from_utf8(seen.stdout).unwrap();
    assert!(seen.contains("\"sound\":true"), "{seen:?}");
    let shown = seen.split('\r').filter_map(|line| line.split_once(" %")?.0.parse().ok());
    let shown: Vec<u64> = shown.collect();
    assert!(shown.is_sorted() && shown.last() == Some(&100), "{seen:?}");
    assert!(shown.iter().any(|percent| (1..100).contains(percent)), "{seen:?}");
    let output = evsfs(&["check".as_ref(), disk.file().as_os_str(), "--json".as_ref()]);
    assert!(output.stderr.is_empty(), "{output:?}");
}
