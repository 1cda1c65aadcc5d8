//! `ecsctl audit export-keys`

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use clap::Args;
use kmsd::client::Client;
use serde_json::json;

use crate::{
    commands::stdout,
    error::Error,
    keys::kmsd::told,
    output::{Format, Output},
};

/// Write the keys that the log's files begin with to a new file of mode 0600.
///
/// With it a copy of the log can be checked on a host without kmsd and token. Whoever has it could also write another history of these
/// files: it belongs to the keeper of the copy, not on kmsd's host. That it was exported stands in the log.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl audit export-keys audit-keys.json
  ecsctl audit verify --dir /backup/kmsd/audit --keys audit-keys.json")]
pub(crate) struct ExportKeys {
    /// The file; must not exist
    file: PathBuf,
}

impl ExportKeys {
    pub(super) fn run(self, client: &Client, out: Output) -> Result<(), Error> {
        let path = &self.file;
        let io = |doing| move |source| Error::Io { doing, path: path.clone(), source };
        // First the file: keys that cannot be kept are not asked for.
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = made.map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => Error::FileExists { path: path.clone() },
            _ => io("make")(source),
        })?;
        let written = client.audit_keys().map_err(|error| Error::from(told("", error))).and_then(|keys| {
            file.write_all(&keys.to_json()).and_then(|()| file.sync_all()).map_err(io("write"))?;
            Ok(keys.len())
        });
        let files = match written {
            Ok(files) => files,
            Err(error) => {
                // Nothing half-made stays; the first error is the one that matters.
                let _ = fs::remove_file(path);
                return Err(error);
            }
        };
        let path = path.display().to_string();
        match out.format {
            Format::Json => out.value(&json!({"path": path, "files": files})),
            Format::Table if out.quiet => out.text(&format!("{path}\n")),
            Format::Table => out.text(&format!(
                "the keys of {files} {} of the log are in {path}\n",
                if files == 1 { "file" } else { "files" }
            )),
        }
        .map_err(stdout)
    }
}
