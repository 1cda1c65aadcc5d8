//! Auto scaling (A1, A2).

use super::*;
use crate::{
    catalog::scaling,
    engine::{
        build::Blueprint,
        make::{Encryption, Request},
    },
    model::{
        scaling::{Config, Group, Template},
        size::Size,
    },
};

/// A server with an encrypted system disk, an encrypted and a plain data disk, and a group made like it.
pub(super) fn scaled(desired: u32) -> (World, Group, Config) {
    let world = World::new();
    let disk = world.disk("d");
    let mut app = world.app();
    let prepared =
        app.prepare(&Request::from_volume(Noun::Image, "i", &disk, Encryption::Inherit, false)).unwrap();
    let image = app.make(prepared).unwrap();
    world.keys.add("db-key");
    let block = Size::from_bytes(4096).unwrap();
    let blueprint = Blueprint {
        name: "web1".into(),
        image: Some(image),
        system_size: None,
        data: vec![(block, Encryption::Under(Some("db-key".into()))), (block, Encryption::Plain)],
        group_id: None,
    };
    app.build_server(&blueprint).unwrap();
    let (config, _) = app.create_config("c".into(), "web1").unwrap();
    let group = Group {
        id: Uuid::new_v4(),
        name: "g".into(),
        config_id: config.id,
        desired,
        smallest: 0,
        largest: 9,
        created_at: "2026-01-01T00:00:00Z".into(),
    };
    app.catalog.write(|tx| scaling::insert_group(tx, &group)).unwrap();
    (world, group, config)
}

#[test]
fn a1_servers_that_are_scaled_out_are_encrypted_like_their_source() {
    let (world, group, config) = scaled(2);
    assert_eq!(world.app().scale(&group, &config).unwrap(), ["g-1", "g-2"]);
    for suffix in ["system", "data1", "data2"] {
        let source = world.row(&format!("web1-{suffix}")).unwrap();
        for n in 1..=2 {
            let like = world.row(&format!("g-{n}-{suffix}")).unwrap();
            assert_eq!(
                (like.encrypted, &like.key_id, like.size),
                (source.encrypted, &source.key_id, source.size),
                "{}",
                like.name
            );
        }
    }
    let events = scaling::events(world.app().catalog.read(), group.id).unwrap();
    assert_eq!(
        events.iter().map(|e| e.event.as_str()).collect::<Vec<_>>(),
        ["server g-1 created", "server g-2 created"]
    );
}

#[test]
fn a2_a_key_that_cannot_be_used_stops_scaling_with_an_event_and_no_disk() {
    let (world, mut group, config) = scaled(1);
    world.app().scale(&group, &config).unwrap();
    let key = world.row("web1-data1").unwrap().key_id.unwrap();
    world.keys.set(&key, KeyState::Disabled);
    group.desired = 3;
    let before = disks::all(world.app().catalog.read(), Noun::Disk).unwrap().len();
    let refused = world.app().scale(&group, &config).unwrap_err();
    assert!(matches!(&refused, Error::KeyUnusable { key, .. } if key == "db-key"), "{refused}");
    assert_eq!(disks::all(world.app().catalog.read(), Noun::Disk).unwrap().len(), before);
    assert_eq!(scaling::members(world.app().catalog.read(), group.id).unwrap(), ["g-1"]);
    let last = scaling::events(world.app().catalog.read(), group.id).unwrap().pop().unwrap();
    assert!(
        last.failed && last.event.contains("g-2 not created") && last.event.contains("disabled"),
        "{last:?}"
    );

    world.keys.set(&key, KeyState::Enabled);
    assert_eq!(world.app().scale(&group, &config).unwrap().len(), 3);
    group.desired = 0;
    assert!(world.app().scale(&group, &config).unwrap().is_empty());
    assert_eq!(
        disks::all(world.app().catalog.read(), Noun::Disk).unwrap().len(),
        before - 3,
        "disks go with them"
    );
}

#[test]
fn a1_a_group_whose_servers_or_disks_could_not_be_named_is_not_made() {
    let (world, group, config) = scaled(0);
    let group = |length: usize| Group { id: Uuid::new_v4(), name: "x".repeat(length), ..group.clone() };
    // "-9-system" is the longest that is added.
    let refused = world.app().create_group(&group(56), &config).unwrap_err();
    assert!(
        matches!(&refused, Error::DerivedName { noun: Noun::Disk, derived, .. } if derived.ends_with("-9-system"))
    );
    assert!(scaling::group(world.app().catalog.read(), &"x".repeat(56)).is_err());
    let bare =
        Config { template: Template { image: None, system: None, data: Vec::new() }, ..config.clone() };
    let refused = world.app().create_group(&group(63), &bare).unwrap_err();
    assert!(matches!(refused, Error::DerivedName { noun: Noun::Server, .. }), "{refused}");
    world.app().create_group(&group(62), &bare).unwrap();

    let fits = group(55);
    world.app().create_group(&fits, &config).unwrap();
    let last = Group { desired: 9, ..fits };
    assert_eq!(world.app().scale(&last, &config).unwrap().len(), 9);
}

#[test]
fn a1_a_disk_whose_key_is_not_known_is_not_made_under_another_one() {
    let (world, group, mut config) = scaled(1);
    config.template.data[0].key_id = None;
    let refused = world.app().scale(&group, &config).unwrap_err();
    assert!(matches!(&refused, Error::KeyUnrecorded { .. }), "{refused}");
    assert!(world.row("g-1-data1").is_none() && world.row("g-1-system").is_none());
}
