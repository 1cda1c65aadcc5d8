//! `evsfs check`: verifies everything in a detached volume and changes nothing.

use std::io::{IsTerminal, Write, stderr};

use serde_json::{Value, json};

use super::output::Output;
use crate::cli;
use crate::engine::{BLOCK, BadBlock, CheckReport};
use crate::failure::{Exit, Failure, Report};
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
    if stderr().is_terminal() {
        // Nothing depends on the line that shows progress.
        let _ = writeln!(stderr());
    }
    output.result(&value(&report), &text(&report))?;
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

fn value(report: &CheckReport) -> Value {
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

fn text(report: &CheckReport) -> String {
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
    text
}
