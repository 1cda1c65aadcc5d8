//! `ecsctl audit list`

use std::path::PathBuf;

use clap::Args;
use kmsd::{client::Client, domain::audit::Record};
use serde_json::{Value, json};

use crate::{
    commands::stdout,
    error::Error,
    keys::kmsd::told,
    model::{name::short, time},
    output::{Output, Show},
};

/// List the latest records of kmsd's audit log, oldest first, as they stand: `ecsctl audit verify` checks them.
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  ecsctl audit list --limit 20
  ecsctl audit list --before 1000 --json | jq '.[].operation'
  ecsctl audit list --dir /backup/kmsd/audit          a copy, without kmsd"
)]
pub(crate) struct List {
    /// At most so many records
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Only records with smaller numbers than this
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// Read a copy of the log instead of asking kmsd
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Most records that kmsd gives at once.
const PAGE: usize = 1000;

impl List {
    pub(super) fn run(self, client: impl Fn() -> Client, out: Output) -> Result<(), Error> {
        let records = match &self.dir {
            Some(dir) => kmsd::audit::tail(dir, self.before.unwrap_or(u64::MAX), self.limit)?,
            None => self.ask(&client())?,
        };
        let lines: Vec<_> = records.into_iter().map(Line).collect();
        out.list(&lines).map_err(stdout)
    }

    /// Page by page, from the newest back.
    fn ask(&self, client: &Client) -> Result<Vec<Record>, Error> {
        let mut records: Vec<Record> = Vec::new();
        let mut before = self.before;
        while records.len() < self.limit {
            let wanted = PAGE.min(self.limit - records.len());
            let page = client.audit_list(before, wanted).map_err(|error| told("", error))?;
            let Some(first) = page.first() else { break };
            before = Some(first.seq);
            records.splice(0..0, page);
        }
        Ok(records)
    }
}

/// A record, shown.
struct Line(Record);

impl Show for Line {
    fn json(&self) -> Value {
        json!(self.0)
    }

    fn headings() -> &'static [&'static str] {
        &["number", "time", "who", "operation", "stage", "outcome", "key", "target", "note"]
    }

    fn row(&self) -> Vec<String> {
        let Record { seq, stamp, event } = &self.0;
        vec![
            seq.to_string(),
            time::of_milliseconds(stamp.time.0).unwrap_or_else(|| stamp.time.0.to_string()),
            event.principal.to_string(),
            event.operation.clone(),
            self.0.event.stage.as_str().to_owned(),
            event.outcome.clone().unwrap_or_default(),
            event.key.map(|key| short(&key.to_string())).unwrap_or_default(),
            event.target.clone().unwrap_or_default(),
            event.note.clone().unwrap_or_default(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        Self::headings().iter().copied().zip(self.row()).collect()
    }

    fn handle(&self) -> String {
        self.0.seq.to_string()
    }
}
