//! An encrypted or plain volume as a device.

use std::sync::Arc;

use serde_json::{Value, json};
use tracing::info;
use uuid::Uuid;

use super::{BlockDevice, DeviceError, Snapshots};
use crate::anchors::{AnchorKeeper, VolumeAnchors};
use crate::backing::FileBacking;
use crate::control::Request;
use crate::crypto::Suite;
use crate::engine::{BLOCK, Volume};
use crate::failure::{Failure, StartError};
use crate::format::Header;
use crate::keys::KeyService;
use crate::open::{LockedFile, Opened};
use crate::operations;
use crate::serve::Attachment;
use crate::{flatten, rekey};

/// An open volume, and the one who tells the key service how far it has come.
pub struct VolumeDevice {
    volume: Volume,
    anchors: Option<AnchorKeeper>,
    read_only: bool,
    /// Locked until the key service has been told of the last state: who attaches the file next is not overtaken by that.
    _locked: Arc<FileBacking>,
}

impl VolumeDevice {
    /// Serves an open volume, and tells the key service of it if it is encrypted. `file` is the one it was opened from.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(opened: Opened, file: &LockedFile, read_only: bool) -> Result<Self, StartError> {
        let Opened { volume, anchor } = opened;
        let Header { suite, uuid, .. } = volume.header();
        let anchors = match suite {
            Suite::Plain => None,
            Suite::Aes256Gcm => {
                let store = VolumeAnchors { service: KeyService::impatient(), volume: uuid };
                let keeper = AnchorKeeper::start(store, anchor)
                    .map_err(|source| StartError::System { operation: "start a thread", source })?;
                Some(keeper)
            }
        };
        Ok(Self { volume, anchors, read_only, _locked: Arc::clone(&file.backing) })
    }

    /// The volume.
    #[must_use]
    pub const fn volume(&self) -> &Volume {
        &self.volume
    }
}

impl BlockDevice for VolumeDevice {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn allocated(&self) -> u64 {
        self.volume.stats().used_slots * BLOCK
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        Ok(self.volume.read(offset, buf)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        Ok(self.volume.write(offset, data)?)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        Ok(self.volume.discard(offset, length)?)
    }

    /// An absent block reads as zeros and is authentic.
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), DeviceError> {
        Ok(self.volume.discard(offset, length)?)
    }

    fn flush(&self) -> Result<(), DeviceError> {
        if self.read_only { Ok(()) } else { Ok(self.volume.flush()?) }
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, DeviceError> {
        Ok(self.volume.next_data(offset)?)
    }

    fn next_hole(&self, offset: u64) -> Result<u64, DeviceError> {
        Ok(self.volume.next_hole(offset)?)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }
}

impl Snapshots for VolumeDevice {
    fn size_of(&self, id: Uuid) -> Option<u64> {
        self.volume.snapshots().into_iter().find(|snapshot| snapshot.id == id).map(|snapshot| snapshot.size)
    }

    fn read_from(&self, id: Uuid, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError> {
        Ok(self.volume.read_snapshot(id, offset, buf)?)
    }

    fn next_data_in(&self, id: Uuid, offset: u64) -> Result<Option<u64>, DeviceError> {
        Ok(self.volume.next_data_in(id, offset)?)
    }

    fn next_hole_in(&self, id: Uuid, offset: u64) -> Result<u64, DeviceError> {
        Ok(self.volume.next_hole_in(id, offset)?)
    }
}

impl Attachment for VolumeDevice {
    fn status(&self) -> Value {
        let header = self.volume.header();
        let stats = self.volume.stats();
        json!({
            "format": "evs",
            "uuid": header.uuid,
            "kind": header.kind.as_str(),
            "encrypted": self.anchors.is_some(),
            "re_encryption": rekey::describe(&self.volume)["re_encryption"],
            "flatten": flatten::describe(&self.volume)["flatten"],
            "base": header.base.map(|base| base.uuid),
            "base_proved": header.base.map(|base| base.is_proved()),
            "commit": self.volume.anchor().commit,
            "anchored_commit": self.anchors.as_ref().and_then(AnchorKeeper::confirmed).map(|a| a.commit),
            "stats": {
                "seals": stats.seals,
                "opens": stats.opens,
                "commits": stats.commits,
                "syncs": stats.syncs,
                "checkpoints": stats.checkpoints,
                "compactions": stats.compactions,
                "retried_reads": stats.retried_reads,
                "dirty_entries": stats.dirty_entries,
                "pending_records": stats.pending_records,
                "cached_pages": stats.cached_pages,
                "loaded_regions": stats.loaded_regions,
                "file_bytes": stats.file_slots * BLOCK,
                "used_bytes": stats.used_slots * BLOCK,
                "bytes_written": stats.bytes_written,
                "trash": stats.trash,
            },
        })
    }

    fn operate(&self, request: &Request) -> Result<Value, Failure> {
        operations::operate(&self.volume, request)
    }

    fn tick(&self) {
        // Who only reads has no news, and an old copy that is looked at least of all.
        let Some(anchors) = self.anchors.as_ref().filter(|_| !self.read_only) else { return };
        if let Some(confirmed) = anchors.confirmed() {
            self.volume.confirm_anchor(confirmed);
        }
        anchors.advance(self.volume.anchor(), || self.volume.offer_anchor());
    }

    fn close(self) -> Result<(), Failure> {
        let closed = self.volume.close();
        if let (Some(anchors), Ok(anchor)) = (self.anchors, &closed)
            && !self.read_only
            && !anchors.finish(*anchor)
        {
            info!("the key service could not be told of the last state; the next attach tells it");
        }
        closed?;
        Ok(())
    }
}
