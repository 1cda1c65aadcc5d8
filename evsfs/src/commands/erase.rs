//! `evsfs erase`: destroys the wrapped data key, and with it the contents.

use serde_json::json;
use tracing::info;
use uuid::Uuid;

use super::output::Output;
use crate::backing::Backing;
use crate::cli;
use crate::crypto::Suite;
use crate::failure::{Failure, FileError};
use crate::format::layout::{BLOCK_BYTES, HEADER_SLOTS};
use crate::format::{Block, erase_wrapped_keys};
use crate::keys::{KeyError, KeyErrorKind, KeyService};
use crate::lease::Lease;
use crate::open::LockedFile;

pub(super) fn run(arguments: &cli::Erase, output: Output) -> Result<(), Failure> {
    let LockedFile { path, backing, header, identity } = LockedFile::open(&arguments.file, false)?;
    let system = |operation| {
        let file = path.clone();
        move |source| Failure::from(FileError::System { operation, file, source })
    };
    let uuid = *header.candidates()[0].uuid();
    if header.candidates().iter().all(|copy| copy.suite() == Suite::Plain) {
        let text = format!("{}: not encrypted, so there is no key to erase", path.display());
        return output.result(&json!({"file": path, "uuid": uuid, "erased": false}), &text);
    }
    let _lease = nobody_elsewhere(uuid, identity)?;
    let mut copies = HEADER_SLOTS.map(|slot| (slot * BLOCK_BYTES, Box::new([0; 4096])));
    for (offset, block) in &mut copies {
        // What cannot be read goes as a whole: the key may be in it all the same.
        match backing.read_at(block.as_mut(), *offset) {
            Ok(()) => erase_wrapped_keys(block),
            Err(_) => block.fill(0),
        }
        backing.write_at(block.as_ref(), *offset).map_err(system("erase the key in"))?;
    }
    backing.sync().map_err(system("make the erasure durable in"))?;
    for (offset, expected) in &copies {
        let mut found: Box<Block> = Box::new([0; 4096]);
        backing.read_at(found.as_mut(), *offset).map_err(system("verify the erasure in"))?;
        if found != *expected {
            return Err(system("verify the erasure in")(std::io::ErrorKind::InvalidData.into()));
        }
    }
    output.result(
        &json!({"file": path, "uuid": uuid, "erased": true}),
        &format!("{}: the data key of volume {uuid} is erased", path.display()),
    )
}

/// Takes the volume's lease, so that nothing is erased under the hands of a writer on another host. Where the key service does not answer, or keeps no lease
/// for this user, the key goes all the same.
fn nobody_elsewhere(volume: Uuid, file: (u64, u64)) -> Result<Option<Lease>, KeyError> {
    match Lease::take(&KeyService::from_env().impatient(), volume, file) {
        Ok((lease, _)) => Ok(Some(lease)),
        Err(error) if error.kind().is_final() || error.kind() == KeyErrorKind::MayBeHeld => Err(error),
        Err(error) => {
            info!(%error, "it is not known whether another host has the volume attached");
            Ok(None)
        }
    }
}
