//! Rotation (K5).

use jiff::Timestamp;

use super::{Client, ClientError, Replay, types::time};
use crate::wire::{
    huawei::KeyRequest,
    rotation::{Done, RotatedReply, RotationIntervalRequest, RotationStatusReply},
};

/// How a key is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Days between two rotations; `None` if it is not rotated by interval.
    pub interval_days: Option<u16>,
    /// How often it was rotated.
    pub rotations: usize,
    /// When it was rotated last.
    pub last: Option<Timestamp>,
    /// When it will be rotated next.
    pub next: Option<Timestamp>,
}

/// Published code of a refusal to turn on what is on.
const ON_ALREADY: &str = "KMS.2901";

impl Client {
    /// Makes a newer version of a key. What was wrapped before still opens. Not sent again when the answer is lost.
    ///
    /// # Errors
    /// Also if the key's state does not allow it, or it was rotated as often as may be.
    pub fn rotate_key(&self, key: &str) -> Result<(), ClientError> {
        let request = KeyRequest { key_id: key.to_owned() };
        self.verb("rotate-on-demand", &request, Replay::Unsafe).map(|_: RotatedReply| ())
    }

    /// Has a key rotated by interval, whether or not it was before.
    ///
    /// # Errors
    /// Also if the key's state does not allow it, or the interval is not one of 30 to 365 days.
    pub fn rotate_every(&self, key: &str, interval_days: u16) -> Result<(), ClientError> {
        let request = KeyRequest { key_id: key.to_owned() };
        match self.verb("enable-key-rotation", &request, Replay::Unsafe) {
            Ok(Done {}) => {}
            Err(error) if error.code() == Some(ON_ALREADY) => {}
            Err(error) => return Err(error),
        }
        let request = RotationIntervalRequest { key_id: key.to_owned(), rotation_interval: interval_days };
        self.verb("update-key-rotation-interval", &request, Replay::Safe).map(|Done {}| ())
    }

    /// Has a key no longer rotated by interval.
    ///
    /// # Errors
    /// Also if it was not.
    pub fn stop_rotation(&self, key: &str) -> Result<(), ClientError> {
        let request = KeyRequest { key_id: key.to_owned() };
        self.verb("disable-key-rotation", &request, Replay::Unsafe).map(|Done {}| ())
    }

    /// How a key is rotated.
    ///
    /// # Errors
    /// Also if there is no such key.
    pub fn rotation(&self, key: &str) -> Result<Rotation, ClientError> {
        let request = KeyRequest { key_id: key.to_owned() };
        let reply: RotationStatusReply = self.verb("get-key-rotation-status", &request, Replay::Safe)?;
        let at = |text: &str, field| time(text, field).map_err(|field| self.wrong(field));
        Ok(Rotation {
            interval_days: reply.key_rotation_enabled.then_some(reply.rotation_interval),
            rotations: reply.number_of_rotations,
            last: at(&reply.last_rotation_time, "last_rotation_time")?,
            next: at(reply.next_rotation_time.as_deref().unwrap_or_default(), "next_rotation_time")?,
        })
    }
}
