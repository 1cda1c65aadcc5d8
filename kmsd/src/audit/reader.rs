//! Reading and checking.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use super::AuditError;
use crate::domain::audit::{self, Chain, ChainFault, ChainKey, Head, Record};

/// One file of the log.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

/// How a file ends.
#[cfg(feature = "daemon")]
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

/// How much of a log is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Up to where it ended when the check began: a log that is being written.
    UpTo(Head),
    /// Every whole line of it: a copy. The end that was noted elsewhere, if any, must be among its records.
    Whole {
        /// That end.
        noted: Option<Head>,
    },
}

/// What a check of the whole log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Records that are there and as they were written.
    pub records: u64,
    /// The last record before them, if earlier ones were archived: they are not part of this check.
    pub archived: Head,
    /// The last of them.
    pub head: Head,
    /// The first thing that is wrong, if anything is.
    pub fault: Option<ChainFault>,
}

/// Where a file of the log is. Paths of one log compare as their numbers do.
#[cfg(feature = "daemon")]
#[must_use]
pub fn file_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.log"))
}

pub(super) fn segments(directory: &Path) -> Result<Vec<Segment>, AuditError> {
    let io = |e: std::io::Error| AuditError::Read { path: directory.to_owned(), kind: e.kind() };
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

#[cfg(feature = "daemon")]
pub(super) fn end(path: &Path) -> Result<End, AuditError> {
    let io = |e: std::io::Error| AuditError::Read { path: path.to_owned(), kind: e.kind() };
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

/// The latest records before number `before`, oldest first, as they stand: not checked.
///
/// # Errors
/// If the log cannot be read.
pub fn tail(directory: &Path, before: u64, most: usize) -> Result<Vec<Entry>, AuditError> {
    let mut records = VecDeque::new();
    let mut all = if most == 0 { Vec::new() } else { segments(directory)? };
    // From the newest file back, until there are enough. Of each, only so many lines are held.
    while let Some(segment) = all.pop() {
        let wanted = most - records.len();
        let mut lines: VecDeque<Vec<u8>> = VecDeque::new();
        for_each_line(&segment.path, |line| {
            if number(line).is_some_and(|seq| seq >= before) {
                return false;
            }
            if lines.len() == wanted {
                lines.pop_front();
            }
            lines.push_back(line.to_vec());
            true
        })?;
        let found = lines.iter().rev().filter_map(|line| audit::parse(line));
        found.for_each(|(record, _, _)| records.push_front(record));
        if records.len() >= most {
            break;
        }
    }
    Ok(records.into())
}

/// The number that a line says it has, which is how every record begins.
fn number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"seq\":")?;
    let len = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..len]).ok()?.parse().ok()
}

/// The record, if a file that begins with it begins with a key of its own.
fn begins_anew(line: &[u8]) -> Option<Record> {
    audit::parse(line).map(|(record, _, _)| record).filter(Record::has_own_key)
}

/// Files of several directories that hold one log together.
fn all_segments(directories: &[&Path]) -> Result<Vec<Segment>, AuditError> {
    let mut all = Vec::new();
    for directory in directories {
        all.append(&mut segments(directory)?);
    }
    all.sort_by_key(|segment| segment.number);
    match all.windows(2).find(|pair| pair[0].number == pair[1].number) {
        Some(pair) => Err(AuditError::Damaged {
            path: pair[1].path.clone(),
            what: "another directory has a file of the same name",
        }),
        None => Ok(all),
    }
}

/// The record that a file with a key of its own begins with.
#[cfg(feature = "daemon")]
pub struct FirstRecord {
    file: u64,
    before: Head,
    line: Vec<u8>,
}

#[cfg(feature = "daemon")]
impl FirstRecord {
    /// The file whose key it was made with.
    #[must_use]
    pub const fn file(&self) -> u64 {
        self.file
    }

    /// The record before it.
    #[must_use]
    pub const fn before(&self) -> Head {
        self.before
    }

    /// Whether it is as it was written.
    #[must_use]
    pub fn is_intact(&self, key: ChainKey) -> bool {
        Chain::new(self.before, key).check(&self.line).is_ok()
    }

    /// The store's newest commit at that start, if the record is as it was written and says so.
    #[must_use]
    pub fn commit(&self, key: ChainKey) -> Option<u64> {
        let record = Chain::new(self.before, key).check(&self.line).ok()?;
        let note = record.event.note?;
        note.strip_prefix(audit::AT_COMMIT)?.split(';').next()?.parse().ok()
    }
}

#[cfg(feature = "daemon")]
pub(super) fn newest_start(segments: &[Segment]) -> Result<Option<FirstRecord>, AuditError> {
    for (at, segment) in segments.iter().enumerate().rev() {
        let mut first = Vec::new();
        for_each_line(&segment.path, |line| {
            first = line.to_vec();
            false
        })?;
        if let Some(record) = begins_anew(&first) {
            let mut before = record.archived().unwrap_or_default();
            for earlier in segments[..at].iter().rev() {
                if let Some(head) = end(&earlier.path)?.head {
                    before = head;
                    break;
                }
            }
            return Ok(Some(FirstRecord { file: segment.number, before, line: first }));
        }
    }
    Ok(None)
}

/// The record that the log begins with, if earlier ones were archived.
#[cfg(feature = "daemon")]
pub(super) fn begin(segments: &[Segment]) -> Result<Option<FirstRecord>, AuditError> {
    let Some(segment) = segments.first() else { return Ok(None) };
    let mut found = None;
    for_each_line(&segment.path, |line| {
        let before = begins_anew(line).and_then(|record| record.archived());
        found = before.map(|before| FirstRecord { file: segment.number, before, line: line.to_vec() });
        false
    })?;
    Ok(found)
}

/// The record of a number as it stands, from the newest file back.
#[cfg(feature = "daemon")]
pub(super) fn record_at(segments: &[Segment], seq: u64) -> Result<Option<Head>, AuditError> {
    for segment in segments.iter().rev() {
        let (mut found, mut begins_before) = (None, false);
        for_each_line(&segment.path, |line| {
            let at = number(line);
            begins_before |= at.is_some_and(|at| at <= seq);
            if at == Some(seq) {
                found = audit::parse(line).map(|(record, _, mac)| Head { seq: record.seq, mac });
            }
            begins_before && at.is_none_or(|at| at < seq)
        })?;
        if begins_before {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Numbers of a log's first and last record, as they stand.
#[cfg(feature = "daemon")]
pub(super) fn span(directory: &Path) -> Result<(u64, u64), AuditError> {
    let segments = segments(directory)?;
    let none = || AuditError::Damaged { path: directory.to_owned(), what: "it has no record" };
    let mut first = None;
    for segment in &segments {
        for_each_line(&segment.path, |line| {
            first = first.or_else(|| number(line));
            false
        })?;
    }
    for segment in segments.iter().rev() {
        if let Some(last) = end(&segment.path)?.head {
            return Ok((first.ok_or_else(none)?, last.seq));
        }
    }
    Err(none())
}

/// Number of the file that the log begins with, if earlier ones were archived.
///
/// # Errors
/// If the log cannot be read.
#[cfg(feature = "daemon")]
pub fn archived_before(directory: &Path) -> Result<Option<u64>, AuditError> {
    let Some(segment) = segments(directory)?.into_iter().next() else { return Ok(None) };
    let mut is_later = false;
    for_each_line(&segment.path, |line| {
        is_later = begins_anew(line).is_some_and(|record| record.archived().is_some());
        false
    })?;
    Ok(is_later.then_some(segment.number))
}

/// The log's files, oldest first.
///
/// # Errors
/// If the directory cannot be read.
#[cfg(feature = "daemon")]
pub fn files(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    Ok(segments(directory)?.into_iter().map(|segment| segment.path).collect())
}

/// Numbers of the files that a start of the service began, each with a key of its own.
///
/// # Errors
/// If the log cannot be read.
#[cfg(feature = "daemon")]
pub fn starts(directory: &Path) -> Result<Vec<u64>, AuditError> {
    let mut numbers = Vec::new();
    for segment in segments(directory)? {
        let mut is_start = numbers.is_empty();
        for_each_line(&segment.path, |line| {
            is_start |= begins_anew(line).is_some();
            false
        })?;
        if is_start {
            numbers.push(segment.number);
        }
    }
    Ok(numbers)
}

/// Checks the log with its keys. `key_of` gives the key of a file that a start began. With archives besides the log, every record from the first on has
/// to be there.
///
/// # Errors
/// If the log cannot be read, or there is no such key. What is wrong with the log is in the verdict.
pub fn verify<E: From<AuditError>>(
    directories: &[&Path],
    extent: Extent,
    key_of: impl FnMut(u64) -> Result<ChainKey, E>,
) -> Result<Verdict, E> {
    read(directories, extent, key_of, |_| ())
}

/// The same, and shows each record that is as it was written.
///
/// # Errors
/// As [`verify`].
pub fn read<E: From<AuditError>>(
    directories: &[&Path],
    extent: Extent,
    mut key_of: impl FnMut(u64) -> Result<ChainKey, E>,
    mut each: impl FnMut(&Record),
) -> Result<Verdict, E> {
    let mut chain: Option<Chain> = None;
    let mut archived = Head::default();
    let mut noted_there = None;
    for segment in all_segments(directories)? {
        let mut keys = Ok(());
        let mut fault = None;
        let mut first = true;
        for_each_line(&segment.path, |line| {
            let start = if first { begins_anew(line) } else { None };
            first = false;
            if start.is_some() || chain.is_none() {
                match key_of(segment.number) {
                    Ok(key) => {
                        let before = chain.as_ref().map(Chain::head).unwrap_or_else(|| {
                            // What it names is believed once its own MAC fits, which covers that.
                            archived = start.and_then(|start| start.archived()).unwrap_or_default();
                            archived
                        });
                        if let Extent::Whole { noted: Some(noted) } = extent
                            && noted.seq == before.seq
                        {
                            noted_there = Some(before);
                        }
                        chain = Some(Chain::new(before, key));
                    }
                    Err(error) => {
                        keys = Err(error);
                        return false;
                    }
                }
            }
            let Some(chain) = &mut chain else { return false };
            // Records behind the end may be half-way on their way to the disk.
            if let Extent::UpTo(end) = extent
                && chain.head().seq >= end.seq
            {
                return false;
            }
            match chain.check(line) {
                Ok(record) => {
                    each(&record);
                    if let Extent::Whole { noted: Some(noted) } = extent
                        && noted.seq == chain.head().seq
                    {
                        noted_there = Some(chain.head());
                    }
                    true
                }
                Err(found) => {
                    fault = Some(found);
                    false
                }
            }
        })?;
        keys?;
        if fault.is_some() {
            let head = chain.map_or_else(Head::default, |c| c.head());
            return Ok(Verdict { records: head.seq - archived.seq, archived, head, fault });
        }
    }
    let head = chain.as_ref().map(Chain::head).unwrap_or_default();
    let (wanted, there) = match extent {
        Extent::UpTo(end) => (Some(end), Some(head)),
        Extent::Whole { noted } => (noted, noted_there),
    };
    let missing = wanted.and_then(|wanted| missing(head, wanted, there));
    let is_partial = directories.len() > 1 && archived.seq > 0;
    let fault = missing.or_else(|| is_partial.then_some(ChainFault::Archived { last: archived.seq }));
    Ok(Verdict { records: head.seq - archived.seq, archived, head, fault })
}

/// What it means that a record which is known to have been written is not there.
fn missing(head: Head, wanted: Head, there: Option<Head>) -> Option<ChainFault> {
    if head.seq < wanted.seq {
        return Some(ChainFault::CutOff { seq: head.seq, anchor: wanted.seq });
    }
    // At the same number, another MAC means that the log was replaced from somewhere before it.
    (wanted.seq > 0 && there.is_some_and(|there| there.mac != wanted.mac))
        .then_some(ChainFault::Mac { seq: wanted.seq })
}

/// Checks a copy without any key: that its records are records, numbered from 1 without gaps, and that the noted end is among
/// them as it was noted. Changes within records are *not* found by this.
///
/// # Errors
/// If the log cannot be read.
pub fn outline(directory: &Path, noted: Option<Head>) -> Result<Verdict, AuditError> {
    let mut head = Head::default();
    let mut archived: Option<Head> = None;
    let mut there = None;
    let mut fault = None;
    for segment in segments(directory)? {
        for_each_line(&segment.path, |line| {
            if archived.is_none() {
                head = begins_anew(line).and_then(|start| start.archived()).unwrap_or_default();
                archived = Some(head);
                there = noted.filter(|noted| noted.seq == head.seq).map(|_| head);
            }
            let seq = head.seq + 1;
            match audit::parse(line) {
                None => fault = Some(ChainFault::Malformed { seq }),
                Some((record, _, _)) if record.seq != seq => {
                    fault = Some(ChainFault::Sequence { seq, found: record.seq });
                }
                Some((_, _, mac)) => head = Head { seq, mac },
            }
            if noted.is_some_and(|noted| noted.seq == head.seq) {
                there = Some(head);
            }
            fault.is_none()
        })?;
        if fault.is_some() {
            break;
        }
    }
    let archived = archived.unwrap_or_default();
    let fault = fault.or_else(|| noted.and_then(|noted| missing(head, noted, there)));
    Ok(Verdict { records: head.seq - archived.seq, archived, head, fault })
}

fn for_each_line(path: &Path, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), AuditError> {
    let io = |e: std::io::Error| AuditError::Read { path: path.to_owned(), kind: e.kind() };
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
