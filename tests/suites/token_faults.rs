//! Any call to the token may fail, before or after it took effect, with any of the codes that real devices give. kmsd is back in service within 5 s, without a
//! restart; no acknowledged key is lost and none is there twice. So it is when the token goes and comes back.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use harness::{Installation, Options, Provider, Reply, run};
use serde_json::{Value, json};

/// What devices answer when something is amiss (PKCS#11 v3.0, section 5.1).
const CODES: [(&str, u32); 6] = [
    ("CKR_HOST_MEMORY", 0x02),
    ("CKR_GENERAL_ERROR", 0x05),
    ("CKR_DEVICE_ERROR", 0x30),
    ("CKR_DEVICE_REMOVED", 0x32),
    ("CKR_SESSION_HANDLE_INVALID", 0xB3),
    ("CKR_TOKEN_NOT_PRESENT", 0xE0),
];

/// How long kmsd may take to be in service again.
const BACK: Duration = Duration::from_secs(5);

/// What a change is noted in the token with.
const NOTE: &str = "C_CreateObject";

/// A kmsd before whose token stands the proxy, with a key `k` and a data key wrapped by it.
struct Stage {
    ecs: Installation,
    wrapped: Value,
    plain: Value,
    rounds: AtomicUsize,
    hides_gcm: bool,
    /// Orders to the proxy besides the faults.
    standing: &'static str,
}

impl Stage {
    fn new() -> Self {
        Self::on(Provider::SoftHsmByProxy)
    }

    fn on(provider: Provider) -> Self {
        let ecs = Installation::with(Options { provider, ..Options::default() });
        ecs.kms("create-key", &json!({"key_alias": "k"})).ok();
        let made = ecs.kms("create-datakey", &json!({"key_id": "k"})).ok();
        Self {
            wrapped: made["cipher_text"].clone(),
            plain: made["plain_text"].clone(),
            rounds: AtomicUsize::new(0),
            hides_gcm: provider == Provider::SoftHsmWithoutGcm,
            standing: "",
            ecs,
        }
    }

    fn order(&self, orders: &str) {
        self.ecs.proxy().order(&format!("{}\n{orders}", self.standing));
    }

    fn decrypt(&self) -> Reply {
        self.ecs.kms("decrypt-datakey", &json!({"key_id": "k", "cipher_text": self.wrapped}))
    }

    /// Waits until it is in service, and no longer than it may take.
    #[track_caller]
    fn until_back(&self, what: &str) {
        let started = Instant::now();
        loop {
            let reply = self.decrypt();
            if reply.status == 200 {
                assert_eq!(reply.body["data_key"], self.plain, "{what}: another data key");
                return;
            }
            assert_eq!(reply.status, 503, "{what}: not a retryable error: {reply:?}");
            assert!(started.elapsed() < BACK, "{what}: not back: {reply:?}");
            thread::yield_now();
        }
    }

    /// The token has each key that was acknowledged, once, and no other. What failed may take a moment to be cleared away. Without GCM the same goes
    /// for the keys that authenticate, but that one stays for as long as its key lives, also while imported material is away.
    #[track_caller]
    fn until_consistent(&self, what: &str) {
        let page = self.ecs.kms("list-keys", &json!({})).ok();
        let (mut expected, mut known) = (BTreeSet::new(), BTreeSet::new());
        for key in page["key_details"].as_array().expect("a list") {
            let id = key["key_id"].as_str().expect("an id").replace('-', "");
            known.insert(id.clone());
            expected
                .extend((1..=key["key_version"].as_u64().expect("a number")).map(|n| format!("{id}{n:08x}")));
        }
        let started = Instant::now();
        loop {
            let found: Vec<String> = self.ecs.token().master_keys().into_iter().map(|key| key.id).collect();
            let distinct: BTreeSet<String> = found.iter().cloned().collect();
            if found.len() == distinct.len() && distinct == expected {
                return self.assert_mac_keys(&expected, &known, what);
            }
            let missing: Vec<_> = expected.difference(&distinct).collect();
            assert!(missing.is_empty(), "{what}: acknowledged keys are lost: {missing:?}");
            assert!(started.elapsed() < BACK, "{what}: found {found:?}, expected {expected:?}");
        }
    }

    #[track_caller]
    fn assert_mac_keys(&self, expected: &BTreeSet<String>, known: &BTreeSet<String>, what: &str) {
        let keys = self.ecs.token().secret_keys().into_iter();
        let macs: Vec<String> =
            keys.filter(|key| key.label.starts_with("kmsd mac ")).map(|key| key.id).collect();
        let distinct: BTreeSet<String> = macs.iter().cloned().collect();
        assert_eq!(macs.len(), distinct.len(), "{what}: one is there twice: {macs:?}");
        if self.hides_gcm {
            assert!(expected.is_subset(&distinct), "{what}: found {distinct:?}, expected {expected:?}");
            assert!(distinct.iter().all(|id| known.contains(&id[..32])), "{what}: nobody's: {distinct:?}");
        } else {
            assert!(macs.is_empty(), "{what}: {macs:?}");
        }
    }

    /// Waits until the service has called a function since the last order, or a fault of that has struck.
    #[track_caller]
    fn until_called(&self, function: &str, what: &str) {
        let started = Instant::now();
        let seen = || {
            let calls = self.ecs.proxy().calls();
            calls.iter().any(|call| call.starts_with(function) || call.ends_with(" struck"))
        };
        while !seen() {
            assert!(started.elapsed() < BACK, "{what}: {function} is not called");
            thread::yield_now();
        }
    }

    /// Fails every call of an operation in turn, with each of the codes, before and after it took effect.
    fn fail_each_call(&self, operation: impl Fn(&Self, usize) -> Reply, afterwards: Option<&str>) {
        for code in CODES {
            for order in ["fail", "fail-after"] {
                self.fail_each_call_by(order, code, |_, round| round, &operation, afterwards);
            }
        }
    }

    /// Fails every call of an operation in turn, after a preparation that none fails in. With `afterwards`, calls that the service makes on its own after the
    /// reply are waited for, up to the first of that function.
    fn fail_each_call_by<T>(
        &self,
        order: &str,
        (name, code): (&str, u32),
        prepare: impl Fn(&Self, usize) -> T,
        operation: impl Fn(&Self, T) -> Reply,
        afterwards: Option<&str>,
    ) {
        let mut struck = 0;
        let mut last_strike = Instant::now();
        loop {
            assert!(struck < 200, "an operation has an end");
            let what = format!("{order} {struck} {name}");
            let prepared = prepare(self, self.rounds.fetch_add(1, Ordering::Relaxed));
            self.order(&format!("{order} {struck} {code:#x}"));
            let reply = operation(self, prepared);
            assert!(matches!(reply.status, 200 | 503), "{what}: {reply:?}");
            if let Some(function) = afterwards
                && reply.status == 200
            {
                self.until_called(function, &what);
            }
            if self.ecs.proxy().has_struck() {
                struck += 1;
            } else if reply.status == 200 {
                break;
            } else {
                // What the service does on its own was struck by the last order after all: it was still coming back, and this one has struck nothing.
                assert!(last_strike.elapsed() < BACK, "{what}: not back: {reply:?}");
                self.order("");
                self.until_back(&what);
                continue;
            }
            self.until_back(&what);
            last_strike = Instant::now();
        }
        assert!(struck > 2, "{order} {name} struck {struck} times");
        self.order("");
        self.until_back(&format!("after {order} {name}"));
        self.until_consistent(&format!("{order} {name}"));
    }

    /// A key that waits for its material.
    fn external(&self, round: usize) -> String {
        let made =
            self.ecs.kms("create-key", &json!({"key_alias": format!("x{round}"), "origin": "external"})).ok();
        made["key_info"]["key_id"].as_str().expect("an id").to_owned()
    }

    /// The request that imports its material.
    fn wrapped(&self, round: usize) -> Value {
        self.offer(&self.external(round))
    }

    /// The request that imports material into a key that waits for it.
    fn offer(&self, key: &str) -> Value {
        let offer = json!({"key_id": key, "wrapping_algorithm": "RSAES_OAEP_SHA_1"});
        let offer = self.ecs.kms("get-parameters-for-import", &offer).ok();
        let der = self.ecs.dir().join("public.der");
        let material = self.ecs.dir().join("material");
        let wrapped = self.ecs.dir().join("wrapped");
        let public = BASE64.decode(offer["public_key"].as_str().expect("a key")).expect("base64");
        fs::write(&der, public).expect("a file can be written");
        fs::write(&material, [7; 32]).expect("a file can be written");
        let mut openssl = Command::new("openssl");
        openssl.args([
            "pkeyutl",
            "-encrypt",
            "-pubin",
            "-keyform",
            "DER",
            "-pkeyopt",
            "rsa_padding_mode:oaep",
            "-inkey",
        ]);
        run(openssl.arg(&der).arg("-in").arg(&material).arg("-out").arg(&wrapped)).ok();
        let wrapped = BASE64.encode(fs::read(wrapped).expect("it was made"));
        json!({"key_id": key, "import_token": offer["import_token"], "encrypted_key_material": wrapped})
    }
}

#[test]
fn k4_every_call_of_create_key_fails_in_turn() {
    let mut stage = Stage::new();
    // The token is told of the change after the reply, by an object of its own.
    let create =
        |stage: &Stage, round: usize| stage.ecs.kms("create-key", &json!({"key_alias": format!("k{round}")}));
    stage.fail_each_call(create, Some(NOTE));
    let before = stage.ecs.kms("list-keys", &json!({})).ok();
    stage.ecs.kmsd_mut().stop();
    stage.ecs.kmsd_mut().start();
    assert_eq!(stage.ecs.kms("list-keys", &json!({})).ok(), before, "a restart changes nothing");
    for key in before["keys"].as_array().expect("a list") {
        stage.ecs.kms("create-datakey", &json!({"key_id": key})).ok();
    }
    stage.until_consistent("after a restart");
}

#[test]
fn every_call_of_the_data_operations_fails_in_turn() {
    let stage = Stage::new();
    let sealed =
        stage.ecs.kms("encrypt-data", &json!({"key_id": "k", "plain_text": "text"})).ok()["cipher_text"]
            .clone();
    stage.fail_each_call(|stage, _| stage.ecs.kms("create-datakey", &json!({"key_id": "k"})), None);
    stage.fail_each_call(|stage, _| stage.decrypt(), None);
    stage.fail_each_call(
        |stage, _| stage.ecs.kms("encrypt-data", &json!({"key_id": "k", "plain_text": "text"})),
        None,
    );
    let decrypt = |stage: &Stage, _: usize| {
        let reply = stage.ecs.kms("decrypt-data", &json!({"cipher_text": sealed}));
        assert!(reply.status != 200 || reply.body["plain_text"] == "text", "{reply:?}");
        reply
    };
    stage.fail_each_call(decrypt, None);
}

/// K5
#[test]
fn k5_every_call_of_a_rotation_fails_in_turn() {
    let stage = Stage::new();
    let create = |stage: &Stage, round: usize| {
        // The fault ordered before may have struck what the service did on its own since: it is back within `BACK`.
        let started = Instant::now();
        for attempt in 0.. {
            stage.order("");
            let made = stage.ecs.kms("create-key", &json!({"key_alias": format!("r{round}-{attempt}")}));
            if made.status != 503 {
                // The token is told of the new key after the reply: not while the rotation's calls are counted.
                stage.until_called(NOTE, &format!("r{round}"));
                return json!({"key_id": made.ok()["key_info"]["key_id"]});
            }
            assert!(started.elapsed() < BACK, "not back: {made:?}");
        }
        unreachable!("attempts do not end")
    };
    let rotate = |stage: &Stage, request: Value| stage.ecs.kms("rotate-on-demand", &request);
    for code in CODES {
        for order in ["fail", "fail-after"] {
            // The token is told of the change after the reply, by an object of its own.
            stage.fail_each_call_by(order, code, create, rotate, Some(NOTE));
        }
    }
}

/// Each import has an RSA pair of its own, which takes its time, even with as few bits as here: so not with every code. On a token without GCM, which makes a second key for each that is imported; that it opens
/// what was wrapped before the material went: `k6_each_call_of_an_import_is_lost_in_turn` in `kmsd/src/hsm/contract/imports.rs`.
#[test]
fn k6_every_call_of_an_import_fails_in_turn() {
    let device = CODES[2];
    let mut stage = Stage { standing: "modulus-bits 1024", ..Stage::on(Provider::SoftHsmWithoutGcm) };
    stage.order("");
    let offer = |stage: &Stage, key: String| {
        let request = json!({"key_id": key, "wrapping_algorithm": "RSAES_OAEP_SHA_1"});
        stage.ecs.kms("get-parameters-for-import", &request)
    };
    let import = |stage: &Stage, request: Value| stage.ecs.kms("import-key-material", &request);
    let imported = |stage: &Stage, round: usize| {
        let request = stage.wrapped(round);
        import(stage, request.clone()).ok();
        json!({"key_id": request["key_id"]})
    };
    let delete = |stage: &Stage, request: Value| stage.ecs.kms("delete-imported-key-material", &request);
    stage.fail_each_call_by("fail", device, Stage::external, offer, None);
    stage.fail_each_call_by("fail-after", device, Stage::wrapped, import, None);
    stage.fail_each_call_by("fail-after", device, imported, delete, None);
    stage.ecs.kmsd_mut().stop();
    stage.ecs.kmsd_mut().start();
    stage.until_consistent("after a restart");
}

#[test]
fn every_call_of_the_start_fails_in_turn() {
    let mut stage = Stage::new();
    for (name, code) in CODES {
        let mut struck = 0;
        for index in 0.. {
            assert!(index < 200, "a start has an end");
            stage.ecs.kmsd_mut().stop();
            stage.order(&format!("fail {index} {code:#x}"));
            stage.ecs.kmsd_mut().start();
            stage.until_back(&format!("start, {index} {name}"));
            if !stage.ecs.proxy().has_struck() {
                break;
            }
            struck += 1;
        }
        assert!(struck > 10, "{name} struck {struck} times");
        stage.until_consistent(name);
    }
}

/// After a recovery all handles are found at once: the first use of each key searches for nothing.
#[test]
fn after_a_recovery_keys_are_not_searched_for_one_by_one() {
    const KEYS: usize = 20;
    let stage = Stage::new();
    let wrapped: Vec<Value> = (0..KEYS)
        .map(|n| {
            let key = format!("many-{n}");
            stage.ecs.kms("create-key", &json!({"key_alias": key})).ok();
            let made = stage.ecs.kms("create-datakey", &json!({"key_id": key})).ok();
            json!({"key_id": key, "cipher_text": made["cipher_text"]})
        })
        .collect();
    // What is struck may be something of the service's own, which a later use only recovers from.
    let has_recovered = || {
        stage.ecs.proxy().order("fail 0 0x30");
        stage.until_back("a lost device");
        let calls = stage.ecs.proxy().calls();
        assert!(stage.ecs.proxy().has_struck(), "{calls:?}");
        calls.iter().any(|call| call == "C_Login")
    };
    assert!((0..20).any(|_| has_recovered()), "the device was never lost to it");
    stage.ecs.proxy().order("");
    for request in &wrapped {
        stage.ecs.kms("decrypt-datakey", request).ok();
    }
    // The token is told of the records meanwhile, which takes a search each time.
    let searches = stage.ecs.proxy().calls().iter().filter(|call| *call == "C_FindObjectsInit").count();
    assert!(searches < KEYS / 2, "{searches}");
}

/// A token that makes no objects, as a full one does, is not gone: who makes keys is told so, and no data key is refused meanwhile.
#[test]
fn a_token_that_makes_no_objects_goes_on_serving() {
    let stage = Stage::new();
    for (round, code) in [0x05, 0x06, 0x31].into_iter().enumerate() {
        let full = |function| format!("refuse {function} {code:#x}\n");
        stage.ecs.proxy().order(&["C_GenerateKey", NOTE].map(full).concat());
        for n in 0..30 {
            let refused = stage.ecs.kms("create-key", &json!({"key_alias": format!("full-{round}-{n}")}));
            assert_eq!(refused.status, 500, "{code:#x}: {refused:?}");
            for _ in 0..10 {
                let reply = stage.decrypt();
                assert_eq!(
                    (reply.status, &reply.body["data_key"]),
                    (200, &stage.plain),
                    "{code:#x}: {reply:?}"
                );
            }
        }
        stage.ecs.proxy().order("");
        stage.ecs.kms("create-key", &json!({"key_alias": format!("room-{round}")})).ok();
        stage.until_consistent(&format!("{code:#x}"));
    }
}

/// The token is taken out and put back.
#[test]
fn a_token_that_goes_is_told_at_once_and_taken_back() {
    let stage = Stage::new();
    for round in 0..3 {
        stage.order("absent");
        let started = Instant::now();
        for reply in [
            stage.decrypt(),
            stage.ecs.kms("create-key", &json!({"key_alias": format!("while-away-{round}")})),
            stage.ecs.kms("create-datakey", &json!({"key_id": "k"})),
        ] {
            assert_eq!(reply.status, 503, "{reply:?}");
            assert_eq!(reply.error_code(), "KMS.0104", "{reply:?}");
        }
        assert!(started.elapsed() < Duration::from_secs(2), "not at once: {:?}", started.elapsed());
        let health = stage.ecs.api("GET", "/kmsd/v1/health", None).body;
        assert_eq!((&health["status"], &health["token"]["available"]), (&json!("degraded"), &json!(false)));
        // State changes need no token.
        stage.ecs.kms("disable-key", &json!({"key_id": "k"})).ok();
        stage.ecs.kms("enable-key", &json!({"key_id": "k"})).ok();
        stage.order("");
        stage.until_back("the token is there again");
        stage.until_consistent("the token is there again");
    }
}
