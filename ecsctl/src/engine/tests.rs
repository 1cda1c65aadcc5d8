//! The engine on a fake key service and a fake volume engine.

mod changed;
mod crash;
mod fates;
mod filled;
mod killed;
mod machines;
mod past;
mod rules;
mod scaling;

use std::{
    cell::Cell,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    rc::Rc,
    time::Duration,
};

use tempfile::TempDir;
use uuid::Uuid;

use super::servers::Recovery;
use crate::{
    app::App,
    catalog::{Catalog, disks, operations, servers},
    claim::Patience,
    config::{Installation, MachineSettings},
    error::Error,
    keys::fake::FakeKeys,
    machines::fake::FakeMachines,
    model::{
        Noun,
        disk::{Disk, DiskStatus, Role},
        key::KeyState,
        plan::Operation,
        server::{Server, ServerStatus},
    },
    output::{Format, Output},
    volumes::{
        ToolError,
        fake::{FakeVolumes, HEADER, Killed, Trouble},
        holders::Holder,
    },
};

/// One installation; each [`World::app`] is a process of its own in it.
struct World {
    dir: TempDir,
    keys: FakeKeys,
    volumes: FakeVolumes,
    machines: FakeMachines,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            keys: FakeKeys::default(),
            volumes: FakeVolumes::default(),
            machines: FakeMachines::default(),
        }
    }

    fn app(&self) -> App {
        let installation = Installation {
            home: self.dir.path().to_owned(),
            kmsd_socket: "/nowhere".into(),
            evsfs: "/nowhere".into(),
            patience: Patience::NONE,
            machines: MachineSettings::default(),
        };
        App {
            catalog: Catalog::open(&installation.catalogue()).unwrap(),
            installation,
            keys: Box::new(self.keys.clone()),
            volumes: Box::new(self.volumes.clone()),
            machines: Box::new(self.machines.clone()),
            now: "2026-01-01T00:00:00Z".to_owned(),
            out: Output { format: Format::Json, quiet: false },
            settled: Vec::new(),
            ended: Vec::new(),
            warnings: Vec::new(),
            observe: None,
        }
    }

    fn server(&self, name: &str) -> Server {
        let server = Server {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            status: ServerStatus::Stopped,
            image: None,
            group_id: None,
            created_at: "2026-01-01T00:00:00Z".to_owned(),
        };
        self.app().catalog.write(|tx| servers::insert(tx, &server)).unwrap();
        server
    }

    fn disk(&self, name: &str) -> Disk {
        let key = self.keys.add(&format!("{name}-key"));
        create(&mut self.app(), name, Some(key)).unwrap()
    }

    fn attached(&self, name: &str, server: &Server) -> Disk {
        self.disk(name);
        attach(&mut self.app(), name, server).unwrap();
        self.row(name).unwrap()
    }

    fn row(&self, name: &str) -> Option<Disk> {
        self.volume(Noun::Disk, name)
    }

    fn volume(&self, kind: Noun, name: &str) -> Option<Disk> {
        disks::all(self.app().catalog.read(), kind).unwrap().into_iter().find(|disk| disk.name == name)
    }

    /// Everything below the home but the catalogue, relative to it; IDs are cut to `ID`.
    fn files(&self, disk: Uuid) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.dir.path()).unwrap().display().to_string();
                let counts = !path.is_dir() || path.starts_with(self.dir.path().join("mnt/"));
                if counts && !name.starts_with("catalog.db") {
                    found.push(name.replace(&disk.to_string(), "ID"));
                }
                if path.is_dir() {
                    pending.push(path);
                }
            }
        }
        found.retain(|name| name != "mnt");
        found.sort();
        found
    }

    /// What must hold whenever nothing is being done: the catalogue, the files and the mounts agree.
    fn assert_settled(&self, disk: Uuid, context: &str) {
        let app = self.app();
        assert_eq!(
            operations::pending(app.catalog.read(), Noun::Disk).unwrap(),
            [] as [Uuid; 0],
            "{context}"
        );
        assert_eq!(
            operations::pending(app.catalog.read(), Noun::Server).unwrap(),
            [] as [Uuid; 0],
            "{context}"
        );
        let row = disks::by_id(app.catalog.read(), disk).unwrap();
        let files = self.files(disk);
        match row.as_ref().map(|row| row.status) {
            None => assert_eq!((files, self.volumes.mounted()), (vec![], 0), "{context}"),
            Some(DiskStatus::Available) => {
                let row = row.unwrap();
                assert_eq!((row.server_id, row.serving), (None, None), "{context}");
                assert!(files.contains(&"volumes/ID.evs".to_owned()), "{context}: {files:?}");
                assert!(
                    !files.iter().any(|f| f.starts_with("mnt") || f.starts_with("servers")),
                    "{context}: {files:?}"
                );
                assert_eq!(self.volumes.mounted(), 0, "{context}");
                assert_eq!(
                    fs::read_to_string(app.installation.place(disk).file).unwrap(),
                    HEADER,
                    "{context}"
                );
            }
            Some(DiskStatus::InUse) => {
                let serving = row.unwrap().serving.unwrap();
                assert!(app.volumes.alive(&serving), "{context}");
                assert!(files.iter().any(|f| f.starts_with("servers/web1/")), "{context}: {files:?}");
            }
            Some(other) => panic!("{context}: {other:?} is no state to stay in"),
        }
    }
}

fn create(app: &mut App, name: &str, key: Option<String>) -> Result<Disk, Error> {
    let disk = Disk {
        id: Uuid::new_v4(),
        kind: Noun::Disk,
        role: Role::Data,
        source: None,
        made_with: None,
        base: None,
        name: name.to_owned(),
        status: DiskStatus::Creating,
        size: 4096,
        encrypted: key.is_some(),
        key_id: None,
        key_alias: None,
        server_id: None,
        serving: None,
        reason: None,
        created_at: "2026-01-01T00:00:00Z".to_owned(),
    };
    app.create_disk(disk, key, None)
}

fn attach(app: &mut App, name: &str, server: &Server) -> Result<(), Error> {
    let mut claimed = app.claim_disk(name)?;
    app.require_key(&claimed.disk, "attached")?;
    app.run(&mut claimed, &Operation::Attach { server: server.id })
}

fn detach(app: &mut App, name: &str) -> Result<(), Error> {
    let mut claimed = app.claim_disk(name)?;
    app.run(&mut claimed, &Operation::Detach)
}

fn delete(app: &mut App, name: &str) -> Result<(), Error> {
    let mut claimed = app.claim_disk(name)?;
    app.run(&mut claimed, &Operation::Delete { skip_erase: false })
}

/// Runs `work` in a process of its own that dies before its n-th step. True when it came to its end.
fn dies_before(world: &World, step: usize, work: impl FnOnce(&mut App) -> Result<(), Error>) -> bool {
    let mut app = world.app();
    let left = Rc::new(Cell::new(step));
    app.observe = Some(Box::new(move |_| match left.get() {
        0 => resume_unwind(Box::new(Killed)),
        n => left.set(n - 1),
    }));
    survives(move || work(&mut app).unwrap())
}

fn survives(work: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => true,
        Err(payload) if payload.is::<Killed>() => false,
        Err(payload) => resume_unwind(payload),
    }
}

type Work = fn(&mut App, &Server) -> Result<(), Error>;
const CHANGES: [(&str, Work); 4] = [
    ("create", |app, _| create(app, "new", Some("k".to_owned())).map(|_| ())),
    ("attach", |app, server| attach(app, "d", server)),
    ("detach", |app, _| detach(app, "d")),
    ("delete", |app, _| delete(app, "d")),
];

/// A world that is ready for a change.
fn ready_for(change: &str) -> (World, Server, Option<Uuid>) {
    let world = World::new();
    let server = world.server("web1");
    let disk = match change {
        "create" => None,
        "detach" => Some(world.attached("d", &server).id),
        _ => Some(world.disk("d").id),
    };
    (world, server, disk)
}
