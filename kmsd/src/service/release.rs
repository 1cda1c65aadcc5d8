//! What leaves encryption: recorded before anybody writes it in the open (K8, I2).

use uuid::Uuid;

use super::{Service, ServiceError, audit::Trail};
use crate::domain::{Caller, EncryptionContext, KeyRef, Operation};

/// Name of its record.
const RELEASE: &str = "release-plaintext";

impl Service {
    /// Records that the caller is about to write in the open what `volume` holds under `key`. Given back only when that is durable: who
    /// asks first and writes then cannot write unrecorded. `to` says where it goes.
    ///
    /// # Errors
    /// Unless the caller may open the volume's data key, and the key's state allows it. That is recorded as well.
    pub async fn release_plaintext(
        &self,
        caller: &Caller,
        key: &KeyRef,
        volume: Uuid,
        context: &EncryptionContext,
        to: &str,
    ) -> Result<(), ServiceError> {
        let mut trail = Trail::new(caller, RELEASE).target(&volume).context(context).note(to);
        let permitted = self.authorise(caller, key, Operation::DecryptDatakey, context);
        if let Ok(permit) = &permitted {
            trail.key(permit.key().id, None);
        }
        self.record(trail, permitted.map(|_| ()).map_err(Into::into)).await
    }
}
