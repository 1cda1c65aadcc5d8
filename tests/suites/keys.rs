//! K1 to K4 on a real token: what master keys are, what they protect, and which states allow what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use harness::{Installation, Reply};
use serde_json::{Value, json};

fn create_key(ecs: &Installation, alias: &str) -> String {
    ecs.ecsctl(&format!("key create --alias {alias}")).json()["key_id"]
        .as_str()
        .expect("a key has an id")
        .to_owned()
}

fn create_datakey(ecs: &Installation, key: &str, context: &Value) -> Reply {
    ecs.kms("create-datakey", &json!({"key_id": key, "encryption_context": context, "datakey_length": "256"}))
}

fn decrypt_datakey(ecs: &Installation, key: &str, cipher_text: &str, context: &Value) -> Reply {
    let length = "32";
    ecs.kms(
        "decrypt-datakey",
        &json!({"key_id": key, "cipher_text": cipher_text, "datakey_cipher_length": length, "encryption_context": context}),
    )
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

/// Every key that kmsd knows, by id, with its state number.
fn listed(ecs: &Installation) -> BTreeMap<String, String> {
    let page = ecs.kms("list-keys", &json!({"limit": "1000"})).ok();
    let details = page["key_details"].as_array().unwrap_or_else(|| panic!("no key_details in {page}"));
    details.iter().map(|key| (text(key, "key_id"), text(key, "key_state"))).collect()
}

#[test]
fn k1_every_cmk_is_sensitive_never_extractable_and_cannot_wrap() {
    let ecs = Installation::new();
    create_key(&ecs, "first");
    create_key(&ecs, "second");
    ecs.create_disk("d", "--size 16M --encrypted"); // makes evs/default

    let cmks = ecs.token().master_keys();
    assert_eq!(cmks.len(), 3, "two keys and the default one: {cmks:?}");
    for key in ecs.token().secret_keys() {
        let access: BTreeSet<&str> = key.access.iter().map(String::as_str).collect();
        for needed in ["sensitive", "always sensitive", "never extractable", "local"] {
            assert!(access.contains(needed), "a key is not {needed}: {key:?}");
        }
        assert!(!access.contains("extractable"), "{key:?}");
        for refused in ["wrap", "unwrap", "derive"] {
            assert!(!key.usage.iter().any(|usage| usage == refused), "a key can {refused}: {key:?}");
        }
    }
    for key in &cmks {
        assert_eq!(key.kind, "AES length 32", "{key:?}");
        assert_eq!(key.usage, ["encrypt", "decrypt"], "{key:?}");
        // Not modifiable: nobody who is logged in can give it another use, or another name.
        let change = ecs.token().pkcs11_tool(&["--type", "secrkey", "--id", &key.id, "--set-id", "deadbeef"]);
        assert!(change.code != 0, "the token let a key be changed: {change}");
    }
    let after: BTreeSet<String> = ecs.token().secret_keys().into_iter().map(|key| key.id).collect();
    assert!(cmks.iter().all(|key| after.contains(&key.id)), "a refused change took effect");
}

#[test]
fn k1_without_login_the_token_shows_no_key() {
    let ecs = Installation::new();
    create_key(&ecs, "first");
    let listing = ecs.token().pkcs11_tool_without_login(&["--list-objects"]).ok();
    assert!(!listing.stdout.contains("Secret Key Object"), "CKA_PRIVATE is not set: {listing}");
    assert!(!ecs.token().secret_keys().is_empty(), "and with login it is there");
}

#[test]
fn k2_one_cmk_protects_many_deks_each_bound_to_its_context() {
    let ecs = Installation::new();
    let key = create_key(&ecs, "k");
    let other = create_key(&ecs, "other");
    let context = json!({"evs:volume": "one"});
    let mut plain_texts = BTreeSet::new();
    let mut cipher_texts = BTreeSet::new();
    for _ in 0..20 {
        let made = create_datakey(&ecs, &key, &context).ok();
        let (plain, cipher) = (text(&made, "plain_text"), text(&made, "cipher_text"));
        assert_eq!(plain.len(), 64, "256 bits in hexadecimal");
        assert_eq!(text(&made, "key_id"), key, "the answer names the CMK");
        assert_eq!(text(&decrypt_datakey(&ecs, &key, &cipher, &context).ok(), "data_key"), plain);
        plain_texts.insert(plain);
        cipher_texts.insert(cipher);
    }
    assert_eq!((plain_texts.len(), cipher_texts.len()), (20, 20), "every DEK and every wrapping is its own");

    let cipher = cipher_texts.first().expect("twenty");
    for wrong in [
        json!({"evs:volume": "two"}),
        json!({}),
        json!({"evs:volume": "one", "more": "x"}),
        json!({"evs:Volume": "one"}),
    ] {
        let refused = decrypt_datakey(&ecs, &key, cipher, &wrong);
        assert!(
            refused.status == 400 && !refused.error_code().is_empty(),
            "opened with context {wrong}: {refused:?}"
        );
    }
    let refused = decrypt_datakey(&ecs, &other, cipher, &context);
    assert!(
        refused.status == 400 && !refused.error_code().is_empty(),
        "opened with another CMK: {refused:?}"
    );
}

#[test]
fn k2_a_wrapped_dek_changed_in_any_digit_does_not_open() {
    let ecs = Installation::new();
    let key = create_key(&ecs, "k");
    let context = json!({"evs:volume": "one"});
    let cipher = text(&create_datakey(&ecs, &key, &context).ok(), "cipher_text");
    for position in 0..cipher.len() {
        let mut forged = cipher.clone().into_bytes();
        forged[position] = if forged[position] == b'7' { b'8' } else { b'7' };
        let forged = String::from_utf8(forged).expect("ASCII");
        let reply = decrypt_datakey(&ecs, &key, &forged, &context);
        assert!((400..500).contains(&reply.status), "opened with digit {position} changed: {reply:?}");
    }
    for length in [0, 1, 2, cipher.len() / 2, cipher.len() - 2] {
        let reply = decrypt_datakey(&ecs, &key, &cipher[..length], &context);
        assert!((400..500).contains(&reply.status), "opened when cut to {length} digits: {reply:?}");
    }
    decrypt_datakey(&ecs, &key, &cipher, &context).ok();
}

#[test]
fn k3_a_hundred_first_callers_get_exactly_one_default_key() {
    let ecs = Installation::new();
    let keys: Vec<String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..100)
            .map(|number| {
                let ecs = &ecs;
                scope.spawn(move || {
                    let made =
                        create_datakey(ecs, "evs/default", &json!({"evs:volume": number.to_string()})).ok();
                    text(&made, "key_id")
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("a caller succeeds")).collect()
    });
    assert_eq!(keys.len(), 100);
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 1, "all under one key");
    let page = ecs.kms("list-keys", &json!({})).ok();
    let defaults: Vec<_> = page["key_details"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|key| key["default_key_flag"] == "1")
        .map(|key| text(key, "key_alias"))
        .collect();
    assert_eq!(defaults, ["evs/default"]);
    let in_token = ecs.token().master_keys();
    assert_eq!(in_token.len(), 1, "exactly one in the token: {in_token:?}");
}

#[test]
fn k3_default_keys_can_be_viewed_and_not_touched() {
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 16M --encrypted");
    let shown = ecs.ecsctl("key show evs/default").json();
    assert_eq!(
        (shown["alias"].as_str(), shown["default"].as_bool()),
        (Some("evs/default"), Some(true)),
        "{shown}"
    );
    assert_eq!(shown["state"], "enabled");
    let id = text(&shown, "key_id");
    for (verb, body) in [
        ("disable-key", json!({"key_id": id})),
        ("schedule-key-deletion", json!({"key_id": id, "pending_days": "7"})),
        ("update-key-alias", json!({"key_id": id, "key_alias": "mine"})),
    ] {
        let reply = ecs.kms(verb, &body);
        assert!((400..500).contains(&reply.status), "{verb} on a default key: {reply:?}");
        assert_eq!(reply.error_code(), "KMS.0211", "{verb}: {reply:?}");
    }
    ecs.ecsctl("key disable evs/default").error(3).naming(&["evs/default", "default"]);
    ecs.ecsctl("key schedule-deletion evs/default --days 7 --yes")
        .error(3)
        .naming(&["evs/default", "default"]);
    assert_eq!(ecs.ecsctl("key show evs/default").json(), shown, "nothing has changed");
    for taken in ["mine/default", "evs/default", "ims/default", "/default"] {
        let refused = ecs.ecsctl(&format!("key create --alias {taken}"));
        assert!(refused.code == 2 || refused.code == 3, "{refused}");
        let code = refused.code;
        refused.error(code).naming(&["/default"]);
    }
    assert_eq!(listed(&ecs).len(), 1);
}

/// What each operation gives in each state: the state afterwards, or the published error code.
#[test]
fn k4_each_state_allows_what_the_table_says() {
    const ENABLED: &str = "2";
    const DISABLED: &str = "3";
    const PENDING_DELETION: &str = "4";
    // The published codes where they are published; "" where only the refusal is.
    type Row = (&'static str, [Result<&'static str, &'static str>; 3]);
    let table: [Row; 6] = [
        ("enable-key", [Err("KMS.1201"), Ok(ENABLED), Err("")]),
        ("disable-key", [Ok(DISABLED), Err("KMS.1301"), Err("")]),
        ("schedule-key-deletion", [Ok(PENDING_DELETION), Ok(PENDING_DELETION), Err("KMS.1402")]),
        ("cancel-key-deletion", [Err("KMS.1501"), Err("KMS.1501"), Ok(DISABLED)]),
        ("create-datakey", [Ok(ENABLED), Err("KMS.0209"), Err("KMS.0210")]),
        ("decrypt-datakey", [Ok(ENABLED), Err("KMS.0209"), Err("KMS.0210")]),
    ];
    let ecs = Installation::new();
    let context = json!({"evs:volume": "one"});
    for (verb, outcomes) in table {
        for (column, expected) in outcomes.iter().enumerate() {
            let key = create_key(&ecs, &format!("{verb}-{column}"));
            let cipher = text(&create_datakey(&ecs, &key, &context).ok(), "cipher_text");
            let schedule = json!({"key_id": key, "pending_days": "7"});
            let before = [ENABLED, DISABLED, PENDING_DELETION][column];
            match before {
                DISABLED => drop(ecs.kms("disable-key", &json!({"key_id": key})).ok()),
                PENDING_DELETION => drop(ecs.kms("schedule-key-deletion", &schedule).ok()),
                _ => {}
            }
            let body = match verb {
                "schedule-key-deletion" => schedule,
                "create-datakey" => {
                    json!({"key_id": key, "encryption_context": context, "datakey_length": "256"})
                }
                "decrypt-datakey" => {
                    json!({"key_id": key, "cipher_text": cipher, "encryption_context": context})
                }
                _ => json!({"key_id": key}),
            };
            let reply = ecs.kms(verb, &body);
            let after = &listed(&ecs)[&key];
            match expected {
                Ok(state) => assert!(
                    reply.status == 200 && after == state,
                    "{verb} in state {before}: {reply:?}, now {after}"
                ),
                Err(code) => {
                    assert!(reply.status == 400, "{verb} in state {before}: {reply:?}");
                    assert!(
                        code.is_empty() || reply.error_code() == *code,
                        "{verb} in state {before}: {reply:?}"
                    );
                    assert_eq!(after, before, "a refused {verb} changed the state");
                }
            }
        }
    }
}

#[test]
fn k4_deletion_is_scheduled_for_7_to_1096_days() {
    let ecs = Installation::new();
    for (days, allowed) in [
        ("6", false),
        ("7", true),
        ("1096", true),
        ("1097", false),
        ("0", false),
        ("-7", false),
        ("x", false),
        ("", false),
    ] {
        let key = create_key(
            &ecs,
            &format!("k{}", days.len() * 1000 + days.bytes().map(usize::from).sum::<usize>()),
        );
        let reply = ecs.kms("schedule-key-deletion", &json!({"key_id": key, "pending_days": days}));
        assert_eq!(reply.status, if allowed { 200 } else { 400 }, "{days} days: {reply:?}");
        assert_eq!(listed(&ecs)[&key], if allowed { "4" } else { "2" }, "{days} days");
        if days.parse::<u32>().is_ok() && !allowed {
            assert_eq!(reply.error_code(), "KMS.1401", "{reply:?}");
        }
    }
    ecs.ecsctl("key create --alias c").ok();
    ecs.ecsctl("key schedule-deletion c --days 6 --yes").error(3).naming(&["7", "1096"]);
    let scheduled = ecs.ecsctl("key schedule-deletion c --days 30 --yes").json();
    assert_eq!(scheduled["state"], "pending-deletion", "{scheduled}");
    assert!(!scheduled["deletion_date"].is_null(), "{scheduled}");
    let back = ecs.ecsctl("key cancel-deletion c").json();
    assert_eq!((back["state"].as_str(), back["deletion_date"].is_null()), (Some("disabled"), true), "{back}");
}

#[test]
fn k4_states_survive_sigkill_of_kmsd() {
    let mut ecs = Installation::new();
    let keys: Vec<String> = (0..4).map(|number| create_key(&ecs, &format!("k{number}"))).collect();
    ecs.kms("disable-key", &json!({"key_id": keys[1]})).ok();
    ecs.kms("schedule-key-deletion", &json!({"key_id": keys[2], "pending_days": "7"})).ok();
    ecs.kms("disable-key", &json!({"key_id": keys[3]})).ok();
    ecs.kms("enable-key", &json!({"key_id": keys[3]})).ok();
    let before = listed(&ecs);
    ecs.kmsd_mut().kill();
    ecs.kmsd_mut().start();
    assert_eq!(listed(&ecs), before);
    let states: Vec<&str> = keys.iter().map(|key| before[key].as_str()).collect();
    assert_eq!(states, ["2", "3", "4", "2"]);
}

/// K7 on the command line: grants, names and tags of a key.
#[test]
fn k7_grants_names_and_tags_on_the_command_line() {
    let ecs = Installation::new();
    let key = create_key(&ecs, "k");
    let made = ecs
        .ecsctl("key grant k --to uid:4242 --allow decrypt-datakey,describe-key --context tenant=a --name n")
        .json();
    assert_eq!((text(&made, "grantee"), text(&made, "key_id")), ("uid:4242".to_owned(), key.clone()));
    assert_eq!(made["operations"], json!(["describe-key", "decrypt-datakey"]), "{made}");
    assert_eq!(made["context_includes"], json!({"tenant": "a"}), "{made}");
    let again = ecs
        .ecsctl("key grant k --to uid:4242 --allow decrypt-datakey,describe-key --context tenant=a --name n")
        .json();
    assert_eq!(again["grant_id"], made["grant_id"], "asked again by name, it is the same grant");
    assert_eq!(ecs.ecsctl("key grant k").json(), json!([made]));
    ecs.ecsctl("key grant k --to uid:4242 --allow disable-key").error(2);
    ecs.ecsctl("key grant k --to nobody --allow describe-key").error(2);
    ecs.ecsctl("key revoke k ffffffff").error(3);
    let id = text(&made, "grant_id");
    ecs.ecsctl(&format!("key revoke k {}", &id[..8])).ok();
    assert_eq!(ecs.ecsctl("key grant k").json(), json!([]));

    ecs.ecsctl("key alias k --add other").ok();
    assert_eq!(text(&ecs.ecsctl("key show other").json(), "key_id"), key);
    ecs.create_disk("d", "--size 16M --encrypted --key other");
    assert_eq!(ecs.ecsctl("key alias k").json()["aliases"], json!(["k", "other"]));
    assert_eq!(text(&ecs.ecsctl("key alias other --rename renamed").json(), "alias"), "renamed");
    ecs.ecsctl("key alias renamed --add mine/default").error(3).naming(&["/default"]);
    ecs.ecsctl("key alias renamed --rename evs/default").error(3).naming(&["/default"]);
    ecs.ecsctl("key alias renamed --remove other").ok();
    ecs.ecsctl("key show other").error(6);

    let tags = ecs.ecsctl("key tag renamed env=prod team=a").json();
    assert_eq!(tags["tags"], json!({"env": "prod", "team": "a"}), "{tags}");
    let tags = ecs.ecsctl("key tag renamed --remove team").json();
    assert_eq!(tags["tags"], json!({"env": "prod"}), "{tags}");

    let path = format!("/kmsd/v1/keys/{key}/policy");
    let policy = json!({"policy": r#"{"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt"}]}"#});
    ecs.api("PUT", &path, Some(&policy)).ok();
    assert_eq!(ecs.api("GET", &path, None).ok(), policy);
    let refused = ecs.api("PUT", &path, Some(&json!({"policy": "{}"})));
    assert_eq!((refused.status, refused.error_code()), (400, "KMSD.0007"), "{refused:?}");
    ecs.api("DELETE", &path, None).ok();
}

/// K5 with a disk: rotated, the newest version wraps and what older ones wrapped still opens, also after SIGKILL and for a disk that was
/// made before.
#[test]
fn k5_rotation_keeps_every_older_version() {
    let mut ecs = Installation::new();
    let key = create_key(&ecs, "k");
    ecs.create_disk("d", "--size 16M --encrypted --key k");
    let context = json!({"evs:volume": "one"});
    let mut made = Vec::new();
    for version in 1..=3 {
        let new = create_datakey(&ecs, &key, &context).ok();
        // Byte 21 to 24 of a wrapped form: the version.
        assert_eq!(text(&new, "cipher_text")[42..50], format!("{version:08x}"));
        made.push(new);
        let shown = ecs.ecsctl("key rotate k").json();
        assert_eq!(shown["versions"], version + 1, "{shown}");
    }
    assert_eq!(ecs.token().master_keys().len(), 4);
    ecs.kmsd_mut().kill();
    ecs.kmsd_mut().start();
    for new in &made {
        let opened = decrypt_datakey(&ecs, &key, &text(new, "cipher_text"), &context).ok();
        assert_eq!(text(&opened, "data_key"), text(new, "plain_text"));
    }
    ecs.ecsctl("server create s").ok();
    ecs.ecsctl("disk attach d s").ok();
    ecs.ecsctl("disk detach d").ok();

    let every = ecs.ecsctl("key rotate k --every 30").json();
    assert_eq!((&every["rotation"], &every["versions"]), (&json!(true), &json!(4)), "{every}");
    ecs.ecsctl("key rotate k --every 29").error(3).naming(&["30", "2560"]);
    assert_eq!(ecs.ecsctl("key rotate k --never").json()["rotation"], json!(false));
    ecs.ecsctl("key rotate evs/default").error(6);
    ecs.create_disk("e", "--size 16M --encrypted");
    ecs.ecsctl("key rotate evs/default").error(3).naming(&["evs/default", "default"]);
}

/// K5: kmsd is killed amid rotations, several times. Each acknowledged version is there, in the store and once in the token, and nothing else.
#[test]
fn k5_sigkill_amid_rotation_leaves_a_legal_state() {
    let mut ecs = Installation::new();
    let context = json!({"evs:volume": "one"});
    let keys: Vec<String> = (0..4).map(|number| create_key(&ecs, &format!("k{number}"))).collect();
    let wrapped: Vec<Value> = keys.iter().map(|key| create_datakey(&ecs, key, &context).ok()).collect();
    let rotations = |ecs: &Installation, key: &str| {
        ecs.kms("get-key-rotation-status", &json!({"key_id": key})).ok()["number_of_rotations"]
            .as_u64()
            .expect("a number")
    };
    for round in 0..4_usize {
        let done = AtomicUsize::new(0);
        let pid = ecs.kmsd().pid().expect("kmsd runs");
        let before: Vec<u64> = keys.iter().map(|key| rotations(&ecs, key)).collect();
        let acknowledged: Vec<u64> = thread::scope(|scope| {
            let clients: Vec<_> = keys
                .iter()
                .map(|key| {
                    let (ecs, done) = (&ecs, &done);
                    scope.spawn(move || {
                        for count in 0..6 {
                            let Ok(reply) = ecs.try_kms("rotate-on-demand", &json!({"key_id": key})) else {
                                return count;
                            };
                            reply.ok();
                            if done.fetch_add(1, Ordering::SeqCst) == 3 + 2 * round {
                                harness::process::send(pid, rustix::process::Signal::KILL);
                            }
                        }
                        6
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().expect("a client ends well")).collect()
        });
        ecs.kmsd_mut().kill(); // reaps it
        ecs.kmsd_mut().start();
        let mut versions = 0;
        for ((key, acknowledged), before) in keys.iter().zip(acknowledged).zip(before) {
            let now = rotations(&ecs, key);
            assert!(
                (before + acknowledged..=before + acknowledged + 1).contains(&now),
                "{before} rotations, {acknowledged} acknowledged, now {now}"
            );
            versions += now + 1;
            create_datakey(&ecs, key, &context).ok();
        }
        let objects = ecs.token().master_keys();
        assert_eq!(objects.len() as u64, versions, "versions in the token and in the store differ");
    }
    for (key, new) in keys.iter().zip(&wrapped) {
        let opened = decrypt_datakey(&ecs, key, &text(new, "cipher_text"), &context).ok();
        assert_eq!(text(&opened, "data_key"), text(new, "plain_text"));
    }
}

/// kmsd is killed amid key creation, several times. Afterwards every acknowledged key is there and works, exactly once in the token,
/// and the token holds nothing that kmsd does not know.
#[test]
fn k4_sigkill_amid_creation_leaves_no_half_key_and_no_orphan() {
    let mut ecs = Installation::new();
    let mut acknowledged: BTreeSet<String> = BTreeSet::new();
    for round in 0..5_usize {
        let made = AtomicUsize::new(0);
        let pid = ecs.kmsd().pid().expect("kmsd runs");
        let fresh: Vec<String> = thread::scope(|scope| {
            let clients: Vec<_> = (0..6)
                .map(|client| {
                    let (ecs, made) = (&ecs, &made);
                    scope.spawn(move || {
                        let mut mine = Vec::new();
                        for number in 0..200 {
                            let body = json!({"key_alias": format!("r{round}c{client}n{number}")});
                            let Ok(reply) = ecs.try_kms("create-key", &body) else { return mine };
                            mine.push(text(&reply.ok()["key_info"], "key_id"));
                            if made.fetch_add(1, Ordering::SeqCst) == 8 + 3 * round {
                                harness::process::send(pid, rustix::process::Signal::KILL);
                            }
                        }
                        mine
                    })
                })
                .collect();
            clients.into_iter().flat_map(|client| client.join().expect("a client ends well")).collect()
        });
        acknowledged.extend(fresh);
        ecs.kmsd_mut().kill(); // reaps it
        ecs.kmsd_mut().start();

        let known = listed(&ecs);
        for key in &acknowledged {
            assert_eq!(
                known.get(key).map(String::as_str),
                Some("2"),
                "acknowledged key {key} after round {round}"
            );
        }
        let objects = ecs.token().master_keys();
        let ids: BTreeSet<&String> = objects.iter().map(|key| &key.id).collect();
        assert_eq!(ids.len(), objects.len(), "a key stands twice in the token: {objects:#?}");
        assert_eq!(
            objects.len(),
            known.len(),
            "keys in the token and keys in the store differ after round {round}"
        );
        for key in known.keys() {
            create_datakey(&ecs, key, &json!({"round": round.to_string()})).ok();
        }
    }
    assert!(acknowledged.len() >= 5 * 8, "the kills came amid the work: {}", acknowledged.len());
}
