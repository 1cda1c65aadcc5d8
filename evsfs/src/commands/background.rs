//! Work that goes through a whole volume: by the process that serves it, in the background, or here, from beginning to end.

use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::operation::{Reached, ask, reach};
use crate::control::Request;
use crate::engine::{Step, Volume, VolumeError};
use crate::failure::{Exit, Failure, Report};
use crate::mount::table::MountEntry;
use crate::serve::Attachment;

/// How often the serving process is asked how far it is.
const ROUND: Duration = Duration::from_millis(500);

/// Which work.
pub(super) struct Task {
    /// Where answers say how far it is; null when it is not under way.
    pub(super) field: &'static str,
    /// What an open volume answers.
    pub(super) describe: fn(&Volume) -> Value,
    /// Code of the error when it stopped.
    pub(super) stopped: &'static str,
    /// Its name in that error.
    pub(super) name: &'static str,
    /// What helps then.
    pub(super) remedy: &'static str,
}

impl Task {
    /// Begins it, or lets it go on. If nobody serves the volume, or with `wait`, it returns when it is done, and shows on the way how far it is.
    pub(super) fn run(
        &self,
        file: &Path,
        request: &Request,
        wait: bool,
        show: impl FnMut(Option<&Value>),
    ) -> Result<Value, Failure> {
        match reach(file)? {
            Reached::Served(mount) => {
                let begun = ask(&mount, request)?;
                if wait { self.follow(&mount, show) } else { Ok(begun) }
            }
            Reached::Here(device) => {
                let done = device.operate(request).and_then(|_| self.drive(device.volume(), show));
                device.close().1?;
                done
            }
        }
    }

    /// Does it here, from beginning to end.
    fn drive(&self, volume: &Volume, mut show: impl FnMut(Option<&Value>)) -> Result<Value, Failure> {
        loop {
            match volume.task_paced()? {
                (Step::Finished, _) => {
                    show(None);
                    return Ok((self.describe)(volume));
                }
                (Step::NoSpace, _) => return Err(VolumeError::NoSpace.into()),
                (Step::Went { .. } | Step::Freeing, pause) => {
                    show(Some(&(self.describe)(volume)[self.field]));
                    thread::sleep(pause);
                }
            }
        }
    }

    /// Waits until the serving process has done it.
    fn follow(&self, mount: &MountEntry, mut show: impl FnMut(Option<&Value>)) -> Result<Value, Failure> {
        loop {
            let status = ask(mount, &Request::Status {})?;
            let volume = &status["volume"];
            let running = &volume[self.field];
            if running.is_null() {
                show(None);
                return Ok(json!({"uuid": volume["uuid"], self.field: null, "base": volume["base"]}));
            }
            if let Some(reason) = running["stopped"].as_str() {
                return Err(Report {
                    code: self.stopped.to_owned(),
                    message: format!("the {} stopped: {reason}", self.name),
                    hint: self.remedy.to_owned(),
                    exit: Exit::Failed,
                }
                .into());
            }
            show(Some(running));
            thread::sleep(ROUND);
        }
    }
}

/// For programs: `{"progress": ...}`, a line for each percent. Else a line on a terminal, and nothing elsewhere.
pub(super) fn progress(for_programs: bool) -> impl FnMut(Option<&Value>) {
    let terminal = stderr().is_terminal();
    let mut shown = String::new();
    move |status| {
        if !terminal && !for_programs {
            return;
        }
        // Nothing depends on the line.
        let _ = match status {
            None if shown.is_empty() || for_programs => Ok(()),
            None => writeln!(stderr()),
            Some(status) => {
                let line =
                    format!("{} %, {}", status["percent"], status["phase"].as_str().unwrap_or_default());
                if line == shown {
                    Ok(())
                } else {
                    shown.clone_from(&line);
                    if for_programs {
                        writeln!(stderr(), "{}", json!({"progress": status}))
                    } else {
                        write!(stderr(), "\r{line}        ")
                    }
                }
            }
        };
    }
}
