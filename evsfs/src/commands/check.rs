//! `evsfs check`: verifies everything in a detached volume and changes nothing.

use std::io::{IsTerminal, Write, stderr};

use serde_json::{Value, json};

use super::output::Output;
use crate::cli;
use crate::crypto::Suite;
use crate::engine::{BLOCK, BadBlock, CheckReport};
use crate::failure::{Exit, Failure, Report};
use crate::format::{BaseReference, Header};
use crate::keys::KeyService;
use crate::open::{self, Access, LockedFile};

pub(super) fn run(arguments: &cli::Check, output: Output) -> Result<(), Failure> {
    let file = LockedFile::open(&arguments.file, true)?;
    let access = Access {
        accept_rollback: arguments.accept_rollback.then_some("evsfs check --accept-rollback"),
        ..Access::reading()
    };
    let volume = open::open(&file, &KeyService::from_env(), &access)?.volume;
    let report = volume.check(&mut progress())?;
    let unproved = unproved(&volume.header());
    if stderr().is_terminal() {
        // Nothing depends on the line that shows progress.
        let _ = writeln!(stderr());
    }
    output.result(&value(&report, unproved), &text(&report, unproved))?;
    if report.is_sound() {
        return Ok(());
    }
    Err(Report {
        code: "damaged".to_owned(),
        message: format!("{}: the volume is damaged; see the report", file.path.display()),
        hint: "restore it from a backup, or save what verifies with `evsfs salvage`".to_owned(),
        exit: Exit::Damaged,
    }
    .into())
}

/// Percent on a terminal, nothing elsewhere.
fn progress() -> impl FnMut(u64, u64) {
    let terminal = stderr().is_terminal();
    let mut shown = u64::MAX;
    move |done, all| {
        let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
        if terminal && percent != shown {
            shown = percent;
            let _ = write!(stderr(), "\r{percent} %");
        }
    }
}

/// What is to be said of the base of an encrypted volume, if it is not damage but nobody can tell whether it is the right one.
fn unproved(header: &Header) -> Option<&'static str> {
    let base = header.base.filter(|base| header.suite == Suite::Aes256Gcm && !base.is_proved());
    base.map(|_| BaseReference::UNPROVED)
}

fn value(report: &CheckReport, unproved: Option<&str>) -> Value {
    json!({
        "sound": report.is_sound(),
        "blocks": report.blocks,
        "pages": report.pages,
        "bad_count": report.bad_count,
        "bad": report.bad.iter().map(bad_value).collect::<Vec<_>>(),
        "leaked_slots": report.leaked_slots,
        "unaccounted_slots": report.unaccounted_slots,
        "shared_slots": report.shared_slots,
        "bad_allocation_pages": report.bad_allocation_pages,
        "base_note": unproved,
    })
}

fn bad_value(bad: &BadBlock) -> Value {
    json!({
        "block": bad.block,
        "count": bad.count,
        "offset": bad.block * BLOCK,
        "length": bad.count * BLOCK,
        "snapshot": bad.snapshot,
        "page_level": bad.page_level,
        "reason": bad.reason.to_string(),
    })
}

fn text(report: &CheckReport, unproved: Option<&str>) -> String {
    let mut text = format!("{} blocks and {} pages verify", report.blocks, report.pages);
    for bad in &report.bad {
        let what = bad.page_level.map_or_else(String::new, |level| format!(" (map page of level {level})"));
        let of = bad.snapshot.map_or_else(String::new, |id| format!(" of snapshot {id}"));
        text.push_str(&format!("\nblocks {}+{}{of}{what}: {}", bad.block, bad.count, bad.reason));
    }
    for (count, what) in [
        (report.bad_count.saturating_sub(report.bad.len() as u64), "more damaged places"),
        (report.leaked_slots, "slots are called used though nothing refers to them"),
        (report.unaccounted_slots, "slots are called free though they are referred to"),
        (report.shared_slots, "slots are referred to twice"),
        (report.bad_allocation_pages, "damaged pages of the allocation tree"),
    ] {
        if count > 0 {
            text.push_str(&format!("\n{count} {what}"));
        }
    }
    if let Some(note) = unproved {
        text.push_str(&format!("\nits base is not proved: {note}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::crypto::Chain;
    use crate::format::{BaseState, Text, VolumeKind, WrappedDekField};

    #[test]
    fn f8_a_base_that_only_claims_to_be_the_right_one_is_told_of() {
        let state = BaseState::Claimed(Chain([1; 32]));
        let base = BaseReference { uuid: Uuid::nil(), commit: 1, state, path: Text::new("image").unwrap() };
        let claimed = Header {
            suite: Suite::Aes256Gcm,
            kind: VolumeKind::Disk,
            sequence: 1,
            uuid: Uuid::from_u128(1),
            created: 0,
            ring_pages: 1024,
            cmk_id: Text::new("key").unwrap(),
            cmk_version: 1,
            wrapped_dek: WrappedDekField::new(vec![1; 40]).unwrap(),
            next: None,
            base: Some(base),
            base_copied: false,
        };
        let report = CheckReport::default();
        let note = unproved(&claimed);
        assert!(value(&report, note)["base_note"].as_str().unwrap().contains("evsfs flatten"));
        assert!(text(&report, note).contains("base is not proved: "));
        assert_eq!(value(&report, note)["sound"], true, "it is no damage");
        let state = BaseState::Proven { mac: [1; 32], encrypted: true };
        let proved = Header { base: Some(BaseReference { state, ..base }), ..claimed.clone() };
        // Of a plain one nothing is proved anyway.
        let plain = Header { suite: Suite::Plain, ..claimed.clone() };
        for header in [proved, plain, Header { base: None, ..claimed }] {
            assert_eq!(unproved(&header), None);
            assert!(!text(&report, None).contains("proved"));
        }
    }
}
