//! The version table: snapshots, and trees that wait to be freed.

use super::TablePayload;
use super::bytes::{array, put, put_u16, put_u64, u64_at};
use super::entry::{Entry, Kind};
use super::epochs::count_at;
use super::error::{FormatError, Structure, bounded, zeros};
use super::layout::{BLOCKS_MAX, HEIGHT_MAX, TABLE_PAYLOAD};
use super::text::Text;
use uuid::Uuid;

const COUNT: usize = 0;
const RECORDS: usize = COUNT + 16;

const ID: usize = 0;
const STATE: usize = ID + 16;
const HEIGHT: usize = STATE + 1;
const NAME_LEN: usize = HEIGHT + 1;
const NAME: usize = NAME_LEN + 1;
const UNUSED: usize = NAME + 64;
const CREATED: usize = UNUSED + 5;
const SIZE: usize = CREATED + 8;
const ROOT: usize = SIZE + 8;
const RANGE_START: usize = ROOT + Entry::LEN;
const RANGE_END: usize = RANGE_START + 8;
const CURSOR: usize = RANGE_END + 8;
pub(super) const RECORD: usize = CURSOR + 8;

/// Records of a version page at most.
pub const VERSION_PAGE_RECORDS: usize = (TABLE_PAYLOAD - RECORDS) / RECORD;

/// Offset, size and name, as in docs/volume-format.md.
#[cfg(test)]
pub(super) const FIELDS: &[super::tests::Field] = &[
    (ID, STATE - ID, "id"),
    (STATE, HEIGHT - STATE, "state"),
    (HEIGHT, NAME_LEN - HEIGHT, "map height"),
    (NAME_LEN, NAME - NAME_LEN, "name length"),
    (NAME, UNUSED - NAME, "name"),
    (UNUSED, CREATED - UNUSED, "zero"),
    (CREATED, SIZE - CREATED, "created"),
    (SIZE, ROOT - SIZE, "size"),
    (ROOT, RANGE_START - ROOT, "root"),
    (RANGE_START, RANGE_END - RANGE_START, "range start"),
    (RANGE_END, CURSOR - RANGE_END, "range end"),
    (CURSOR, RECORD - CURSOR, "cursor"),
];

/// What a version is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum VersionState {
    /// The user's.
    Snapshot = 1,
    /// To be freed in the background.
    Trash = 2,
}

/// A root of the map that is not the live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRecord {
    /// Its id.
    pub id: Uuid,
    /// Snapshot or trash.
    pub state: VersionState,
    /// The user's name for it.
    pub name: Text<64>,
    /// When it was made: seconds since 1970.
    pub created: u64,
    /// Size of the volume then, in blocks.
    pub blocks: u64,
    /// Levels of its map.
    pub height: u8,
    /// Its root, or absent.
    pub root: Entry,
    /// Trash: the first block that is to be freed. Else 0.
    pub range_start: u64,
    /// Trash: the block after the last. Else 0.
    pub range_end: u64,
    /// Trash: all before this block is freed. Else 0.
    pub cursor: u64,
}

/// A page of the version table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionPage {
    /// At most [`VERSION_PAGE_RECORDS`].
    pub records: Vec<VersionRecord>,
}

impl VersionRecord {
    fn encode(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        put(&mut out, ID, self.id.as_bytes());
        out[STATE] = self.state as u8;
        out[HEIGHT] = self.height;
        out[NAME_LEN] = u8::try_from(self.name.as_str().len()).expect("at most 64");
        put(&mut out, NAME, self.name.padded());
        put_u64(&mut out, CREATED, self.created);
        put_u64(&mut out, SIZE, self.blocks);
        put(&mut out, ROOT, &self.root.encode());
        put_u64(&mut out, RANGE_START, self.range_start);
        put_u64(&mut out, RANGE_END, self.range_end);
        put_u64(&mut out, CURSOR, self.cursor);
        out
    }

    fn decode(bytes: &[u8; RECORD]) -> Result<Self, FormatError> {
        let structure = Structure::VersionPage;
        let state = match bounded(structure, "state", bytes[STATE].into(), 1, 2)? {
            1 => VersionState::Snapshot,
            _ => VersionState::Trash,
        };
        let height = bytes[HEIGHT];
        bounded(structure, "map height", height.into(), 1, HEIGHT_MAX.into())?;
        zeros(structure, "name", &bytes[UNUSED..CREATED])?;
        let root = Entry::decode(&array(bytes, ROOT))?;
        if root.kind() == Kind::Data {
            return Err(FormatError::Contradiction { structure, field: "root" });
        }
        let number = |field, at, min, max| bounded(structure, field, u64_at(bytes, at), min, max);
        let range_end = number("range end", RANGE_END, 0, BLOCKS_MAX)?;
        Ok(Self {
            id: Uuid::from_bytes(array(bytes, ID)),
            state,
            name: Text::decode(structure, "name", bytes[NAME_LEN].into(), array(bytes, NAME))?,
            created: u64_at(bytes, CREATED),
            blocks: number("size", SIZE, 1, BLOCKS_MAX)?,
            height,
            root,
            range_start: number("range start", RANGE_START, 0, range_end)?,
            range_end,
            cursor: number("cursor", CURSOR, 0, range_end)?,
        })
    }
}

impl VersionPage {
    /// The payload of a table page.
    ///
    /// # Panics
    /// If there are too many records.
    #[must_use]
    pub fn encode(&self) -> Box<TablePayload> {
        assert!(
            self.records.len() <= VERSION_PAGE_RECORDS,
            "a version page has at most {VERSION_PAGE_RECORDS} records"
        );
        let mut payload = Box::new([0; TABLE_PAYLOAD]);
        put_u16(payload.as_mut(), COUNT, u16::try_from(self.records.len()).expect("at most 25"));
        for (index, record) in self.records.iter().enumerate() {
            put(payload.as_mut(), RECORDS + index * RECORD, &record.encode());
        }
        payload
    }

    /// From an opened payload.
    ///
    /// # Errors
    /// If no encoder writes such bytes.
    pub fn decode(payload: &TablePayload) -> Result<Self, FormatError> {
        let structure = Structure::VersionPage;
        let count = count_at(structure, "record count", payload, COUNT, VERSION_PAGE_RECORDS)?;
        zeros(structure, "record count", &payload[COUNT + 2..RECORDS])?;
        zeros(structure, "records", &payload[RECORDS + count * RECORD..])?;
        let records =
            (0..count).map(|index| VersionRecord::decode(&array(payload, RECORDS + index * RECORD)));
        Ok(Self { records: records.collect::<Result<_, _>>()? })
    }
}

const _: () = assert!(RECORD == 160 && VERSION_PAGE_RECORDS == 25);
