//! Every change that has steps, killed before each of them, and again while what was cut short is settled.

use super::*;
use crate::{
    catalog::{scaling as groups, snapshots},
    engine::{
        build::Blueprint,
        make::{Encryption, Request},
    },
    images::ExportFormat,
    model::{plan::Fill, size::Size},
};

/// A disk `d` with a snapshot `s`, and `web1-data1`, which is attached.
fn with_disks() -> World {
    let world = World::new();
    world.disk("d");
    world.attached("web1-data1", &world.server("web1"));
    let mut app = world.app();
    run(&mut app, "d", &Operation::Snapshot { id: Uuid::new_v4(), name: "s".into() }).unwrap();
    world
}

/// The same, an image `i`, a disk `t` that is thin over it, and a backup `b`.
fn with_copies() -> World {
    let world = with_disks();
    let mut app = world.app();
    copy(&mut app, Noun::Image, "i", (Noun::Disk, "d"), Encryption::Inherit).unwrap();
    copy(&mut app, Noun::Disk, "t", (Noun::Image, "i"), Encryption::Inherit).unwrap();
    copy(&mut app, Noun::Backup, "b", (Noun::Disk, "d"), Encryption::Inherit).unwrap();
    world
}

/// An image `i`, a server `web1` from it with two data disks, and a group `g` of one server like it.
fn with_servers() -> World {
    let (world, group, config) = super::scaling::scaled(1);
    world.app().scale(&group, &config).unwrap();
    world
}

fn run(app: &mut App, disk: &str, operation: &Operation) -> Result<(), Error> {
    let mut claimed = app.claim_disk(disk)?;
    app.run(&mut claimed, operation)
}

fn copy(
    app: &mut App,
    kind: Noun,
    name: &str,
    from: (Noun, &str),
    encryption: Encryption,
) -> Result<(), Error> {
    let source = app.find_volume(from.0, from.1)?;
    let prepared = app.prepare(&Request::from_volume(kind, name, &source, encryption, true))?;
    app.make(prepared).map(|_| ())
}

fn snapshot(app: &App) -> Result<Uuid, Error> {
    snapshots::find(app.catalog.read(), "s").map(|snapshot| snapshot.id)
}

fn scale(app: &mut App, desired: u32) -> Result<(), Error> {
    let mut group = groups::group(app.catalog.read(), "g")?;
    let config = groups::config(app.catalog.read(), "c")?;
    group.desired = desired;
    app.scale(&group, &config).map(|_| ())
}

type Change = fn(&mut App) -> Result<(), Error>;

const OF_DISKS: [(&str, Change); 7] = [
    ("disk extend", |app| run(app, "d", &Operation::Extend { size: 1 << 20 })),
    ("disk extend, attached", |app| run(app, "web1-data1", &Operation::Extend { size: 1 << 20 })),
    ("disk rekey", |app| run(app, "d", &Operation::Rekey { key: "other".into(), alias: None })),
    ("disk rekey --new-data-key", |app| run(app, "d", &Operation::Reencrypt { rate: None, wait: true })),
    ("snapshot create", |app| run(app, "d", &Operation::Snapshot { id: Uuid::new_v4(), name: "s2".into() })),
    ("snapshot rollback", |app| snapshot(app).and_then(|id| run(app, "d", &Operation::RollBack { id }))),
    ("snapshot delete", |app| snapshot(app).and_then(|id| run(app, "d", &Operation::DeleteSnapshot { id }))),
];

const OF_COPIES: [(&str, Change); 10] = [
    ("disk create --snapshot", |app| {
        let mut request = Request::from_volume(
            Noun::Disk,
            "from-s",
            &app.find_volume(Noun::Disk, "d")?,
            Encryption::Inherit,
            false,
        );
        if let Some(Fill::Volume { snapshot: wanted, .. }) = &mut request.fill {
            *wanted = Some(snapshot(app)?);
        }
        let prepared = app.prepare(&request)?;
        app.make(prepared).map(|_| ())
    }),
    ("disk flatten", |app| run(app, "t", &Operation::Flatten { rate: None, wait: true })),
    ("disk create --image", |app| copy(app, Noun::Disk, "thin", (Noun::Image, "i"), Encryption::Inherit)),
    ("backup create", |app| copy(app, Noun::Backup, "b2", (Noun::Disk, "d"), Encryption::Inherit)),
    ("backup create, attached", |app| {
        copy(app, Noun::Backup, "b2", (Noun::Disk, "web1-data1"), Encryption::Inherit)
    }),
    ("backup restore --plain", |app| copy(app, Noun::Disk, "r", (Noun::Backup, "b"), Encryption::Plain)),
    ("backup delete", |app| {
        let mut claimed = app.claim_volume(Noun::Backup, "b")?;
        app.run(&mut claimed, &Operation::Delete { skip_erase: false })
    }),
    ("image create --from-server", |app| {
        copy(app, Noun::Image, "i2", (Noun::Disk, "web1-data1"), Encryption::Inherit)
    }),
    ("image copy", |app| copy(app, Noun::Image, "i2", (Noun::Image, "i"), Encryption::Under(None))),
    ("image export", |app| {
        let path = app.installation.home.join("catalog.db-out");
        let mut claimed = app.claim_volume(Noun::Image, "i")?;
        app.run(&mut claimed, &Operation::Export { id: Uuid::new_v4(), path, format: ExportFormat::Raw })
    }),
];

const OF_SERVERS: [(&str, Change); 4] = [
    ("server create", |app| {
        let image = Some(app.find_volume(Noun::Image, "i")?);
        let data = vec![(Size::from_bytes(4096).unwrap(), Encryption::Under(Some("db-key".into())))];
        let blueprint = Blueprint { name: "web2".into(), image, system_size: None, data, group_id: None };
        app.build_server(&blueprint).map(|_| ())
    }),
    ("server delete", |app| app.delete_server("web1").map(|_| ())),
    ("as-group scale out", |app| scale(app, 2)),
    ("as-group scale in", |app| scale(app, 0)),
];

/// What holds whenever nothing is being done: nothing is pending, each volume is whole, detached or served, each file is some volume's, and
/// each server has what it was made with.
fn assert_whole(world: &World, context: &str) {
    let app = world.app();
    let read = app.catalog.read();
    for noun in Noun::VOLUMES.into_iter().chain([Noun::Server]) {
        assert_eq!(operations::pending(read, noun).unwrap(), [] as [Uuid; 0], "{context}: {noun}");
    }
    let mut known = Vec::new();
    let mut served = 0;
    for kind in Noun::VOLUMES {
        for volume in disks::all(read, kind).unwrap() {
            let place = app.installation.place(volume.id);
            let text = fs::read_to_string(&place.file).unwrap_or_default();
            let flattened = app.volumes.look(&place.file).unwrap().flattened;
            assert!(volume.base.is_none() || !flattened, "{context}: {} needs no image", volume.name);
            let expected = if volume.encrypted { HEADER } else { "plain" };
            assert_eq!(text, expected, "{context}: {kind} {}", volume.name);
            match volume.status {
                DiskStatus::Available => assert!(!place.mountpoint.exists(), "{context}: {}", volume.name),
                DiskStatus::InUse => {
                    served += 1;
                    assert!(app.volumes.alive(&volume.serving.unwrap()), "{context}: {}", volume.name);
                }
                other => panic!("{context}: {} stays {other:?}", volume.name),
            }
            known.push(volume.id.to_string());
        }
    }
    assert_eq!(world.volumes.mounted(), served, "{context}: every mount is some disk's");
    let mut kept = Vec::new();
    for entry in fs::read_dir(app.installation.volumes()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let of_volume = name.strip_prefix(".evsfs-").unwrap_or(&name);
        assert!(known.iter().any(|id| of_volume.starts_with(id)), "{context}: {name} is nobody's");
        let snapshot = name.split_once(".snapshot-").and_then(|(_, id)| id.strip_suffix(".unfinished"));
        kept.extend(snapshot.map(str::to_owned));
    }
    let mut told: Vec<String> =
        snapshots::all(read, None).unwrap().iter().map(|snapshot| snapshot.id.to_string()).collect();
    kept.sort();
    told.sort();
    assert_eq!(kept, told, "{context}: the snapshots of the volumes are those of the catalogue");
    for server in servers::all(read).unwrap() {
        assert_eq!(server.status, ServerStatus::Stopped, "{context}: {}", server.name);
        let disks = disks::of_server(read, server.id).unwrap().len();
        let whole = if server.image.is_some() { 2..=3 } else { 1..=1 };
        assert!(whole.contains(&disks), "{context}: {} has {disks} disks", server.name);
    }
}

/// Each change is killed before each of its steps; settling that is killed too; then it is asked for once more.
fn kill_each(changes: &[(&str, Change)], furnished: fn() -> World, least: usize) {
    let mut deaths = 0;
    for (change, work) in changes {
        for step in 0.. {
            let again = step % 3;
            let world = furnished();
            let context = format!("{change}, killed before step {step}, again before step {again}");
            let ended = dies_before(&world, step, work);
            dies_before(&world, again, |app| app.settle_all().map(|failed| assert!(failed.is_empty())));
            let failed = world.app().settle_all().unwrap();
            assert!(failed.is_empty(), "{context}: {failed:?}");
            assert_whole(&world, &context);
            if ended {
                assert!(step > 1, "{change} has steps");
                break;
            }
            deaths += 1;
            // Done now, or refused because it was done already.
            match work(&mut world.app()) {
                Ok(()) | Err(Error::Exists { .. } | Error::NotFound { .. } | Error::Shrink { .. }) => {}
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{context}, then again: {error}"),
            }
            assert_whole(&world, &format!("{context}, then once more"));
        }
    }
    assert!(deaths >= least, "only {deaths} deaths");
}

#[test]
fn d10_killed_before_any_step_of_a_change_of_a_disk_leaves_everything_whole() {
    kill_each(&OF_DISKS, with_disks, 15);
}

#[test]
fn d5_killed_before_any_step_of_a_copy_leaves_everything_whole() {
    kill_each(&OF_COPIES, with_copies, 60);
}

#[test]
fn s3_killed_before_any_step_of_a_change_of_servers_leaves_everything_whole() {
    kill_each(&OF_SERVERS, with_servers, 50);
}

/// D5: a copy that was killed is no longer in memory nor on the disk, also when its source cannot be opened any more; what may be left in the
/// source goes when it can be.
#[test]
fn d5_a_killed_copy_is_undone_as_far_as_it_can_be_without_its_source() {
    for attached in [false, true] {
        for step in 0.. {
            let world = World::new();
            let server = world.server("web1");
            let disk = if attached { world.attached("d", &server) } else { world.disk("d") };
            let backup = |app: &mut App| copy(app, Noun::Backup, "b", (Noun::Disk, "d"), Encryption::Inherit);
            let context = format!("attached: {attached}, killed before step {step}");
            if dies_before(&world, step, backup) {
                assert!(step >= 8, "a copy has steps");
                break;
            }
            let copied = world.volume(Noun::Backup, "b").unwrap().id;
            // The host restarts, and an old file lies in the place of the disk's.
            world.volumes.crash_all();
            world.volumes.put_back(&world.app().installation.place(disk.id).file, 4096);
            let failed = world.app().settle_all().unwrap();
            assert_eq!(failed.keys().collect::<Vec<_>>(), ["b"], "{context}");
            // A snapshot in the source is all that may be left of it.
            let left: Vec<_> = world.files(copied);
            let left: Vec<_> = left
                .iter()
                .filter(|name| {
                    name.contains("ID") && !name.ends_with(".lock") && !name.ends_with("snapshot-ID")
                })
                .collect();
            assert!(left.is_empty(), "{context}: {left:?}");
            assert_eq!(world.volumes.mounted(), usize::from(attached), "{context}: its own is dead");

            world.volumes.put_newest();
            assert!(world.app().settle_all().unwrap().is_empty(), "{context}");
            assert_eq!(world.volume(Noun::Backup, "b"), None, "{context}");
            let files = world.files(disk.id);
            assert!(!files.iter().any(|name| name.contains("snapshot")), "{context}: {files:?}");
        }
    }
}

const OF_SOURCES: [(&str, Change); 7] = [
    ("disk extend", |app| run(app, "d", &Operation::Extend { size: 8192 })),
    ("disk rekey", |app| run(app, "d", &Operation::Rekey { key: "other".into(), alias: None })),
    ("snapshot create", |app| run(app, "d", &Operation::Snapshot { id: Uuid::new_v4(), name: "s".into() })),
    ("disk attach", |app| {
        let server = app.find_server("web1")?;
        attach(app, "d", &server)
    }),
    ("disk show", |app| app.settle_and_find(Noun::Disk, "d").map(|_| ())),
    ("backup create", |app| {
        app.settle_and_find(Noun::Disk, "d")?;
        copy(app, Noun::Backup, "b2", (Noun::Disk, "d"), Encryption::Inherit)
    }),
    ("disk delete", |app| delete(app, "d")),
];

/// D10: a copy that was killed had its source mounted; whatever is asked of that disk next undoes the copy first.
#[test]
fn d10_after_a_killed_copy_the_next_command_about_its_source_finds_that_free() {
    for (change, work) in OF_SOURCES {
        for step in 0.. {
            let world = World::new();
            world.server("web1");
            world.disk("d");
            let backup = |app: &mut App| copy(app, Noun::Backup, "b", (Noun::Disk, "d"), Encryption::Inherit);
            if dies_before(&world, step, backup) {
                assert!(step >= 8, "a copy has steps");
                break;
            }
            work(&mut world.app()).unwrap_or_else(|error| panic!("{change}, before step {step}: {error}"));
            assert_eq!(world.volume(Noun::Backup, "b"), None, "{change}, before step {step}");
            let served = usize::from(change == "disk attach");
            assert_eq!(world.volumes.mounted(), served, "{change}, before step {step}");
        }
    }
}
