//! `evsfs rekey`: the data key wrapped anew, or another data key for everything.

use super::background::{Task, progress};
use super::operation::perform;
use super::output::Output;
use crate::cli;
use crate::control::Request;
use crate::failure::Failure;
use crate::rekey;

const REENCRYPTION: Task = Task {
    field: "re_encryption",
    describe: rekey::describe,
    stopped: "re_encryption_stopped",
    name: "re-encryption",
    remedy: "overwrite or discard what is damaged, or delete the snapshot that holds it, then run this again",
};

pub(super) fn run(arguments: &cli::Rekey, output: Output) -> Result<(), Failure> {
    let file = arguments.file.display();
    if !arguments.new_data_key {
        let value = perform(&arguments.file, &Request::Rekey { key: arguments.key.clone() })?;
        let key = value["key_id"].as_str().unwrap_or_default();
        let text =
            format!("the data key of {file} is wrapped by key {key}, version {}", value["key_version"]);
        return output.result(&value, &text);
    }
    if arguments.key.is_some() {
        perform(&arguments.file, &Request::Rekey { key: arguments.key.clone() })?;
    }
    let request = Request::Reencrypt { rate: arguments.rate.map(|rate| rate.0) };
    let value = REENCRYPTION.run(&arguments.file, &request, arguments.wait, progress(arguments.progress))?;
    let text = if value["re_encryption"].is_null() {
        format!("{file} is re-encrypted: nothing is left of its old data key")
    } else {
        format!("{file} is being re-encrypted; `evsfs info` shows how far it is")
    };
    output.result(&value, &text)
}
