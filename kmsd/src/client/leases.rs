//! Leases of volumes, as a writer has them (F12).

use std::time::Duration;

use uuid::Uuid;

use super::{Anchor, Client, ClientError, anchor_path, transport::Replay};
use crate::{
    domain::lease::{Holder, Ticket},
    wire::{
        control::{LeaseReply, ReleaseLeaseRequest, RenewLeaseRequest, TakeLeaseRequest},
        rotation::Done,
    },
};

/// A lease that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenLease {
    /// To be shown with what it is for.
    pub ticket: Ticket,
    /// How long it lasts without a renewal.
    pub lasts: Duration,
    /// Where the volume's anchor stood when it was taken.
    pub anchor: Option<Anchor>,
}

impl Client {
    /// Takes the lease of a volume for a session that was drawn for this attach.
    ///
    /// # Errors
    /// Also if another writer holds it.
    pub fn take_lease(
        &self,
        volume: &Uuid,
        session: Uuid,
        holder: &Holder,
    ) -> Result<TakenLease, ClientError> {
        let request = TakeLeaseRequest { session, holder: holder.clone() };
        let reply: LeaseReply = self.send(&path(volume, ""), &request, Replay::Safe)?;
        let anchor = reply.anchor.map(|body| self.anchor_of(&body)).transpose()?;
        Ok(TakenLease { ticket: reply.lease, lasts: Duration::from_secs(reply.seconds), anchor })
    }

    /// Renews it.
    ///
    /// # Errors
    /// Also if another writer has taken it since.
    pub fn renew_lease(&self, volume: &Uuid, lease: Ticket, holder: &Holder) -> Result<(), ClientError> {
        let request = RenewLeaseRequest { lease, holder: holder.clone() };
        self.send(&path(volume, "/renew"), &request, Replay::Safe).map(|_: Done| ())
    }

    /// Gives it up.
    ///
    /// # Errors
    /// As every request.
    pub fn release_lease(&self, volume: &Uuid, lease: Ticket) -> Result<(), ClientError> {
        let request = ReleaseLeaseRequest { lease };
        self.send(&path(volume, "/release"), &request, Replay::Safe).map(|_: Done| ())
    }
}

fn path(volume: &Uuid, verb: &str) -> String {
    format!("{}/lease{verb}", anchor_path(volume))
}
