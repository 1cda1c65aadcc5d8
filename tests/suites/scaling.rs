//! A1, A2, S1: servers that a group makes are encrypted as the one that they are made like, or not made at all.

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
