//! `evsfs info`: what a header says, without secrets; with `--unlock` also what only the key shows.

use std::time::Duration;

use serde_json::{Value, json};

use super::output::Output;
use crate::backing::FileBacking;
use crate::cli;
use crate::control::{Peer, Request};
use crate::crypto::Suite;
use crate::engine::BLOCK;
use crate::failure::{Failure, FileError};
use crate::format::{BaseReference, Header, HeaderCopies, layout};
use crate::keys::KeyService;
use crate::mount::table;
use crate::open::{self, Access, LockedFile};
use crate::regular_file::{self, RegularFile};
use crate::unlock;
use crate::{flatten, lock, rekey};

/// How long the serving process may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(arguments: &cli::Info, output: Output) -> Result<(), Failure> {
    let path = std::path::absolute(&arguments.file).map_err(|source| FileError::System {
        operation: "resolve",
        file: arguments.file.clone(),
        source,
    })?;
    let regular = regular_file::open(&path, false)?;
    // Asked before the header is read: the two then never say that a re-encryption, which ends in between, waits to go on.
    let served = served(&regular);
    let attached = lock::holder(&regular.file).or_else(|| served.as_ref().map(|(pid, _)| *pid));
    let running = attached.map(|_| served.map_or(Value::Null, |(_, volume)| volume));
    // Without the lock: a volume in use has a header, too. A change of it leaves one copy whole at any moment.
    let header = unlock::read_header(&FileBacking::unlocked(regular.file))
        .map_err(|source| Failure::Unlock { file: path.clone(), source })?;
    let mut value = describe(&header);
    let object = value.as_object_mut().expect("it was made as one");
    object.insert("file".into(), json!(path));
    object.insert("attached".into(), json!(attached));
    if let Some(running) = running {
        for task in ["re_encryption", "flatten"] {
            object.insert(task.into(), running[task].clone());
        }
        // Seldom, and then what matters most.
        if !running["superseded"].is_null() {
            object.insert("superseded".into(), running["superseded"].clone());
        }
    }
    if arguments.unlock {
        object.append(unlocked(&path)?.as_object_mut().expect("it was made as one"));
    }
    let lines: Vec<String> = object
        .iter()
        .map(|(name, value)| {
            format!("{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .collect();
    output.result(&value, &lines.join("\n"))
}

fn describe(copies: &HeaderCopies) -> Value {
    let header: &Header = copies.candidates()[0].claims();
    let encrypted = header.suite == Suite::Aes256Gcm;
    let note = if encrypted {
        "nothing of this is proven without the key"
    } else {
        "not encrypted: damage is found, attackers are not stopped"
    };
    json!({
        "version": layout::VERSION,
        "uuid": header.uuid,
        "kind": header.kind.as_str(),
        "encrypted": encrypted,
        "cipher": if encrypted { "aes-256-gcm" } else { "none" },
        "key_id": encrypted.then(|| header.cmk_id.as_str()),
        "key_version": encrypted.then_some(header.cmk_version),
        "re_encrypting": header.next.is_some(),
        "created": header.created,
        "log_ring_bytes": header.ring_pages * BLOCK,
        "base": header.base.map(|base| {
            let note = (encrypted && !base.is_proved()).then_some(BaseReference::UNPROVED);
            json!({"uuid": base.uuid, "path": base.path.as_str(), "proved": base.is_proved(), "note": note})
        }),
        "flattened": header.base_copied,
        "header_copies": copies.candidates().len(),
        "note": note,
    })
}

/// The serving process, and what it says of its volume, with how far it is with a re-encryption or a flatten; `None` if it does not answer, or is
/// another user's.
fn served(file: &RegularFile) -> Option<(u32, Value)> {
    let (device, inode) = file.identity;
    let entry = table::of_file(device, inode, file.owner).ok()??;
    let mut peer = Peer::connect(&entry.source.to_string_lossy(), entry.user).ok()?;
    peer.wait_at_most(PATIENCE).ok()?;
    let status = peer.call(&Request::Status {}).ok()?;
    let pid = u32::try_from(peer.pid().as_raw_nonzero().get()).ok()?;
    Some((pid, status["volume"].clone()))
}

fn unlocked(path: &std::path::Path) -> Result<Value, Failure> {
    let file = LockedFile::open(path, true)?;
    let volume = open::open(&file, &KeyService::from_env(), &Access::reading())?.volume;
    let stats = volume.stats();
    Ok(json!({
        "size": volume.size(),
        "re_encryption": rekey::describe(&volume)["re_encryption"],
        "flatten": flatten::describe(&volume)["flatten"],
        "commit": volume.anchor().commit,
        "used_bytes": stats.used_slots * BLOCK,
        "file_bytes": stats.file_slots * BLOCK,
        "note": "proven with the key",
    }))
}
