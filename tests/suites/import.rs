//! K6: a key whose material comes from a file, on a real token.

use std::fs;

use harness::{Installation, Outcome};
use serde_json::json;

fn import(ecs: &Installation, material: &[u8]) -> Outcome {
    fs::write(ecs.dir().join("material"), material).expect("a file can be written");
    ecs.ecsctl("key import k --from-file material")
}

#[test]
fn k6_a_disk_under_imported_material() {
    let mut ecs = Installation::new();
    let made = ecs.ecsctl("key create --alias k --origin external").json();
    assert_eq!(
        (&made["state"], &made["origin"], &made["versions"]),
        (&json!("pending-import"), &json!("external"), &json!(0))
    );
    // What to do about it is a command that there is.
    let refused = ecs.ecsctl("disk create d --size 16M --encrypted --key k").error(3);
    assert_eq!(refused.code, "key-pending-import");
    let hint = refused.hint;
    fs::write(ecs.dir().join("FILE"), [7; 32]).expect("a file can be written");
    let hinted = hint.strip_prefix("ecsctl ").unwrap_or_else(|| panic!("not a command: {hint}"));
    assert_eq!(ecs.ecsctl(hinted).json()["state"], "enabled", "{hint}");

    // K1: the token keeps it inside like its own, but for what cannot be true of it.
    let keys = ecs.token().master_keys();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert_eq!(keys[0].usage, ["encrypt", "decrypt"]);
    assert_eq!(keys[0].access, ["sensitive"]);
    let pairs = ecs.token().pkcs11_tool(&["--list-objects", "--type", "privkey"]).ok().stdout;
    assert!(!pairs.contains("kmsd import"), "the pair that it was wrapped for has gone: {pairs}");

    let disk = ecs.create_disk("d", "--size 16M --encrypted --key k");
    ecs.attach("d", "web");
    let key = disk["key_id"].as_str().expect("an id").to_owned();
    ecs.kms("delete-imported-key-material", &json!({"key_id": key})).ok();
    assert!(ecs.token().master_keys().is_empty(), "the material is gone from the token");
    // D3: an attached disk works on; it is not attached again before the material is back.
    ecs.ecsctl("disk detach d").ok();
    assert_eq!(ecs.ecsctl("disk attach d web").code, 3);
    assert!(import(&ecs, &[8; 32]).error(3).message.contains("other material"));
    for len in [0, 16, 31, 33, 5000] {
        assert_eq!(import(&ecs, &vec![7; len]).error(2).code, "invalid-material");
    }
    assert!(ecs.token().master_keys().is_empty(), "what was refused does not stay");
    ecs.kmsd_mut().stop();
    ecs.kmsd_mut().start();
    import(&ecs, &[7; 32]).ok();
    ecs.attach("d", "web");
    assert_eq!(import(&ecs, &[7; 32]).code, 3, "it has its material");
}
