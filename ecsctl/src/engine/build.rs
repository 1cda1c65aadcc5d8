//! Building servers with their disks, all or none (S1, A2).

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{operations, servers},
    engine::{
        make::{Encryption, Request},
        servers::ServerOperation,
    },
    error::Error,
    model::{
        Noun,
        disk::{Disk, Role},
        name::Name,
        plan::{Fill, Operation},
        server::{Server, ServerStatus},
        size::Size,
    },
};

/// A server to be built.
#[derive(Debug)]
pub(crate) struct Blueprint {
    /// Its name.
    pub(crate) name: String,
    /// What its system disk is made from; without it, it has none.
    pub(crate) image: Option<Disk>,
    /// The size of the system disk; without it, that of the image.
    pub(crate) system_size: Option<Size>,
    /// Its data disks.
    pub(crate) data: Vec<(Size, Encryption)>,
    /// The auto scaling group that it belongs to.
    pub(crate) group_id: Option<Uuid>,
}

/// What a system disk is called after its server.
pub(super) const SYSTEM: &str = "system";

/// What the n-th data disk is called after its server.
pub(super) fn data(n: usize) -> String {
    format!("data{}", n + 1)
}

/// The name of a disk that is made with a server, for the one who gave a name to `owner`.
pub(super) fn disk_name(owner: (Noun, &str), server: &str, suffix: &str) -> Result<String, Error> {
    derived(owner, Noun::Disk, format!("{server}-{suffix}"))
}

/// A name that is made from one that was given; it has to be a name, too.
pub(super) fn derived((owner, given): (Noun, &str), noun: Noun, derived: String) -> Result<String, Error> {
    match derived.parse::<Name>() {
        Ok(_) => Ok(derived),
        Err(source) => Err(Error::DerivedName { owner, given: given.to_owned(), noun, derived, source }),
    }
}

impl App {
    /// Builds a server with all its disks, attached. Every key is tried before anything is made.
    ///
    /// # Errors
    /// Then neither the server nor any of its disks exists.
    pub(crate) fn build_server(&mut self, blueprint: &Blueprint) -> Result<Server, Error> {
        let id = Uuid::new_v4();
        let mut requests = Vec::new();
        if let Some(image) = &blueprint.image {
            let name = disk_name((Noun::Server, &blueprint.name), &blueprint.name, SYSTEM)?;
            let mut request = Request::from_volume(Noun::Disk, &name, image, Encryption::Inherit, false);
            (request.role, request.made_with) = (Role::System, Some(id));
            request.size = blueprint.system_size;
            requests.push(request);
        }
        for (n, (size, encryption)) in blueprint.data.iter().enumerate() {
            requests.push(Request {
                id: Uuid::new_v4(),
                kind: Noun::Disk,
                name: disk_name((Noun::Server, &blueprint.name), &blueprint.name, &data(n))?,
                role: Role::Data,
                made_with: Some(id),
                size: Some(*size),
                encryption: encryption.clone(),
                fill: None::<Fill>,
            });
        }
        let prepared = requests.iter().map(|request| self.prepare(request)).collect::<Result<Vec<_>, _>>()?;
        let server = Server {
            id,
            name: blueprint.name.clone(),
            status: if requests.is_empty() { ServerStatus::Stopped } else { ServerStatus::Building },
            image: blueprint.image.as_ref().map(|image| image.id.to_string()),
            group_id: blueprint.group_id,
            created_at: self.now.clone(),
        };
        if requests.is_empty() {
            self.catalog.write(|tx| servers::insert(tx, &server))?;
            return Ok(server);
        }
        let _claim = self.claim(Noun::Server, server.id, &server.name)?;
        let operation =
            ServerOperation::Create { disks: requests.iter().map(|request| request.id).collect() };
        let now = self.now.clone();
        self.catalog.write(|tx| {
            servers::insert(tx, &server)?;
            operations::begin(tx, Noun::Server, server.id, &operation, &now)
        })?;
        let made = prepared.into_iter().try_for_each(|prepared| {
            let disk = self.make(prepared)?;
            let mut claimed = self.claim_disk_id(disk.id, &disk.name)?;
            self.run(&mut claimed, &Operation::Attach { server: server.id })
        });
        if let Err(error) = made {
            if let Err(left) = self.carry_out(&server, &operation) {
                self.warn(
                    format!(
                        "server {} is half made, and what there is of it cannot be removed: {left}",
                        server.name
                    ),
                    format!("{}; then: ecsctl status", left.report().hint),
                );
            }
            return Err(error);
        }
        self.catalog.write(|tx| {
            servers::set_status(tx, server.id, ServerStatus::Stopped)?;
            operations::end(tx, server.id)
        })?;
        Ok(Server { status: ServerStatus::Stopped, ..server })
    }
}
