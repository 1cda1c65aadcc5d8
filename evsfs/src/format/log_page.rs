//! A page of the log: a clear header, sealed records, a tag.

use super::Block;
use super::aad::log_aad;
use super::bytes::{array, put, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use super::error::{FormatError, Structure, bounded, zeros};
use super::layout::{LOG_BODY, LOG_HEADER, LOG_MAGIC};
use super::log_record::LogRecord;
use crate::crypto::{AuthenticationFailed, BlockCipher, Chain, EpochSalt, SealNonce, Tag};
use uuid::Uuid;

const MAGIC: usize = 0;
const FLAGS: usize = MAGIC + 4;
const COUNT: usize = FLAGS + 2;
const SEQUENCE: usize = COUNT + 2;
const GROUP: usize = SEQUENCE + 8;
const EPOCH: usize = GROUP + 8;
const COUNTER: usize = EPOCH + 4;
const RECORD_EPOCH: usize = COUNTER + 4;
const SALT: usize = RECORD_EPOCH + 4;
const RECORD_SALT: usize = SALT + 16;
const UNUSED: usize = RECORD_SALT + 16;
const BODY: usize = LOG_HEADER;
const TAG: usize = BODY + LOG_BODY;

/// Offset, size and name, as in docs/volume-format.md.
#[cfg(test)]
pub(super) const FIELDS: &[super::tests::Field] = &[
    (MAGIC, FLAGS - MAGIC, "magic"),
    (FLAGS, COUNT - FLAGS, "flags"),
    (COUNT, SEQUENCE - COUNT, "count"),
    (SEQUENCE, GROUP - SEQUENCE, "page sequence"),
    (GROUP, EPOCH - GROUP, "group"),
    (EPOCH, COUNTER - EPOCH, "epoch"),
    (COUNTER, RECORD_EPOCH - COUNTER, "counter"),
    (RECORD_EPOCH, SALT - RECORD_EPOCH, "record epoch"),
    (SALT, RECORD_SALT - SALT, "salt"),
    (RECORD_SALT, UNUSED - RECORD_SALT, "record salt"),
    (UNUSED, BODY - UNUSED, "zero"),
    (BODY, TAG - BODY, "records"),
    (TAG, super::layout::BLOCK - TAG, "tag"),
];

const FLAG_LAST: u16 = 1;
const FLAG_COMPACTION: u16 = 2;

/// Records of a page at most.
pub const LOG_PAGE_RECORDS: usize = LOG_BODY / LogRecord::LEN;

/// The clear header of a log page. It is authenticated, not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPageHeader {
    /// The last page of its group: with it the group is whole.
    pub last: bool,
    /// The group repeats entries whose data was durable before: recovery need not look at it.
    pub compaction: bool,
    /// Records in the page.
    pub count: u16,
    /// Number of the page since the volume was created.
    pub sequence: u64,
    /// Number of its group (commit).
    pub group: u64,
    /// The epoch that this page is sealed in.
    pub epoch: u32,
    /// Its nonce.
    pub counter: u32,
    /// The epoch that the blocks of its records were sealed in.
    pub record_epoch: u32,
    /// Salt of `epoch`: so an epoch needs no write of its own before its first use.
    pub salt: EpochSalt,
    /// Salt of `record_epoch`, which no durable page may have named when the epochs changed in between.
    pub record_salt: EpochSalt,
}

impl LogPageHeader {
    pub(crate) fn encode(&self) -> [u8; LOG_HEADER] {
        let mut bytes = [0; LOG_HEADER];
        put(&mut bytes, MAGIC, &LOG_MAGIC);
        let flags = if self.last { FLAG_LAST } else { 0 } | if self.compaction { FLAG_COMPACTION } else { 0 };
        put_u16(&mut bytes, FLAGS, flags);
        put_u16(&mut bytes, COUNT, self.count);
        put_u64(&mut bytes, SEQUENCE, self.sequence);
        put_u64(&mut bytes, GROUP, self.group);
        put_u32(&mut bytes, EPOCH, self.epoch);
        put_u32(&mut bytes, COUNTER, self.counter);
        put_u32(&mut bytes, RECORD_EPOCH, self.record_epoch);
        put(&mut bytes, SALT, &self.salt);
        put(&mut bytes, RECORD_SALT, &self.record_salt);
        bytes
    }

    /// The header of a page, not yet authenticated: enough to know which key opens it.
    ///
    /// # Errors
    /// [`FormatError::Magic`] for a page of the ring that was never written; others if no encoder writes such bytes.
    pub fn decode(page: &Block) -> Result<Self, FormatError> {
        let structure = Structure::LogPage;
        if page[..4] != LOG_MAGIC {
            return Err(FormatError::Magic { structure });
        }
        let flags = bounded(structure, "flags", u16_at(page, FLAGS).into(), 0, 3)?;
        bounded(structure, "record count", u16_at(page, COUNT).into(), 0, LOG_PAGE_RECORDS as u64)?;
        bounded(structure, "epoch", u32_at(page, EPOCH).into(), 1, u32::MAX.into())?;
        bounded(structure, "record epoch", u32_at(page, RECORD_EPOCH).into(), 1, u32::MAX.into())?;
        zeros(structure, "salts", &page[UNUSED..BODY])?;
        let header = Self {
            last: flags & u64::from(FLAG_LAST) != 0,
            compaction: flags & u64::from(FLAG_COMPACTION) != 0,
            count: u16_at(page, COUNT),
            sequence: u64_at(page, SEQUENCE),
            group: u64_at(page, GROUP),
            epoch: u32_at(page, EPOCH),
            counter: u32_at(page, COUNTER),
            record_epoch: u32_at(page, RECORD_EPOCH),
            salt: array(page, SALT),
            record_salt: array(page, RECORD_SALT),
        };
        if header.epoch == header.record_epoch && header.salt != header.record_salt {
            return Err(FormatError::Contradiction { structure, field: "record salt" });
        }
        Ok(header)
    }
}

/// Makes a sealed page of `records` and gives its tag, which the chain takes up. `count` and `counter` of the header are set here.
///
/// # Panics
/// If there are more than [`LOG_PAGE_RECORDS`].
pub fn seal_log_page(
    header: &LogPageHeader,
    records: &[LogRecord],
    cipher: &dyn BlockCipher,
    nonce: SealNonce,
    uuid: &Uuid,
    before: &Chain,
    page: &mut Block,
) -> Tag {
    assert!(records.len() <= LOG_PAGE_RECORDS, "a log page has room for {LOG_PAGE_RECORDS} records");
    let count = u16::try_from(records.len()).expect("at most LOG_PAGE_RECORDS");
    let header = LogPageHeader { count, counter: nonce.counter(), ..*header }.encode();
    page[..BODY].copy_from_slice(&header);
    page[BODY..].fill(0);
    for (record, bytes) in records.iter().zip(page[BODY..TAG].as_chunks_mut().0) {
        *bytes = record.encode();
    }
    let tag = cipher.seal(nonce, &log_aad(uuid, &header, before), &mut page[BODY..TAG]);
    page[TAG..].copy_from_slice(&tag.0);
    tag
}

/// Opens a page where it lies, with the cipher of its header's epoch, and gives its records and tag.
///
/// # Errors
/// A page that is not authentic gives [`LogPageError::NotAuthentic`], one that is authentic but holds
/// impossible records [`LogPageError::Format`].
pub fn open_log_page(
    header: &LogPageHeader,
    cipher: &dyn BlockCipher,
    uuid: &Uuid,
    before: &Chain,
    page: &mut Block,
) -> Result<(Vec<LogRecord>, Tag), LogPageError> {
    let tag = Tag(array(page, TAG));
    let aad = log_aad(uuid, &array(page, 0), before);
    cipher.open(header.counter, &aad, &mut page[BODY..TAG], &tag)?;
    let body: &[u8; LOG_BODY] = page[BODY..TAG].try_into().expect("the body has LOG_BODY bytes");
    Ok((decode_log_records(header.count, body)?, tag))
}

/// The records of an opened page.
///
/// # Errors
/// If no encoder writes such bytes.
pub fn decode_log_records(count: u16, body: &[u8; LOG_BODY]) -> Result<Vec<LogRecord>, FormatError> {
    let structure = Structure::LogPage;
    bounded(structure, "record count", count.into(), 0, LOG_PAGE_RECORDS as u64)?;
    let used = usize::from(count) * LogRecord::LEN;
    zeros(structure, "records", &body[used..])?;
    body[..used].as_chunks().0.iter().map(LogRecord::decode).collect()
}

/// Why a log page does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogPageError {
    /// Not the page that follows in the chain: the ordinary end of the log.
    #[error("log page: {0}")]
    NotAuthentic(#[from] AuthenticationFailed),
    /// Authentic, but impossible: written by a broken or foreign program.
    #[error(transparent)]
    Format(#[from] FormatError),
}

const _: () = assert!(UNUSED <= LOG_HEADER && LOG_PAGE_RECORDS == 125);
