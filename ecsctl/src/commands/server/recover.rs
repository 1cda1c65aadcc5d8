//! `ecsctl server recover`

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use crate::{
    app::App,
    catalog::servers,
    commands::stdout,
    engine::servers::Recovery,
    error::Error,
    output::{Format, Show},
};

/// Bring back every disk of a server, or of all servers, after a reboot of the host or a crash of any process, and say
/// which could not come back and why. Disks that are up are not disturbed.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["server", "all"])), after_help = "\
Examples:
  ecsctl server recover web1
  ecsctl server recover --all          what the systemd unit runs at boot")]
pub(crate) struct Recover {
    /// The server: name, ID, or beginning of the ID
    server: Option<String>,
    /// Every server
    #[arg(long)]
    all: bool,
}

/// How one disk fared.
#[derive(Debug)]
struct Line {
    /// None for what was cut short and is not settled, whatever it is.
    server: Option<String>,
    disk: String,
    result: &'static str,
    path: Option<String>,
    error: Option<(String, String)>,
}

impl Recover {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let troubled = app.settle_all_and_orphans()?;
        let servers = match &self.server {
            Some(given) => vec![app.find_server(given)?],
            None => servers::all(app.catalog.read())?,
        };
        let mut lines = Vec::new();
        for server in servers {
            for (disk, recovery) in app.recover_server(&server)? {
                let name = disk.name.clone();
                let path = app.shown(disk)?.path().map(|path| path.display().to_string());
                let (result, error) = match recovery {
                    Recovery::Present => ("present", None),
                    Recovery::Returned => ("returned", None),
                    Recovery::Stale(error) => ("stale", Some(error)),
                    Recovery::Failed(error) => ("failed", Some(error)),
                };
                let error = error.map(|error| (error.to_string(), error.report().hint));
                lines.push(Line { server: Some(server.name.clone()), disk: name, result, path, error });
            }
        }
        let failed: Vec<String> =
            lines.iter().filter(|line| line.error.is_some()).map(|line| line.disk.clone()).collect();
        let disks = lines.len();
        // It keeps no disk of a server away: that is told with the disk.
        lines.extend(troubled.iter().filter(|(name, _)| !failed.contains(name)).map(|(name, error)| Line {
            server: None,
            disk: name.clone(),
            result: "unsettled",
            path: None,
            error: Some((error.to_string(), error.report().hint)),
        }));
        let all_well = failed.is_empty();
        if all_well || app.out.format == Format::Table {
            app.out.list(&lines).map_err(stdout)?;
        }
        for name in &app.ended {
            app.out.note(&format!(
                "server {name}: its virtual machine has ended\n  hint: ecsctl server start {name}"
            ));
        }
        for (message, hint) in lines.iter().filter_map(|line| line.error.as_ref()) {
            app.out.note(&format!("{message}\n  hint: {hint}"));
        }
        if all_well {
            return Ok(());
        }
        let lines = Value::Array(lines.iter().map(Show::json).collect());
        Err(Error::NotRecovered { failed, of: disks, disks: lines })
    }
}

impl Show for Line {
    fn json(&self) -> Value {
        json!({
            "server": self.server,
            "disk": self.disk,
            "result": self.result,
            "path": self.path,
            "error": self.error.as_ref().map(|(message, hint)| json!({ "message": message, "hint": hint })),
        })
    }

    fn headings() -> &'static [&'static str] {
        &["server", "disk", "result", "path"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.server.clone().unwrap_or_default(),
            self.disk.clone(),
            self.result.to_owned(),
            self.path.clone().unwrap_or_default(),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Server", self.server.clone().unwrap_or_default()),
            ("Disk", self.disk.clone()),
            ("Result", self.result.to_owned()),
        ]
    }

    fn handle(&self) -> String {
        self.disk.clone()
    }
}
