//! `ecsctl audit verify`

use std::path::{Path, PathBuf};

use clap::Args;
use kmsd::{
    audit::{self, AuditError, Extent, keys::ExportedKeys},
    client::Client,
    domain::audit::Head,
};
use serde_json::json;

use crate::{
    commands::stdout,
    error::Error,
    keys::kmsd::told,
    output::{Format, Output},
};

/// Check the audit log. kmsd checks its own, with the token; a copy of the log is checked here.
///
/// Without options, kmsd proves that every record up to now is there and as it was written. With --dir and --keys, the same
/// is proved of a copy, up to the copy's own end; --expect names an end that the copy must hold, as an earlier check printed it. With
/// --dir alone only numbers and form are checked, and the expected end: changes within records are not found by that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl audit verify
  ecsctl audit verify --dir /backup/kmsd/audit --keys audit-keys.json
  ecsctl audit verify --dir /backup/kmsd/audit --keys audit-keys.json --expect 1000:5ec1")]
pub(crate) struct Verify {
    /// A copy of the log's directory; kmsd is not asked
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The keys of the log, from `ecsctl audit export-keys`
    #[arg(long, value_name = "FILE", requires = "dir")]
    keys: Option<PathBuf>,
    /// An end that the copy must hold: NUMBER:MAC
    #[arg(long, value_name = "END", requires = "dir")]
    expect: Option<String>,
}

/// What a check proves.
#[derive(Clone, Copy)]
enum Proof {
    Service,
    Keys,
    Outline,
}

impl Proof {
    const fn name(self) -> &'static str {
        match self {
            Self::Service => "token",
            Self::Keys => "keys",
            Self::Outline => "outline",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Service => "every record is as kmsd wrote it, and none is missing",
            Self::Keys => "every record is as kmsd wrote it, none is missing before the end",
            Self::Outline => {
                "the records are numbered without gaps; without --keys changes within them are not found"
            }
        }
    }
}

impl Verify {
    pub(super) fn run(self, client: impl Fn() -> Client, out: Output) -> Result<(), Error> {
        let noted = match &self.expect {
            Some(text) => Some(
                text.trim()
                    .parse::<Head>()
                    .map_err(|source| Error::AuditEnd { given: text.clone(), source })?,
            ),
            None => None,
        };
        let (proof, records, end, archived, fault) = match (&self.dir, &self.keys) {
            (None, _) => {
                let verdict = client().audit_verify().map_err(|error| told("", error))?;
                let fault = (!verdict.intact).then(|| verdict.fault.unwrap_or_default());
                (Proof::Service, verdict.records, verdict.end, verdict.archived, fault)
            }
            (Some(dir), keys) => {
                let (proof, verdict) = match keys {
                    Some(file) => (Proof::Keys, with_keys(dir, file, noted)?),
                    None => (Proof::Outline, audit::outline(dir, noted)?),
                };
                let fault = verdict.fault.map(|fault| fault.to_string());
                let archived = (verdict.archived.seq > 0).then(|| verdict.archived.to_string());
                (proof, verdict.records, verdict.head.to_string(), archived, fault)
            }
        };
        if let Some(fault) = fault {
            return Err(Error::AuditTampered { fault, records });
        }
        match out.format {
            Format::Json => {
                let mut value =
                    json!({"intact": true, "records": records, "end": end, "proof": proof.name()});
                if let Some(archived) = archived {
                    value["archived"] = json!(archived);
                }
                out.value(&value)
            }
            Format::Table if out.quiet => out.text(&format!("{end}\n")),
            Format::Table => {
                let are = if records == 1 { "record is" } else { "records are" };
                let before = archived.map(|last| format!("archived up to {last}\n")).unwrap_or_default();
                out.text(&format!("{records} {are} intact: {}\n{before}end {end}\n", proof.sentence()))
            }
        }
        .map_err(stdout)
    }
}

fn with_keys(dir: &Path, file: &Path, noted: Option<Head>) -> Result<audit::Verdict, Error> {
    let json =
        std::fs::read(file).map_err(|source| Error::Io { doing: "read", path: file.to_owned(), source })?;
    let keys_error = |source| Error::AuditKeys { path: file.to_owned(), source };
    let keys = ExportedKeys::parse(&json).map_err(keys_error)?;
    let mut missing = None;
    let verdict = audit::verify::<AuditError>(&[dir], Extent::Whole { noted }, |number| {
        keys.key(number).map_err(|source| {
            missing = Some(source);
            AuditError::Stopped
        })
    });
    match missing {
        Some(source) => Err(keys_error(source)),
        None => Ok(verdict?),
    }
}
