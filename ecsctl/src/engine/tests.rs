//! The engine on a fake key service and a fake volume engine, killed at every step.

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
    config::Installation,
    error::Error,
    keys::fake::FakeKeys,
    model::{
        Noun,
        disk::{Disk, DiskStatus},
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
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), keys: FakeKeys::default(), volumes: FakeVolumes::default() }
    }

    fn app(&self) -> App {
        let installation = Installation {
            home: self.dir.path().to_owned(),
            kmsd_socket: "/nowhere".into(),
            evsfs: "/nowhere".into(),
            patience: Duration::ZERO,
        };
        App {
            catalog: Catalog::open(&installation.catalogue()).unwrap(),
            installation,
            keys: Box::new(self.keys.clone()),
            volumes: Box::new(self.volumes.clone()),
            now: "2026-01-01T00:00:00Z".to_owned(),
            out: Output { format: Format::Json, quiet: false },
            settled: Vec::new(),
            observe: None,
        }
    }

    fn server(&self, name: &str) -> Server {
        let server = Server {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            status: ServerStatus::Stopped,
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
        disks::all(self.app().catalog.read()).unwrap().into_iter().find(|disk| disk.name == name)
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
    app.create_disk(disk, key)
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

#[test]
fn d10_killed_before_any_step_and_again_while_settling_leaves_nothing_half_made() {
    let mut deaths = 0;
    for (change, work) in CHANGES {
        for step in 0.. {
            for again in 0..8 {
                let (world, server, disk) = ready_for(change);
                let context =
                    format!("{change}, killed before step {step} and before step {again} of settling");
                if dies_before(&world, step, |app| work(app, &server)) {
                    assert!(step > 1, "{change} has steps");
                    break;
                }
                deaths += 1;
                let id = disk.or_else(|| world.row("new").map(|disk| disk.id));
                dies_before(&world, again, |app| app.settle_all().map(|failed| assert!(failed.is_empty())));
                let failed = world.app().settle_all().unwrap();
                assert!(failed.is_empty(), "{context}: {failed:?}");
                world.assert_settled(id.unwrap(), &context);
            }
            let (world, server, _) = ready_for(change);
            if dies_before(&world, step, |app| work(app, &server)) {
                break;
            }
        }
    }
    assert!(deaths == 8 * 14, "only {deaths} deaths");
}

#[test]
fn d10_killed_within_the_engines_work_leaves_nothing_half_made() {
    for (change, trouble) in
        [("create", Trouble::DieInCreate), ("attach", Trouble::DieInMount), ("detach", Trouble::DieInUnmount)]
    {
        let (world, server, disk) = ready_for(change);
        let work = CHANGES.iter().find(|(name, _)| *name == change).unwrap().1;
        world.volumes.trouble(Some(trouble));
        let mut app = world.app();
        assert!(!survives(move || work(&mut app, &server).unwrap()), "{change} dies");
        let id = disk.or_else(|| world.row("new").map(|disk| disk.id)).unwrap();
        assert!(world.app().settle_all().unwrap().is_empty());
        world.assert_settled(id, change);
    }
}

#[test]
fn a_step_that_fails_undoes_what_was_done() {
    for (change, trouble) in [("create", Trouble::FailCreate), ("attach", Trouble::FailMount)] {
        let (world, server, disk) = ready_for(change);
        let work = CHANGES.iter().find(|(name, _)| *name == change).unwrap().1;
        world.volumes.trouble(Some(trouble));
        assert!(matches!(work(&mut world.app(), &server), Err(Error::Volume { .. })));
        match disk {
            Some(id) => world.assert_settled(id, change),
            None => assert_eq!((world.row("new"), world.files(Uuid::nil())), (None, vec![])),
        }
    }
}

#[test]
fn d7_a_failed_erase_leaves_the_file_and_only_deletion_is_possible() {
    let (world, server, disk) = ready_for("delete");
    world.volumes.trouble(Some(Trouble::FailErase));
    delete(&mut world.app(), "d").unwrap_err();
    assert_eq!(world.row("d").unwrap().status, DiskStatus::ErrorDeleting);
    assert!(world.app().installation.place(disk.unwrap()).file.exists(), "no file goes before its key");
    assert!(matches!(attach(&mut world.app(), "d", &server), Err(Error::DiskStatus { .. })));
    delete(&mut world.app(), "d").unwrap();
    world.assert_settled(disk.unwrap(), "deleted");
}

#[test]
fn d7_the_wrapped_dek_is_erased_before_the_file_goes() {
    let (world, _, disk) = ready_for("delete");
    let erased_file = world.dir.path().join("hard-link");
    fs::hard_link(world.app().installation.place(disk.unwrap()).file, &erased_file).unwrap();
    delete(&mut world.app(), "d").unwrap();
    assert_eq!(fs::read_to_string(erased_file).unwrap(), "erased");
}

#[test]
fn d7_an_attached_disk_is_not_deleted() {
    let (world, _, disk) = ready_for("detach");
    let refused = delete(&mut world.app(), "d").unwrap_err();
    assert!(matches!(&refused, Error::AlreadyAttached { server, .. } if server == "web1"), "{refused}");
    assert_eq!(refused.report().hint, "ecsctl disk detach d");
    world.assert_settled(disk.unwrap(), "refused");
}

#[test]
fn d2_an_unusable_key_is_named_with_its_state_and_remedy_before_anything_is_mounted() {
    let (world, server, disk) = ready_for("attach");
    let key = world.row("d").unwrap().key_id.unwrap();
    for (state, word) in [
        (Some(KeyState::Disabled), "disabled"),
        (Some(KeyState::PendingDeletion), "pending-deletion"),
        (Some(KeyState::PendingImport), "pending-import"),
        (None, "deleted"),
    ] {
        match state {
            Some(state) => world.keys.set(&key, state),
            None => world.keys.destroy(&key),
        }
        let log = world.volumes.log();
        let refused = attach(&mut world.app(), "d", &server).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, Error::KeyUnusable { .. }), "{text}");
        assert!(text.contains(word) && (text.contains("d-key") || text.contains(&key)), "{text}");
        assert!(!refused.report().hint.is_empty());
        assert_eq!(world.volumes.log(), log, "evsfs was not even asked");
        world.assert_settled(disk.unwrap(), word);
    }
}

#[test]
fn d3_a_key_that_goes_away_disturbs_no_attached_disk_and_the_next_attach_fails() {
    let (world, server, disk) = ready_for("detach");
    let key = world.row("d").unwrap().key_id.unwrap();
    world.keys.set(&key, KeyState::Disabled);
    world.keys.set_away(true);
    world.assert_settled(disk.unwrap(), "attached");
    detach(&mut world.app(), "d").unwrap();
    assert!(matches!(attach(&mut world.app(), "d", &server), Err(Error::Keys(_))));
    world.keys.set_away(false);
    assert!(matches!(attach(&mut world.app(), "d", &server), Err(Error::KeyUnusable { .. })));
    world.keys.set(&key, KeyState::Enabled);
    attach(&mut world.app(), "d", &server).unwrap();
}

#[test]
fn d4_a_busy_disk_stays_attached_and_its_holder_is_named() {
    let (world, _, disk) = ready_for("detach");
    world.volumes.hold(&[Holder::Process { pid: 4711, program: "dd".to_owned() }]);
    let refused = detach(&mut world.app(), "d").unwrap_err();
    assert!(refused.to_string().contains("dd (pid 4711)"), "{refused}");
    world.assert_settled(disk.unwrap(), "busy");
    world.volumes.hold(&[]);
    detach(&mut world.app(), "d").unwrap();
    world.assert_settled(disk.unwrap(), "free");
}

#[test]
fn d9_a_plain_disk_has_the_same_life_without_a_key_service() {
    let world = World::new();
    let server = world.server("web1");
    world.keys.set_away(true);
    create(&mut world.app(), "p", None).unwrap();
    attach(&mut world.app(), "p", &server).unwrap();
    detach(&mut world.app(), "p").unwrap();
    delete(&mut world.app(), "p").unwrap();
    assert!(world.row("p").is_none());
}

#[test]
fn s2_the_stable_path_leads_to_the_view_and_is_the_same_next_time() {
    let world = World::new();
    let server = world.server("web1");
    let disk = world.attached("d", &server);
    let app = world.app();
    let path = app.installation.stable_path("web1", "d");
    let leads_to = path.parent().unwrap().join(fs::read_link(&path).unwrap());
    let view = leads_to.parent().unwrap().canonicalize().unwrap().join("disk");
    assert_eq!(view, app.installation.place(disk.id).mountpoint.canonicalize().unwrap().join("disk"));
    detach(&mut world.app(), "d").unwrap();
    assert!(fs::symlink_metadata(&path).is_err());
    attach(&mut world.app(), "d", &server).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
}

#[test]
fn s3_recovery_brings_back_what_can_come_and_says_what_cannot() {
    let world = World::new();
    let server = world.server("web1");
    world.attached("a", &server);
    let b = world.attached("b", &server);
    world.keys.set(&b.key_id.unwrap(), KeyState::Disabled);
    let recover = || {
        let told = world.app().recover_server(&server).unwrap();
        told.into_iter().map(|(disk, recovery)| (disk.name, recovery)).collect::<Vec<_>>()
    };
    assert!(recover().iter().all(|(_, r)| matches!(r, Recovery::Present)), "nothing is disturbed");

    world.volumes.crash_all();
    // A reboot also takes the run directory.
    fs::remove_dir_all(world.dir.path().join("run")).unwrap();
    let told = recover();
    assert!(matches!(&told[0], (name, Recovery::Returned) if name == "a"), "{told:?}");
    assert!(
        matches!(&told[1], (name, Recovery::Failed(Error::KeyUnusable { .. })) if name == "b"),
        "{told:?}"
    );
    let shown = world.app().shown(world.row("b").unwrap()).unwrap();
    assert_eq!(shown.status(), DiskStatus::Error);
    assert!(shown.reason().unwrap().contains("disabled"));

    world.keys.set(&world.row("b").unwrap().key_id.unwrap(), KeyState::Enabled);
    let told = recover();
    assert!(matches!(told.as_slice(), [(_, Recovery::Present), (_, Recovery::Returned)]), "{told:?}");
    assert_eq!(world.row("b").unwrap().reason, None);
}

#[test]
fn s3_a_disk_whose_process_died_can_be_detached() {
    let (world, _, disk) = ready_for("detach");
    world.volumes.crash_all();
    detach(&mut world.app(), "d").unwrap();
    world.assert_settled(disk.unwrap(), "detached");
}

#[test]
fn a_server_goes_with_all_its_attachments_or_not_at_all() {
    let world = World::new();
    let server = world.server("web1");
    let a = world.attached("a", &server);
    world.volumes.hold(&[Holder::Process { pid: 1, program: "x".to_owned() }]);
    let refused = world.app().delete_server("web1").unwrap_err();
    assert!(
        matches!(&refused, Error::Volume { source, .. } if matches!(**source, ToolError::Busy { .. })),
        "{refused}"
    );
    world.assert_settled(a.id, "busy");
    world.volumes.hold(&[]);
    // Killed before each step in turn, it is finished by the next command.
    for step in 0.. {
        let world = World::new();
        let server = world.server("web1");
        let a = world.attached("a", &server);
        let whole = dies_before(&world, step, |app| app.delete_server("web1").map(|_| ()));
        assert!(world.app().settle_all().unwrap().is_empty());
        assert!(servers::all(world.app().catalog.read()).unwrap().is_empty(), "before step {step}");
        assert!(!world.dir.path().join("servers/web1").exists());
        world.assert_settled(a.id, &format!("before step {step}"));
        if whole {
            break;
        }
    }
}

#[test]
fn what_another_process_is_doing_is_left_alone() {
    let (world, server, disk) = ready_for("attach");
    let mut busy = world.app();
    let claimed = busy.claim_disk("d").unwrap();
    let refused = attach(&mut world.app(), "d", &server).unwrap_err();
    assert!(matches!(refused, Error::Claim { .. }), "{refused}");
    assert!(world.app().settle_all().unwrap().is_empty());
    drop(claimed);
    attach(&mut world.app(), "d", &server).unwrap();
    world.assert_settled(disk.unwrap(), "attached");
}

#[test]
fn nothing_that_is_not_ours_is_removed_from_a_servers_directory() {
    let (world, _, _) = ready_for("detach");
    let path = world.app().installation.stable_path("web1", "d");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "somebody's file").unwrap();
    detach(&mut world.app(), "d").unwrap();
    assert_eq!(fs::read_to_string(Path::new(&path)).unwrap(), "somebody's file");
}
