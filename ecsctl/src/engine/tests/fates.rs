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
    model::{scaling::Config, size::Size},
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
    delete_snapshot(&world, "web1-system");
    delete_snapshot(&world, "g-2-data1");
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
