use std::collections::BTreeSet;

use super::*;

const P: u64 = 4096;

fn page(byte: u8) -> Vec<u8> {
    vec![byte; PAGE]
}

/// The first byte of each page, over all states of the point.
fn outcomes(point: &CrashPoint, pages: u64) -> BTreeSet<Vec<u8>> {
    let bound = Bound { torn: 0, ..Bound::default() };
    let first = |image: &Image, page: u64| {
        let mut byte = [0];
        image.read(page * P, &mut byte);
        byte[0]
    };
    point
        .states(&bound, 1)
        .iter()
        .map(|state| {
            let image = point.image(state);
            (0..pages).map(|page| first(&image, page)).collect()
        })
        .collect()
}

fn file_of(pages: u64) -> SimBacking {
    let file = SimBacking::new();
    file.set_len(pages * P).unwrap();
    file.sync().unwrap();
    file
}

#[test]
fn any_version_since_the_last_sync_may_survive_independently() {
    let file = file_of(2);
    for byte in [1, 2] {
        file.write_at(&page(byte), 0).unwrap();
    }
    file.write_at(&page(3), P).unwrap();
    let expected: BTreeSet<Vec<u8>> =
        [[0, 0], [1, 0], [2, 0], [0, 3], [1, 3], [2, 3]].iter().map(|pair| pair.to_vec()).collect();
    assert_eq!(outcomes(&file.crash_point(), 2), expected);
    file.sync().unwrap();
    assert_eq!(outcomes(&file.crash_point(), 2), BTreeSet::from([vec![2, 3]]));
}

#[test]
fn the_length_survives_apart_from_the_data() {
    let file = file_of(1);
    file.write_at(&page(7), P).unwrap();
    let point = file.crash_point();
    let seen: BTreeSet<(u64, u8)> = point
        .states(&Bound { torn: 0, ..Bound::default() }, 1)
        .iter()
        .map(|state| {
            let image = point.image(state);
            let mut byte = [0];
            image.read(P, &mut byte);
            (image.len(), byte[0])
        })
        .collect();
    assert_eq!(seen, BTreeSet::from([(P, 0), (2 * P, 0), (2 * P, 7)]));
}

#[test]
fn a_punch_may_or_may_not_persist() {
    let file = file_of(2);
    file.write_at(&page(1), 0).unwrap();
    file.write_at(&page(2), P).unwrap();
    file.sync().unwrap();
    assert!(file.punch(0, 2 * P).unwrap());
    assert_eq!(
        outcomes(&file.crash_point(), 2),
        BTreeSet::from([vec![1, 2], vec![0, 2], vec![1, 0], vec![0, 0]])
    );
}

#[test]
fn tears_leave_whole_sectors_of_either_version() {
    let file = file_of(1);
    file.write_at(&page(9), 0).unwrap();
    let point = file.crash_point();
    let mut torn = 0;
    for state in point.states(&Bound::default(), 3) {
        let bytes = point.image(&state).to_bytes();
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|&b| b == sector[0]), "a sector is whole");
        }
        torn += u32::from(bytes.chunks(SECTOR).any(|s| s[0] != bytes[0]));
    }
    assert!(torn >= 14, "{torn} torn states");
}

#[test]
fn after_a_failed_sync_a_later_one_saves_only_what_was_written_again() {
    let file = file_of(2);
    file.write_at(&page(1), 0).unwrap();
    file.write_at(&page(2), P).unwrap();
    file.plan_fault(Some(FaultPlan { call: 0, fault: Fault::Sync, lasting: false }));
    file.sync().unwrap_err();
    file.write_at(&page(3), P).unwrap();
    file.sync().unwrap();
    let mut read = page(0);
    file.read_at(&mut read, 0).unwrap();
    assert_eq!(read, page(1), "it reads as written");
    assert_eq!(outcomes(&file.crash_point(), 2), BTreeSet::from([vec![0, 3], vec![1, 3]]));
}

#[test]
fn an_ignored_sync_keeps_everything_open_and_is_known_by_its_place() {
    fn commit<B: Backing>(file: &B) {
        file.sync().unwrap();
    }
    let file = SimBacking::new();
    file.write_at(&page(1), 0).unwrap();
    commit(&file);
    let site = file.sync_sites()[0].0;
    assert!(site.file.ends_with("tests.rs"));
    file.ignore_syncs(IgnoredSyncs::Site(site));
    file.write_at(&page(2), 0).unwrap();
    commit(&file);
    assert_eq!(outcomes(&file.crash_point(), 1), BTreeSet::from([vec![1], vec![2]]));
    file.sync().unwrap();
    assert_eq!(outcomes(&file.crash_point(), 1), BTreeSet::from([vec![2]]), "another place still works");
}

#[test]
fn the_sum_of_a_state_is_that_of_its_image() {
    let mut dice = Dice::new(5);
    let file = file_of(3);
    for round in 0..60_u64 {
        let at = dice.below(5 * 8) * 512;
        match dice.below(8) {
            0 => file.set_len(dice.below(6) * P + dice.below(2) * 100).unwrap(),
            1 => assert!(file.punch(at, dice.below(3) * 2048).unwrap()),
            2 => file.sync().unwrap(),
            _ => file.write_at(&page(u8::try_from(dice.below(256)).unwrap()), at).unwrap(),
        }
        let point = file.crash_point();
        for state in point.states(&Bound { exhaustive: 64, random: 20, torn: 8 }, round) {
            assert_eq!(point.sum(&state), point.image(&state).sum());
        }
        assert_eq!(point.image(&point.all_survive()).to_bytes(), file.image().to_bytes());
    }
}

#[test]
fn faults_come_at_the_call_that_was_named() {
    for (fault, call) in [(Fault::NoSpace, 2), (Fault::ShortWrite, 2), (Fault::Io, 2), (Fault::Sync, 1)] {
        let file = SimBacking::new();
        file.write_at(&page(1), 0).unwrap();
        file.plan_fault(Some(FaultPlan { call, fault, lasting: false }));
        let outcomes =
            [file.sync().is_ok(), file.write_at(&page(2), 0).is_ok(), file.write_at(&page(3), 0).is_ok()];
        assert_eq!(outcomes, [call != 1, call != 2, true], "{fault:?}");
        assert_eq!(file.faults_met(), 1);
    }
}

#[test]
fn a_page_may_be_unreadable_and_the_space_may_end() {
    let file = file_of(4);
    file.make_unreadable([1]);
    let mut bytes = page(0);
    assert!(file.read_at(&mut bytes, 0).is_ok() && file.read_at(&mut bytes, P).is_err());
    assert!(file.read_at(&mut [0; 2 * PAGE], 0).is_err() && file.reads_fail());
    file.make_unreadable([]);
    assert!(file.read_at(&mut bytes, P).is_ok() && !file.reads_fail());

    file.write_at(&page(1), 0).unwrap();
    file.limit_space(Some(1));
    assert!(file.write_at(&[2; 3 * PAGE], 0).is_err(), "two pages hold nothing");
    file.write_at(&[2; 2 * PAGE], 0).unwrap();
    assert!(file.write_at(&page(3), 3 * P).is_err());
    file.write_at(&page(3), P).unwrap();
    file.punch(0, P).unwrap();
    file.write_at(&page(3), 3 * P).unwrap();
    assert!(file.write_at(&page(3), 2 * P).is_err());
    file.limit_space(None);
    file.write_at(&page(3), 2 * P).unwrap();
}
