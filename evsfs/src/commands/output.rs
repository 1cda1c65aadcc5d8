//! Results on standard output, errors on standard error, as text or JSON.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use crate::failure::{Failure, FileError, Report};

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// The result of a command: `text` for people, `value` for programs.
    pub(super) fn result(self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        self.write(value, text).map_err(|source| {
            FileError::System { operation: "write to", file: "standard output".into(), source }.into()
        })
    }

    pub(super) fn write(self, value: &impl Serialize, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, value)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()
    }

    pub(super) fn error(self, report: &Report) {
        let mut err = io::stderr().lock();
        let written = if self.json {
            let Report { code, message, hint, .. } = report;
            writeln!(err, "{}", json!({"error": {"code": code, "message": message, "hint": hint}}))
        } else {
            writeln!(err, "error: {}\nhint: {}", report.message, report.hint)
        };
        // Where nothing can be printed, the exit status has to do.
        drop(written);
    }
}
