//! `evsfs rekey`: the data key wrapped anew, or another data key for everything.

use std::io::{IsTerminal, Write, stderr};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::operation::{Reached, perform, reach};
use super::output::Output;
use crate::cli;
use crate::control::{self, Request};
use crate::engine::{Step, VolumeError};
use crate::failure::{Exit, Failure, Report};
use crate::rekey;
use crate::serve::Attachment;

/// How often the serving process is asked how far it is.
const ROUND: Duration = Duration::from_millis(500);

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
    let value = match reach(&arguments.file)? {
        Reached::Served(source) => {
            let begun = control::call(&source, &request)?;
            if arguments.wait { follow(&source)? } else { begun }
        }
        Reached::Here(device) => {
            let done = device.operate(&request).and_then(|_| drive(device.volume()));
            device.close()?;
            done?
        }
    };
    let text = if value["re_encryption"].is_null() {
        format!("{file} is re-encrypted: nothing is left of its old data key")
    } else {
        format!("{file} is being re-encrypted; `evsfs info` shows how far it is")
    };
    output.result(&value, &text)
}

/// Does it here, from beginning to end.
fn drive(volume: &crate::engine::Volume) -> Result<Value, Failure> {
    let mut show = progress();
    loop {
        match volume.reencrypt_paced()? {
            (Step::Finished, _) => {
                show(None);
                return Ok(rekey::describe(volume));
            }
            (Step::NoSpace, _) => return Err(VolumeError::NoSpace.into()),
            (Step::Went { .. } | Step::Freeing, pause) => {
                show(Some(&rekey::describe(volume)["re_encryption"]));
                thread::sleep(pause);
            }
        }
    }
}

/// Waits until the serving process has done it.
fn follow(source: &str) -> Result<Value, Failure> {
    let mut show = progress();
    loop {
        let status = control::call(source, &Request::Status {})?;
        let running = &status["volume"]["re_encryption"];
        if running.is_null() {
            show(None);
            return Ok(json!({"uuid": status["volume"]["uuid"], "re_encryption": null}));
        }
        if let Some(reason) = running["stopped"].as_str() {
            return Err(Report {
                code: "re_encryption_stopped".to_owned(),
                message: format!("the re-encryption stopped: {reason}"),
                hint: "overwrite or discard what is damaged, or delete the snapshot that holds it, then run this again".to_owned(),
                exit: Exit::Failed,
            }
            .into());
        }
        show(Some(running));
        thread::sleep(ROUND);
    }
}

/// A line on a terminal, nothing elsewhere.
fn progress() -> impl FnMut(Option<&Value>) {
    let terminal = stderr().is_terminal();
    let mut shown = String::new();
    move |status| {
        if !terminal {
            return;
        }
        // Nothing depends on the line.
        let _ = match status {
            None if shown.is_empty() => Ok(()),
            None => writeln!(stderr()),
            Some(status) => {
                let line =
                    format!("{} %, {}", status["percent"], status["phase"].as_str().unwrap_or_default());
                if line == shown {
                    Ok(())
                } else {
                    shown.clone_from(&line);
                    write!(stderr(), "\r{line}        ")
                }
            }
        };
    }
}
