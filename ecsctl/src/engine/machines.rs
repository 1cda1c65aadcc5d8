//! Starting and stopping the virtual machines of servers, and noticing that one has ended (S2, S3).

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{operations, servers},
    claim::Patience,
    engine::servers::{Recovery, ServerOperation},
    error::Error,
    machines::{Kernel, Machine, MachineDisk, Stop, accel::Acceleration},
    model::{
        Noun,
        disk::{Disk, Role, Serving},
        plan::Direction,
        server::{Server, ServerStatus},
    },
};

/// What a machine is started with.
#[derive(Debug, Clone)]
pub(crate) struct Hardware {
    /// Memory, MiB.
    pub(crate) memory: u64,
    /// Virtual processors.
    pub(crate) cpus: u32,
    /// What runs its instructions.
    pub(crate) acceleration: Acceleration,
    /// A kernel to be started without asking the first disk.
    pub(crate) kernel: Option<Kernel>,
}

impl App {
    /// Starts the machine of a server on all its disks, the system disk first. Disks that are away are brought back
    /// before.
    ///
    /// # Errors
    /// Then no machine runs, and the server is as it was.
    pub(crate) fn start_server(
        &mut self,
        given: &str,
        hardware: Hardware,
    ) -> Result<(Server, Acceleration), Error> {
        let id = servers::find(self.catalog.read(), given)?;
        self.settle_server(id, given)?;
        let claim = self.claim(Noun::Server, id, given)?;
        let server = self.server(id, given)?;
        let ready = server.status == ServerStatus::Stopped || server.status == ServerStatus::Running;
        if !ready || self.machines.running().contains_key(&id) {
            let status = if ready { ServerStatus::Running } else { server.status };
            return Err(Error::ServerStatus { server: server.name, status, doing: "started" });
        }
        let mut disks = Vec::new();
        for (disk, recovery) in self.recover_server(&server)? {
            if let Recovery::Failed(error) | Recovery::Stale(error) = recovery {
                return Err(error);
            }
            disks.push(disk);
        }
        if disks.is_empty() && hardware.kernel.is_none() {
            return Err(Error::NothingToBoot { server: server.name });
        }
        // Another server's system disk, attached here to be mended, is not what this one boots from while it has its own.
        disks.sort_by_key(|disk| (!disk.is_system_of(id), disk.role != Role::System, disk.name.clone()));
        let machine = Machine {
            id,
            name: server.name.clone(),
            memory: hardware.memory,
            cpus: hardware.cpus,
            acceleration: hardware.acceleration,
            disks: disks.iter().map(|disk| self.machine_disk(disk)).collect(),
            kernel: hardware.kernel,
            place: self.installation.machine_place(id),
        };
        let now = self.now.clone();
        self.catalog.write(|tx| operations::begin(tx, Noun::Server, id, &ServerOperation::Start, &now))?;
        let started = self.machines.start(&machine);
        let status = if started.is_ok() { ServerStatus::Running } else { ServerStatus::Stopped };
        self.set_machine_status(&server, status)?;
        drop(claim);
        match started {
            Ok(acceleration) => Ok((Server { status, ..server }, acceleration)),
            Err(source) => {
                let (server, source) = (server.name, Box::new(source));
                Err(Error::Machine { server, doing: "started", source })
            }
        }
    }

    fn machine_disk(&self, disk: &Disk) -> MachineDisk {
        let view = self.installation.place(disk.id).view;
        MachineDisk { view, serial: disk.name.chars().take(20).collect() }
    }

    fn set_machine_status(&mut self, server: &Server, status: ServerStatus) -> Result<(), Error> {
        self.catalog.write(|tx| {
            servers::set_status(tx, server.id, status)?;
            operations::end(tx, server.id)
        })
    }

    /// Stops the machine of a server: the guest is asked, or its power is cut. Its disks stay attached.
    ///
    /// # Errors
    /// A guest that does not shut down in time runs on.
    pub(crate) fn stop_server(&mut self, given: &str, how: Stop) -> Result<Server, Error> {
        let id = servers::find(self.catalog.read(), given)?;
        self.settle_server(id, given)?;
        let _claim = self.claim(Noun::Server, id, given)?;
        let server = self.server(id, given)?;
        let Some(serving) = self.machines.running().remove(&id) else {
            if server.status == ServerStatus::Running {
                // It has ended by itself: that is what was wanted.
                self.set_machine_status(&server, ServerStatus::Stopped)?;
                return Ok(Server { status: ServerStatus::Stopped, ..server });
            }
            return Err(Error::ServerStatus { server: server.name, status: server.status, doing: "stopped" });
        };
        let place = self.installation.machine_place(id);
        self.machines.stop(&place.monitor, &serving, how).map_err(|source| Error::Machine {
            server: server.name.clone(),
            doing: "stopped",
            source: Box::new(source),
        })?;
        self.set_machine_status(&server, ServerStatus::Stopped)?;
        Ok(Server { status: ServerStatus::Stopped, ..server })
    }

    /// The process of a server's machine.
    pub(crate) fn machine_of(&self, server: &Server) -> Option<Serving> {
        if server.status != ServerStatus::Running {
            return None;
        }
        self.machines.running().remove(&server.id)
    }

    /// The machine of a server, if it was started on this volume.
    fn machine_on(&self, server: Uuid, volume: Uuid) -> Option<Serving> {
        let machine = self.machines.running().remove(&server)?;
        self.machines.volumes(&machine).contains(&volume).then_some(machine)
    }

    /// Refuses to take a disk from a machine that runs on it (S2). When the process that served the disk has died, nobody else would: the view
    /// that came after it is not the one that the machine has open.
    pub(super) fn refuse_machine(&self, disk: &Disk) -> Result<(), Error> {
        let Some(server) = disk.server_id else { return Ok(()) };
        if self.machine_on(server, disk.id).is_none() {
            return Ok(());
        }
        let server = self.server(server, &server.to_string())?.name;
        Err(Error::DiskOfMachine { disk: disk.name.clone(), server })
    }

    /// Of a disk that is up: whether the machine of its server was started on a view of it that has died since (S3).
    pub(super) fn refuse_stale(&self, disk: &Disk) -> Result<(), Error> {
        let (Some(server), Some(serving)) = (disk.server_id, &disk.serving) else { return Ok(()) };
        if !self.machine_on(server, disk.id).is_some_and(|machine| serving.began_after(&machine)) {
            return Ok(());
        }
        let server = self.server(server, &server.to_string())?.name;
        Err(Error::StaleMachine { disk: disk.name.clone(), server })
    }

    /// A start that was cut short: a machine that runs is kept, somebody may use it already.
    pub(super) fn settle_start(&mut self, server: &Server) -> Result<Direction, Error> {
        let runs = self.machines.running().contains_key(&server.id);
        let status = if runs { ServerStatus::Running } else { ServerStatus::Stopped };
        self.set_machine_status(server, status)?;
        Ok(if runs { Direction::Finish } else { Direction::Undo })
    }

    /// Finds the servers whose machine ran and has ended since: by its guest, by a crash, or with the host (S3).
    ///
    /// # Errors
    /// Those of the catalogue. What another process is at is left alone.
    pub(super) fn notice_ended(&mut self) -> Result<(), Error> {
        let thought: Vec<Server> = servers::all(self.catalog.read())?
            .into_iter()
            .filter(|server| server.status == ServerStatus::Running)
            .collect();
        if thought.is_empty() {
            return Ok(());
        }
        for server in thought {
            let claim = self
                .with_patience(|_| Patience::NONE, |app| app.claim(Noun::Server, server.id, &server.name));
            // Under the claim nobody starts or stops it.
            let current = servers::by_id(self.catalog.read(), server.id)?;
            if claim.is_ok()
                && current.is_some_and(|current| current.status == ServerStatus::Running)
                && !self.machines.running().contains_key(&server.id)
            {
                self.set_machine_status(&server, ServerStatus::Stopped)?;
                self.ended.push(server.name);
            }
        }
        Ok(())
    }
}
