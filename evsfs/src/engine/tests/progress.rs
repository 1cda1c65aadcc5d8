//! How far what takes long says that it is: it never falls, and is told while it runs.

use std::sync::Arc;

use serde_json::Value;

use super::super::{BLOCK, BaseImage, Step, Volume};
use super::{ID, Rig};
use crate::crypto::{Backend, Dek, VolumeKeys};
use crate::format::{Text, WrappedDekField};
use crate::{flatten, rekey};

const MIB: u64 = 1 << 20;

/// A volume of 32 MiB with 10 MiB of data in several places.
fn written() -> Rig {
    let rig = Rig::new(32 * MIB, 64);
    let volume = rig.open();
    for part in 0..10 {
        volume.write(part * 3 * MIB, &vec![1; 1 << 20]).unwrap();
    }
    volume.close().unwrap();
    rig
}

#[track_caller]
fn assert_it_advances(percents: &[u64]) {
    assert!(percents.is_sorted(), "{percents:?}");
    let between = percents.iter().filter(|percent| (1..100).contains(*percent)).count();
    assert!(between > 5, "{percents:?}");
}

#[test]
fn d10_a_check_says_how_far_it_is() {
    let volume = written().open();
    let mut seen = Vec::new();
    let report = volume.check(&mut |done, all| seen.push((done, all))).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let (_, all) = *seen.last().unwrap();
    assert!(
        all >= 10 * MIB / BLOCK && seen.iter().all(|(done, total)| done <= total && *total == all),
        "{seen:?}"
    );
    let percents: Vec<u64> = seen.iter().map(|(done, all)| done * 100 / all).collect();
    assert_it_advances(&percents);
    assert_eq!(percents.last(), Some(&100));
}

/// What is told of a task after each of its steps, to its end.
fn percents(volume: &Volume, describe: impl Fn(&Volume) -> Value) -> Vec<u64> {
    let mut percents = Vec::new();
    while volume.task_step(64).unwrap() != Step::Finished {
        percents.push(describe(volume)["percent"].as_u64().expect("a number"));
    }
    assert!(describe(volume).is_null());
    percents
}

#[test]
fn f9_a_re_encryption_says_how_far_it_is() {
    let volume = written().open();
    let next = VolumeKeys::new(Dek::new(&[4; 32]), ID, Backend::AwsLc);
    volume.start_reencryption(next, WrappedDekField::new(vec![2; 40]).unwrap(), 0).unwrap();
    let seen = percents(&volume, |volume| rekey::describe(volume)["re_encryption"].clone());
    assert_it_advances(&seen);
    assert_eq!(seen.last(), Some(&100));
}

#[test]
fn f8_a_flatten_says_how_far_it_is() {
    let base = Arc::new(written().open());
    let mut thin = Rig::thin(32 * MIB, base.identity().reference(Text::new("base").unwrap()));
    thin.options.base = Some(base);
    let volume = thin.open();
    volume.start_flatten(None).unwrap();
    let seen = percents(&volume, |volume| flatten::describe(volume)["flatten"].clone());
    assert_it_advances(&seen);
    assert_eq!(seen.last(), Some(&100));
}
