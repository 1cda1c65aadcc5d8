//! Bad input and missing parts: a clear error that names the thing, the reason and the remedy, the documented exit code,
//! and nothing changed.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Installation, Options, Outcome, Provider, Token, process, run, tree};
use serde_json::{Value, json};

/// Runs each row in one installation and demands its exit code, the words, and that nothing changed.
#[track_caller]
fn refuse_all(ecs: &Installation, rows: &[(&[&str], i32, &[&str])]) {
    let before = ecs.fingerprint();
    for (arguments, code, words) in rows {
        let outcome = ecs.ecsctl_with(arguments);
        assert!(outcome.code == *code, "exit code {code} expected: {outcome}");
        outcome.error(*code).naming(words);
        assert_eq!(ecs.fingerprint(), before, "{arguments:?} was refused and changed something");
    }
    assert_eq!(process::mounts_under(ecs.dir()), []);
}

#[test]
fn sizes_that_cannot_be() {
    let ecs = Installation::new();
    let rows: Vec<(Vec<&str>, i32, Vec<&str>)> = [
        ("0", "size"),
        ("-1G", "size"),
        ("-5", "size"),
        ("", "size"),
        ("G", "size"),
        ("ten", "ten"),
        ("1X", "1X"),
        ("1.5.2G", "1.5.2G"),
        ("NaN", "nan"),
        ("1e400", "1e400"),
        ("99999999999999999999999", "size"),
        ("16777216T", "size"),
        ("65T", "64"),
        ("4097", "4096"),
        ("1000", "4096"),
        ("10 G G", "size"),
        ("１G", "size"),
    ]
    .into_iter()
    .map(|(size, word)| (vec!["disk", "create", "d", "--encrypted", "--size", size], 2, vec![word]))
    .collect();
    for (arguments, code, words) in &rows {
        // A size with a leading minus must be told apart from an option by the "=" form as well.
        refuse_all(&ecs, &[(arguments, *code, words)]);
        let joined = format!("--size={}", arguments[5]);
        refuse_all(&ecs, &[(&["disk", "create", "d", "--encrypted", &joined], *code, words)]);
    }
}

#[test]
fn names_that_cannot_be() {
    let ecs = Installation::new();
    let long = "x".repeat(300);
    let names = [
        "",
        " ",
        ".",
        "..",
        "a/b",
        "/",
        "../../etc/passwd",
        "a\nb",
        "a\tb",
        "a\x1b[31mb",
        "-d",
        "--",
        "a b",
        "\u{202e}evil",
        &long,
    ];
    for name in names {
        let joined = format!("--alias={name}");
        for arguments in [
            &["disk", "create", "--size", "16M", "--", name][..],
            &["server", "create", "--", name],
            &["key", "create", &joined],
        ] {
            // A key's alias may have slashes and begin with a hyphen, as in the cloud: evs/default has one.
            if arguments[0] == "key" && matches!(name, "a/b" | "/" | "-d" | "--") {
                continue;
            }
            let before = ecs.fingerprint();
            let outcome = ecs.ecsctl_with(arguments);
            assert!(outcome.code == 2, "{arguments:?}: {outcome}");
            assert!(!outcome.stderr.contains(['\x1b', '\u{202e}']), "raw control characters: {outcome}");
            outcome.error(2).naming(&[if arguments[0] == "key" { "alias" } else { "name" }]);
            assert_eq!(ecs.fingerprint(), before);
        }
    }
    // Bytes that are not UTF-8.
    let bytes: [&OsStr; 5] =
        ["disk".as_ref(), "create".as_ref(), OsStr::from_bytes(b"a\xff"), "--size".as_ref(), "16M".as_ref()];
    let outcome = ecs.ecsctl_with(&bytes);
    assert_eq!(outcome.code, 2, "{outcome}");
    assert_eq!(ecs.ecsctl("disk list").json(), json!([]));
    assert_eq!(ecs.ecsctl("key list").json(), json!([]));
}

#[test]
fn things_that_are_not_there_and_things_that_are_there_already() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    ecs.create_disk("d", "--size 16M --encrypted --key k");
    ecs.ecsctl("server create web1").ok();
    refuse_all(
        &ecs,
        &[
            (&["disk", "show", "nothing"], 6, &["nothing"]),
            (&["disk", "attach", "nothing", "web1"], 6, &["nothing"]),
            (&["disk", "attach", "d", "nowhere"], 6, &["nowhere"]),
            (&["disk", "detach", "nothing"], 6, &["nothing"]),
            (&["disk", "detach", "d"], 3, &["d", "attached"]),
            (&["disk", "delete", "nothing", "--yes"], 6, &["nothing"]),
            (&["disk", "create", "d", "--size", "16M"], 3, &["d", "exists"]),
            (
                &["disk", "create", "e", "--size", "16M", "--encrypted", "--key", "no-such-key"],
                6,
                &["no-such-key"],
            ),
            (&["server", "create", "web1"], 3, &["web1", "exists"]),
            (&["server", "show", "nowhere"], 6, &["nowhere"]),
            (&["server", "delete", "nowhere", "--yes"], 6, &["nowhere"]),
            (&["key", "show", "no-such-key"], 6, &["no-such-key"]),
            (&["key", "disable", "no-such-key"], 6, &["no-such-key"]),
            (&["key", "create", "--alias", "k"], 3, &["k", "exists"]),
        ],
    );
}

#[test]
fn groups_that_cannot_be() {
    let ecs = Installation::new();
    ecs.ecsctl("server create web1").ok();
    ecs.ecsctl("as-config create c --from-server web1").ok();
    let group = ["as-group", "create", "g", "--config", "c"];
    for (options, code, words) in [
        (&["--desired", "4294967295", "--max", "4294967295"][..], 2, ["4294967295", "200"]),
        (&["--max", "201"][..], 2, ["201", "200"]),
        (&["--min", "5", "--max", "3", "--desired", "4"][..], 2, ["at least 5", "--max"]),
        (&["--desired", "201"][..], 3, ["201", "between 0 and 200"]),
        (&["--min", "2", "--max", "3"][..], 3, ["not 1", "between 2 and 3"]),
    ] {
        refuse_all(&ecs, &[(&[&group[..], options].concat()[..], code, &words[..])]);
        assert_eq!(ecs.ecsctl("as-group list").json(), json!([]));
    }
}

#[test]
fn command_lines_that_say_nothing() {
    let ecs = Installation::new();
    for arguments in [
        &["disk"][..],
        &["disk", "explode"],
        &["disk", "create"],
        &["disk", "create", "d"],
        &["--no-such-option"],
        &["disk", "create", "d", "--size", "16M", "--size", "17M"],
    ] {
        let outcome = ecs.ecsctl_with(arguments);
        assert_eq!(outcome.code, 2, "{outcome}");
        outcome.error(2);
    }
    // A key for a disk that is not to be encrypted would be silently unused.
    ecs.ecsctl("disk create d --size 16M --key k").error(2).naming(&["--encrypted"]);
    assert_eq!(ecs.ecsctl("disk list").json(), json!([]));
}

/// A slip in one option leaves undone what the others ask for.
#[test]
fn a_rate_that_cannot_be_is_refused_before_the_key_is_changed() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k2").ok();
    ecs.create_disk("d", "--size 16M --encrypted");
    let before = ecs.ecsctl("disk show d").json();
    refuse_all(
        &ecs,
        &[(&["disk", "rekey", "d", "--key", "k2", "--new-data-key", "--rate", "5X"], 2, &["5X", "rate"])],
    );
    assert_eq!(ecs.ecsctl("disk show d").json(), before);
}

/// Paths that cannot be written down, and a pipe, are refused before anything is done.
#[test]
fn paths_that_no_text_can_name_and_a_pipe_that_nobody_writes_to() {
    let ecs = Installation::new();
    fs::write(ecs.dir().join("small"), vec![7; 1 << 20]).expect("a file can be written");
    ecs.ecsctl("image create i --from-file small --encrypted").ok();
    let odd = OsStr::from_bytes(b"odd\xff");
    fs::copy(ecs.dir().join("small"), ecs.dir().join(odd)).expect("any bytes are a name");
    let before = (ecs.fingerprint(), ecs.ecsctl("image list").json());
    let import: [&OsStr; 5] =
        ["image".as_ref(), "create".as_ref(), "j".as_ref(), "--from-file".as_ref(), odd];
    let other = OsStr::from_bytes(b"other\xff");
    let export: [&OsStr; 5] = ["image".as_ref(), "export".as_ref(), "i".as_ref(), other, "--yes".as_ref()];
    for arguments in [import, export] {
        let refused = ecs.ecsctl_with(&arguments).error(2).naming(&["UTF-8"]);
        assert_eq!(refused.code, "invalid-path", "{refused:?}");
    }
    assert!(!ecs.dir().join(other).exists());
    for variable in ["ECS_HOME", "KMSD_SOCKET"] {
        let place = ecs.dir().join(OsStr::from_bytes(b"home\xff"));
        for line in ["status", "disk create d --size 16M", "key list"] {
            let mut command = ecs.command("ecsctl");
            command.env(variable, &place).arg("--json").args(line.split(' '));
            run(&mut command).error(2).naming(&["UTF-8"]);
        }
        assert!(!place.exists(), "{variable}");
    }
    run(Command::new("mkfifo").arg(ecs.dir().join("pipe"))).ok();
    ecs.ecsctl("image create j --from-file pipe").error(1).naming(&["pipe", "neither a file"]);
    assert_eq!((ecs.fingerprint(), ecs.ecsctl("image list").json()), before, "something changed");
}

/// What others wrote is shown to an administrator; it neither forges a line nor reaches the terminal as a command.
#[test]
fn k8_what_others_wrote_forges_nothing_on_a_terminal() {
    const WRITTEN: &str = "x\n999  forged \x1b[31mRED\u{9b}1m \u{202e}";
    let ecs = Installation::new();
    fs::write(ecs.dir().join("small"), vec![7; 1 << 20]).expect("a file can be written");
    ecs.ecsctl("image create i --from-file small --encrypted").ok();
    ecs.ecsctl_with(&["image", "export", "i", WRITTEN, "--yes"]).ok();
    ecs.ecsctl_with(&["key", "create", "--alias", "k", "--description", WRITTEN]).ok();
    let refused = run(ecs.command("ecsctl").args(["image", "export", "i", WRITTEN, "--yes"]));
    assert_eq!(refused.code, 3, "{refused}");
    assert!(refused.stderr.contains("forged"), "{refused}");
    let mut shown = vec![refused.stderr];
    for line in ["audit list --limit 50", "key show k"] {
        let table = run(ecs.command("ecsctl").args(line.split(' '))).ok();
        assert!(table.stdout.contains(r"x\n999  forged \u{1b}[31mRED\u{9b}1m \u{202e}"), "{table}");
        let json = run(ecs.command("ecsctl").arg("--json").args(line.split(' '))).ok();
        assert!(json.stdout.contains("forged"), "{json}");
        shown.extend([table.stdout, json.stdout]);
    }
    for text in shown {
        assert!(!text.contains(['\x1b', '\u{9b}', '\u{202e}']), "raw control characters: {text:?}");
        assert!(!text.lines().any(|line| line.trim_start().starts_with("999")), "a forged line: {text}");
    }
    // For programs it is what it was.
    assert_eq!(ecs.ecsctl("key show k").json()["description"], WRITTEN);
}

/// Every way in which a volume file can be wrong, each tried by attach, `evsfs info` and `evsfs mount`.
#[test]
fn volume_files_that_are_none() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    let other = ecs.create_disk("other", "--size 16M --encrypted");
    let file = |disk: &Value| PathBuf::from(disk["file"].as_str().expect("a file"));
    let attached = ecs.attach("d", "web1");
    let view = OpenOptions::new().write(true).open(&attached.path).expect("the view can be opened");
    view.write_all_at(&[7; 1 << 20], 0).expect("the view takes writes");
    drop(view);
    ecs.ecsctl("disk detach d").ok();
    let (volume, good, foreign) =
        (file(&disk), fs::read(file(&disk)).expect("a file"), fs::read(file(&other)).expect("a file"));

    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let put = |content: Vec<u8>| {
        let volume = &volume;
        move || fs::write(volume, &content).expect("the file can be written")
    };
    let cut = |length: usize| put(good[..length].to_vec());
    let damages: Vec<Damage<'_>> = vec![
        ("empty", Box::new(put(Vec::new()))),
        ("cut to one byte", Box::new(cut(1))),
        ("cut within the header", Box::new(cut(3000))),
        ("cut after the header", Box::new(cut(8192))),
        ("cut in the middle", Box::new(cut(good.len() / 2 / 4096 * 4096))),
        ("a text file", Box::new(put(b"root:x:0:0:root:/root:/bin/bash\n".repeat(1000)))),
        ("zeros", Box::new(put(vec![0; good.len()]))),
        ("a directory", Box::new(|| fs::create_dir(&volume).expect("a directory can be made"))),
        ("missing", Box::new(|| {})),
        ("another volume", Box::new(put(foreign))),
    ];
    let point = ecs.dir().join("point");
    fs::create_dir(&point).expect("a directory can be made");
    for (what, damage) in &damages {
        if volume.is_dir() {
            fs::remove_dir(&volume).expect("an empty directory");
        } else if volume.exists() {
            fs::remove_file(&volume).expect("our file");
        }
        damage();
        let before = ecs.fingerprint();
        let refused = ecs.ecsctl("disk attach d web1");
        assert!(refused.code == 5, "{what}: {refused}");
        refused.error(5).naming(&["d"]);
        if *what != "another volume" {
            for arguments in [
                &["info".as_ref(), volume.as_os_str()][..],
                &["mount".as_ref(), volume.as_os_str(), point.as_os_str()],
            ] {
                if what.contains("after the header") || what.contains("middle") && arguments.len() == 2 {
                    continue; // the header itself is whole
                }
                let refused: Outcome = ecs.evsfs(arguments);
                assert!(refused.code == 5, "{what}: {refused}");
                refused.error(5).naming(&[volume.to_str().expect("UTF-8")]);
            }
        }
        assert_eq!(ecs.fingerprint(), before, "{what}: something changed");
        assert_eq!(process::mounts_under(ecs.dir()), [], "{what}");
    }
    fs::write(&volume, &good).expect("the file can be written");
    ecs.attach("d", "web1");
}

#[test]
fn a_volume_of_a_later_version_is_refused_by_its_version() {
    let ecs = Installation::new();
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    ecs.ecsctl("server create web1").ok();
    let volume = PathBuf::from(disk["file"].as_str().expect("a file"));
    let info = ecs.evsfs(&["info".as_ref(), volume.as_os_str()]).json();
    let version = info["version"].as_u64().unwrap_or_else(|| panic!("no version in {info}"));
    let good = fs::read(&volume).expect("a file");
    // The version is a little-endian 16-bit number after the 8-byte magic, in both copies of the header.
    let offset = 8;
    let shown = u16::from_le_bytes(good[offset..offset + 2].try_into().expect("two bytes"));
    assert_eq!(u64::from(shown), version, "the version stands where docs/volume-format.md says");
    let magic = good[..8].to_vec();
    let mut changed = good.clone();
    for copy in (0..good.len() - 12).step_by(4096) {
        if good[copy..copy + 8] == magic {
            changed[copy + offset..copy + offset + 2].copy_from_slice(&99_u16.to_le_bytes());
        }
    }
    fs::write(&volume, &changed).expect("the file can be written");
    ecs.ecsctl("disk attach d web1").error(5).naming(&["version", "99"]);
    fs::write(&volume, &good).expect("the file can be written");
    ecs.attach("d", "web1");
}

#[test]
fn without_kmsd_encrypted_work_is_refused_and_plain_work_goes_on() {
    let mut ecs = Installation::new();
    ecs.ecsctl("server create web1").ok();
    ecs.create_disk("d", "--size 16M --encrypted");
    ecs.kmsd_mut().stop();
    assert!(!ecs.kmsd().socket().exists(), "a clean stop takes the socket away");
    let socket = ecs.kmsd().socket().to_str().expect("UTF-8").to_owned();
    let words: &[&str] = &[&socket, "kmsd"];
    refuse_all(
        &ecs,
        &[
            (&["disk", "create", "e", "--size", "16M", "--encrypted"], 4, words),
            (&["disk", "attach", "d", "web1"], 4, words),
            (&["key", "create", "--alias", "k"], 4, words),
            (&["key", "list"], 4, words),
        ],
    );
    ecs.create_disk("plain", "--size 16M");
    ecs.attach("plain", "web1");
    ecs.ecsctl("disk detach plain").ok();
    // Something else where the socket should be.
    fs::write(ecs.kmsd().socket(), "not a socket").expect("a file can be written");
    ecs.ecsctl("key list").error(4).naming(words);
}

/// `kmsd init` and `kmsd serve` with parts missing or wrong: they end with an error that names the part, and leave no store behind.
#[test]
fn kmsd_says_what_it_lacks() {
    let ecs = Installation::with(Options { init: false, start: false, ..Options::default() });
    let dir = ecs.dir();
    let file = |name: &str, content: &str, mode: u32| {
        let path = dir.join(name);
        fs::write(&path, content).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        path
    };
    let pin = fs::read_to_string(ecs.token().pin_file()).expect("a PIN");
    let wrong_pin = file("wrong-pin", "0000000", 0o600);
    let open_pin = file("open-pin", &pin, 0o644);
    let group_pin = file("group-pin", &pin, 0o640);
    let no_module = file("module.so", "not a library", 0o600);
    let empty_pin = file("empty-pin", "", 0o600);
    let absent = dir.join("absent");
    let rows: [(&str, &Path, &[&str]); 10] = [
        ("--module", &absent, &["absent"]),
        ("--module", &no_module, &["module.so"]),
        ("--module", dir, &[]),
        ("--token-label", Path::new("no-such-token"), &["no-such-token", "ecs-test"]),
        ("--pin-file", &wrong_pin, &["PIN"]),
        ("--pin-file", &open_pin, &["open-pin", "600"]),
        ("--pin-file", &group_pin, &["group-pin", "600"]),
        ("--pin-file", &empty_pin, &["empty-pin"]),
        ("--pin-file", &absent, &["absent"]),
        ("--pin-file", dir, &[]),
    ];
    // SoftHSM notes each login in its own files.
    let fingerprint = || {
        let mut found = tree::fingerprint(dir);
        found.retain(|line| !line.contains("/token/"));
        found
    };
    let before = fingerprint();
    for (option, value, words) in rows {
        let outcome = ecs.kmsd().try_init(&[(option, value)]);
        assert!((1..=100).contains(&outcome.code), "neither success, nor a panic, nor a signal: {outcome}");
        for word in words {
            assert!(outcome.stderr.contains(word), "{word:?} is not named: {outcome}");
        }
        assert!(
            !outcome.stderr.contains(pin.trim()) && !outcome.stderr.contains("0000000"),
            "a PIN is shown: {outcome}"
        );
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
        assert_eq!(fingerprint(), before, "a refused init left something behind: {outcome}");
    }
    ecs.kmsd().try_init(&[]).ok();
    // Once is enough: a second init would forget keys.
    let before = tree::fingerprint(ecs.kmsd().home());
    let again = ecs.kmsd().try_init(&[]);
    assert!(again.code != 0 && again.stderr.contains("exist") || again.stderr.contains("already"), "{again}");
    assert_eq!(tree::fingerprint(ecs.kmsd().home()), before);
}

#[test]
fn kmsd_does_not_serve_without_its_token_or_with_another_one() {
    let mut ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    ecs.kmsd_mut().stop();
    let (objects, away) = (ecs.token().objects(), ecs.dir().join("token-away"));

    fs::rename(&objects, &away).expect("the token can be taken away");
    fs::create_dir(&objects).expect("a directory can be made");
    assert_ne!(ecs.kmsd_mut().try_start(), Ok(()), "kmsd serves without a token");
    assert!(ecs.kmsd().log().contains("ecs-test"), "the expected token is not named:\n{}", ecs.kmsd().log());

    // Another token with the same label and PIN: its keys are not ours.
    fs::remove_dir_all(&objects).expect("ours");
    let stranger = Token::create(&ecs.dir().join("stranger"), Provider::SoftHsm);
    fs::rename(stranger.objects(), &objects).expect("it can be put in place");
    fs::copy(stranger.pin_file(), ecs.token().pin_file()).expect("the PIN can be replaced");
    let logged = ecs.kmsd().log().len();
    assert_ne!(ecs.kmsd_mut().try_start(), Ok(()), "kmsd serves with a stranger's token");
    let log = ecs.kmsd().log();
    assert!(
        log[logged..].contains("serial"),
        "the error does not tell the tokens apart:\n{}",
        &log[logged..]
    );
}

#[test]
fn kmsd_with_a_changed_pin_does_not_serve_and_does_not_lock_the_token() {
    let mut ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    ecs.kmsd_mut().stop();
    let pin = fs::read(ecs.token().pin_file()).expect("a PIN");
    fs::write(ecs.token().pin_file(), "1111111").expect("the PIN file can be written");
    assert_ne!(ecs.kmsd_mut().try_start(), Ok(()));
    assert!(ecs.kmsd().log().contains("PIN"), "{}", ecs.kmsd().log());
    assert!(!ecs.kmsd().log().contains("1111111"), "the PIN is in the log");
    fs::write(ecs.token().pin_file(), pin).expect("the PIN file can be written");
    ecs.kmsd_mut().start();
    assert_eq!(ecs.ecsctl("key show k").json()["state"], "enabled");
}

/// Requests that no client of ours sends: each gets a 4xx with the published error shape, and kmsd serves on.
#[test]
fn requests_that_make_no_sense() {
    let ecs = Installation::new();
    ecs.ecsctl("key create --alias k").ok();
    let before = ecs.kms("list-keys", &json!({})).ok();
    let long = "x".repeat(10_000);
    let rows = [
        ("create-key", json!([])),
        ("create-key", json!("text")),
        ("create-key", json!({"key_alias": 7})),
        ("create-key", json!({"key_alias": ""})),
        ("create-key", json!({"key_alias": long})),
        ("create-key", json!({"key_alias": "a\u{0}b"})),
        ("describe-key", json!({})),
        ("describe-key", json!({"key_id": ""})),
        ("describe-key", json!({"key_id": "../../etc/passwd"})),
        ("describe-key", json!({"key_id": "0d0466b0-e727-4d9c-b35d-f84bb474a37f"})),
        ("describe-key", json!({"key_id": "' OR 1=1 --"})),
        ("create-datakey", json!({"key_id": "k", "encryption_context": "text"})),
        ("create-datakey", json!({"key_id": "k", "encryption_context": {"a": 7}})),
        ("create-datakey", json!({"key_id": "k", "encryption_context": {"a": long}})),
        ("create-datakey", json!({"key_id": "k", "datakey_length": "-1"})),
        ("create-datakey", json!({"key_id": "k", "datakey_length": "9999999999"})),
        ("decrypt-datakey", json!({"key_id": "k", "cipher_text": "zz"})),
        ("decrypt-datakey", json!({"key_id": "k", "cipher_text": "00"})),
        ("decrypt-datakey", json!({"key_id": "k", "cipher_text": "0".repeat(20_000)})),
        ("list-keys", json!({"limit": "-1"})),
        ("list-keys", json!({"limit": "many"})),
        ("no-such-verb", json!({})),
    ];
    for (verb, body) in rows {
        let reply = ecs.kms(verb, &body);
        assert!((400..500).contains(&reply.status), "{verb} {body}: {reply:?}");
        assert!(!reply.error_code().is_empty(), "{verb} {body}: {reply:?}");
    }
    for (method, target) in [
        ("GET", "/nothing"),
        ("GET", "/v1.0/default/kms/create-key"),
        ("POST", "/kmsd/v1/health"),
        ("POST", "/%2e%2e/"),
    ] {
        let reply = ecs.api(method, target, None);
        assert!((400..500).contains(&reply.status), "{method} {target}: {reply:?}");
    }
    assert_eq!(ecs.kms("list-keys", &json!({})).ok(), before, "nothing has changed");
}
