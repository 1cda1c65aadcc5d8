//! What goes with a server and what does not, and what servers are made like (S1, A1, D7).

use super::{
    filled::{block, blueprint},
    machines::hardware,
    scaling::scaled,
    *,
};
use crate::{
    catalog::{scaling as groups, snapshots},
    engine::make::Encryption,
    machines::Stop,
    model::{plan::Step, scaling::Config, size::Size},
};

/// Every disk and server as the catalogue has it.
fn rows(world: &World) -> (Vec<Disk>, Vec<Server>) {
    let app = world.app();
    let read = app.catalog.read();
    assert_eq!(operations::pending(read, Noun::Disk).unwrap(), [] as [Uuid; 0]);
    assert_eq!(operations::pending(read, Noun::Server).unwrap(), [] as [Uuid; 0]);
    (disks::all(read, Noun::Disk).unwrap(), servers::all(read).unwrap())
}

fn server(world: &World, name: &str) -> Server {
    world.app().find_server(name).unwrap()
}

fn snapshot(world: &World, disk: &str) {
    let mut app = world.app();
    let mut claimed = app.claim_disk(disk).unwrap();
    let name = format!("of-{disk}");
    app.run(&mut claimed, &Operation::Snapshot { id: Uuid::new_v4(), name }).unwrap();
}

fn delete_snapshot(world: &World, disk: &str) {
    let mut app = world.app();
    let id = snapshots::find(app.catalog.read(), &format!("of-{disk}")).unwrap().id;
    let mut claimed = app.claim_disk(disk).unwrap();
    app.run(&mut claimed, &Operation::DeleteSnapshot { id }).unwrap();
}

#[test]
fn s1_scaling_in_destroys_only_what_was_made_with_the_server() {
    let (world, mut group, config) = scaled(2);
    world.app().scale(&group, &config).unwrap();
    world.disk("precious");
    let member = server(&world, "g-2");
    attach(&mut world.app(), "precious", &member).unwrap();
    // Its owner wants to keep this one.
    detach(&mut world.app(), "g-2-data2").unwrap();
    let sentence = world.app().fate(&member).unwrap().sentence();
    assert_eq!(sentence, ", with everything on g-2-data1, g-2-system, after detaching precious");

    group.desired = 1;
    assert_eq!(world.app().scale(&group, &config).unwrap(), ["g-1"]);
    for (kept, content) in [("precious", HEADER), ("g-2-data2", "plain")] {
        let disk = world.row(kept).unwrap();
        assert_eq!((disk.status, disk.server_id, disk.made_with), (DiskStatus::Available, None, None));
        let file = world.app().installation.place(disk.id).file;
        assert_eq!(fs::read_to_string(file).unwrap(), content, "{kept}");
    }
    assert_eq!((world.row("g-2-data1"), world.row("g-2-system")), (None, None));
    // Neither a disk's name nor a server's is in the group's way.
    world.server("g-3");
    group.desired = 3;
    assert_eq!(world.app().scale(&group, &config).unwrap(), ["g-1", "g-4", "g-5"]);
}

#[test]
fn s1_a_system_disk_that_is_mended_on_another_server_is_not_that_servers() {
    let world = World::new();
    let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
    world.app().build_server(&blueprint("web1", &image, vec![])).unwrap();
    let larger = Some(Size::from_bytes(8192).unwrap());
    let larger = crate::engine::build::Blueprint { system_size: larger, ..blueprint("web2", &image, vec![]) };
    world.app().build_server(&larger).unwrap();
    detach(&mut world.app(), "web1-system").unwrap();
    attach(&mut world.app(), "web1-system", &server(&world, "web2")).unwrap();

    assert_eq!(world.app().system_disk("web2").unwrap().name, "web2-system");
    let none = world.app().system_disk("web1").unwrap_err();
    assert!(matches!(none, Error::NoSystemDisk { .. }), "{none}");
    let (Config { template, .. }, _) = world.app().create_config("c".into(), "web2").unwrap();
    assert_eq!((template.system.unwrap().size, template.data.len()), (8192, 1));
    world.app().start_server("web2", hardware()).unwrap();
    let order = ["web2-system", "web1-system"].map(|name| world.row(name).unwrap().id);
    assert_eq!(world.machines.views(), order.map(|id| world.app().installation.place(id).view));
    world.app().stop_server("web2", Stop::Cut).unwrap();

    world.app().delete_server("web2").unwrap();
    assert_eq!(world.row("web2-system"), None);
    assert_eq!(world.row("web1-system").unwrap().status, DiskStatus::Available);
    attach(&mut world.app(), "web1-system", &server(&world, "web1")).unwrap();
    assert_eq!(world.app().system_disk("web1").unwrap().name, "web1-system");
    world.app().delete_server("web1").unwrap();
    assert_eq!(world.row("web1-system"), None, "it is its own again");
}

#[test]
fn d7_a_server_whose_disk_something_depends_on_is_not_taken_apart() {
    let (world, mut group, config) = scaled(2);
    world.app().scale(&group, &config).unwrap();
    snapshot(&world, "web1-system");
    snapshot(&world, "g-2-data1");
    group.desired = 1;
    let before = rows(&world);
    for _ in 0..2 {
        let refused = world.app().delete_server("web1").unwrap_err();
        assert!(matches!(&refused, Error::HasDependants { name, .. } if name == "web1-system"), "{refused}");
        assert_eq!(rows(&world), before);
        let refused = world.app().scale(&group, &config).unwrap_err();
        assert!(matches!(&refused, Error::HasDependants { name, .. } if name == "g-2-data1"), "{refused}");
        assert_eq!(rows(&world), before);
    }
    delete_snapshot(&world, "g-2-data1");
    // Of the last one to go.
    snapshot(&world, "g-1-system");
    group.desired = 0;
    let before = (rows(&world), groups::groups(world.app().catalog.read()).unwrap());
    let events = groups::events(world.app().catalog.read(), group.id).unwrap();
    let refused = world.app().scale(&group, &config).unwrap_err();
    assert!(matches!(&refused, Error::HasDependants { name, .. } if name == "g-1-system"), "{refused}");
    assert_eq!((rows(&world), groups::groups(world.app().catalog.read()).unwrap()), before);
    assert_eq!(groups::events(world.app().catalog.read(), group.id).unwrap(), events);
    group.desired = 1;
    delete_snapshot(&world, "web1-system");
    delete_snapshot(&world, "g-1-system");
    world.app().delete_server("web1").unwrap();
    assert_eq!(world.app().scale(&group, &config).unwrap(), ["g-1"]);
    let left: Vec<String> = rows(&world).0.into_iter().map(|disk| disk.name).collect();
    assert_eq!(left, ["d", "g-1-data1", "g-1-data2", "g-1-system", "web1-data1", "web1-data2"]);
    group.desired = 2;
    assert_eq!(world.app().scale(&group, &config).unwrap(), ["g-1", "g-2"]);
}

/// S1: a disk that cannot be destroyed on the way keeps its server, with what is left of that attached; killed there, the deletion is finished.
#[test]
fn s1_a_deletion_that_fails_on_the_way_gives_the_disks_back() {
    for step in 0.. {
        let world = World::new();
        let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
        world.app().build_server(&blueprint("web1", &image, vec![(block(), Encryption::Plain)])).unwrap();
        world.volumes.trouble(Some(Trouble::RefuseErase));
        let whole = dies_before(&world, step, |app| match app.delete_server("web1") {
            Err(Error::Volume { .. }) => Ok(()),
            other => panic!("{other:?}"),
        });
        world.volumes.trouble(None);
        assert!(world.app().settle_all().unwrap().is_empty(), "before step {step}");
        let (disks, servers) = rows(&world);
        if whole {
            assert!(step > 10, "it detaches, is refused, and attaches again");
            assert_eq!(servers[0].status, ServerStatus::Stopped);
            let here = disks.iter().filter(|disk| disk.server_id == Some(servers[0].id));
            let here: Vec<_> = here.map(|disk| (disk.name.as_str(), disk.status)).collect();
            let all = [("web1-data1", DiskStatus::InUse), ("web1-system", DiskStatus::InUse)];
            assert_eq!(here, all);
            world.app().delete_server("web1").unwrap();
            assert_eq!(world.row("web1-system"), None);
            break;
        }
        assert!(servers.is_empty(), "before step {step}: {servers:?}");
        assert_eq!(disks.iter().map(|disk| &disk.name).collect::<Vec<_>>(), ["d", "web1-data1"]);
        assert_eq!(world.volumes.mounted(), 0);
    }
}

fn holder() -> Vec<Holder> {
    vec![Holder::Process { pid: 7, program: "dd".into() }]
}

fn assert_half(world: &World, name: &str, expected: ServerStatus, context: &str) {
    let mut app = world.app();
    for refused in [
        app.create_config("c2".into(), name).map(|_| ()),
        app.system_disk(name).map(|_| ()),
        app.start_server(name, hardware()).map(|_| ()),
    ] {
        match refused.unwrap_err() {
            Error::ServerStatus { status, .. } => assert_eq!(status, expected, "{context}"),
            // It is tried again first.
            Error::Volume { source, .. } if matches!(&*source, ToolError::Busy { .. }) => {}
            error => panic!("{context}: {error}"),
        }
    }
    assert_eq!(server(world, name).status, expected, "{context}");
}

/// S1: a server that was cut short while it was made, and cannot be taken away because somebody has a disk of it open, is not taken for a whole
/// one by anything; it goes when it can.
#[test]
fn s1_a_half_made_server_that_cannot_be_undone_stays_half_made_until_it_can() {
    let mut held = 0;
    for step in 0..14 {
        let world = World::new();
        let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
        let data = vec![(block(), Encryption::Plain)];
        let half = |app: &mut App| app.build_server(&blueprint("half", &image, data.clone())).map(|_| ());
        assert!(!dies_before(&world, step, half), "it has 14 steps");
        if world.volumes.mounted() == 0 {
            continue;
        }
        held += 1;
        world.volumes.hold(&holder());
        let context = format!("before step {step}");
        for _ in 0..2 {
            assert!(world.app().settle_all().unwrap().contains_key("half"), "{context}");
            assert_half(&world, "half", ServerStatus::Building, &context);
        }
        world.volumes.hold(&[]);
        assert!(world.app().settle_all().unwrap().is_empty(), "{context}");
        let (disks, servers) = rows(&world);
        assert_eq!(disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["d"], "{context}");
        assert_eq!((servers, world.volumes.mounted()), (vec![], 0), "{context}");
    }
    assert!(held > 4, "{held}");
}

/// The same when the process that makes it lives, and says so.
#[test]
fn s1_who_makes_a_server_is_told_when_what_there_is_of_it_cannot_be_removed() {
    let world = World::new();
    let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
    let mut app = world.app();
    let (volumes, mounts) = (world.volumes.clone(), Cell::new(0));
    app.observe = Some(Box::new(move |step| {
        mounts.set(mounts.get() + u32::from(step == Step::Mount));
        if mounts.get() == 2 {
            volumes.hold(&holder());
            volumes.trouble(Some(Trouble::FailMount));
            mounts.set(3);
        }
    }));
    let data = vec![(block(), Encryption::Plain)];
    let failed = app.build_server(&blueprint("half", &image, data)).unwrap_err();
    assert!(failed.to_string().contains("half-data1"), "{failed}");
    let [warning] = app.warnings.as_slice() else { panic!("{:?}", app.warnings) };
    assert!(warning.message.contains("server half is half made"), "{warning:?}");
    assert!(warning.message.contains("half-system") && warning.hint.contains("ecsctl status"), "{warning:?}");
    assert_half(&world, "half", ServerStatus::Building, "it cannot be undone");
    world.volumes.hold(&[]);
    let gone = world.app().delete_server("half");
    assert!(gone.is_ok() && rows(&world).1.is_empty(), "{gone:?}");
    assert_eq!(world.row("half-system"), None);
}

/// S1: once a disk that goes with a server is destroyed, there is no way back: it stays half deleted, and the next command goes on.
#[test]
fn s1_a_deletion_that_fails_after_its_first_disk_is_gone_stays_one() {
    let (world, group, config) = scaled(1);
    world.app().scale(&group, &config).unwrap();
    let mut app = world.app();
    let (volumes, erasures) = (world.volumes.clone(), Cell::new(0));
    app.observe = Some(Box::new(move |step| {
        erasures.set(erasures.get() + u32::from(step == Step::Erase));
        // Of data1, data2 and system.
        volumes.trouble((erasures.get() == 3).then_some(Trouble::RefuseErase));
    }));
    app.delete_server("g-1").unwrap_err();
    assert_eq!((world.row("g-1-data1"), world.row("g-1-data2")), (None, None));
    assert_eq!(world.row("g-1-system").unwrap().status, DiskStatus::Available);
    assert_eq!(server(&world, "g-1").status, ServerStatus::Deleting);
    assert_eq!(groups::members(world.app().catalog.read(), group.id).unwrap(), [] as [String; 0]);
    // Nor is it whole when going on fails.
    world.volumes.trouble(Some(Trouble::RefuseErase));
    let refused = world.app().create_config("c2".into(), "g-1").unwrap_err();
    assert!(matches!(refused, Error::ServerStatus { status: ServerStatus::Deleting, .. }), "{refused}");
    world.volumes.trouble(None);
    assert_eq!(world.app().scale(&group, &config).unwrap(), ["g-1"]);
    assert_eq!(rows(&world).1.len(), 2);
}

/// S1: of a deletion whose process died, everything that it had detached is either attached or the deletion goes on.
#[test]
fn s1_a_deletion_that_cannot_be_finished_after_its_process_died_stays_one() {
    let mut failed = 0;
    for step in 0.. {
        let world = World::new();
        let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
        world.app().build_server(&blueprint("web1", &image, vec![(block(), Encryption::Plain)])).unwrap();
        if dies_before(&world, step, |app| app.delete_server("web1").map(drop)) {
            break;
        }
        world.volumes.trouble(Some(Trouble::RefuseErase));
        let left = world.app().settle_all().unwrap();
        world.volumes.trouble(None);
        if left.contains_key("web1") {
            failed += 1;
            assert_eq!(server(&world, "web1").status, ServerStatus::Deleting, "before step {step}");
        }
        assert!(world.app().settle_all().unwrap().is_empty(), "before step {step}");
        let (disks, servers) = rows(&world);
        let disks: Vec<_> = disks.iter().map(|disk| (disk.name.as_str(), disk.status)).collect();
        assert_eq!(
            disks,
            ["d", "web1-data1"].map(|name| (name, DiskStatus::Available)),
            "before step {step}"
        );
        assert!(servers.is_empty(), "before step {step}");
    }
    assert!(failed > 5, "{failed}");
}

/// Who deletes is told which disks are not attached again.
#[test]
fn s1_a_disk_that_cannot_be_given_back_is_named() {
    let world = World::new();
    let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
    world.app().build_server(&blueprint("web1", &image, vec![(block(), Encryption::Plain)])).unwrap();
    let mut app = world.app();
    let volumes = world.volumes;
    app.observe = Some(Box::new(move |step| match step {
        Step::Erase => volumes.trouble(Some(Trouble::RefuseErase)),
        Step::Mount => volumes.trouble(Some(Trouble::FailMount)),
        _ => {}
    }));
    app.delete_server("web1").unwrap_err();
    let told: Vec<_> = app.warnings.iter().map(|warning| warning.message.as_str()).collect();
    for (disk, warning) in ["web1-data1", "web1-system"].iter().zip(&app.warnings) {
        assert!(
            warning.message.starts_with(&format!("disk {disk} was detached from server web1")),
            "{told:?}"
        );
        assert!(warning.hint.ends_with(&format!("ecsctl disk attach {disk} web1")), "{}", warning.hint);
    }
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn a1_a_server_that_is_half_made_is_no_model_for_others() {
    for step in 0..14 {
        let world = World::new();
        let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
        let data = vec![(block(), Encryption::Plain)];
        let whole =
            dies_before(&world, step, |app| app.build_server(&blueprint("half", &image, data)).map(|_| ()));
        assert!(!whole, "it has 14 steps");
        // As long as somebody works on it, it is being built.
        let working = world.app().claim(Noun::Server, server(&world, "half").id, "half").unwrap();
        for refused in [
            world.app().create_config("c".into(), "half").map(|_| ()),
            world.app().system_disk("half").map(|_| ()),
        ] {
            let refused = refused.unwrap_err();
            assert!(
                matches!(refused, Error::ServerStatus { status: ServerStatus::Building, .. }),
                "before step {step}: {refused}"
            );
        }
        drop(working);
        let gone = world.app().create_config("c".into(), "half").unwrap_err();
        assert!(matches!(gone, Error::NotFound { noun: Noun::Server, .. }), "before step {step}: {gone}");
        assert_eq!(groups::configs(world.app().catalog.read()).unwrap(), []);
    }
}
