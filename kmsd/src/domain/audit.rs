//! The audit chain (K8): each record's MAC covers the record and the MAC before it, under a key that is replaced by its
//! own hash with every record.
//!
//! ```text
//!   mac[i] = HMAC-SHA-256(key[i], mac[i-1] || body[i])        key[i+1] = SHA-256("kmsd audit next" || key[i])
//! ```
//!
//! So a record cannot be changed, removed or moved without the key that was there before it; and the process that writes
//! holds only the key of the record to come. Where the log was cut off at its end, only an anchor outside it can tell: see
//! [`Head`].

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    id::{KeyId, KeyVersion},
    principal::Principal,
    time::WallTime,
};

/// Of an operation: what was recorded, before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is about to change something.
    Intent,
    /// It was done, or refused.
    Done,
}

impl Stage {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Done => "done",
        }
    }
}

/// What one record says. No field can hold a secret: contexts are hashed, bodies never come here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who.
    pub principal: Principal,
    /// What was asked for.
    pub operation: String,
    /// Before or after.
    pub stage: Stage,
    /// `ok`, or the code of the refusal.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<String>,
    /// What it was asked of, as the caller named it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// The key, once it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<KeyId>,
    /// The version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<KeyVersion>,
    /// SHA-256 of the encryption context's canonical form.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub context: Option<String>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

/// The clocks at a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Wall clock, milliseconds since 1970.
    pub time: WallTime,
    /// Milliseconds since the host booted.
    pub up: i64,
    /// Which boot.
    pub boot: String,
}

/// A record as it stands in the log, its MAC apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Name of the first record of every start of the service.
pub const START: &str = "service-start";

/// Name of the first record of a log whose earlier records were archived.
pub const BEGIN: &str = "log-begin";

/// Name of the operation that destroys a key whose day has come.
pub const DESTROY: &str = "destroy-key";

/// How the note of a first record begins; the number of the store's newest commit follows.
pub const AT_COMMIT: &str = "store at commit ";
/// What follows in that of [`BEGIN`], before the last archived record.
const ARCHIVED: &str = "archived up to ";

/// The note of [`BEGIN`].
#[must_use]
pub fn archived_note(commit: u64, last: Head) -> String {
    format!("{AT_COMMIT}{commit}; {ARCHIVED}{last}")
}

impl Event {
    /// The key, if this says that one was destroyed.
    #[must_use]
    pub fn destroyed(&self) -> Option<KeyId> {
        let is_done = self.stage == Stage::Done && self.outcome.as_deref() == Some("ok");
        self.key.filter(|_| self.operation == DESTROY && is_done)
    }
}

impl Record {
    /// Whether a file that begins with it begins with a key of its own.
    #[must_use]
    pub fn has_own_key(&self) -> bool {
        self.event.operation == START || self.event.operation == BEGIN
    }

    /// The last archived record, if the log begins with this one.
    #[must_use]
    pub fn archived(&self) -> Option<Head> {
        let note = self.event.note.as_deref().filter(|_| self.event.operation == BEGIN)?;
        let last: Head = note.split("; ").find_map(|part| part.strip_prefix(ARCHIVED))?.parse().ok()?;
        // Nothing of it is checked yet: what does not even come next is no beginning.
        (last.seq.checked_add(1) == Some(self.seq)).then_some(last)
    }
}

/// Where a log ends. Kept elsewhere, it shows whether a log was cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the last record; 0 if there is none.
    pub seq: u64,
    /// Its MAC.
    #[serde(with = "super::hex_bytes")]
    pub mac: [u8; 32],
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex::encode(self.mac))
    }
}

/// Not a head's written form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the end of an audit log is written <number>:<64 hexadecimal digits>, as `ecsctl audit verify` prints it"
)]
pub struct InvalidHead;

impl FromStr for Head {
    type Err = InvalidHead;

    fn from_str(text: &str) -> Result<Self, InvalidHead> {
        let (seq, digits) = text.split_once(':').ok_or(InvalidHead)?;
        let mut mac = [0; 32];
        hex::decode_to_slice(digits, &mut mac).map_err(|_| InvalidHead)?;
        Ok(Self { seq: seq.parse().map_err(|_| InvalidHead)?, mac })
    }
}

/// The key of one record. Using it up gives the next one.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ChainKey([u8; 32]);

impl ChainKey {
    /// The key that a start of the service begins with: the token derives it.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    fn next(&self) -> Self {
        Self(Sha256::new().chain_update(b"kmsd audit next").chain_update(self.0).finalize().into())
    }

    fn mac(&self, previous: &[u8; 32], body: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(previous);
        mac.update(body);
        mac.finalize().into_bytes().into()
    }
}

/// What stands between a record's JSON and its MAC.
const MAC_FIELD: &[u8] = b",\"mac\":\"";
/// Behind it: 64 digits, quote and brace.
const MAC_TAIL: usize = 64 + 2;

/// A chain that is being written or checked.
pub struct Chain {
    head: Head,
    key: ChainKey,
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// Not a record.
    #[error("what stands in the place of record {seq} is not a record")]
    Malformed {
        /// Number of the record that should be there.
        seq: u64,
    },
    /// A gap, or a record in another's place.
    #[error("record {found} stands in the place of record {seq}: records were removed, added or moved")]
    Sequence {
        /// Number of the record that should be there.
        seq: u64,
        /// Number of the one that is.
        found: u64,
    },
    /// Changed.
    #[error("record {seq} was changed, or one before it")]
    Mac {
        /// Its number.
        seq: u64,
    },
    /// The beginning is missing.
    #[error(
        "records 1 to {last} are missing: they were archived, so the directories that hold them belong to this check"
    )]
    Archived {
        /// Number of the last missing record.
        last: u64,
    },
    /// The end is missing.
    #[error(
        "the log ends with record {seq}, but record {anchor} was written: its end was cut off or replaced"
    )]
    CutOff {
        /// Number of the last record.
        seq: u64,
        /// Number of the last one that is known to have been written.
        anchor: u64,
    },
}

impl Chain {
    /// Goes on from a head with the key of the next record.
    #[must_use]
    pub const fn new(head: Head, key: ChainKey) -> Self {
        Self { head, key }
    }

    /// Where it ends.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// A copy to try things on.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { head: self.head, key: ChainKey(self.key.0) }
    }

    /// The line of the next record, its newline included.
    #[must_use]
    pub fn append(&mut self, stamp: Stamp, event: Event) -> Vec<u8> {
        let record = Record { seq: self.head.seq + 1, stamp, event };
        let mut line = serde_json::to_vec(&record).expect("records serialise");
        line.pop(); // the closing brace comes behind the MAC
        let mac = self.key.mac(&self.head.mac, &line);
        line.extend_from_slice(MAC_FIELD);
        line.extend_from_slice(hex::encode(mac).as_bytes());
        line.extend_from_slice(b"\"}\n");
        self.head = Head { seq: record.seq, mac };
        self.key = self.key.next();
        line
    }

    /// Checks the line of the next record, given without its newline.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&mut self, line: &[u8]) -> Result<Record, ChainFault> {
        let seq = self.head.seq + 1;
        let (record, body, mac) = parse(line).ok_or(ChainFault::Malformed { seq })?;
        if record.seq != seq {
            return Err(ChainFault::Sequence { seq, found: record.seq });
        }
        use subtle::ConstantTimeEq;
        if !bool::from(self.key.mac(&self.head.mac, body).ct_eq(&mac)) {
            return Err(ChainFault::Mac { seq });
        }
        self.head = Head { seq, mac };
        self.key = self.key.next();
        Ok(record)
    }

    /// Whether the log reaches an anchor that lies within or behind it.
    ///
    /// # Errors
    /// If it ends before.
    pub const fn check_end(&self, anchor: Head) -> Result<(), ChainFault> {
        if self.head.seq < anchor.seq {
            return Err(ChainFault::CutOff { seq: self.head.seq, anchor: anchor.seq });
        }
        Ok(())
    }
}

/// Takes a line apart without believing it: the record, the bytes that the MAC covers, the MAC.
#[must_use]
pub fn parse(line: &[u8]) -> Option<(Record, &[u8], [u8; 32])> {
    let (body, rest) = line.split_at_checked(line.len().checked_sub(MAC_FIELD.len() + MAC_TAIL)?)?;
    let digits = rest.strip_prefix(MAC_FIELD)?.strip_suffix(b"\"}")?;
    let mut mac = [0; 32];
    hex::decode_to_slice(digits, &mut mac).ok()?;
    let record = serde_json::from_slice(line).ok()?;
    Some((record, body, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Chain {
        Chain::new(Head::default(), ChainKey::new([7; 32]))
    }

    fn event(number: usize) -> Event {
        Event {
            principal: Principal::Uid(u32::try_from(number).unwrap()),
            operation: "decrypt-datakey".into(),
            stage: Stage::Done,
            outcome: Some("ok".into()),
            target: None,
            key: Some(KeyId::from_bytes([3; 16])),
            version: Some(KeyVersion::FIRST),
            context: None,
            note: None,
        }
    }

    fn log(records: usize) -> Vec<Vec<u8>> {
        let mut chain = chain();
        let stamp = Stamp { time: WallTime(1), up: 2, boot: "b".into() };
        (0..records).map(|n| chain.append(stamp.clone(), event(n))).collect()
    }

    fn verify<'a>(lines: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<Head, ChainFault> {
        let mut chain = chain();
        for line in lines {
            chain.check(line.strip_suffix(b"\n").unwrap_or(line))?;
        }
        Ok(chain.head())
    }

    #[test]
    fn an_end_is_read_as_it_is_written() {
        let head = verify(&log(3)).unwrap();
        assert_eq!(head.to_string().parse(), Ok(head));
        for wrong in ["", "3", "3:", "x:00", &head.to_string()[1..], "3:zz"] {
            assert_eq!(wrong.parse::<Head>(), Err(InvalidHead), "{wrong}");
        }
    }

    #[test]
    fn a_first_record_names_the_last_archived_one() {
        let last = verify(&log(3)).unwrap();
        let note = archived_note(12, last);
        let begin = Event { operation: BEGIN.into(), note: Some(note.clone()), ..event(1) };
        let record =
            |event| Record { seq: 4, stamp: Stamp { time: WallTime(1), up: 2, boot: "b".into() }, event };
        assert!(note.starts_with("store at commit 12; "), "{note}");
        assert_eq!(record(begin.clone()).archived(), Some(last));
        for seq in [0, 3, 5, u64::MAX] {
            let note = archived_note(12, Head { seq, ..last });
            assert_eq!(
                record(Event { note: Some(note), ..begin.clone() }).archived().map(|last| last.seq),
                (seq == 3).then_some(3)
            );
        }
        // An ordinary record says nothing of the kind, whatever its note.
        assert_eq!(record(Event { operation: "decrypt-datakey".into(), ..begin }).archived(), None);
    }

    #[test]
    fn k8_golden_record() {
        let golden = r#"{"seq":1,"time":1,"up":2,"boot":"b","principal":"uid:0","operation":"decrypt-datakey","stage":"done","outcome":"ok","key":"03030303-0303-0303-0303-030303030303","version":1,"mac":""#;
        let line = String::from_utf8(log(1).remove(0)).unwrap();
        assert!(line.starts_with(golden), "{line}");
        assert_eq!(verify(&log(3)).unwrap().seq, 3);
    }

    /// K8: every removal, swap, repetition, insertion and cut in a log of 1,000 records is found.
    #[test]
    fn k8_every_removal_and_reordering_of_a_thousand_records_is_found() {
        let log = log(1000);
        let head = verify(&log).unwrap();
        let whole = |line: &Vec<u8>| line.strip_suffix(b"\n").unwrap().to_owned();
        // Checking goes line by line: what stands before the tampering is checked once.
        let mut before = chain();
        for at in 0..log.len() {
            assert!(matches!(before.check_end(head), Err(ChainFault::CutOff { .. })), "cut at {at}");
            if at + 1 < log.len() {
                // The next line in this one's place: that is a removal, and the first half of a swap.
                let removed = before.fork().check(&whole(&log[at + 1]));
                assert!(matches!(removed, Err(ChainFault::Sequence { .. })), "removal of {at}");
            }
            let mut repeated = before.fork();
            before.check(&whole(&log[at])).unwrap();
            repeated.check(&whole(&log[at])).unwrap();
            assert!(repeated.check(&whole(&log[at])).is_err(), "repetition of {at}");
        }
        assert_eq!(before.check_end(head), Ok(()));
    }

    /// K8: every byte of every record counts.
    #[test]
    fn k8_every_changed_byte_of_a_thousand_records_is_found() {
        let log = log(1000);
        // Checking goes line by line, so it is enough to check each changed line with the state before it.
        let mut chain = chain();
        for line in &log {
            let line = line.strip_suffix(b"\n").unwrap();
            for at in 0..line.len() {
                let mut changed = line.to_vec();
                changed[at] ^= 1;
                let mut copy = chain.fork();
                assert!(copy.check(&changed).is_err(), "record {} byte {at}", chain.head.seq + 1);
            }
            chain.check(line).unwrap();
        }
    }

    /// K8: whoever gets hold of the process learns the key of the next record, and that changes no earlier one.
    #[test]
    fn k8_an_earlier_record_cannot_be_made_with_a_later_key() {
        let mut later = chain();
        let stamp = Stamp { time: WallTime(1), up: 2, boot: "b".into() };
        let _ = later.append(stamp.clone(), event(0));
        let stolen = ChainKey(later.key.0);
        let forged = Chain::new(Head::default(), stolen).append(stamp, event(9));
        assert_eq!(verify([&forged]), Err(ChainFault::Mac { seq: 1 }));
    }
}
