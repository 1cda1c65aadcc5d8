//! Reading and checking.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::AuditError;
use crate::domain::audit::{self, Chain, ChainFault, ChainKey, Head, Record, START};

/// One file of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

/// How a file ends.
pub(super) struct End {
    /// The last whole record.
    pub(super) head: Option<Head>,
    /// Bytes of whole lines.
    pub(super) whole: u64,
    /// Bytes after the last newline.
    pub(super) torn: u64,
}

/// A record as `audit list` shows it. Not checked.
pub type Entry = Record;

/// What a check of the whole log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Records that are as they were written.
    pub records: u64,
    /// The first thing that is wrong, if anything is.
    pub fault: Option<ChainFault>,
}

pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.log"))
}

pub(super) fn segments(directory: &Path) -> Result<Vec<Segment>, AuditError> {
    let io = |e: std::io::Error| AuditError::Io { path: directory.to_owned(), kind: e.kind() };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".log"));
        if let Some(number) = name.filter(|n| n.len() == 10).and_then(|n| n.parse().ok()) {
            found.push(Segment { number, path });
        }
    }
    found.sort_unstable_by_key(|segment| segment.number);
    Ok(found)
}

pub(super) fn end(path: &Path) -> Result<End, AuditError> {
    let io = |e: std::io::Error| AuditError::Io { path: path.to_owned(), kind: e.kind() };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut end = End { head: None, whole: 0, torn: 0 };
    let mut line = Vec::new();
    let mut last = Vec::new();
    loop {
        line.clear();
        let read = u64::try_from(reader.read_until(b'\n', &mut line).map_err(io)?).unwrap_or(u64::MAX);
        if read == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            end.torn = read;
            break;
        }
        end.whole += read;
        std::mem::swap(&mut last, &mut line);
    }
    if let Some(line) = last.strip_suffix(b"\n") {
        let damaged = AuditError::Damaged { path: path.to_owned(), what: "its last line is not a record" };
        let (record, _, mac) = audit::parse(line).ok_or(damaged)?;
        end.head = Some(Head { seq: record.seq, mac });
    }
    Ok(end)
}

/// The latest records, oldest first, as they stand: not checked.
///
/// # Errors
/// If the log cannot be read.
pub fn tail(directory: &Path, most: usize) -> Result<Vec<Entry>, AuditError> {
    let mut records = std::collections::VecDeque::new();
    let mut all = segments(directory)?;
    // From the newest file back, until there are enough.
    while let Some(segment) = all.pop() {
        let mut found = Vec::new();
        for_each_line(&segment.path, |line| {
            found.extend(audit::parse(line).map(|(record, _, _)| record));
            true
        })?;
        found.into_iter().rev().take(most - records.len()).for_each(|record| records.push_front(record));
        if records.len() >= most {
            break;
        }
    }
    Ok(records.into())
}

/// Checks the whole log up to where it ended when the check began. `key_of` derives the key of a file that a start began.
///
/// # Errors
/// If the log cannot be read, or the token does not answer. What is wrong with the log is in the verdict.
pub fn verify<E: From<AuditError>>(
    directory: &Path,
    anchor: Head,
    mut key_of: impl FnMut(u64) -> Result<ChainKey, E>,
) -> Result<Verdict, E> {
    let mut chain: Option<Chain> = None;
    for segment in segments(directory)? {
        let mut keys = Ok(());
        let mut fault = None;
        let mut first = true;
        for_each_line(&segment.path, |line| {
            let starts =
                first && audit::parse(line).is_some_and(|(record, _, _)| record.event.operation == START);
            first = false;
            if starts || chain.is_none() {
                match key_of(segment.number) {
                    Ok(key) => {
                        chain = Some(Chain::new(chain.as_ref().map(Chain::head).unwrap_or_default(), key));
                    }
                    Err(error) => {
                        keys = Err(error);
                        return false;
                    }
                }
            }
            // Records behind the anchor may be half-way on their way to the disk.
            let Some(chain) = chain.as_mut().filter(|chain| chain.head().seq < anchor.seq) else {
                return false;
            };
            match chain.check(line) {
                Ok(_) => true,
                Err(found) => {
                    fault = Some(found);
                    false
                }
            }
        })?;
        keys?;
        if fault.is_some() {
            return Ok(Verdict { records: chain.map_or(0, |c| c.head().seq), fault });
        }
    }
    let head = chain.as_ref().map(Chain::head).unwrap_or_default();
    let end = match chain {
        Some(chain) => chain.check_end(anchor).err(),
        None if anchor.seq > 0 => Some(ChainFault::CutOff { seq: 0, anchor: anchor.seq }),
        None => None,
    };
    // At the same number, another MAC means that the end was replaced.
    let replaced = head.seq == anchor.seq && head.mac != anchor.mac;
    let fault = end.or_else(|| replaced.then_some(ChainFault::Mac { seq: head.seq }));
    Ok(Verdict { records: head.seq, fault })
}

fn for_each_line(path: &Path, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), AuditError> {
    let io = |e: std::io::Error| AuditError::Io { path: path.to_owned(), kind: e.kind() };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(io)?;
        // A line without its end is not written yet, or never was.
        let Some(whole) = line.strip_suffix(b"\n") else { return Ok(()) };
        if !each(whole) {
            return Ok(());
        }
    }
}
