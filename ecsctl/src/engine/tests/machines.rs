//! Machines of servers: started on every disk, found again, and missed when they have ended (S2, S3).

use super::*;
use crate::{
    engine::{machines::Hardware, servers::ServerOperation},
    machines::{MachineError, Stop, accel::Acceleration},
};

pub(super) fn hardware() -> Hardware {
    Hardware { memory: 128, cpus: 1, acceleration: Acceleration::Auto, kernel: None }
}

fn status(world: &World) -> ServerStatus {
    servers::all(world.app().catalog.read()).unwrap()[0].status
}

#[test]
fn s2_a_machine_runs_on_the_disks_of_its_server_and_only_once() {
    let world = World::new();
    let server = world.server("web1");
    let refused = world.app().start_server("web1", hardware()).unwrap_err();
    assert!(matches!(refused, Error::NothingToBoot { .. }), "{refused}");
    let data = world.attached("a-data", &server);
    let system = world.attached("system", &server);
    let sql = "UPDATE volumes SET role = 'system', made_with = server_id WHERE name = 'system'";
    world.app().catalog.read().execute(sql, ()).unwrap();
    // A disk that is away is brought back first.
    world.volumes.crash_all();

    let (started, _) = world.app().start_server("web1", hardware()).unwrap();
    assert_eq!((started.status, status(&world)), (ServerStatus::Running, ServerStatus::Running));
    let places = [system.id, data.id].map(|id| world.app().installation.place(id).view);
    assert_eq!(world.machines.views(), places, "the system disk first");
    let again = world.app().start_server("web1", hardware()).unwrap_err();
    assert!(matches!(again, Error::ServerStatus { status: ServerStatus::Running, .. }), "{again}");
    let refused = world.app().delete_server("web1").unwrap_err();
    assert_eq!(refused.report().hint, "ecsctl server stop web1");

    world.machines.set_deaf(true);
    let deaf = world.app().stop_server("web1", Stop::Ask(Duration::from_secs(1))).unwrap_err();
    assert!(
        matches!(&deaf, Error::Machine { source, .. } if matches!(**source, MachineError::StillRunning { .. }))
    );
    assert_eq!(status(&world), ServerStatus::Running);
    world.app().stop_server("web1", Stop::Cut).unwrap();
    assert_eq!(status(&world), ServerStatus::Stopped);
    world.app().stop_server("web1", Stop::Cut).unwrap_err();
    world.assert_settled(data.id, "its disks stay attached");
}

#[test]
fn s3_a_machine_that_has_ended_is_noticed_by_the_next_command() {
    let world = World::new();
    let server = world.server("web1");
    world.attached("d", &server);
    world.app().start_server("web1", hardware()).unwrap();
    let mut app = world.app();
    app.settle_all().unwrap();
    assert!(app.ended.is_empty(), "it runs");
    assert!(app.machine_of(&servers::all(app.catalog.read()).unwrap()[0]).is_some(), "and is found");

    world.machines.end_all();
    let mut app = world.app();
    app.settle_all().unwrap();
    assert_eq!(app.ended, ["web1"]);
    assert_eq!(status(&world), ServerStatus::Stopped);
    world.app().start_server("web1", hardware()).unwrap();
}

#[test]
fn s3_killed_while_it_starts_a_machine_that_runs_is_kept_and_else_nothing_is() {
    for runs in [false, true] {
        let world = World::new();
        let server = world.server("web1");
        world.attached("d", &server);
        if runs {
            world.app().start_server("web1", hardware()).unwrap();
        }
        // What is there when the process dies before it learns how the start ended.
        world
            .app()
            .catalog
            .write(|tx| {
                servers::set_status(tx, server.id, ServerStatus::Stopped)?;
                operations::begin(
                    tx,
                    Noun::Server,
                    server.id,
                    &ServerOperation::Start,
                    "2026-01-01T00:00:00Z",
                )
            })
            .unwrap();
        assert!(world.app().settle_all().unwrap().is_empty());
        let expected = if runs { ServerStatus::Running } else { ServerStatus::Stopped };
        assert_eq!(status(&world), expected);
        let pending = operations::pending(world.app().catalog.read(), Noun::Server).unwrap();
        assert_eq!(pending, [] as [Uuid; 0]);
    }
}

/// S2, S3: a disk stays with the machine that runs on it, also after the process that served it has died; that the machine has lost it is
/// told each time, until it is started again.
#[test]
fn s2_a_machine_whose_disk_died_under_it_keeps_it_and_is_told_of() {
    let world = World::new();
    let server = world.server("web1");
    let disk = world.attached("d", &server);
    world.machines.start_at(1);
    world.app().start_server("web1", hardware()).unwrap();
    let refused = || {
        let refused = detach(&mut world.app(), "d").unwrap_err();
        assert!(matches!(refused, Error::DiskOfMachine { .. }), "{refused}");
        assert_eq!(refused.report().hint, "ecsctl server stop web1");
        assert_eq!(world.row("d").unwrap().status, DiskStatus::InUse);
    };
    refused();
    // What was attached after the start is not in the guest.
    world.attached("later", &server);
    detach(&mut world.app(), "later").unwrap();
    let recover = || world.app().recover_server(&server).unwrap().pop().unwrap().1;
    assert!(matches!(recover(), Recovery::Present));

    world.volumes.crash_all();
    for time in ["when it comes back", "and later"] {
        let Recovery::Stale(error) = recover() else { panic!("{time}") };
        assert!(error.report().hint.starts_with("ecsctl server stop web1"), "{error}");
        world.assert_settled(disk.id, time);
        refused();
    }
    world.app().stop_server("web1", Stop::Cut).unwrap();
    world.machines.start_at(99);
    world.app().start_server("web1", hardware()).unwrap();
    assert!(matches!(recover(), Recovery::Present));
    world.app().stop_server("web1", Stop::Cut).unwrap();
    detach(&mut world.app(), "d").unwrap();
    world.assert_settled(disk.id, "detached");
}
