//! `ecsctl doctor`

use clap::Args;
use serde_json::json;

use crate::{
    app::App,
    commands::stdout,
    doctor::{self, rebuild::Rebuilt},
    error::Error,
    model::finding::{Finding, Grade},
    output::{Format, Show},
};

/// Examine the installation: kernel and FUSE, evsfs, kmsd and its token, permissions, space, and whether catalogue, volume files and mounts
/// agree. Says what to do about what is wrong, and changes nothing.
///
/// With --rebuild, volumes whose files lie in the installation but are in no catalogue come back, by what their headers say. Names do not
/// stand in headers: they are called recovered-ID. A volume whose key cannot be used stays out until it can.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl doctor
  ecsctl doctor --json | jq '.findings[] | select(.grade != \"good\")'
  ecsctl doctor --rebuild          after the catalogue was lost

Exit status: 0 nothing is bad, 1 something is.")]
pub(crate) struct Doctor {
    /// Bring volumes back that the catalogue lost
    #[arg(long)]
    rebuild: bool,
}

impl Doctor {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let rebuilt = if self.rebuild { doctor::rebuild::rebuild(app)? } else { Vec::new() };
        let findings = doctor::examine(app)?;
        let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Good);
        if app.out.format == Format::Json {
            app.out
                .value(&json!({
                    "grade": worst,
                    "findings": findings,
                    "rebuilt": rebuilt.iter().map(Show::json).collect::<Vec<_>>(),
                }))
                .map_err(stdout)?;
        } else {
            if self.rebuild {
                app.out.list(&rebuilt).map_err(stdout)?;
            }
            app.out.list(&findings).map_err(stdout)?;
            for finding in &findings {
                if let Some(remedy) = &finding.remedy {
                    app.out.note(&format!("{}: {}\n  hint: {remedy}", finding.check, finding.finding));
                }
            }
        }
        let bad: Vec<&'static str> = findings
            .iter()
            .filter(|finding| finding.grade == Grade::Bad)
            .map(|finding| finding.check)
            .collect();
        if bad.is_empty() { Ok(()) } else { Err(Error::Unwell { checks: bad }) }
    }
}

impl Show for Finding {
    fn json(&self) -> serde_json::Value {
        json!(self)
    }

    fn headings() -> &'static [&'static str] {
        &["CHECK", "GRADE", "FINDING"]
    }

    fn row(&self) -> Vec<String> {
        vec![self.check.to_owned(), self.grade.as_str().to_owned(), self.finding.clone()]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Check", self.check.to_owned()),
            ("Grade", self.grade.as_str().to_owned()),
            ("Finding", self.finding.clone()),
        ]
    }

    fn handle(&self) -> String {
        format!("{} {}", self.check, self.grade.as_str())
    }
}

impl Show for Rebuilt {
    fn json(&self) -> serde_json::Value {
        match self {
            Self::Returned(disk) => {
                json!({"id": disk.id, "kind": disk.kind.as_str(), "name": disk.name, "result": "returned"})
            }
            Self::Left { id, reason } => json!({
                "id": id, "result": "left", "reason": reason.to_string(), "hint": reason.report().hint,
            }),
        }
    }

    fn headings() -> &'static [&'static str] {
        &["VOLUME", "RESULT", "NAME"]
    }

    fn row(&self) -> Vec<String> {
        self.fields().into_iter().map(|(_, value)| value).collect()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let (id, result, name) = match self {
            Self::Returned(disk) => (disk.id, "returned", format!("{} {}", disk.kind, disk.name)),
            Self::Left { id, reason } => (*id, "left", format!("{reason} (hint: {})", reason.report().hint)),
        };
        vec![("Volume", id.to_string()), ("Result", result.to_owned()), ("Name", name)]
    }

    fn handle(&self) -> String {
        match self {
            Self::Returned(disk) => disk.id.to_string(),
            Self::Left { id, .. } => id.to_string(),
        }
    }
}
