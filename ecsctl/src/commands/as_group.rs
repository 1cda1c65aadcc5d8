//! `ecsctl as-group`

mod create;
mod delete;
mod list;
mod scale;
mod show;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    app::App,
    catalog::scaling,
    claim::Claim,
    error::Error,
    model::{
        Noun,
        count::counted,
        name::short,
        scaling::{Config, Event, Group, LARGEST},
    },
    output::Show,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum AsGroup {
    /// Make a group and its servers
    Create(create::Create),
    /// List groups
    List(list::List),
    /// Show one group, its servers, and what happened to it
    Show(show::ShowGroup),
    /// Change how many servers a group has
    Scale(scale::Scale),
    /// Remove a group with its servers and the disks that were made with them
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: AsGroup, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        AsGroup::Create(verb) => verb.run(app),
        AsGroup::List(verb) => verb.run(app),
        AsGroup::Show(verb) => verb.run(app),
        AsGroup::Scale(verb) => verb.run(app, yes),
        AsGroup::Delete(verb) => verb.run(app, yes),
    }
}

/// A group as it is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    group: Group,
    config: String,
    servers: Vec<String>,
    events: Vec<Event>,
}

impl App {
    /// A group, and the right to change it; as it is once nobody else changes it.
    fn claim_group(&self, given: &str) -> Result<(Claim, Group), Error> {
        let found = scaling::group(self.catalog.read(), given)?;
        let claim = self.claim(Noun::AsGroup, found.id, &found.name)?;
        let group = scaling::group(self.catalog.read(), &found.id.to_string())?;
        Ok((claim, group))
    }

    /// Looks at a group.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub(crate) fn shown_group(&self, group: Group) -> Result<Shown, Error> {
        let read = self.catalog.read();
        Ok(Shown {
            config: self.config_of(&group)?.name,
            servers: scaling::members(read, group.id)?,
            events: scaling::events(read, group.id)?,
            group,
        })
    }

    /// What is asked about servers of a group that are to go.
    fn fates(&self, names: &[String]) -> Result<String, Error> {
        let mut fates = Vec::new();
        for name in names {
            match self.find_server(name) {
                Ok(server) => fates.push(format!("server {name}{}", self.fate(&server)?.sentence())),
                // Somebody has deleted it meanwhile.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(fates.join("; "))
    }

    fn config_of(&self, group: &Group) -> Result<Config, Error> {
        scaling::config(self.catalog.read(), &group.config_id.to_string())
    }
}

/// "1 server", "2 servers".
fn count(servers: &[String]) -> String {
    counted(servers.len(), "server")
}

/// Refuses a number of servers that a group may not have.
fn within(group: &Group) -> Result<(), Error> {
    // A group may have been made when there was no bound yet.
    let largest = group.largest.min(LARGEST);
    if (group.smallest..=largest).contains(&group.desired) {
        return Ok(());
    }
    Err(Error::OutOfBounds {
        group: group.name.clone(),
        desired: group.desired,
        smallest: group.smallest,
        largest,
    })
}

impl Show for Shown {
    fn json(&self) -> Value {
        json!({
            "id": self.group.id,
            "name": self.group.name,
            "config": self.config,
            "desired": self.group.desired,
            "min": self.group.smallest,
            "max": self.group.largest,
            "servers": self.servers,
            "events": self.events,
            "created_at": self.group.created_at,
        })
    }

    fn headings() -> &'static [&'static str] {
        &["id", "name", "config", "desired", "servers"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.group.id.to_string()),
            self.group.name.clone(),
            self.config.clone(),
            self.group.desired.to_string(),
            self.servers.join(", "),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("ID", self.group.id.to_string()),
            ("Name", self.group.name.clone()),
            ("Config", self.config.clone()),
            ("Desired", self.group.desired.to_string()),
            ("Bounds", format!("{} to {}", self.group.smallest, self.group.largest)),
            ("Servers", self.servers.join(", ")),
            ("Created", self.group.created_at.clone()),
        ];
        let events = self.events.iter().rev().take(10).rev();
        fields.extend(
            events.map(|e| (if e.failed { "Failure" } else { "Event" }, format!("{}  {}", e.at, e.event))),
        );
        fields
    }

    fn handle(&self) -> String {
        self.group.id.to_string()
    }
}
