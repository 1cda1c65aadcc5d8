//! Snapshots and growing (D5, D6, D7).

use super::*;
use crate::{
    catalog::snapshots,
    volumes::fake::{data_of, snapshot_of},
};

fn change(world: &World, operation: &Operation) -> Result<(), Error> {
    let mut app = world.app();
    let mut claimed = app.claim_disk("d")?;
    app.run(&mut claimed, operation)
}

fn names(world: &World) -> Vec<String> {
    snapshots::all(world.app().catalog.read(), None).unwrap().into_iter().map(|s| s.name).collect()
}

fn snapshot(id: Uuid) -> Operation {
    Operation::Snapshot { id, name: "s".to_owned() }
}

#[test]
fn d5_a_snapshot_can_be_gone_back_to_attached_or_not() {
    let world = World::new();
    let server = world.server("web1");
    let disk = world.disk("d");
    let data = data_of(&world.app().installation.place(disk.id).file);
    for round in 0..2 {
        let id = Uuid::new_v4();
        fs::write(&data, "before").unwrap();
        change(&world, &snapshot(id)).unwrap();
        fs::write(&data, "after").unwrap();
        change(&world, &Operation::RollBack { id }).unwrap();
        assert_eq!(fs::read_to_string(&data).unwrap(), "before");
        assert_eq!(names(&world), ["s"]);
        let again = change(&world, &snapshot(Uuid::new_v4())).unwrap_err();
        assert!(matches!(again, Error::Exists { noun: Noun::Snapshot, .. }), "{again}");
        change(&world, &Operation::DeleteSnapshot { id }).unwrap();
        assert!(names(&world).is_empty());
        if round == 0 {
            attach(&mut world.app(), "d", &server).unwrap();
        }
    }
    world.assert_settled(disk.id, "attached all the time");
}

#[test]
fn d5_killed_before_any_step_or_within_it_a_snapshot_is_whole_or_not_there() {
    for step in 0..4 {
        let world = World::new();
        let disk = world.disk("d");
        let id = Uuid::new_v4();
        if step == 3 {
            world.volumes.trouble(Some(Trouble::DieInSnapshot));
        }
        let whole = dies_before(&world, step, |app| {
            let mut claimed = app.claim_disk("d")?;
            app.run(&mut claimed, &snapshot(id))
        });
        assert!(world.app().settle_all().unwrap().is_empty());
        world.assert_settled(disk.id, &format!("before step {step}"));
        let kept = snapshot_of(&world.app().installation.place(disk.id).file, id).exists();
        assert_eq!((names(&world).len() == 1, kept), (whole, whole), "before step {step}");
    }
}

#[test]
fn d5_a_rollback_that_was_cut_short_is_never_done_later() {
    let world = World::new();
    let disk = world.disk("d");
    let data = data_of(&world.app().installation.place(disk.id).file);
    let id = Uuid::new_v4();
    change(&world, &snapshot(id)).unwrap();
    // Killed after the engine went back, before that was recorded; then somebody writes.
    assert!(!dies_before(&world, 1, |app| {
        let mut claimed = app.claim_disk("d")?;
        app.run(&mut claimed, &Operation::RollBack { id })
    }));
    fs::write(&data, "written since").unwrap();
    assert!(world.app().settle_all().unwrap().is_empty());
    assert_eq!(fs::read_to_string(&data).unwrap(), "written since");
}

#[test]
fn d7_a_disk_with_snapshots_is_not_deleted() {
    let world = World::new();
    let disk = world.disk("d");
    let id = Uuid::new_v4();
    change(&world, &snapshot(id)).unwrap();
    let refused = delete(&mut world.app(), "d").unwrap_err();
    assert_eq!(refused.report().hint, "ecsctl snapshot delete s");
    world.assert_settled(disk.id, "refused");
    change(&world, &Operation::DeleteSnapshot { id }).unwrap();
    delete(&mut world.app(), "d").unwrap();
}

#[test]
fn d6_a_disk_grows_and_never_shrinks() {
    let world = World::new();
    world.disk("d");
    for asked in [4096, 0] {
        assert!(matches!(change(&world, &Operation::Extend { size: asked }), Err(Error::Shrink { .. })));
    }
    for step in 0..3 {
        let size = 8192 * (u64::try_from(step).unwrap() + 1);
        let whole = dies_before(&world, step, |app| {
            let mut claimed = app.claim_disk("d")?;
            app.run(&mut claimed, &Operation::Extend { size })
        });
        assert_eq!(whole, step == 2);
        assert!(world.app().settle_all().unwrap().is_empty());
        assert_eq!(world.row("d").unwrap().size, size, "finished by the next command");
    }
}

#[test]
fn d8_the_catalogue_names_the_key_that_the_volume_has_however_the_rekey_ended() {
    let rekey = |key: &str| Operation::Rekey { key: key.to_owned(), alias: Some(format!("{key}-alias")) };
    let row = |world: &World| {
        let row = world.row("d").unwrap();
        (row.key_id.unwrap(), row.key_alias)
    };
    let world = World::new();
    let disk = world.disk("d");
    change(&world, &rekey("k2")).unwrap();
    let second = ("k2".to_owned(), Some("k2-alias".to_owned()));
    assert_eq!(row(&world), second);
    world.volumes.trouble(Some(Trouble::FailRekey));
    assert!(matches!(change(&world, &rekey("k3")), Err(Error::Volume { .. })));
    assert_eq!(row(&world), second);
    world.assert_settled(disk.id, "failed");
    for step in 0..4 {
        let world = World::new();
        let disk = world.disk("d");
        if step == 3 {
            world.volumes.trouble(Some(Trouble::DieInRekey));
        }
        let whole = dies_before(&world, step, |app| {
            let mut claimed = app.claim_disk("d")?;
            app.run(&mut claimed, &rekey("k2"))
        });
        assert!(!whole, "it has three steps");
        world.app().settle_all().unwrap();
        let header = world.app().volumes.inspect(&world.app().installation.place(disk.id).file, false);
        assert_eq!(header.unwrap().key_id, Some(row(&world).0), "step {step}");
        assert_eq!(row(&world).0 == "k2", step > 0, "step {step}: done wholly or not at all");
        world.assert_settled(disk.id, "killed");
    }
}
