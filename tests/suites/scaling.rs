//! A1, A2, S1: servers that a group makes are encrypted as the one that they are made like, or not made at all.

use std::fs::{self, OpenOptions};
use std::io::Write;

use harness::{Installation, tree};
use serde_json::Value;

fn disk(ecs: &Installation, name: &str) -> Value {
    ecs.ecsctl(&format!("disk show {name}")).json()
}

fn names(group: &Value) -> Vec<&str> {
    group["servers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A1, S1: system disk by its image's key, each data disk by its own setting and key, and each with a DEK of its own. A2: a key that
/// cannot be used stops it with an event; nothing of that server is there.
#[test]
fn a1_a2_servers_are_scaled_out_encrypted_like_their_source_or_not_at_all() {
    let ecs = Installation::new();
    for key in ["img-key", "db-key"] {
        ecs.ecsctl(&format!("key create --alias {key}")).ok();
    }
    let original = tree::file_system(ecs.dir(), "canary");
    ecs.ecsctl(&format!("image create i --from-file {} --encrypted --key img-key", original.display())).ok();
    ecs.ecsctl_with(&[
        "server",
        "create",
        "web1",
        "--image",
        "i",
        "--data-disk",
        "size=16M,encrypted,key=db-key",
        "--data-disk",
        "size=20M",
    ])
    .ok();
    let parts = ["system", "data1", "data2"];
    let source = parts.map(|part| disk(&ecs, &format!("web1-{part}")));
    let keys = source.each_ref().map(|disk| disk["key_alias"].as_str());
    assert_eq!(keys, [Some("img-key"), Some("db-key"), None]);

    ecs.ecsctl("as-config create c --from-server web1").ok();
    let group = ecs.ecsctl("as-group create g --config c --desired 2 --min 1 --max 3").json();
    assert_eq!(names(&group), ["g-1", "g-2"]);
    let mut seen: Vec<(Vec<u8>, String)> =
        source.iter().filter(|disk| disk["encrypted"] == true).map(|disk| ecs.data_key(disk)).collect();
    for server in ["g-1", "g-2"] {
        for (part, like) in parts.iter().zip(&source) {
            let made = disk(&ecs, &format!("{server}-{part}"));
            for field in ["encrypted", "key_id", "key_alias", "size", "role", "image_id"] {
                assert_eq!(made[field], like[field], "{field} of {server}-{part}");
            }
            assert_eq!((&made["status"], &made["server"]), (&"in-use".into(), &server.into()), "{made}");
            if made["encrypted"] == true {
                let key = ecs.data_key(&made);
                assert!(!seen.contains(&key), "{server}-{part} shares a DEK");
                seen.push(key);
            }
        }
    }
    assert_eq!(seen.len(), 6);
    for desired in [0, 4] {
        ecs.ecsctl(&format!("as-group scale g --desired {desired} --yes")).error(3).naming(&["g", "1 to 3"]);
    }

    ecs.ecsctl("key disable db-key").ok();
    let before = (ecs.ecsctl("disk list").json(), ecs.ecsctl("server list").json());
    ecs.ecsctl("as-group scale g --desired 3").error(3).naming(&[
        "db-key",
        "disabled",
        "ecsctl key enable db-key",
    ]);
    assert_eq!(
        (ecs.ecsctl("disk list").json(), ecs.ecsctl("server list").json()),
        before,
        "something was made"
    );
    let shown = ecs.ecsctl("as-group show g").json();
    let last = shown["events"].as_array().and_then(|events| events.last()).expect("an event");
    assert_eq!(last["failed"], true, "{last}");
    let text = last["event"].as_str().expect("a text");
    assert!(["g-3", "db-key", "disabled"].iter().all(|word| text.contains(word)), "{text}");

    ecs.ecsctl("key enable db-key").ok();
    assert_eq!(names(&ecs.ecsctl("as-group scale g --desired 3").json()), ["g-1", "g-2", "g-3"]);
    assert_eq!(names(&ecs.ecsctl("as-group scale g --desired 1 --yes").json()), ["g-1"]);
    let left = ecs.ecsctl("disk list").json();
    let left: Vec<&str> =
        left.as_array().into_iter().flatten().filter_map(|disk| disk["name"].as_str()).collect();
    assert_eq!(left.len(), 6, "the disks went with their servers: {left:?}");
    ecs.ecsctl("as-group delete g --yes").ok();
    ecs.ecsctl("server delete web1 --yes").ok();
}

/// S1, A1, D7: what was not made with a server is not destroyed with it, a deletion that something depends on changes nothing, and names that are
/// taken do not stop a group.
#[test]
fn s1_a_server_takes_only_what_was_made_with_it() {
    let ecs = Installation::new();
    let ok = |line: &str| drop(ecs.ecsctl(line).ok());
    let lists = || ["disk list", "server list", "as-group list"].map(|line| ecs.ecsctl(line).json());
    let original = ecs.dir().join("original.raw");
    fs::write(&original, vec![7; 1 << 20]).expect("it can be written");
    ok(&format!("image create i --from-file {} --encrypted", original.display()));
    ok("server create web1 --image i --data-disk size=1M,encrypted");
    ok("as-config create c --from-server web1");
    ok("as-group create g --config c --desired 2");
    ecs.create_disk("precious", "--size 1M --encrypted");
    let view = OpenOptions::new().write(true).open(ecs.attach("precious", "g-2").path);
    view.and_then(|mut view| view.write_all(b"precious words")).expect("it can be written");

    ok("snapshot create sn --disk g-2-system");
    let before = lists();
    for line in [
        "as-group scale g --desired 1 --yes",
        "as-group scale g --desired 1 --yes",
        "server delete g-2 --yes",
    ] {
        ecs.ecsctl(line).error(3).naming(&["g-2-system", "snapshot sn"]);
        assert_eq!(lists(), before, "{line} was refused");
    }
    ok("snapshot delete sn --yes");
    // The last one to go counts before the first one has gone.
    ok("snapshot create sn1 --disk g-1-system");
    let before = lists();
    for line in ["as-group scale g --desired 0 --yes", "as-group delete g --yes"] {
        ecs.ecsctl(line).error(3).naming(&["g-1-system", "snapshot sn1"]);
        assert_eq!(lists(), before, "{line} was refused");
    }
    ok("snapshot delete sn1 --yes");
    for line in ["as-group scale g --desired 1", "as-group delete g", "server delete g-2"] {
        let asked = ecs.ecsctl(line).error(2);
        asked.naming(&["everything on g-2-data1, g-2-system, after detaching precious"]);
    }
    ok("as-group scale g --desired 1 --yes");
    assert_eq!(disk(&ecs, "precious")["status"], "available");
    let kept = fs::read(ecs.attach("precious", "web1").path).expect("it can be read");
    assert!(kept.starts_with(b"precious words"));

    // Its system disk is mended on another server, which is deleted then.
    ok("server create web2 --image i --size 2M");
    ok("disk detach web1-system");
    ok("disk attach web1-system web2");
    let image = ecs.ecsctl("image create golden --from-server web2").json();
    assert_eq!(
        (&image["size"], &image["source"]),
        (&(2 << 20).into(), &"disk web2-system".into()),
        "{image}"
    );
    ok("server delete web2 --yes");
    ecs.ecsctl("disk show web2-system").error(6);
    let mended = fs::read(ecs.attach("web1-system", "web1").path).expect("it can be read");
    assert!(mended.starts_with(&[7; 4096]));

    ok("disk create g-2-data1 --size 1M");
    ok("server create g-3");
    assert_eq!(names(&ecs.ecsctl("as-group scale g --desired 3").json()), ["g-1", "g-4", "g-5"]);
    ok("as-group delete g --yes");
    assert_eq!(disk(&ecs, "g-2-data1")["status"], "available");
    ok("server delete web1 --yes");
    ecs.ecsctl("disk show web1-system").error(6);
}
