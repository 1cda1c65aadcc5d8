//! kmsd as a service among others: metrics, systemd, certificates, logs, limits, load.
#![allow(clippy::unwrap_used)] // helpers too: a test that cannot go on has failed

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Installation, Options, process, repository, run};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Bytes out, everything that comes back until the connection ends.
fn raw(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    // kmsd may close before it has read all of it.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn metrics(ecs: &Installation) -> String {
    let request = b"GET /kmsd/v1/metrics HTTP/1.1\r\nHost: kmsd\r\nConnection: close\r\n\r\n";
    let answer = raw(ecs.kmsd().socket(), request);
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/openmetrics-text"), "{head}");
    text.to_owned()
}

/// The value of a series, written as in the text.
fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|number| number.parse().unwrap())
}

fn series(metrics: &str) -> BTreeSet<String> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect()
}

/// The metrics count what is done, hold no name of a key or caller, and no request can make series grow.
#[test]
fn metrics_count_and_tell_no_names() {
    let ecs = Installation::new();
    let key =
        ecs.ecsctl("key create --alias very-private-name").json()["key_id"].as_str().unwrap().to_owned();
    let make = || ecs.kms("create-datakey", &json!({"key_id": key, "datakey_length": "256"}));
    let made: Vec<Value> = (0..3).map(|_| make().ok()).collect();
    ecs.ecsctl(&format!("key disable {key}")).ok();
    assert_eq!(make().status, 400);
    // A connection is counted until kmsd has noticed its end, which may be after the client has.
    let only_this_one = |text: &String| value(text, "kmsd_connections{way=\"unix\"}") == Some(1.0);
    let patience = Instant::now() + Duration::from_secs(20);
    let text = std::iter::repeat_with(|| metrics(&ecs))
        .find(|text| only_this_one(text) || Instant::now() > patience)
        .expect("it repeats");
    for (name, expected) in [
        ("kmsd_operations_total{operation=\"create-datakey\",outcome=\"ok\"}", 3.0),
        ("kmsd_operations_total{operation=\"create-datakey\",outcome=\"KMS.0209\"}", 1.0),
        ("kmsd_operation_seconds_count{operation=\"create-datakey\"}", 4.0),
        ("kmsd_keys{state=\"disabled\"}", 1.0),
        ("kmsd_token_available", 1.0),
        ("kmsd_audit_writable", 1.0),
        ("kmsd_store_writable", 1.0),
        ("kmsd_clock_distrusted", 0.0),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name}:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    // Its own alone, as soon as kmsd has seen that the others were closed.
    let started = Instant::now();
    while value(&metrics(&ecs), "kmsd_connections{way=\"unix\"}") != Some(1.0) {
        assert!(started.elapsed() < Duration::from_secs(10), "{}", metrics(&ecs));
        thread::yield_now();
    }
    for secret in ["very-private-name", &key, made[0]["plain_text"].as_str().unwrap(), "uid:"] {
        assert!(!text.contains(secret), "the metrics tell {secret}");
    }
    let before = series(&text);
    for n in 0..50 {
        ecs.api("POST", &format!("/v1.0/p{n}/kms/no-such-verb-{n}"), Some(&json!({})));
        ecs.api("GET", &format!("/nothing/{n}"), None);
        ecs.kms("create-key", &json!({"key_alias": format!("not allowed {n}")}));
        ecs.kms("describe-key", &json!({"key_id": format!("unknown-{n}")}));
    }
    let grown: Vec<_> = series(&metrics(&ecs)).difference(&before).cloned().collect();
    // An outcome that had not been seen, and its buckets once; never one series for each request.
    assert!(grown.len() < 60, "{grown:?}");
    assert!(!grown.iter().any(|name| name.contains("no-such") || name.contains("unknown-")), "{grown:?}");
}

/// systemd hears that kmsd is ready only when it answers, hears from it while it works, and hears that it stops.
#[test]
fn systemd_is_told_of_readiness_liveness_and_stop() {
    let mut ecs = Installation::with(Options { start: false, ..Options::default() });
    let path = ecs.dir().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = || {
        let mut buffer = [0; 4096];
        let n = systemd.recv(&mut buffer).expect("kmsd says something");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    ecs.kmsd_mut().try_start_under(&["env", &variable]).unwrap();
    let mut said = vec![heard()];
    while !said.concat().contains("READY=1") {
        said.push(heard());
    }
    assert_eq!(ecs.api("GET", "/kmsd/v1/health", None).ok()["status"], "ok", "ready before it serves");
    let began = Instant::now();
    let mut barks = 0;
    while barks < 3 {
        barks += usize::from(heard().contains("WATCHDOG=1"));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "the watchdog would bark: {:?}", began.elapsed());
    // A process that hangs is silent: nothing but the service itself feeds the watchdog.
    let pid = ecs.kmsd().pid().unwrap();
    process::send(pid, Signal::STOP);
    systemd.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
    let mut buffer = [0; 4096];
    while systemd.recv(&mut buffer).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(60), "a stopped process goes on talking");
    }
    process::send(pid, Signal::CONT);
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(heard().contains("WATCHDOG=1"));
    ecs.kmsd_mut().stop();
    let mut last = heard();
    while !last.contains("STOPPING=1") {
        last = heard();
    }
}

/// The unit is one that systemd takes, that does not restart what only an operator can mend, and that confines kmsd.
#[test]
fn the_unit_is_sound_and_confines() {
    let unit = repository().join("softhsm-config/systemd/kmsd.service");
    let text = fs::read_to_string(&unit).unwrap();
    for line in ["RestartPreventExitStatus=78", "WatchdogSec=", "User=kmsd", "Type=notify", "ExecReload="] {
        assert!(text.lines().any(|found| found.starts_with(line)), "the unit lacks {line}");
    }
    // kmsd reads the boot's id there.
    assert!(!text.lines().any(|line| line == "ProcSubset=pid"));
    let dir = harness::scratch_dir("unit");
    let copy = dir.path().join("kmsd.service");
    let program = harness::program("kmsd").display().to_string();
    let here = text.replace("/usr/local/bin/kmsd", &program).replace("User=kmsd", "User=root");
    fs::write(&copy, here.replace("Group=kmsd", "Group=root")).unwrap();
    run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy)).ok();
    let mut security = Command::new("systemd-analyze");
    // Exposure times ten: 1.5 of 10 at most.
    run(security.args(["security", "--offline=true", "--threshold=15", "--no-pager"]).arg(&unit)).ok();
}

fn serial(port: u16) -> Option<String> {
    let address = format!("127.0.0.1:{port}");
    let shown = run(Command::new("openssl").args(["s_client", "-connect", &address]));
    let mut x509 = Command::new("openssl")
        .args(["x509", "-noout", "-serial"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    x509.stdin.take().unwrap().write_all(shown.stdout.as_bytes()).unwrap();
    let out = x509.wait_with_output().unwrap();
    String::from_utf8(out.stdout).ok().filter(|text| text.starts_with("serial="))
}

/// SIGHUP takes up new certificates; one that cannot be used leaves the old one serving.
#[test]
fn certificates_are_reloaded_by_sighup() {
    let mut ecs = Installation::with(Options { init: false, start: false, ..Options::default() });
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    ecs.kmsd().try_init(&[("--listen", Path::new(&address))]).ok();
    ecs.kmsd_mut().start();
    let pid = ecs.kmsd().pid().unwrap();
    let mut open = TcpStream::connect(&address).unwrap();
    let first = serial(port).expect("a certificate is shown");
    run(ecs.kmsd().command().args(["tls", "renew"])).ok();
    assert_eq!(serial(port).as_ref(), Some(&first), "taken up unasked");
    process::send(pid, Signal::HUP);
    let began = Instant::now();
    let second = loop {
        let shown = serial(port).expect("a certificate is shown");
        if shown != first {
            break shown;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "never taken up");
    };
    fs::write(ecs.kmsd().home().join("tls/server.pem"), "nothing").unwrap();
    process::send(pid, Signal::HUP);
    while !ecs.kmsd().log().contains("cannot be used") {
        assert!(began.elapsed() < Duration::from_secs(40), "{}", ecs.kmsd().log());
        thread::yield_now();
    }
    assert_eq!(serial(port), Some(second), "a bad certificate took the good one away");
    // The connection from the beginning was not cut.
    open.write_all(b"x").unwrap();
    assert_eq!(ecs.api("GET", "/kmsd/v1/health", None).ok()["status"], "ok");
}

/// With `KMSD_LOG_FORMAT=json` every line is an object with time, level and message.
#[test]
fn logs_can_be_json() {
    let mut ecs = Installation::with(Options { start: false, ..Options::default() });
    ecs.kmsd_mut().try_start_under(&["env", "KMSD_LOG_FORMAT=json", "KMSD_LOG=debug,cryptoki=off"]).unwrap();
    ecs.kms("describe-key", &json!({"key_id": "nothing"}));
    ecs.kmsd_mut().stop();
    let log = ecs.kmsd().log();
    assert!(log.lines().count() > 2, "{log}");
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry["timestamp"].is_string() && entry["level"].is_string(), "{line}");
    }
}

/// Starts kmsd with other limits.
fn limited(changes: &[(&str, &str)]) -> Installation {
    let mut ecs = Installation::with(Options { start: false, ..Options::default() });
    let file = ecs.kmsd().home().join("kmsd.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{text}");
        text = text.replace(from, to);
    }
    fs::write(&file, text).unwrap();
    ecs.kmsd_mut().start();
    ecs
}

fn resident_kib(pid: u32) -> u64 {
    let field = process::status_field(pid, "VmRSS").unwrap();
    field.split(' ').next().unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Connections that send nothing, or a byte now and then, take no more than their share and keep nobody out; long headers and bodies
/// are refused; none of it makes kmsd grow.
#[test]
fn slow_idle_and_oversized_requests_are_bounded() {
    let ecs = limited(&[("connections = 1024", "connections = 64")]);
    let pid = ecs.kmsd().pid().unwrap();
    let socket = ecs.kmsd().socket().to_owned();
    let healthy = || assert_eq!(ecs.api("GET", "/kmsd/v1/health", None).ok()["status"], "ok");
    healthy();
    let (memory, open) = (resident_kib(pid), descriptors(pid));

    let mut held: Vec<UnixStream> = Vec::new();
    for n in 0..600 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        match n % 3 {
            0 => {}
            1 => stream.write_all(b"P").unwrap(),
            _ => stream.write_all(b"POST /v1.0/p/kms/list-keys HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap(),
        }
        held.push(stream);
        if n % 100 == 99 {
            let began = Instant::now();
            healthy();
            assert!(began.elapsed() < Duration::from_secs(5), "kept out for {:?}", began.elapsed());
        }
    }
    // A connection that made room is closed by its own task, in a moment.
    let began = Instant::now();
    while descriptors(pid) > open + 65 {
        assert!(began.elapsed() < Duration::from_secs(5), "{} descriptors", descriptors(pid));
        thread::yield_now();
    }
    // Those that drip go on dripping; the longest idle ones have been closed.
    for stream in held.iter_mut().skip(1).step_by(3) {
        let _ = stream.write_all(b"O");
    }
    healthy();
    drop(held);

    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let answer = raw(&socket, long.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{}", &answer[..answer.len().min(200)]);
    let headers = "X-Many: 1\r\n".repeat(1000);
    let answer = raw(&socket, format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let body = json!({"key_alias": "x".repeat(70_000)});
    let refused = ecs.kms("create-key", &body);
    assert_eq!((refused.status, refused.error_code()), (400, "KMS.0203"), "{refused:?}");
    // Announced, and never sent: the connection does not wait for ever.
    let began = Instant::now();
    let slow = raw(&socket, b"POST /v1.0/p/kms/list-keys HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
    assert!(slow.starts_with("HTTP/1.1 400"), "{slow}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    healthy();
    let grown = resident_kib(pid).saturating_sub(memory);
    assert!(grown < 24 << 10, "kmsd has grown by {grown} KiB");
}

/// Two hundred clients at once, each with its own connection and data keys: every answer is right.
#[test]
fn two_hundred_clients_at_once_are_served() {
    let ecs = Installation::new();
    let key = ecs.ecsctl("key create --alias shared").json()["key_id"].as_str().unwrap().to_owned();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|client| {
                let (ecs, key) = (&ecs, &key);
                scope.spawn(move || {
                    for round in 0..5 {
                        let context = json!({"client": client.to_string(), "round": round.to_string()});
                        let body =
                            json!({"key_id": key, "encryption_context": context, "datakey_length": "256"});
                        let made = ecs.kms("create-datakey", &body).ok();
                        let body = json!({
                            "key_id": key, "encryption_context": context, "datakey_cipher_length": "32",
                            "cipher_text": made["cipher_text"],
                        });
                        assert_eq!(ecs.kms("decrypt-datakey", &body).ok()["data_key"], made["plain_text"]);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let verdict = ecs.ecsctl("audit verify").json();
    assert!(verdict["records"].as_u64().unwrap() > 2000, "{verdict}");
}

/// The load generator runs, and reports every figure.
#[test]
fn the_load_bench_reports_its_figures() {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_kms-load"));
    let report = run(bench.args(["--seconds", "0.4", "--connections", "4", "--keys", "3,12"])).json();
    for figure in ["health_per_s", "unwraps_per_s"] {
        assert!(report[figure].as_f64().is_some_and(|rate| rate > 10.0), "{report}");
    }
    for figure in ["half", "at_5000_per_s", "clients_200"] {
        assert!(report[figure]["p99_ms"].as_f64().is_some_and(|time| time > 0.0), "{report}");
    }
    let raw = &report["token_decrypts_per_s"];
    assert!(raw["sessions_4"].as_f64().is_some_and(|rate| rate > 10.0), "{report}");
    assert_eq!(report["by_keys"].as_array().map(Vec::len), Some(2), "{report}");
}
