//! `evsfs accept-rollback`: an operator goes on with a file that is older than the newest state the key service knows (F3). The file is only read.

use serde_json::{Value, json};

use super::output::Output;
use crate::cli;
use crate::control::Request;
use crate::engine::Volume;
use crate::failure::Failure;
use crate::keys::KeyService;
use crate::open::{self, Access, LockedFile};
use crate::operations::operate;
use crate::unlock::Expected;

/// What the audit log calls it.
const COMMAND: &str = "evsfs accept-rollback";

/// How far a file is behind.
#[derive(Clone, Copy, Debug)]
struct Gap {
    /// The commit that it holds.
    found: u64,
    /// The newest one that the key service knows.
    newest: u64,
}

pub(super) fn run(arguments: &cli::AcceptRollback, output: Output) -> Result<(), Failure> {
    let file = LockedFile::open(&arguments.file, true)?;
    let expected = Expected { uuid: arguments.expect_uuid, encrypted: arguments.expect_encrypted };
    let access = Access { expected, ..Access::reading() };
    let service = KeyService::from_env();
    let (volume, gap) = match open::open(&file, &service, &access) {
        Ok(opened) => (opened.volume, None),
        Err(failure) => {
            let Some(newest) = failure.anchor_ahead() else { return Err(failure) };
            let volume = open::open_past(&file, &service, &access)?;
            let found = volume.anchor().commit;
            (volume, Some(Gap { found, newest }))
        }
    };
    let accepted = gap.filter(|_| !arguments.dry_run);
    if let Some(Gap { newest, .. }) = accepted {
        open::accept_in_place_of(&file, &service, &volume, newest, COMMAND)?;
    }
    let accepted = accepted.is_some();
    let value = describe(&volume, gap, accepted)?;
    let name = arguments.file.display();
    let text = match gap {
        None => format!("{name} is not older than what the key service knows: nothing is to be accepted"),
        Some(Gap { found, newest }) => {
            let done = if accepted { "is accepted" } else { "would be accepted" };
            format!("{name}: commit {found} {done}, in place of {newest} and all that led there")
        }
    };
    output.result(&value, &text)
}

fn describe(volume: &Volume, gap: Option<Gap>, accepted: bool) -> Result<Value, Failure> {
    let header = volume.header();
    let mut value = operate(volume, &Request::Snapshots {})?;
    let object = value.as_object_mut().expect("it was made as one");
    object.insert("accepted".into(), json!(accepted));
    object.insert("rollback".into(), json!(gap.map(|gap| json!({"found": gap.found, "newest": gap.newest}))));
    object.insert("uuid".into(), json!(header.uuid));
    object.insert("size".into(), json!(volume.size()));
    Ok(value)
}
