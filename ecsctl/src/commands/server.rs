//! `ecsctl server`

mod create;
mod delete;
mod list;
mod recover;
mod show;
mod start;
mod stop;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    app::App,
    catalog::disks,
    error::Error,
    machines::MachinePlace,
    model::{disk::Serving, name::short, server},
    output::Show,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Server {
    /// Make a server
    Create(create::Create),
    /// List servers
    List(list::List),
    /// Show one server and its disks
    Show(show::ShowServer),
    /// Run a server's virtual machine on its disks
    Start(start::Start),
    /// Stop a server's virtual machine; its disks stay attached
    Stop(stop::Stop),
    /// Bring back the disks of servers after a reboot or a crash
    Recover(recover::Recover),
    /// Detach a server's disks and forget it; its system disk goes with it, the others stay
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: Server, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Server::Create(verb) => verb.run(app),
        Server::List(verb) => verb.run(app),
        Server::Show(verb) => verb.run(app),
        Server::Start(verb) => verb.run(app),
        Server::Stop(verb) => verb.run(app, yes),
        Server::Recover(verb) => verb.run(app),
        Server::Delete(verb) => verb.run(app, yes),
    }
}

/// A server as it is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    server: server::Server,
    disks: Vec<String>,
    /// The image's name, or its ID when it is gone.
    image: Option<String>,
    machine: Option<(Serving, MachinePlace)>,
}

impl App {
    /// Looks at a server.
    ///
    /// # Errors
    /// Those of the catalogue.
    pub(crate) fn shown_server(&self, server: server::Server) -> Result<Shown, Error> {
        let disks = disks::of_server(self.catalog.read(), server.id)?;
        let place = || self.installation.machine_place(server.id);
        let machine = self.machine_of(&server).map(|serving| (serving, place()));
        let image = match &server.image {
            Some(id) => {
                let found = id.parse().ok().map(|id| disks::by_id(self.catalog.read(), id)).transpose()?;
                Some(found.flatten().map_or_else(|| id.clone(), |image| image.name))
            }
            None => None,
        };
        Ok(Shown { server, disks: disks.into_iter().map(|disk| disk.name).collect(), image, machine })
    }
}

impl Show for Shown {
    fn json(&self) -> Value {
        json!({
            "id": self.server.id,
            "name": self.server.name,
            "status": self.server.status.as_str(),
            "disks": self.disks,
            "image": self.server.image,
            "group": self.server.group_id,
            "machine": self.machine.as_ref().map(|(serving, place)| json!({
                "pid": serving.pid,
                "console": place.console,
                "monitor": place.monitor,
            })),
            "created_at": self.server.created_at,
        })
    }

    fn headings() -> &'static [&'static str] {
        &["id", "name", "status", "disks"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            short(&self.server.id.to_string()),
            self.server.name.clone(),
            self.server.status.as_str().to_owned(),
            self.disks.join(", "),
        ]
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("ID", self.server.id.to_string()),
            ("Name", self.server.name.clone()),
            ("Status", self.server.status.as_str().to_owned()),
            ("Disks", self.disks.join(", ")),
            ("Image", self.image.clone().unwrap_or_default()),
            ("Created", self.server.created_at.clone()),
        ];
        if let Some((serving, place)) = &self.machine {
            fields.push(("Process", serving.pid.to_string()));
            fields.push(("Console", place.console.display().to_string()));
        }
        fields
    }

    fn handle(&self) -> String {
        self.server.id.to_string()
    }
}
