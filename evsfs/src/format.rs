//! The bytes of a volume file, as docs/volume-format.md draws them: layout, codecs and checks, without I/O.
//!
//! Every decoder takes hostile bytes: it bounds each length before it uses it, refuses what no encoder writes, and says which field it was.

mod aad;
mod base;
mod bytes;
mod entry;
mod epochs;
mod error;
pub mod fuzz;
mod header;
pub mod layout;
mod log_page;
mod log_record;
mod map_page;
mod superblock;
#[cfg(test)]
mod tests;
mod text;
mod versions;

pub use aad::{Tree, data_aad, log_aad, map_aad};
pub use base::{BaseReference, BaseState};
pub use entry::{Entry, Kind};
pub use epochs::{
    EPOCH_DIRECTORY_PAGES, EPOCH_PAGE_SALTS, EPOCHS_MAX, EpochDirectory, EpochPage, epoch_place,
};
pub use error::{FormatError, Structure};
pub use header::{
    Header, HeaderCopies, HeaderError, NextKey, UnverifiedHeader, VolumeKind, WrappedDekField,
    erase_wrapped_keys,
};
pub use log_page::{
    LOG_PAGE_RECORDS, LogPageError, LogPageHeader, decode_log_records, open_log_page, seal_log_page,
};
pub use log_record::LogRecord;
pub use map_page::MapPage;
pub use superblock::{
    Anchor, COUNTER_MAX, LogHead, Superblock, Task, TaskKind, UPPER_ALLOCATION_ENTRIES, VERSION_PAGES,
};
pub use text::Text;
pub use versions::{VERSION_PAGE_RECORDS, VersionPage, VersionRecord, VersionState};

/// The contents of a block, or a whole page.
pub type Block = [u8; layout::BLOCK];

/// What a table page holds in the clear: the page without salt and tag.
pub type TablePayload = [u8; layout::TABLE_PAYLOAD];
