//! K7 between users of one host: processes with user ids of their own, at one Unix socket. Who asks is what the kernel says of the peer.
#![allow(clippy::unwrap_used)] // helpers too: a test that cannot go on has failed

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{Installation, Options, Provider, run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Two users and a third, of whom the socket's group has the first two.
const ANN: u32 = 54_001;
const BEN: u32 = 54_002;
const OUTSIDER: u32 = 54_003;
const GROUP: u32 = 54_100;

/// One request on a connection of its own; prints status and body.
const ASK: &str = r#"
import json, socket, sys
path, method, target, body = sys.argv[1:]
peer = socket.socket(socket.AF_UNIX)
peer.connect(path)
body = body.encode()
peer.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
answer = b""
while part := peer.recv(65536):
    answer += part
head, _, content = answer.partition(b"\r\n\r\n")
print(json.dumps({"status": int(head.split()[1]), "body": json.loads(content or b"null")}))
"#;

/// Opens connections, and sends a request on each: at once, or when it is told to go on. Reads until all but so many have ended, and says how many were answered and how
/// many were closed.
const CROWD: &str = r#"
import select, socket, sys, time
path, number, when, request, left = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4].encode(), int(sys.argv[5])
peers = []
def send(peer):
    try:
        peer.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        pass
for _ in range(number):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    peers.append(peer)
    if when == "at once":
        send(peer)
print("open", flush=True)
sys.stdin.readline()
if when == "later":
    for peer in peers:
        send(peer)
answered = closed = 0
ends = time.monotonic() + 20
while len(peers) > left and time.monotonic() < ends:
    for peer in select.select(peers, [], [], 1)[0]:
        peers.remove(peer)
        try:
            got = peer.recv(65536)
        except ConnectionResetError:
            got = b""
        answered += got.startswith(b"HTTP/1.1 200")
        closed += not got
print(answered, closed, flush=True)
sys.stdin.readline()
"#;

/// A kmsd whose socket the users of a group can reach.
struct Host {
    ecs: Installation,
    socket: PathBuf,
    _place: TempDir,
}

impl Host {
    fn new(provider: Provider, connections: usize) -> Self {
        // Not below the run directory, which is the tests' own: other users have to get at it.
        let place = tempfile::Builder::new().prefix("ecs-e2e.users.").tempdir_in("/tmp").unwrap();
        let group = place.path().join("run");
        fs::create_dir(&group).unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o711)).unwrap();
        chown(&group, None, Some(GROUP)).unwrap();
        // What is made in it has its group.
        fs::set_permissions(&group, fs::Permissions::from_mode(0o2750)).unwrap();
        let socket = group.join("kmsd.sock");
        let mut ecs = Installation::with(Options { init: false, start: false, provider });
        ecs.kmsd().try_init(&[("--socket", &socket)]).ok();
        let file = ecs.kmsd().home().join("kmsd.toml");
        let text = fs::read_to_string(&file).unwrap();
        let limited = text.replace("connections = 1024", &format!("connections = {connections}"));
        fs::write(&file, limited).unwrap();
        ecs.kmsd_mut().start();
        Self { ecs, socket, _place: place }
    }

    fn python(&self, uid: u32, script: &str) -> Command {
        let mut command = Command::new("setpriv");
        let groups = if uid == OUTSIDER { "--clear-groups".to_owned() } else { format!("--groups={GROUP}") };
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), groups]);
        // The system's own: one that root has for itself is not for these users.
        command.args(["--", "/usr/bin/python3", "-I", "-c", script]).arg(&self.socket).current_dir("/");
        command
    }

    fn api(&self, uid: u32, method: &str, target: &str, body: &Value) -> (u64, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut answer = run(self.python(uid, ASK).args([method, target, &body])).json();
        (answer["status"].as_u64().unwrap(), answer["body"].take())
    }

    fn kms(&self, uid: u32, verb: &str, body: &Value) -> (u64, Value) {
        self.api(uid, "POST", &format!("/v1.0/p/kms/{verb}"), body)
    }

    #[track_caller]
    fn ok(&self, uid: u32, verb: &str, body: &Value) -> Value {
        let (status, answer) = self.kms(uid, verb, body);
        assert_eq!(status, 200, "{uid} {verb}: {answer}");
        answer
    }

    #[track_caller]
    fn refused(&self, uid: u32, verb: &str, body: &Value) -> String {
        let (status, answer) = self.kms(uid, verb, body);
        assert!(status >= 400, "{uid} {verb}: {answer}");
        answer["error"]["error_code"].as_str().unwrap().to_owned()
    }

    fn listed(&self, uid: u32) -> usize {
        self.ok(uid, "list-keys", &json!({}))["keys"].as_array().unwrap().len()
    }

    fn crowd(&self, uid: u32, number: usize, when: &str, request: &str, left: usize) -> Crowd {
        let mut command = self.python(uid, CROWD);
        command.args([&number.to_string(), when, request, &left.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let told = child.stdin.take().unwrap();
        let mut crowd = Crowd { child, told, said };
        assert_eq!(crowd.line(), "open");
        crowd
    }
}

/// A process with many connections.
struct Crowd {
    child: Child,
    told: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Crowd {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn go_on(&mut self) {
        writeln!(self.told).unwrap();
    }

    /// How many were answered, and how many closed.
    fn counts(&mut self) -> (usize, usize) {
        let line = self.line();
        let (answered, closed) = line.split_once(' ').unwrap_or_else(|| panic!("not counts: {line:?}"));
        (answered.parse().unwrap(), closed.parse().unwrap())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// K7: a key is its maker's. Others are not told of it, and use it as a grant or the key's policy lets them, and no longer.
#[test]
fn k7_users_of_one_host_have_their_keys_for_themselves() {
    let host = Host::new(Provider::SoftHsm, 1024);
    let made = host.ok(ANN, "create-key", &json!({"key_alias": "anns"}));
    let key = json!({"key_id": made["key_info"]["key_id"]});
    host.ok(BEN, "create-key", &json!({"key_alias": "bens"}));
    assert_eq!((host.listed(ANN), host.listed(BEN), host.listed(0)), (1, 1, 2), "root is told of all");

    // Not told, whatever is asked, as if there were none.
    let nothing = host.kms(BEN, "describe-key", &json!({"key_id": "00000000-0000-4000-8000-000000000000"}));
    for verb in ["describe-key", "create-datakey", "disable-key", "schedule-key-deletion", "list-grants"] {
        let mut body = key.clone();
        body["pending_days"] = json!("7");
        assert_eq!(host.refused(BEN, verb, &body), nothing.1["error"]["error_code"], "{verb}");
    }
    assert_eq!(host.refused(BEN, "create-datakey", &json!({"key_id": "anns"})), "KMS.0207");

    // A grant, with a context; and what it does not grant.
    let with = |key: &Value, context: Value| json!({"key_id": key["key_id"], "encryption_context": context});
    let grant = host.ok(
        ANN,
        "create-grant",
        &json!({"key_id": key["key_id"], "grantee_principal": format!("uid:{BEN}"), "name": "g",
                "operations": ["create-datakey", "describe-key"], "constraints": {"equals": {"for": "ben"}}}),
    );
    let data = host.ok(BEN, "create-datakey", &with(&key, json!({"for": "ben"})));
    assert_eq!(host.refused(BEN, "create-datakey", &with(&key, json!({"for": "ann"}))), "KMS.0307");
    let wrapped = json!({"cipher_text": data["cipher_text"], "encryption_context": {"for": "ben"}});
    assert_eq!(host.refused(BEN, "decrypt-datakey", &wrapped), "KMS.0307");
    assert_eq!(host.ok(ANN, "decrypt-datakey", &wrapped)["data_key"], data["plain_text"]);
    assert_eq!(host.refused(BEN, "disable-key", &key), "KMS.0307");
    assert_eq!(host.listed(BEN), 2);
    host.ok(ANN, "revoke-grant", &json!({"key_id": key["key_id"], "grant_id": grant["grant_id"]}));
    assert_eq!(host.refused(BEN, "create-datakey", &with(&key, json!({"for": "ben"}))), "KMS.0207");

    // A policy; only the owner writes it.
    let path = format!("/kmsd/v1/keys/{}/policy", key["key_id"].as_str().unwrap());
    let statement = json!({"Statement": [{"Effect": "Allow", "Principal": {"AWS": format!("uid:{BEN}")},
                                          "Action": ["kms:Decrypt"], "Resource": "*"}]});
    let policy = json!({"policy": statement.to_string()});
    assert_eq!(host.api(BEN, "PUT", &path, &policy).0, 404);
    assert_eq!(host.api(ANN, "PUT", &path, &policy).0 / 100, 2);
    assert_eq!(host.ok(BEN, "decrypt-datakey", &wrapped)["data_key"], data["plain_text"]);
    assert_eq!(host.refused(BEN, "create-datakey", &key), "KMS.0307");
    assert_eq!(host.api(BEN, "PUT", &path, &policy).0, 403, "who is let in does not let others in");
    assert_eq!(host.api(ANN, "DELETE", &path, &Value::Null).0 / 100, 2);
    assert_eq!(host.refused(BEN, "decrypt-datakey", &wrapped), "KMS.0207");

    // Access keys and the audit log are the administrators'; the log says who it was.
    assert_eq!(host.api(ANN, "POST", "/kmsd/v1/access-keys", &json!({})).0, 403);
    let records = host.api(0, "GET", "/kmsd/v1/audit", &Value::Null).1["records"].take();
    let by = |uid: u32| {
        let of = |record: &&Value| record["principal"] == json!(format!("uid:{uid}"));
        records.as_array().unwrap().iter().filter(of).count()
    };
    assert!(by(ANN) > 5 && by(BEN) > 10, "{records:#}");
    // Who is not in the socket's group does not even get to it.
    let outside = run(host.python(OUTSIDER, ASK).args(["GET", "/kmsd/v1/health", ""]));
    assert!(outside.code != 0 && outside.stderr.contains("PermissionError"), "{outside}");
}

const HEALTH: &str = "GET /kmsd/v1/health HTTP/1.1\r\nHost: x\r\n\r\n";

/// Connections that only wait: a user has half of them at most, and its own make room for its next ones, not those of others.
#[test]
fn a_user_who_opens_many_connections_keeps_nobody_out() {
    let host = Host::new(Provider::SoftHsm, 16);
    let mut anns = host.crowd(ANN, 4, "later", HEALTH, 0);
    let mut bens = host.crowd(BEN, 60, "never", "", 8);
    bens.go_on();
    assert_eq!(bens.counts(), (0, 52), "of 60, half of 16 are left");
    anns.go_on();
    assert_eq!(anns.counts(), (4, 0), "those that were there before are served");
}

/// Requests that take their time: those of one user take up half of the connections, what it opens beyond is closed, and others are answered meanwhile.
#[test]
fn a_user_whose_requests_take_long_keeps_nobody_waiting() {
    const EACH: Duration = Duration::from_secs(2);
    let host = Host::new(Provider::SoftHsmByProxy, 16);
    host.ecs.proxy().order(&format!("delay C_GenerateRandom {}", EACH.as_micros()));
    let body = json!({"random_data_length": "512"}).to_string();
    let length = body.len();
    let random =
        format!("POST /v1.0/p/kms/gen-random HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
    let mut bens = host.crowd(BEN, 30, "at once", &random, 0);
    let asked = Instant::now();
    host.ok(ANN, "list-keys", &json!({}));
    assert!(asked.elapsed() < EACH, "{:?}", asked.elapsed());
    bens.go_on();
    assert_eq!(bens.counts(), (8, 22), "half of 16 are served");
}
