//! Closing the log and beginning it anew, so that what was closed can be kept elsewhere.
//!
//! ```text
//!   audit/                 0000000001.log .. 0000000007.log              records 1 to 4711
//!   audit.archiving/       0000000008.log                                record 4712: "archived up to 4711:<MAC>", and what is carried over
//!        -- the two directories change places, in one step --
//!   audit/                 0000000008.log
//!   audit-archive/1-4711/  0000000001.log .. 0000000007.log
//! ```
//!
//! The new file's key is the token's, as that of any file that a start begins, and its first record's MAC covers the MAC before it. So only who may
//! ask the token for keys can make a log begin anywhere but with record 1, and the archive can be held against what follows it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    AuditError, AuditLog, Extent, Verdict,
    log::{Opened, SegmentWriter},
    reader,
};
use crate::{
    clock::Clock,
    domain::{
        KeyId, Principal,
        audit::{self, BEGIN, Chain, ChainKey, DESTROY, Event, Head, Stage},
    },
};

/// Where archives lie, beside the log.
const ARCHIVES: &str = "audit-archive";
/// What the log's directory is called beside it while it is made, and the old one until it has its name.
const ASIDE: &str = "archiving";

/// What was archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// Where it is.
    pub directory: PathBuf,
    /// Number of its first record.
    pub first: u64,
    /// Its last record: what the log names now as the one before its first.
    pub last: Head,
    /// Where the log ends now.
    pub end: Head,
    /// Number of the file that it begins with.
    pub file: u64,
}

/// Moves every record into an archive and begins the log anew. Nobody else may be writing it. A log that is not intact is left as it is: that is the
/// verdict then.
///
/// # Errors
/// If the log or a key cannot be had, or the file system refuses. Then the log is as it was.
pub fn archive<E: From<AuditError>>(
    log: &Path,
    noted: Option<Head>,
    mut key_of: impl FnMut(u64) -> Result<ChainKey, E>,
    clock: Arc<dyn Clock>,
) -> Result<Result<Archived, Verdict>, E> {
    settle(log)?;
    let opened = AuditLog::open(log)?;
    let mut destroyed = BTreeSet::new();
    let see = |record: &audit::Record| destroyed.extend(record.event.destroyed());
    let verdict = reader::read(&[log], Extent::Whole { noted }, &mut key_of, see)?;
    if verdict.fault.is_some() {
        return Ok(Err(verdict));
    }
    if verdict.records == 0 {
        return Err(AuditError::Empty { path: log.to_owned() }.into());
    }
    if verdict.head != opened.head() {
        let what = "it changes while it is read";
        return Err(AuditError::Damaged { path: log.to_owned(), what }.into());
    }
    let commit = match opened.newest_start() {
        Some(start) => start.commit(key_of(start.file())?).unwrap_or(0),
        None => 0,
    };
    let file = opened.number();
    let key = key_of(file)?;
    let done = prepare(log, &opened, key, commit, &destroyed, clock)
        .and_then(|end| exchange(log).map(|()| end))
        .and_then(|end| Ok((end, file_away(log)?)));
    let (end, directory) = done.inspect_err(|_| {
        if let Err(error) = settle(log) {
            tracing::warn!(%error, "the next start of kmsd clears up what is left of this");
        }
    })?;
    Ok(Ok(Archived { directory, first: verdict.archived.seq + 1, last: verdict.head, end, file }))
}

/// Finishes an archiving that was cut short after the directories had changed places, and clears away what one before that had made.
///
/// # Errors
/// If the file system refuses.
pub fn settle(log: &Path) -> Result<(), AuditError> {
    let aside = aside(log);
    if !aside.exists() {
        return Ok(());
    }
    let (here, there) = (reader::segments(log)?, reader::segments(&aside)?);
    let first = |segments: &[reader::Segment]| segments.first().map(|segment| segment.number);
    match (first(&here), first(&there)) {
        // The older records are there: the log has begun anew already.
        (Some(here), Some(there)) if there < here => file_away(log).map(drop),
        (None, Some(_)) => {
            Err(AuditError::Damaged { path: log.to_owned(), what: "it is empty, and an archiving has begun" })
        }
        _ => fs::remove_dir_all(&aside).map_err(refused(&aside)),
    }
}

/// Makes the directory that takes the log's place. Gives the end of what is in it.
fn prepare(
    log: &Path,
    opened: &Opened,
    key: ChainKey,
    commit: u64,
    destroyed: &BTreeSet<KeyId>,
    clock: Arc<dyn Clock>,
) -> Result<Head, AuditError> {
    let aside = aside(log);
    fs::DirBuilder::new().mode(0o700).create(&aside).map_err(refused(&aside))?;
    let event = |operation: &str, key, note| Event {
        principal: Principal::System,
        operation: operation.to_owned(),
        stage: Stage::Done,
        outcome: Some("ok".to_owned()),
        target: None,
        key,
        version: None,
        context: None,
        note: Some(note),
    };
    let begin = event(BEGIN, None, audit::archived_note(commit, opened.head()));
    // Without these a store and a token that are put back together would bring such keys back to life.
    let carried =
        destroyed.iter().map(|key| event(DESTROY, Some(*key), "carried over from the archive".to_owned()));
    let records: Vec<Event> = std::iter::once(begin).chain(carried).collect();
    let mut writer = SegmentWriter::create(&aside, opened.number(), Chain::new(opened.head(), key), clock)?;
    writer.write(records.iter())?;
    Ok(writer.end())
}

/// The one step in which the log begins anew. What is in either directory is durable before it.
fn exchange(log: &Path) -> Result<(), AuditError> {
    let aside = aside(log);
    sync_parent(log)?;
    renameat_with(CWD, log, CWD, &aside, RenameFlags::EXCHANGE)
        .map_err(|e| refused(&aside)(std::io::Error::from(e)))?;
    sync_parent(log)
}

/// Gives the old log its name.
fn file_away(log: &Path) -> Result<PathBuf, AuditError> {
    let aside = aside(log);
    let (first, last) = reader::span(&aside)?;
    let archives = log.with_file_name(ARCHIVES);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&archives).map_err(refused(&archives))?;
    let directory = archives.join(format!("{first}-{last}"));
    fs::rename(&aside, &directory).map_err(refused(&directory))?;
    sync_parent(&directory)?;
    sync_parent(log)?;
    Ok(directory)
}

fn aside(log: &Path) -> PathBuf {
    log.with_extension(ASIDE)
}

fn sync_parent(path: &Path) -> Result<(), AuditError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(refused(parent))
}

fn refused(path: &Path) -> impl Fn(std::io::Error) -> AuditError {
    move |e| AuditError::Archive { path: path.to_owned(), kind: e.kind() }
}

#[cfg(test)]
mod tests;
