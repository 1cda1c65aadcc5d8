//! The life of a key on a token of another provider: opencryptoki's soft token, which in its older versions has no AES-GCM.

use std::fs;
use std::io::Write;

use harness::{Installation, Options, Provider};
use serde_json::json;

#[test]
fn opencryptoki_the_life_of_a_key_and_a_disk() {
    let mut ecs = Installation::with(Options { provider: Provider::OpenCryptoki, ..Options::default() });
    let key = ecs.ecsctl("key create --alias k").json()["key_id"].as_str().expect("an id").to_owned();
    let disk = ecs.create_disk("d", "--size 16M --encrypted --key k");
    assert_eq!(disk["key_id"], json!(key));
    let attached = ecs.attach("d", "web");
    let mut raw = fs::File::options().write(true).open(&attached.path).expect("the disk can be opened");
    raw.write_all(b"what is on the disk").expect("the disk can be written to");
    drop(raw);
    ecs.ecsctl("disk detach d").ok();

    // Bound to context and key, like everything that a token with GCM wraps.
    let context = json!({"c": "one"});
    let made = ecs.kms("create-datakey", &json!({"key_id": "k", "encryption_context": context})).ok();
    let decrypt = |context: serde_json::Value| {
        ecs.kms(
            "decrypt-datakey",
            &json!({"cipher_text": made["cipher_text"], "encryption_context": context}),
        )
    };
    assert_eq!(decrypt(context).ok()["data_key"], made["plain_text"]);
    assert_eq!(decrypt(json!({"c": "two"})).error_code(), "KMS.2201");

    ecs.kmsd_mut().stop();
    // K1, as another PKCS#11 client sees it, which does not show signing. The wrapped form names its mechanism: without GCM there is a key that authenticates
    // beside the one that encrypts.
    let keys: Vec<_> =
        ecs.token().secret_keys().into_iter().filter(|k| k.id.starts_with(&key.replace('-', ""))).collect();
    let mut usages: Vec<String> = keys.iter().map(|key| key.usage.join(", ")).collect();
    usages.sort_unstable();
    match &made["cipher_text"].as_str().expect("hexadecimal digits")[6..8] {
        "01" => assert_eq!(usages, ["encrypt, decrypt"], "{keys:?}"),
        "02" => assert_eq!(usages, ["encrypt, decrypt", "none"], "{keys:?}"),
        other => panic!("mechanism {other}"),
    }
    for key in &keys {
        for needed in ["sensitive", "always sensitive", "never extractable"] {
            assert!(key.access.iter().any(|word| word == needed), "not {needed}: {key:?}");
        }
    }

    ecs.kmsd_mut().start();
    let attached = ecs.attach("d", "web");
    let found = fs::read(&attached.path).expect("the disk can be read");
    assert!(found.starts_with(b"what is on the disk"), "the disk lost its content");
    ecs.ecsctl("disk detach d").ok();
    ecs.ecsctl("key disable k").ok();
    assert!(ecs.ecsctl("disk attach d web").code != 0, "a disabled key");
    ecs.ecsctl("key enable k").ok();
    ecs.ecsctl("--yes key schedule-deletion k --days 7").ok();
    ecs.ecsctl("key cancel-deletion k").ok();
    ecs.ecsctl("key enable k").ok();
    ecs.attach("d", "web");
}
