//! The rules of disks and servers, by number.

use super::*;

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

/// D7: what was refused before a byte was written leaves the disk as it was; what may have been begun does not.
#[test]
fn d7_a_deletion_that_was_refused_leaves_a_healthy_disk_healthy() {
    for trouble in [Trouble::RefuseErase, Trouble::NoErase] {
        let (world, server, disk) = ready_for("delete");
        let refuse = || {
            world.volumes.trouble(Some(trouble));
            assert!(matches!(delete(&mut world.app(), "d"), Err(Error::Volume { .. })), "{trouble:?}");
        };
        refuse();
        world.assert_settled(disk.unwrap(), "refused");
        attach(&mut world.app(), "d", &server).unwrap();
        detach(&mut world.app(), "d").unwrap();

        // One that failed half-way stays so, whatever is refused later.
        world.volumes.trouble(Some(Trouble::FailErase));
        delete(&mut world.app(), "d").unwrap_err();
        refuse();
        assert_eq!(world.row("d").unwrap().status, DiskStatus::ErrorDeleting);
    }
    // What a killed process had begun is not known.
    let (world, _, _) = ready_for("delete");
    assert!(!dies_before(&world, 1, |app| delete(app, "d")));
    world.volumes.trouble(Some(Trouble::RefuseErase));
    assert_eq!(world.app().settle_all().unwrap().len(), 1);
    assert_eq!(world.row("d").unwrap().status, DiskStatus::ErrorDeleting);
}

#[test]
fn d7_the_wrapped_dek_is_erased_before_the_file_goes() {
    let (world, _, disk) = ready_for("delete");
    let erased_file = world.dir.path().join("hard-link");
    fs::hard_link(world.app().installation.place(disk.unwrap()).file, &erased_file).unwrap();
    delete(&mut world.app(), "d").unwrap();
    assert_eq!(fs::read_to_string(erased_file).unwrap(), "erased");
}

/// The key service keeps an anchor for each volume that there is, and none for those that are gone; a disk goes without it, too.
#[test]
fn d7_the_anchor_of_a_deleted_disk_is_forgotten() {
    let (world, _, disk) = ready_for("delete");
    delete(&mut world.app(), "d").unwrap();
    assert_eq!(world.keys.forgotten(), [disk.unwrap()]);
    let (world, _, disk) = ready_for("delete");
    world.keys.set_away(true);
    delete(&mut world.app(), "d").unwrap();
    world.assert_settled(disk.unwrap(), "deleted");
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
