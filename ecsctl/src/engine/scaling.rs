//! Scaling groups out and in (A1, A2).

use std::collections::BTreeSet;

use rusqlite::Connection;
use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, scaling, servers},
    engine::{
        build::{Blueprint, SYSTEM, data, derived, disk_name},
        make::Encryption,
        servers::finished,
    },
    error::Error,
    model::{
        Noun,
        scaling::{Config, DiskTemplate, Event, Group, Template, leaving, plan},
        server::Server,
        size::Size,
    },
};

/// What a server is made of, so that others can be made like it (A1). A system disk of another server, attached to this one to be mended, is
/// one of its data disks.
pub(super) fn template_of(connection: &Connection, server: &Server) -> Result<Template, Error> {
    let (mut system, mut data) = (None, Vec::new());
    for disk in disks::of_server(connection, server.id)? {
        let is_system = disk.is_system_of(server.id);
        let template = DiskTemplate {
            size: disk.size,
            encrypted: disk.encrypted,
            key_id: disk.key_id,
            key_alias: disk.key_alias,
        };
        if is_system { system = Some(template) } else { data.push(template) }
    }
    let image = server.image.as_deref().and_then(|id| Uuid::parse_str(id).ok());
    Ok(Template { image, system, data })
}

impl App {
    /// Makes a configuration like a server (A1).
    ///
    /// # Errors
    /// [`Error::ServerStatus`] for one that is half made or half deleted; [`Error::Exists`], [`Error::NotFound`].
    pub(crate) fn create_config(&mut self, name: String, given: &str) -> Result<(Config, Server), Error> {
        self.settle_all_and_orphans()?;
        let id = self.find_server(given)?.id;
        let created_at = self.now.clone();
        // In one transaction, so that the disks are those of a server that has them all.
        self.catalog.write(|tx| {
            let server = finished(tx, id, given)?;
            let config = Config { id: Uuid::new_v4(), name, template: template_of(tx, &server)?, created_at };
            scaling::insert_config(tx, &config)?;
            Ok((config, server))
        })
    }

    /// Makes a group, without servers as yet.
    ///
    /// # Errors
    /// [`Error::DerivedName`] when the last server that it may have, or a disk of that, could not be named after it; [`Error::Exists`].
    pub(crate) fn create_group(&mut self, group: &Group, config: &Config) -> Result<(), Error> {
        let owner = (Noun::AsGroup, group.name.as_str());
        let server = derived(owner, Noun::Server, format!("{}-{}", group.name, group.largest))?;
        if config.template.image.is_some() {
            disk_name(owner, &server, SYSTEM)?;
        }
        if let Some(last) = config.template.data.len().checked_sub(1) {
            disk_name(owner, &server, &data(last))?;
        }
        self.catalog.write(|tx| {
            // Somebody may have deleted it since it was found.
            scaling::config(tx, &config.id.to_string())?;
            scaling::insert_group(tx, group)
        })
    }

    /// Makes or removes servers until the group has as many as it wants from now on. Each step is an event.
    ///
    /// # Errors
    /// A server that would go and cannot, or one that was cut short and cannot be cleared away: then nothing was done, and the group wants what it
    /// wanted. Else the first server that could not be made or removed; those before it stay, nothing of it does.
    pub(crate) fn scale(&mut self, group: &Group, config: &Config) -> Result<Vec<String>, Error> {
        for server in scaling::unfinished(self.catalog.read(), group.id)? {
            self.settle_server(server.id, &server.name)?;
        }
        for name in leaving(&scaling::members(self.catalog.read(), group.id)?, group.desired) {
            match self.find_server(&name) {
                Ok(server) => self.refuse_deletion(&server)?,
                // Somebody has deleted it meanwhile.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.catalog.write(|tx| scaling::set_desired(tx, group.id, group.desired))?;
        let present = scaling::members(self.catalog.read(), group.id)?;
        let read = self.catalog.read();
        let servers: BTreeSet<String> = servers::all(read)?.into_iter().map(|server| server.name).collect();
        let disks: BTreeSet<String> =
            disks::all(read, Noun::Disk)?.into_iter().map(|disk| disk.name).collect();
        let system = config.template.image.map(|_| SYSTEM.to_owned());
        let suffixes: Vec<String> =
            system.into_iter().chain((0..config.template.data.len()).map(data)).collect();
        let plan = plan(&group.name, &present, group.desired, |name| {
            !servers.contains(name)
                && suffixes.iter().all(|suffix| !disks.contains(&format!("{name}-{suffix}")))
        });
        for name in plan.inward {
            let removed = self.delete_server(&name).map(|_| ());
            self.tell(
                group,
                &format!("server {name} removed"),
                &format!("server {name} not removed"),
                removed,
            )?;
        }
        for name in plan.out {
            let blueprint = self.blueprint(name.clone(), group, config);
            let built = blueprint.and_then(|blueprint| self.build_server(&blueprint)).map(|_| ());
            self.tell(
                group,
                &format!("server {name} created"),
                &format!("server {name} not created"),
                built,
            )?;
        }
        scaling::members(self.catalog.read(), group.id)
    }

    fn tell(
        &mut self,
        group: &Group,
        done: &str,
        not_done: &str,
        result: Result<(), Error>,
    ) -> Result<(), Error> {
        let (event, failed) = match &result {
            Ok(()) => (done.to_owned(), false),
            Err(error) => (format!("{not_done}: {error}"), true),
        };
        let event = Event { at: self.now.clone(), event, failed };
        self.catalog.write(|tx| scaling::tell(tx, group.id, &event))?;
        result
    }

    fn blueprint(&self, name: String, group: &Group, config: &Config) -> Result<Blueprint, Error> {
        // The numbers can be greater than the group is large, where others have taken names.
        let name = derived((Noun::AsGroup, &group.name), Noun::Server, name)?;
        let template = &config.template;
        let size = |bytes: u64| {
            Size::from_bytes(bytes).map_err(|source| Error::Size { given: bytes.to_string(), source })
        };
        let image = match template.image {
            Some(id) => Some(self.find_volume(Noun::Image, &id.to_string())?),
            None => None,
        };
        if let (Some(image), Some(system)) = (&image, &template.system)
            && image.encrypted != system.encrypted
        {
            return Err(Error::StaysEncrypted {
                name: format!("{name}-{SYSTEM}"),
                image: image.name.clone(),
            });
        }
        let data = template
            .data
            .iter()
            .map(|disk| {
                let encryption = match (disk.encrypted, &disk.key_id) {
                    (false, _) => Encryption::Plain,
                    (true, Some(key)) => Encryption::Under(Some(key.clone())),
                    // Another key than its source's is not "the same" (A1).
                    (true, None) => {
                        return Err(Error::KeyUnrecorded {
                            kind: Noun::Server,
                            name: name.clone(),
                            source_kind: Noun::AsConfig,
                            source_name: config.name.clone(),
                        });
                    }
                };
                Ok((size(disk.size)?, encryption))
            })
            .collect::<Result<_, Error>>()?;
        let system_size =
            template.system.as_ref().filter(|_| image.is_some()).map(|disk| size(disk.size)).transpose()?;
        Ok(Blueprint { name, image, system_size, data, group_id: Some(group.id) })
    }
}
