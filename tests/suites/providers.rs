//! The life of keys on a token of another provider: opencryptoki's soft token, which in its older versions has no AES-GCM.

use std::fs;
use std::io::Write;

use harness::{Installation, Options, Provider, SecretKey, run};
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

/// K6 on each provider: material comes, goes, and comes again, and what it wrapped opens again.
fn imported_material(provider: Provider) {
    let mut ecs = Installation::with(Options { provider, start: false, ..Options::default() });
    let doctor = run(ecs.kmsd().command().args(["doctor", "--home"]).arg(ecs.kmsd().home())).ok().stdout;
    assert!(doctor.contains("keys of external origin can be imported"), "{doctor}");
    ecs.kmsd_mut().start();
    let import = |ecs: &Installation, material: &[u8]| {
        fs::write(ecs.dir().join("material"), material).expect("a file can be written");
        ecs.ecsctl("key import k --from-file material")
    };
    let made = ecs.ecsctl("key create --alias k --origin external").json();
    let key = made["key_id"].as_str().expect("an id").to_owned();
    assert!(import(&ecs, &[7; 24]).code != 0, "192 bits");
    assert_eq!(import(&ecs, &[7; 32]).json()["state"], "enabled");
    ecs.create_disk("d", "--size 16M --encrypted --key k");
    let attached = ecs.attach("d", "web");
    let mut raw = fs::File::options().write(true).open(&attached.path).expect("the disk can be opened");
    raw.write_all(b"what is on the disk").expect("the disk can be written to");
    drop(raw);
    ecs.ecsctl("disk detach d").ok();
    let data = ecs.kms("create-datakey", &json!({"key_id": "k"})).ok();

    // K1, as another PKCS#11 client sees it: what was outside once can be neither always sensitive nor never extractable; else it is as inside as any.
    ecs.kmsd_mut().stop();
    let of_key = |ecs: &Installation| {
        let keys = ecs.token().secret_keys().into_iter();
        keys.filter(|found| found.id.starts_with(&key.replace('-', ""))).collect::<Vec<_>>()
    };
    let is_cipher = |key: &&SecretKey| key.kind.starts_with("AES");
    let keys = of_key(&ecs);
    let ciphers: Vec<_> = keys.iter().filter(is_cipher).collect();
    assert_eq!(ciphers.len(), 1, "{keys:?}");
    assert_eq!(
        (&*ciphers[0].usage.join(", "), &*ciphers[0].access.join(", ")),
        ("encrypt, decrypt", "sensitive")
    );
    ecs.kmsd_mut().start();

    ecs.kms("delete-imported-key-material", &json!({"key_id": key})).ok();
    assert_eq!(ecs.ecsctl("disk attach d web").code, 3);
    ecs.kmsd_mut().stop();
    let left = of_key(&ecs);
    assert_eq!((left.iter().filter(is_cipher).count(), left.len()), (0, keys.len() - 1), "{left:?}");
    ecs.kmsd_mut().start();
    assert!(import(&ecs, &[8; 32]).error(3).message.contains("other material"));
    import(&ecs, &[7; 32]).ok();
    let opened = ecs.kms("decrypt-datakey", &json!({"key_id": "k", "cipher_text": data["cipher_text"]})).ok();
    assert_eq!(opened["data_key"], data["plain_text"]);
    let attached = ecs.attach("d", "web");
    let found = fs::read(&attached.path).expect("the disk can be read");
    assert!(found.starts_with(b"what is on the disk"), "the disk lost its content");
    ecs.ecsctl("disk detach d").ok();
    ecs.kmsd_mut().stop();
    assert_eq!(of_key(&ecs).len(), keys.len(), "each half once");
}

#[test]
fn k6_imported_material_on_opencryptoki() {
    imported_material(Provider::OpenCryptoki);
}

#[test]
fn k6_imported_material_on_softhsm_without_gcm() {
    imported_material(Provider::SoftHsmWithoutGcm);
}
