//! An encrypted or plain volume as a device.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tracing::{error, info};
use uuid::Uuid;

use super::{BlockDevice, DeviceError, Snapshots};
use crate::anchors::AnchorKeeper;
use crate::backing::FileBacking;
use crate::control::Request;
use crate::crypto::Suite;
use crate::engine::{Anchor, BLOCK, Volume};
use crate::failure::{Failure, StartError};
use crate::keys::KeyError;
use crate::open::{LockedFile, Opened};
use crate::operations;
use crate::serve::Attachment;
use crate::{flatten, rekey};

/// An open volume, and the one who tells the key service how far it has come.
pub struct VolumeDevice {
    volume: Volume,
    /// Of an encrypted volume that is written to.
    anchors: Option<AnchorKeeper>,
    /// The anchor that the key service had at the attach.
    anchored: Option<Anchor>,
    /// The key service says that it is somebody else's to write to: why.
    superseded: Arc<OnceLock<String>>,
    read_only: bool,
    /// Locked until the key service has been told of the last state: who attaches the file next is not overtaken by that.
    lock: Arc<FileBacking>,
}

impl VolumeDevice {
    /// Serves an open volume, and tells the key service of it if it is encrypted and written to. `file` is the one it was opened from.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(opened: Opened, file: &LockedFile, read_only: bool) -> Result<Self, StartError> {
        let Opened { volume, anchor, lease } = opened;
        let superseded = Arc::default();
        let anchors = match lease {
            None => None,
            Some(lease) => {
                let lost = stop_for_good(&volume, Arc::clone(&superseded));
                let keeper = AnchorKeeper::start(lease, anchor, lost)
                    .map_err(|source| StartError::System { operation: "start a thread", source })?;
                Some(keeper)
            }
        };
        let lock = Arc::clone(&file.backing);
        Ok(Self { volume, anchors, anchored: anchor, superseded, read_only, lock })
    }

    /// The volume.
    #[must_use]
    pub const fn volume(&self) -> &Volume {
        &self.volume
    }
}

/// What is done when the key service says that somebody else writes to the volume, or that its history is another one: nothing is written or
/// acknowledged from then on (F12). It is said once; the reads go on until it is detached.
fn stop_for_good(
    volume: &Volume,
    superseded: Arc<OnceLock<String>>,
) -> impl FnOnce(&KeyError) + Send + use<> {
    let (brake, uuid) = (volume.brake(), volume.header().uuid);
    move |refusal| {
        brake.pull();
        error!(
            volume = %uuid, reason = %refusal, remedy = refusal.hint().unwrap_or("detach it here, and attach it at one place only"),
            "writing stops for good: the volume is no longer this process's"
        );
        // It is called once.
        let _ = superseded.set(refusal.to_string());
    }
}

impl BlockDevice for VolumeDevice {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn allocated(&self) -> u64 {
        self.volume.used()
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
        if self.read_only {
            return Ok(());
        }
        if let Some(anchors) = &self.anchors {
            anchors.assure();
        }
        Ok(self.volume.flush()?)
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
            "encrypted": header.suite == Suite::Aes256Gcm,
            "re_encryption": rekey::describe(&self.volume)["re_encryption"],
            "flatten": flatten::describe(&self.volume)["flatten"],
            "base": header.base.map(|base| base.uuid),
            "base_proved": header.base.map(|base| base.is_proved()),
            "commit": self.volume.anchor().commit,
            "anchored_commit": self.anchors.as_ref().map_or(self.anchored, AnchorKeeper::confirmed).map(|a| a.commit),
            "superseded": self.superseded.get(),
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
        let Some(anchors) = self.anchors.as_ref() else { return };
        if let Some(confirmed) = anchors.confirmed() {
            self.volume.confirm_anchor(confirmed);
        }
        anchors.advance(self.volume.anchor(), || self.volume.offer_anchor());
    }

    fn rest(&self) {
        self.volume.rest();
    }

    type Lock = Arc<FileBacking>;

    fn close(self) -> (Arc<FileBacking>, Result<(), Failure>) {
        let closed = self.volume.close();
        if let (Some(anchors), Ok(anchor)) = (self.anchors, &closed)
            && !anchors.finish(*anchor)
            // Else the next attach is refused, which was said.
            && self.superseded.get().is_none()
        {
            info!("the key service could not be told of the last state; the next attach tells it");
        }
        (self.lock, closed.map(drop).map_err(Into::into))
    }
}
