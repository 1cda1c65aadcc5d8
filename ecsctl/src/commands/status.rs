//! `ecsctl status`

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use crate::{
    app::App,
    catalog::{disks, servers},
    commands::stdout,
    engine::Settled,
    error::Error,
    model::{Noun, count::counted, disk::DiskStatus, plan::Direction},
    output::Format,
};

/// Show how the installation is. What a dead process left half-done is finished or undone first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl status
  ecsctl status --json | jq .kmsd.reachable

Exit status: 7 when what was cut short can neither be finished nor undone as yet.")]
pub(crate) struct Status {}

impl Status {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let troubled = app.settle_all_and_orphans()?;
        let mut by_status: BTreeMap<DiskStatus, usize> = BTreeMap::new();
        let mut ill = Vec::new();
        for disk in disks::all(app.catalog.read(), Noun::Disk)? {
            let name = disk.name.clone();
            let shown = app.shown(disk)?;
            *by_status.entry(shown.status()).or_default() += 1;
            if let Some(reason) = shown.reason() {
                ill.push((name, reason.to_owned()));
            }
        }
        let servers = servers::all(app.catalog.read())?.len();
        let keys = app.keys.list();
        let ended = app.ended.iter();
        let ended = ended.map(|name| (format!("server {name}"), "its virtual machine has ended".to_owned()));
        let settled: Vec<(String, String)> = app.settled.iter().map(told).chain(ended).collect();

        if app.out.format == Format::Json {
            let counts: BTreeMap<&str, usize> = by_status.iter().map(|(s, n)| (s.as_str(), *n)).collect();
            app.out
                .value(&json!({
                    "home": app.installation.home,
                    "kmsd": {
                        "socket": app.installation.kmsd_socket,
                        "reachable": keys.is_ok(),
                        "keys": keys.as_ref().ok().map(Vec::len),
                        "error": keys.as_ref().err().map(ToString::to_string),
                    },
                    "servers": servers,
                    "disks": counts,
                    "troubles": ill.iter().map(|(disk, why)| json!({"disk": disk, "reason": why})).collect::<Vec<_>>(),
                    "settled": settled.iter().map(|(what, how)| json!({"what": what, "how": how})).collect::<Vec<_>>(),
                    "unsettled": troubled.iter().map(|(what, error)| json!({"what": what, "error": error.to_string()})).collect::<Vec<_>>(),
                }))
                .map_err(stdout)?;
            return all_settled(troubled);
        }
        let disks: Vec<String> =
            by_status.iter().map(|(status, n)| format!("{n} {}", status.as_str())).collect();
        let mut fields = vec![
            ("Home", app.installation.home.display().to_string()),
            (
                "kmsd",
                match &keys {
                    Ok(keys) => {
                        format!("{}, {}", app.installation.kmsd_socket.display(), counted(keys.len(), "key"))
                    }
                    Err(error) => error.to_string(),
                },
            ),
            ("Servers", servers.to_string()),
            ("Disks", if disks.is_empty() { "0".to_owned() } else { disks.join(", ") }),
        ];
        fields.extend(ill.iter().map(|(disk, why)| ("Trouble", format!("disk {disk}: {why}"))));
        fields.extend(settled.iter().map(|(what, how)| ("Settled", format!("{what} {how}"))));
        fields.extend(troubled.iter().map(|(what, error)| ("Unsettled", format!("{what}: {error}"))));
        app.out.fields(&fields).map_err(stdout)?;
        all_settled(troubled)
    }
}

/// A script sees by the exit status that somebody is needed; what was asked is shown all the same.
fn all_settled(troubled: BTreeMap<String, Error>) -> Result<(), Error> {
    if troubled.is_empty() {
        return Ok(());
    }
    Err(Error::Unsettled { what: troubled.into_keys().collect() })
}

/// What had been cut short, and how it ended.
fn told(settled: &Settled) -> (String, String) {
    let Settled { name, noun, doing, direction } = settled;
    let how = match direction {
        Direction::Finish => "finished",
        Direction::Undo => "undone",
    };
    (format!("{noun} {name}"), format!("was being {doing} when its process died: {how}"))
}
