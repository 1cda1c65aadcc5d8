//! F2: a file whose end was cut off. What was there is refused and stays so; everything else reads; what is written afterwards stays.

use std::collections::BTreeSet;

use evsfs::backing::Backing;
use evsfs::backing::sim::{Image, SimBacking};
use evsfs::engine::{CheckReport, Damage, Volume, VolumeError};

use crate::engine::{Engine, EngineSetup, create, open};
use crate::oracle::{State, to_usize};
use crate::subject::Subject;
use crate::workload::{BLOCK, Op, bytes_of};

/// Slots of an allocation region.
const REGION: u64 = 32_768;
const BLOCKS: u64 = 128 * 4;

fn setup(ring_pages: u64) -> EngineSetup {
    EngineSetup { ring_pages, dirty_limit: 4096, ..EngineSetup::small(BLOCKS) }
}

/// Where data begins: header, ring, and the slots that are kept.
fn data_start(setup: &EngineSetup) -> u64 {
    16 + setup.ring_pages + (setup.ring_pages / 4).min(256) + setup.ring_pages / 4
}

/// The file reaches so many slots into a region, as if all before were taken: what is written next goes there.
fn reach(file: &SimBacking, region: u64) {
    file.set_len((region * REGION + 300) * BLOCK).unwrap();
}

fn write(block: u64, count: u64, stamp: u64) -> Op {
    Op::Write { offset: block * BLOCK, len: count * BLOCK, stamp }
}

/// A volume with data and pages of the map in each of four regions, a snapshot, and a log whose blocks lie in the last region.
fn spread() -> (EngineSetup, Image, State) {
    let setup = setup(1024);
    let file = SimBacking::new();
    Engine::create(&setup, &file, 1).unwrap();
    let mut state = State::new(BLOCKS * BLOCK);
    let mut anchor = None;
    for region in 0..4 {
        if region > 0 {
            reach(&file, region);
        }
        let mut engine = Engine::open(&setup, &file, 10 + region).unwrap();
        let mut ops = vec![
            write(region * 128, 12, region + 1),
            Op::Checkpoint,
            // This one of the leaf of the first region moves, with its leaf.
            write(60 + region, 1, region + 20),
            write(100, 1, region + 30),
            Op::Checkpoint,
        ];
        if region == 1 {
            ops.push(Op::Snapshot(0));
        }
        if region == 3 {
            // The last group has no data that could be missing.
            ops.extend([write(270, 3, 40), Op::Flush, write(5, 2, 41), Op::Flush]);
            ops.extend([Op::Discard { offset: 11 * BLOCK, len: BLOCK }, Op::Flush]);
        }
        for op in &ops {
            engine.apply(op).unwrap();
            state.apply(op);
        }
        anchor = Some(engine.0.anchor());
        if region < 3 {
            engine.close().unwrap();
        }
    }
    (EngineSetup { anchor, ..setup }, file.image(), state)
}

/// A block of the volume, or of its snapshot.
type Place = (bool, usize);

/// What is refused; nothing that is read is wrong.
fn refused(engine: &Engine, state: &State, when: &str) -> BTreeSet<Place> {
    let mut refused = BTreeSet::new();
    let mut seen = vec![0; 4096];
    for block in 0..state.now.blocks.len() {
        match engine.read(block as u64 * BLOCK, &mut seen) {
            Ok(()) => assert!(state.now.allows(block, &seen), "{when}: block {block} is wrong"),
            Err(_) => drop(refused.insert((false, block))),
        }
    }
    for kept in &state.snapshots {
        let name = Op::snapshot_name(kept.number);
        for block in 0..kept.contents.blocks.len() {
            match engine.read_snapshot(&name, block as u64 * BLOCK, &mut seen) {
                Ok(()) => {
                    assert!(kept.contents.allows(block, &seen), "{when}: block {block} of {name} is wrong");
                }
                Err(_) => drop(refused.insert((true, block))),
            }
        }
    }
    refused
}

#[track_caller]
fn same(found: &BTreeSet<Place>, expected: &BTreeSet<Place>, when: &str) {
    let few = |left: &BTreeSet<Place>, right| left.difference(right).take(5).copied().collect::<Vec<_>>();
    let (more, fewer) = (few(found, expected), few(expected, found));
    assert!(more.is_empty() && fewer.is_empty(), "{when}: also refused {more:?}, not refused {fewer:?}");
}

/// The blocks that a check names.
fn named(report: &CheckReport) -> BTreeSet<Place> {
    assert_eq!(report.bad_count, report.bad.len() as u64);
    let blocks = |bad: &evsfs::engine::BadBlock| {
        let snapshot = bad.snapshot.is_some();
        (bad.block..(bad.block + bad.count).min(BLOCKS))
            .map(move |block| (snapshot, to_usize(block)))
            .collect::<Vec<_>>()
    };
    report.bad.iter().flat_map(blocks).collect()
}

fn check(engine: &Engine) -> CheckReport {
    engine.0.check(&mut |_, _| {}).unwrap()
}

/// Cut off at every slot in use and around every border of a region, the volume opens, and just those blocks are refused that need something of
/// what is missing: their data, or the page of the map that has their tags.
#[test]
fn f2_a_file_that_was_cut_off_loses_what_was_cut_off_and_nothing_else() {
    let (setup, image, state) = spread();
    let used: Vec<u64> = (data_start(&setup)..image.pages())
        .filter(|&slot| image.page(slot).is_some_and(|page| page.bytes().iter().any(|&byte| byte != 0)))
        .collect();
    let read_only = EngineSetup { read_only: true, ..setup.clone() };
    let open_image = |image: Image, setup: &EngineSetup| {
        let file = SimBacking::from_image(image);
        (Engine::open(setup, &file, 99), file)
    };
    // What needs which slot.
    let needs: Vec<(u64, BTreeSet<Place>)> = used
        .iter()
        .map(|&slot| {
            let mut without = image.clone();
            without.erase(slot * BLOCK, BLOCK);
            (slot, refused(&open_image(without, &read_only).0.unwrap(), &state, "a slot is missing"))
        })
        .collect();
    let of_region =
        |region: u64| needs.iter().filter(move |(slot, of)| slot / REGION == region && !of.is_empty());
    assert!((0..4).all(|region| of_region(region).count() > 3), "every region has something to lose");
    let mut cuts: BTreeSet<u64> = used.iter().flat_map(|slot| [slot * BLOCK, slot * BLOCK + 700]).collect();
    for region in 1..4 {
        cuts.extend([0, 1, 3, 4, 5, 6, 16, 17, 299].map(|slot| (region * REGION + slot) * BLOCK));
    }
    let mut opened = 0;
    for (number, &cut) in (0..).zip(&cuts) {
        let when =
            format!("cut off at {cut}, slot {} of region {}", cut / BLOCK % REGION, cut / BLOCK / REGION);
        let mut left = image.clone();
        left.set_len(cut);
        let expected: BTreeSet<Place> = needs
            .iter()
            .filter(|(slot, _)| (slot + 1) * BLOCK > cut)
            .flat_map(|(_, of)| of.clone())
            .collect();
        let (engine, _) = open_image(left.clone(), &read_only);
        let engine = engine.unwrap_or_else(|error| panic!("{when}: {error}"));
        opened += 1;
        assert_eq!(engine.size(), state.size(), "{when}");
        assert_eq!(engine.snapshots(), state.shown(), "{when}");
        same(&refused(&engine, &state, &when), &expected, &when);
        let report = check(&engine);
        // Under a damaged page, what is in the log can be read. What a snapshot shares with the volume is named once.
        let logged = |place: &Place| matches!(place, (false, 5 | 6 | 11 | 270..273));
        let mut named = named(&report);
        named.retain(|place| expected.contains(place) || !logged(place));
        named.extend(
            expected
                .iter()
                .filter(|(_, block)| named.contains(&(false, *block)))
                .copied()
                .collect::<Vec<_>>(),
        );
        same(&named, &expected, &format!("named by a check, {when}"));
        assert_eq!((report.shared_slots, report.unaccounted_slots), (0, 0), "{when}: {report:?}");
        drop(engine);

        // Written to: what is new is there, what was lost stays refused, what is overwritten is mended.
        let (engine, file) = open_image(left, &setup);
        let (mut engine, mut state) = (engine.unwrap(), state.clone());
        for round in 0..2 {
            for op in [
                write(2, 3, 50 + round),
                Op::Flush,
                write(264, 20, 52 + round),
                Op::Checkpoint,
                write(390, 2, 54 + round),
                Op::Discard { offset: 61 * BLOCK, len: BLOCK },
                write(2, 1, 56 + round),
                Op::Flush,
            ] {
                engine.apply(&op).unwrap_or_else(|error| panic!("{when}, then {op:?}: {error}"));
                state.apply(&op);
            }
            let mended = |place: &Place| {
                let (snapshot, block) = *place;
                !snapshot && (matches!(block, 2..5 | 61 | 264..284 | 390..392))
            };
            let expected: BTreeSet<Place> = expected.iter().filter(|place| !mended(place)).copied().collect();
            same(
                &refused(&engine, &state, &when),
                &expected,
                &format!("{when}, written to in round {round}"),
            );
            engine.sound().unwrap_or_else(|error| panic!("{when}: {error}"));
            let report = check(&engine);
            assert_eq!((report.shared_slots, report.unaccounted_slots), (0, 0), "{when}: {report:?}");
            let anchor = Some(engine.0.anchor());
            drop(engine);
            let seed = 1000 + 2 * number + round;
            engine = Engine::open(&EngineSetup { anchor, ..setup.clone() }, &file, seed).unwrap();
        }
    }
    println!("{opened} ways of cutting off");
    assert!(opened > 100, "{opened}");
}

/// What is written to fill up the first region, and to go beyond: blocks that do not matter otherwise.
fn fill_up(volume: &Volume, file: &SimBacking, until: u64, rounds: std::ops::Range<u64>) {
    for round in rounds {
        if file.len().unwrap() / BLOCK >= until {
            return;
        }
        volume.write((BLOCKS + round * 256) * BLOCK, &vec![0xF1; 256 << 12]).unwrap();
    }
    panic!("the file does not reach slot {until}");
}

/// A volume with the largest ring, so that little is left of the first region.
fn wide() -> (EngineSetup, SimBacking) {
    let setup = EngineSetup { blocks: 32_768, ..setup(16_384) };
    let file = SimBacking::new();
    create(&setup, &file, 1).unwrap();
    (setup, file)
}

fn reads(volume: &Volume, block: u64, stamp: u64, count: u64) {
    let mut seen = vec![0; usize::try_from(count * BLOCK).unwrap()];
    volume.read(block * BLOCK, &mut seen).unwrap_or_else(|error| panic!("{error}"));
    assert!(seen == bytes_of(stamp, count * BLOCK), "block {block} is not what was written");
}

fn is_lost(volume: &Volume, block: u64) {
    let error = volume.read(block * BLOCK, &mut [0; 4096]).unwrap_err();
    assert!(
        matches!(&error, VolumeError::DamagedBlock { block: named, .. } if *named == block)
            || matches!(error, VolumeError::DamagedPage { .. }),
        "{error}"
    );
}

/// The log alone knows of what was written into a region that has just begun: no bitmap says so. When the file grows into it again, whoever gets one of
/// those slots must not lose it when the lost block is overwritten.
#[test]
fn f2_slots_of_a_region_that_was_cut_off_with_its_log_blocks_are_nobody_elses() {
    let (setup, file) = wide();
    let volume = open(&setup, &file, 2).unwrap();
    volume.write(0, &bytes_of(1, BLOCK)).unwrap();
    volume.close().unwrap();
    reach(&file, 1);
    let volume = open(&setup, &file, 3).unwrap();
    volume.write(BLOCK, &bytes_of(2, 200 * BLOCK)).unwrap();
    volume.flush().unwrap();
    volume.discard(400 * BLOCK, BLOCK).unwrap();
    volume.write(0, &bytes_of(1, BLOCK)).unwrap();
    volume.flush().unwrap();
    volume.discard(0, BLOCK).unwrap();
    volume.flush().unwrap();
    drop(volume);
    file.set_len(REGION * BLOCK).unwrap();
    file.sync().unwrap();

    let volume = open(&setup, &file, 4).unwrap();
    is_lost(&volume, 1);
    let error = volume.read(BLOCK, &mut [0; 4096]).unwrap_err();
    assert!(matches!(error, VolumeError::DamagedBlock { reason: Damage::Lost, .. }), "{error}");
    assert!(error.to_string().contains("cut off"), "{error}");
    assert!(volume.write(BLOCK + 7, b"a part of a lost block").is_err());
    // Also when the log is written anew, and after another attach.
    volume.checkpoint().unwrap();
    volume.close().unwrap();
    let volume = open(&setup, &file, 5).unwrap();
    is_lost(&volume, 200);
    fill_up(&volume, &file, REGION + 2000, 0..120);
    volume.checkpoint().unwrap();
    volume.write(300 * BLOCK, &bytes_of(3, 200 * BLOCK)).unwrap();
    volume.checkpoint().unwrap();
    // What was lost is overwritten, and discarded; what that frees is used again.
    volume.write(BLOCK, &bytes_of(4, 100 * BLOCK)).unwrap();
    volume.discard(101 * BLOCK, 100 * BLOCK).unwrap();
    volume.checkpoint().unwrap();
    volume.write((BLOCKS + 20_000) * BLOCK, &bytes_of(5, 2000 * BLOCK)).unwrap();
    volume.checkpoint().unwrap();
    let report = volume.check(&mut |_, _| {}).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(volume.stats().double_frees, 0);
    drop(volume);
    let volume = open(&setup, &file, 6).unwrap();
    reads(&volume, 1, 4, 100);
    reads(&volume, 300, 3, 200);
    reads(&volume, BLOCKS + 20_000, 5, 2000);
}

/// A lost entry is in no log record: a checkpoint brings it into the map before anything is changed, and only then the log is written anew, densely.
#[test]
fn f2_a_log_with_lost_blocks_is_not_written_anew() {
    let setup = EngineSetup { ring_pages: 64, ..setup(64) };
    let file = SimBacking::new();
    create(&setup, &file, 1).unwrap();
    let volume = open(&setup, &file, 2).unwrap();
    volume.write(0, &bytes_of(1, 3 * BLOCK)).unwrap();
    volume.checkpoint().unwrap();
    let kept = file.len().unwrap();
    volume.write(10 * BLOCK, &bytes_of(2, 200 * BLOCK)).unwrap();
    volume.flush().unwrap();
    volume.discard(0, BLOCK).unwrap();
    volume.flush().unwrap();
    drop(volume);
    file.set_len(kept).unwrap();
    file.sync().unwrap();
    let volume = open(&setup, &file, 3).unwrap();
    is_lost(&volume, 209);
    for round in 0..200 {
        volume.write(220 * BLOCK, &bytes_of(10 + round, BLOCK)).unwrap();
        volume.flush().unwrap();
    }
    assert!(volume.stats().checkpoints > 0 && volume.stats().compactions > 0, "{:?}", volume.stats());
    drop(volume);
    let volume = open(&setup, &file, 4).unwrap();
    is_lost(&volume, 209);
    reads(&volume, 220, 209, 1);
    let mut seen = vec![0; 4096];
    volume.read(2 * BLOCK, &mut seen).unwrap();
    assert!(seen == bytes_of(1, 3 * BLOCK)[2 * 4096..], "what lay before the end is not what was written");
}

/// The map refers to slots of regions that are gone with their bitmaps. The file goes on behind them, also if it does not grow before the next attach.
#[test]
fn f2_a_file_that_was_cut_off_goes_on_behind_what_it_had() {
    // With 130 regions the page above the bitmaps of the second group goes, too.
    for (regions, goes_on_in) in [(2, 2), (130, 256)] {
        let (setup, file) = wide();
        let volume = open(&setup, &file, 2).unwrap();
        volume.write(0, &bytes_of(1, 10 * BLOCK)).unwrap();
        volume.close().unwrap();
        let kept = file.len().unwrap();
        reach(&file, regions - 1);
        let volume = open(&setup, &file, 3).unwrap();
        volume.write(128 * BLOCK, &bytes_of(2, 128 * BLOCK)).unwrap();
        volume.close().unwrap();
        file.set_len(kept).unwrap();
        file.sync().unwrap();
        let volume = open(&setup, &file, 4).unwrap();
        is_lost(&volume, 128);
        reads(&volume, 0, 1, 10);
        volume.write(0, &bytes_of(3, BLOCK)).unwrap();
        volume.close().unwrap();
        let volume = open(&setup, &file, 5).unwrap();
        fill_up(&volume, &file, goes_on_in * REGION, 0..120);
        volume.checkpoint().unwrap();
        // It goes on where it is now, not elsewhere.
        let len = file.len().unwrap() / BLOCK;
        assert!((goes_on_in * REGION..(goes_on_in + 1) * REGION).contains(&len), "{len}");
        volume.write(300 * BLOCK, &bytes_of(4, 100 * BLOCK)).unwrap();
        volume.checkpoint().unwrap();
        is_lost(&volume, 130);
        // What lay in the region that is gone is overwritten.
        volume.write(128 * BLOCK, &bytes_of(5, 100 * BLOCK)).unwrap();
        volume.checkpoint().unwrap();
        volume.write((BLOCKS + 20_000) * BLOCK, &bytes_of(6, 1000 * BLOCK)).unwrap();
        volume.close().unwrap();
        let volume = open(&setup, &file, 6).unwrap();
        reads(&volume, 300, 4, 100);
        reads(&volume, 128, 5, 100);
        is_lost(&volume, 250);
        reads(&volume, BLOCKS + 20_000, 6, 1000);
        let report = volume.check(&mut |_, _| {}).unwrap();
        assert_eq!((report.shared_slots, report.unaccounted_slots), (0, 0), "{report:?}");
        assert!(report.bad_allocation_pages > 0, "{report:?}");
    }
}
