//! Volumes that are filled from others: backups, images, disks and servers from them (D5, I1, I2, S1).

use super::*;
use crate::{
    engine::{
        build::Blueprint,
        make::{Encryption, Request},
    },
    images::{ExportFormat, ImageFormat},
    model::{plan::Fill, size::Size},
    volumes::fake::data_of,
};

impl World {
    pub(super) fn write(&self, disk: Uuid, contents: &[u8]) {
        let data = data_of(&self.app().installation.place(disk).file);
        let mut whole = fs::read(&data).unwrap();
        whole[..contents.len()].copy_from_slice(contents);
        fs::write(data, whole).unwrap();
    }

    pub(super) fn read(&self, disk: Uuid) -> Vec<u8> {
        fs::read(data_of(&self.app().installation.place(disk).file)).unwrap()
    }

    pub(super) fn filled(
        &self,
        kind: Noun,
        name: &str,
        source: &Disk,
        encryption: Encryption,
    ) -> Result<Disk, Error> {
        let mut app = self.app();
        let prepared = app.prepare(&Request::from_volume(kind, name, source, encryption, true))?;
        app.make(prepared)
    }
}

#[test]
fn d5_a_backup_is_an_independent_copy_and_a_disk_from_it_may_choose_its_encryption() {
    let world = World::new();
    let disk = world.disk("d");
    world.write(disk.id, b"as it was");
    let backup = world.filled(Noun::Backup, "b", &disk, Encryption::Inherit).unwrap();
    assert_eq!((backup.encrypted, &backup.key_id), (true, &disk.key_id));
    world.write(disk.id, b"as it is now");
    delete(&mut world.app(), "d").unwrap();
    let other = world.keys.add("other");
    for (name, encryption, key) in [
        ("same", Encryption::Inherit, disk.key_id),
        ("rekeyed", Encryption::Under(Some("other".into())), Some(other)),
        ("open", Encryption::Plain, None),
    ] {
        let restored = world.filled(Noun::Disk, name, &backup, encryption).unwrap();
        assert_eq!((restored.encrypted, restored.key_id), (key.is_some(), key));
        assert!(world.read(restored.id).starts_with(b"as it was\0"), "{name}");
    }
    assert_eq!(world.volumes.mounted(), 0);
}

#[test]
fn d1_what_is_made_from_an_encrypted_volume_never_becomes_plain_for_want_of_its_key() {
    let world = World::new();
    let disk = world.disk("d");
    let image = world.filled(Noun::Image, "i", &disk, Encryption::Inherit).unwrap();
    for source in [&disk, &image] {
        let unrecorded = Disk { key_id: None, ..source.clone() };
        world.app().catalog.write(|tx| disks::update(tx, &unrecorded)).unwrap();
    }
    for (kind, source) in [(Noun::Backup, &disk), (Noun::Image, &disk), (Noun::Disk, &image)] {
        let refused = world.filled(kind, "new", source, Encryption::Inherit).unwrap_err();
        assert!(matches!(refused, Error::KeyUnrecorded { .. }), "{refused}");
        assert!(world.volume(kind, "new").is_none());
    }
    let named = world.filled(Noun::Backup, "new", &disk, Encryption::Under(None)).unwrap();
    assert!(named.encrypted && named.key_id.is_some());
}

#[test]
fn d5_a_disk_in_use_is_copied_as_it_was_at_one_moment() {
    let world = World::new();
    let server = world.server("web1");
    let disk = world.attached("d", &server);
    world.write(disk.id, b"as it was");
    world.volumes.hold(&[Holder::Process { pid: 4711, program: "qemu-system-x86".to_owned() }]);
    world.volumes.scribble(true);
    let backup = world.filled(Noun::Backup, "b", &disk, Encryption::Inherit).unwrap();
    assert!(world.read(disk.id).starts_with(b"scribble"), "its guest went on writing");
    assert!(world.read(backup.id).starts_with(b"as it was\0"));
    let image = world.filled(Noun::Image, "i", &disk, Encryption::Inherit).unwrap();
    assert!(world.read(image.id).starts_with(b"scribble"));
    world.assert_settled(disk.id, "still attached");
    let left: Vec<_> = world.files(disk.id).into_iter().filter(|name| name.contains("snapshot")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// D5: a backup that does not read back as it was written is none.
#[test]
fn d5_a_backup_is_read_again_before_it_counts() {
    // The last one lies where the source has nothing.
    for at in [3, 4000, 3_000_000] {
        let world = World::new();
        world.disk("d");
        let mut app = world.app();
        let mut claimed = app.claim_disk("d").unwrap();
        app.run(&mut claimed, &Operation::Extend { size: 4 << 20 }).unwrap();
        let disk = claimed.disk.clone();
        drop(claimed);
        world.write(disk.id, b"as it was");
        let prepared =
            app.prepare(&Request::from_volume(Noun::Backup, "b", &disk, Encryption::Inherit, true)).unwrap();
        let volumes = app.installation.volumes();
        // A bad sector, just before what was written is read again.
        app.observe = Some(Box::new(move |step| {
            if step == crate::model::plan::Step::Verify {
                let of_disk = data_of(&volumes.join(format!("{}.evs", disk.id)));
                for entry in fs::read_dir(&volumes).unwrap() {
                    let path = entry.unwrap().path();
                    if path.display().to_string().ends_with(".data.unfinished") && path != of_disk {
                        let mut bytes = fs::read(&path).unwrap();
                        bytes[at] ^= 1;
                        fs::write(&path, bytes).unwrap();
                    }
                }
            }
        }));
        let refused = app.make(prepared).unwrap_err();
        let found = u64::try_from(at).unwrap();
        assert!(matches!(refused, Error::Unverified { offset, .. } if offset == found), "{refused}");
        assert_eq!(world.volume(Noun::Backup, "b"), None);
        assert_eq!(world.volumes.mounted(), 0);
    }
}

/// D5: what failed at its source is undone at once, without the source.
#[test]
fn d5_a_copy_that_fails_at_its_source_leaves_nothing() {
    for attached in [false, true] {
        let world = World::new();
        let server = world.server("web1");
        let disk = if attached { world.attached("d", &server) } else { world.disk("d") };
        for kind in [Noun::Backup, Noun::Image, Noun::Backup] {
            if attached {
                world.volumes.trouble(Some(Trouble::RefuseSnapshot));
            } else {
                world.volumes.put_back(&world.app().installation.place(disk.id).file, 4096);
            }
            let refused = world.filled(kind, "b", &disk, Encryption::Inherit).unwrap_err();
            assert!(matches!(refused, Error::Volume { doing: "copied", .. }), "{refused}");
            assert_eq!(world.volume(kind, "b"), None);
            assert_eq!(world.volumes.mounted(), usize::from(attached));
            let pending = operations::pending(world.app().catalog.read(), kind).unwrap();
            assert_eq!(pending, [] as [Uuid; 0]);
        }
        let log = world.volumes.log();
        assert!(!log.iter().any(|done| done == "snapshot-delete"), "none was taken: {log:?}");
        world.assert_settled(disk.id, "only the source is there");
    }
}

#[test]
fn i1_killed_before_any_step_of_a_copy_leaves_neither_a_copy_nor_a_mount_nor_a_snapshot() {
    for attached in [false, true] {
        for step in 0.. {
            let world = World::new();
            let server = world.server("web1");
            let disk = if attached { world.attached("d", &server) } else { world.disk("d") };
            let whole = dies_before(&world, step, |app| {
                let prepared =
                    app.prepare(&Request::from_volume(Noun::Image, "i", &disk, Encryption::Inherit, true))?;
                app.make(prepared).map(|_| ())
            });
            assert!(world.app().settle_all().unwrap().is_empty());
            world.assert_settled(disk.id, &format!("source, before step {step}"));
            let files = world.files(disk.id);
            assert!(!files.iter().any(|name| name.contains("snapshot") || name.contains('@')), "{files:?}");
            if whole {
                assert!(step >= 8, "a copy has steps");
                break;
            }
            assert_eq!(world.volume(Noun::Image, "i"), None, "before step {step}");
            assert!(files.iter().all(|file| file.contains("ID") || attached), "{files:?}");
        }
    }
}

#[test]
fn i1_killed_right_after_its_snapshot_a_copy_leaves_none() {
    let world = World::new();
    let server = world.server("web1");
    let disk = world.attached("d", &server);
    world.volumes.trouble(Some(Trouble::DieInSnapshot));
    let mut app = world.app();
    let request = Request::from_volume(Noun::Image, "i", &disk, Encryption::Inherit, true);
    let prepared = app.prepare(&request).unwrap();
    assert!(!survives(move || app.make(prepared).map(|_| ()).unwrap()));
    assert!(world.files(disk.id).iter().any(|name| name.contains("snapshot")), "it was taken");
    assert!(world.app().settle_all().unwrap().is_empty());
    assert!(!world.files(disk.id).iter().any(|name| name.contains("snapshot")));
    assert_eq!(world.volume(Noun::Image, "i"), None);
    world.assert_settled(disk.id, "still attached");
}

#[test]
fn i1_an_external_image_is_imported_under_the_default_image_key() {
    let world = World::new();
    let file = world.dir.path().join("catalog.db-image.raw");
    fs::write(&file, vec![5; 10_000]).unwrap();
    let mut request =
        Request::from_volume(Noun::Image, "i", &world.disk("unused"), Encryption::Under(None), false);
    request.fill = Some(Fill::File { path: file.clone(), format: None });
    let mut app = world.app();
    let prepared = app.prepare(&request).unwrap();
    let image = app.make(prepared).unwrap();
    assert_eq!((image.size, image.key_alias.as_deref()), (12_288, Some("ims/default")));
    let read = world.read(image.id);
    assert!(read[..10_000].iter().all(|b| *b == 5) && read[10_000..].iter().all(|b| *b == 0));

    // A file that is no image of the declared format makes nothing.
    request.name = "j".into();
    request.fill = Some(Fill::File { path: file, format: Some(ImageFormat::Qcow2) });
    assert!(matches!(world.app().prepare(&request), Err(Error::Image { .. })));
    assert_eq!(world.volume(Noun::Image, "j"), None);
}

#[test]
fn i2_a_copy_may_have_another_key_and_the_image_keeps_its_own() {
    let world = World::new();
    let disk = world.disk("d");
    let image = world.filled(Noun::Image, "i", &disk, Encryption::Inherit).unwrap();
    let other = world.keys.add("other");
    let copy = world.filled(Noun::Image, "j", &image, Encryption::Under(Some("other".into()))).unwrap();
    assert_eq!(copy.key_id, Some(other));
    assert_eq!(world.volume(Noun::Image, "i").unwrap().key_id, disk.key_id);
}

/// I2: whatever leads out of encryption is recorded by the key service before a byte is written; when it cannot be, nothing is made.
#[test]
fn i2_nothing_leaves_encryption_unrecorded() {
    let world = World::new();
    let disk = world.disk("d");
    let image = world.filled(Noun::Image, "i", &disk, Encryption::Inherit).unwrap();
    world.filled(Noun::Image, "closed", &image, Encryption::Under(None)).unwrap();
    assert_eq!(world.keys.released(), [] as [&str; 0], "encrypted to encrypted");
    let open = world.filled(Noun::Image, "open", &image, Encryption::Plain).unwrap();
    world.filled(Noun::Image, "again", &open, Encryption::Plain).unwrap();
    let backup = world.filled(Noun::Backup, "b", &disk, Encryption::Plain).unwrap();
    assert_eq!(
        world.keys.released(),
        [format!("image i to image open, {}", open.id), format!("disk d to backup b, {}", backup.id)]
    );

    let mut app = world.app();
    let path = world.dir.path().join("catalog.db-out.raw");
    let mut claimed = app.claim_volume(Noun::Image, "i").unwrap();
    let export = Operation::Export { id: Uuid::new_v4(), path: path.clone(), format: ExportFormat::Raw };
    world.keys.set_away(true);
    let refused = app.run(&mut claimed, &export).unwrap_err();
    assert!(matches!(refused, Error::Release { .. }), "{refused}");
    assert!(!path.exists());
    world.keys.set_away(false);
    app.run(&mut claimed, &export).unwrap();
    assert_eq!(world.keys.released()[2..], [format!("image i to {}", path.display())]);

    // The service goes away after it was asked about the keys.
    drop(claimed);
    let prepared =
        app.prepare(&Request::from_volume(Noun::Image, "never", &image, Encryption::Plain, false)).unwrap();
    world.keys.set_away(true);
    let refused = app.make(prepared).unwrap_err();
    assert!(matches!(refused, Error::Release { .. }), "{refused}");
    world.keys.set_away(false);
    assert_eq!(world.volume(Noun::Image, "never"), None);
    assert_eq!(world.volumes.mounted(), 0);
}

pub(super) fn blueprint(name: &str, image: &Disk, data: Vec<(Size, Encryption)>) -> Blueprint {
    Blueprint { name: name.into(), image: Some(image.clone()), system_size: None, data, group_id: None }
}

pub(super) fn block() -> Size {
    Size::from_bytes(4096).unwrap()
}

#[test]
fn s1_a_server_from_an_encrypted_image_has_a_system_disk_under_its_key() {
    let world = World::new();
    let disk = world.disk("d");
    world.write(disk.id, b"system");
    let image = world.filled(Noun::Image, "i", &disk, Encryption::Inherit).unwrap();
    world.keys.add("db-key");
    let data = vec![(block(), Encryption::Under(Some("db-key".into()))), (block(), Encryption::Plain)];
    world.app().build_server(&blueprint("web1", &image, data)).unwrap();
    let system = world.row("web1-system").unwrap();
    assert_eq!((system.encrypted, &system.key_id, system.role), (true, &image.key_id, Role::System));
    assert!(world.read(system.id).starts_with(b"system"));
    assert_eq!(system.base, Some(image.id));
    assert_eq!(world.row("web1-data1").unwrap().key_alias.as_deref(), Some("db-key"));
    assert!(!world.row("web1-data2").unwrap().encrypted);
    assert_eq!(world.volumes.mounted(), 3);

    let refused = world.filled(Noun::Disk, "open", &image, Encryption::Plain);
    assert!(matches!(refused, Err(Error::StaysEncrypted { .. })));

    world.app().delete_server("web1").unwrap();
    assert_eq!(world.row("web1-system"), None, "the system disk goes with its server");
    assert_eq!(world.row("web1-data1").unwrap().status, DiskStatus::Available);
}

#[test]
fn s1_a_server_whose_disks_could_not_be_named_is_not_made() {
    let world = World::new();
    let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
    let data = vec![(block(), Encryption::Plain)];
    let refused = world.app().build_server(&blueprint(&"x".repeat(58), &image, data.clone())).unwrap_err();
    assert!(
        matches!(&refused, Error::DerivedName { derived, .. } if derived.ends_with("-system")),
        "{refused}"
    );
    assert!(servers::all(world.app().catalog.read()).unwrap().is_empty());
    world.app().build_server(&blueprint(&"x".repeat(57), &image, data)).unwrap();
    assert_eq!(disks::all(world.app().catalog.read(), Noun::Disk).unwrap().len(), 3);
}

#[test]
fn s1_if_any_key_cannot_be_used_nothing_is_created() {
    let world = World::new();
    let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
    let bad = world.keys.add("bad");
    world.keys.set(&bad, KeyState::Disabled);
    let data = vec![(block(), Encryption::Under(None)), (block(), Encryption::Under(Some("bad".into())))];
    let refused = world.app().build_server(&blueprint("web1", &image, data)).unwrap_err();
    assert!(matches!(&refused, Error::KeyUnusable { key, .. } if key == "bad"), "{refused}");
    assert!(servers::all(world.app().catalog.read()).unwrap().is_empty());
    assert_eq!(disks::all(world.app().catalog.read(), Noun::Disk).unwrap().len(), 1, "only the source");

    // The engine's own failure half-way is undone too.
    world.volumes.trouble(Some(Trouble::FailMount));
    world.app().build_server(&blueprint("web1", &image, vec![(block(), Encryption::Plain)])).unwrap_err();
    assert!(servers::all(world.app().catalog.read()).unwrap().is_empty());
    assert_eq!(disks::all(world.app().catalog.read(), Noun::Disk).unwrap().len(), 1);
    assert_eq!(world.volumes.mounted(), 0);
}

#[test]
fn s1_killed_before_any_step_a_server_is_whole_or_not_there() {
    let mut steps = 0;
    for step in 0.. {
        let world = World::new();
        let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
        let whole = dies_before(&world, step, |app| {
            app.build_server(&blueprint("web1", &image, vec![(block(), Encryption::Plain)])).map(|_| ())
        });
        let failed = world.app().settle_all().unwrap();
        assert!(failed.is_empty(), "before step {step}: {failed:?}");
        let rows = disks::all(world.app().catalog.read(), Noun::Disk).unwrap();
        let servers = servers::all(world.app().catalog.read()).unwrap();
        if whole {
            assert_eq!((rows.len(), servers.len(), world.volumes.mounted()), (3, 1, 2));
            break;
        }
        assert_eq!((rows.len(), servers.len(), world.volumes.mounted()), (1, 0, 0), "before step {step}");
        steps += 1;
    }
    assert_eq!(steps, 14, "the steps of making a server with a thin system disk and one more");
}

/// S1: who deletes a server whose making was cut short is rid of all of it, also when nothing was settled in between.
#[test]
fn s1_a_server_whose_making_was_cut_short_is_deleted_with_all_its_disks() {
    for step in 0..14 {
        let world = World::new();
        let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
        let whole = dies_before(&world, step, |app| {
            app.build_server(&blueprint("web1", &image, vec![(block(), Encryption::Plain)])).map(|_| ())
        });
        assert!(!whole, "it has 14 steps");
        world.app().delete_server("web1").unwrap();
        let rows = disks::all(world.app().catalog.read(), Noun::Disk).unwrap();
        assert_eq!((rows.len(), world.volumes.mounted()), (1, 0), "before step {step}: only the source");
        assert!(servers::all(world.app().catalog.read()).unwrap().is_empty());
        assert!(world.app().settle_all().unwrap().is_empty());
        let read = world.app();
        for noun in Noun::VOLUMES.into_iter().chain([Noun::Server]) {
            assert_eq!(operations::pending(read.catalog.read(), noun).unwrap(), [] as [Uuid; 0]);
        }
        // Its disks are not named as if a second deletion of the server were to be refused.
        let again = world.app().delete_server("web1").unwrap_err();
        assert!(matches!(again, Error::NotFound { noun: Noun::Server, .. }), "{again}");
    }
}

#[test]
fn i1_an_export_is_whole_or_not_there_and_overwrites_nothing() {
    for format in [ExportFormat::Raw, ExportFormat::Qcow2] {
        for step in 0.. {
            let world = World::new();
            let disk = world.disk("d");
            world.write(disk.id, b"in the open");
            let image = world.filled(Noun::Image, "i", &disk, Encryption::Inherit).unwrap();
            let outside = tempfile::tempdir().unwrap();
            let path = outside.path().join("out");
            // Somebody else's, under the name that an export's file might well have before it is whole.
            fs::write(outside.path().join("out.partial"), "precious").unwrap();
            let export = Operation::Export { id: Uuid::new_v4(), path: path.clone(), format };
            let whole = dies_before(&world, step, |app| {
                let mut claimed = app.claim_volume(Noun::Image, "i")?;
                app.run(&mut claimed, &export)
            });
            assert!(world.app().settle_all().unwrap().is_empty());
            let names = || {
                let mut names: Vec<_> =
                    fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
                names.sort();
                names
            };
            let left = names();
            assert_eq!(world.volumes.mounted(), 0);
            assert_eq!(world.volume(Noun::Image, "i").unwrap().status, DiskStatus::Available);
            if path.exists() {
                assert_eq!(left, ["out", "out.partial"]);
                let (_, mut source) = crate::images::probe::open(
                    crate::images::raw::OpenFile::new(fs::File::open(&path).unwrap()).unwrap(),
                    Some(format.into()),
                )
                .unwrap();
                let mut read = [0; 11];
                source.read(0, &mut read).unwrap();
                assert_eq!((&read, source.size()), (b"in the open", image.size));
            } else {
                assert_eq!(left, ["out.partial"], "before step {step}");
            }
            assert_eq!(fs::read_to_string(outside.path().join("out.partial")).unwrap(), "precious");
            if whole {
                fs::write(&path, "precious").unwrap();
                let mut app = world.app();
                let mut claimed = app.claim_volume(Noun::Image, "i").unwrap();
                app.run(&mut claimed, &export).unwrap_err();
                assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
                assert_eq!(names(), ["out", "out.partial"]);
                break;
            }
        }
    }
}

/// However a flatten ends, the catalogue says of the disk what its volume says, and the image may go when no disk needs it.
#[test]
fn i4_a_flattened_disk_lets_its_image_go() {
    let flatten = |app: &mut App, wait| {
        let mut claimed = app.claim_disk("t")?;
        app.run(&mut claimed, &Operation::Flatten { rate: None, wait })
    };
    let thin = || {
        let world = World::new();
        let disk = world.disk("d");
        let image = world.filled(Noun::Image, "i", &disk, Encryption::Inherit).unwrap();
        let thin = world.filled(Noun::Disk, "t", &image, Encryption::Inherit).unwrap();
        assert_eq!(thin.base, Some(image.id));
        (world, image, thin)
    };
    let delete_image = |world: &World| {
        let mut app = world.app();
        let mut claimed = app.claim_volume(Noun::Image, "i")?;
        app.notice_flattened(claimed.disk.id)?;
        app.run(&mut claimed, &Operation::Delete { skip_erase: false })
    };
    // In the foreground: known at once.
    let (world, ..) = thin();
    flatten(&mut world.app(), true).unwrap();
    assert_eq!(world.row("t").unwrap().base, None);
    delete_image(&world).unwrap();
    // In the background: the image stays until it is done, and the key of the image is needed until then.
    for listed in [false, true] {
        let (world, image, disk) = thin();
        flatten(&mut world.app(), false).unwrap();
        assert_eq!(world.row("t").unwrap().base, Some(image.id));
        assert!(matches!(delete_image(&world), Err(Error::HasDependants { .. })));
        world.volumes.flattened(&world.app().installation.place(disk.id).file);
        if listed {
            // What every list does first.
            world.app().settle_all().unwrap();
            assert_eq!(world.row("t").unwrap().base, None);
        }
        delete_image(&world).unwrap();
        assert_eq!(world.row("t").unwrap().base, None);
    }
    // It fails, or ecsctl dies in it.
    let (world, image, disk) = thin();
    world.volumes.trouble(Some(Trouble::FailFlatten));
    assert!(matches!(flatten(&mut world.app(), true), Err(Error::Volume { .. })));
    assert_eq!(world.row("t").unwrap().base, Some(image.id));
    world.assert_settled(disk.id, "failed");
    for step in 0..4 {
        let (world, image, disk) = thin();
        if step == 3 {
            world.volumes.trouble(Some(Trouble::DieInFlatten));
        }
        assert!(!dies_before(&world, step, |app| flatten(app, true)), "it has three steps");
        world.app().settle_all().unwrap();
        let base = world.row("t").unwrap().base;
        assert_eq!(base, (step == 0).then_some(image.id), "step {step}");
        world.assert_settled(disk.id, "killed");
    }
}

#[test]
fn i4_an_image_with_thin_disks_is_not_deleted_and_a_thin_disk_needs_its_key_too() {
    let world = World::new();
    let server = world.server("web1");
    let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
    world.keys.add("other");
    let thin = world.filled(Noun::Disk, "t", &image, Encryption::Under(Some("other".into()))).unwrap();
    let delete_image = |world: &World| {
        let mut app = world.app();
        let mut claimed = app.claim_volume(Noun::Image, "i")?;
        app.run(&mut claimed, &Operation::Delete { skip_erase: false })
    };
    let refused = delete_image(&world).unwrap_err();
    assert!(
        matches!(&refused, Error::HasDependants { dependants, .. } if dependants == &["disk t"]),
        "{refused}"
    );
    assert_eq!(refused.report().hint, "ecsctl disk flatten t, or: ecsctl disk delete t");

    let key = image.key_id.unwrap();
    world.keys.set(&key, KeyState::Disabled);
    let refused = attach(&mut world.app(), "t", &server).unwrap_err();
    assert!(refused.to_string().contains("image i"), "{refused}");
    world.keys.set(&key, KeyState::Enabled);
    attach(&mut world.app(), "t", &server).unwrap();
    detach(&mut world.app(), "t").unwrap();
    delete(&mut world.app(), "t").unwrap();
    delete_image(&world).unwrap();
    assert_eq!(world.volume(Noun::Disk, &thin.name), None);
}

#[test]
fn i4_a_thin_disk_is_made_without_copying() {
    let world = World::new();
    let image = world.filled(Noun::Image, "i", &world.disk("d"), Encryption::Inherit).unwrap();
    let log = world.volumes.log().len();
    world.filled(Noun::Disk, "t", &image, Encryption::Inherit).unwrap();
    assert_eq!(world.volumes.log()[log..], ["create"], "nothing is mounted for it");
}

/// The manual's longest home is the longest from which everything can be done (unix(7)).
#[test]
fn the_longest_home_has_room_for_every_socket() {
    use crate::config::{HOME_BYTES, is_too_long};
    let world = World::new();
    let mut app = world.app();
    for (length, fits) in [(HOME_BYTES, true), (HOME_BYTES + 1, false)] {
        app.installation.home = format!("/{}", "h".repeat(length - 1)).into();
        let place = app.installation.place(Uuid::nil());
        let source = app.source_place(Uuid::nil(), &place);
        let monitor = app.installation.machine_place(Uuid::nil()).monitor;
        let sockets = [place.control, source.control, monitor];
        assert_eq!(sockets.iter().all(|socket| !is_too_long(socket)), fits, "{sockets:?}");
    }
}
