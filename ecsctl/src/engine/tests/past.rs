//! F3: going on with a file that was put back from the past, and the catalogue afterwards.

use super::*;
use crate::{catalog::snapshots, engine::past::Loss, volumes::fake::snapshot_of};

/// A disk that was extended and given a snapshot since its file, now put back, was copied; a snapshot that the file has was deleted since.
fn put_back(world: &World) -> (Disk, Uuid) {
    let disk = world.disk("d");
    let (kept, lost, returning) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let mut app = world.app();
    let mut claimed = app.claim_disk("d").unwrap();
    let file = app.installation.place(disk.id).file;
    for (id, name) in [(kept, "kept"), (lost, "lost")] {
        app.run(&mut claimed, &Operation::Snapshot { id, name: name.to_owned() }).unwrap();
    }
    app.run(&mut claimed, &Operation::Extend { size: 8192 }).unwrap();
    fs::remove_file(snapshot_of(&file, lost)).unwrap();
    fs::write(snapshot_of(&file, returning), "of the past").unwrap();
    world.volumes.put_back(&file, 4096);
    (disk, returning)
}

fn loss(world: &World) -> Option<Loss> {
    let app = world.app();
    let disk = disks::by_id(app.catalog.read(), disks::find(app.catalog.read(), Noun::Disk, "d").unwrap());
    app.loss(&disk.unwrap().unwrap()).unwrap()
}

fn accept(app: &mut App) -> Result<(), Error> {
    let mut claimed = app.claim_disk("d")?;
    app.run(&mut claimed, &Operation::AcceptRollback)
}

/// What the catalogue says of the disk: its size and its snapshots.
fn told(world: &World) -> (u64, Vec<String>) {
    let app = world.app();
    let id = disks::find(app.catalog.read(), Noun::Disk, "d").unwrap();
    let mut names: Vec<_> =
        snapshots::all(app.catalog.read(), Some(id)).unwrap().into_iter().map(|s| s.name).collect();
    names.sort();
    (disks::by_id(app.catalog.read(), id).unwrap().unwrap().size, names)
}

#[test]
fn f3_a_refusal_says_what_going_on_would_cost() {
    let world = World::new();
    let server = world.server("web1");
    let (disk, _) = put_back(&world);
    let error = attach(&mut world.app(), "d", &server).unwrap_err();
    let error = world.app().explain_past(&disk, "web1", error);
    let Error::RolledBack { .. } = &error else { panic!("{error:?}") };
    let message = error.to_string();
    for part in ["commit 3", "commit 5", "snapshot lost would be lost", "would be there again"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(error.report().hint.contains("ecsctl disk attach d web1 --accept-rollback"));
    let question = loss(&world).unwrap().question("d");
    assert!(question.contains("its size would be 4K, not 8K"), "{question}");
    assert_eq!(told(&world), (8192, vec!["kept".to_owned(), "lost".to_owned()]), "nothing was noted");
}

#[test]
fn f3_what_is_accepted_is_what_the_catalogue_says_afterwards() {
    let world = World::new();
    let server = world.server("web1");
    let (disk, returning) = put_back(&world);
    accept(&mut world.app()).unwrap();
    let again = format!("s-{}", &returning.to_string()[..4]);
    assert_eq!(told(&world).0, 4096);
    assert_eq!(told(&world).1, ["kept".to_owned(), again]);
    assert_eq!(loss(&world), None);
    attach(&mut world.app(), "d", &server).unwrap();
    world.assert_settled(disk.id, "accepted and attached");
}

/// Killed before any step, or after the key service accepted: the catalogue says what the file of an accepted state holds, and what it said
/// before of one that was not.
#[test]
fn f3_killed_before_any_step_the_catalogue_agrees_with_what_was_accepted() {
    for step in 0..4 {
        let world = World::new();
        let (disk, _) = put_back(&world);
        if step == 3 {
            world.volumes.trouble(Some(Trouble::DieInAccept));
        }
        assert!(!dies_before(&world, step, accept) || step == 3);
        assert!(world.app().settle_all().unwrap().is_empty());
        let accepted = loss(&world).is_none();
        assert_eq!(accepted, step > 0, "before step {step}");
        assert_eq!(told(&world).0, if accepted { 4096 } else { 8192 }, "before step {step}");
        assert_eq!(told(&world).1.contains(&"lost".to_owned()), !accepted, "before step {step}");
        world.assert_settled(disk.id, &format!("before step {step}"));
        accept(&mut world.app()).unwrap();
        assert_eq!(told(&world).0, 4096);
    }
}

/// A disk of a server whose host came back from a backup: recovery does not accept by itself, and afterwards the disk is where it was.
#[test]
fn f3_a_disk_that_is_attached_is_accepted_where_it_is() {
    let world = World::new();
    let server = world.server("web1");
    let (disk, _) = put_back(&world);
    world.volumes.put_newest();
    attach(&mut world.app(), "d", &server).unwrap();
    world.volumes.crash_all();
    let file = world.app().installation.place(disk.id).file;
    world.volumes.put_back(&file, 4096);

    let recovered = world.app().recover_server(&server).unwrap();
    let [(_, Recovery::Failed(error))] = recovered.as_slice() else { panic!("{recovered:?}") };
    assert!(error.report().hint.contains("ecsctl disk attach d web1 --accept-rollback"), "{error}");

    world.volumes.trouble(Some(Trouble::FailAccept));
    assert!(accept(&mut world.app()).is_err());
    let row = disks::by_id(world.app().catalog.read(), disk.id).unwrap().unwrap();
    assert_eq!((row.status, row.server_id), (DiskStatus::InUse, Some(server.id)), "as before");

    let mut app = world.app();
    let mut claimed = app.claim_disk("d").unwrap();
    app.run(&mut claimed, &Operation::AcceptRollback).unwrap();
    app.recover_claimed(&mut claimed).unwrap();
    world.assert_settled(disk.id, "accepted where it is");
    assert_eq!(told(&world).0, 4096);
}
