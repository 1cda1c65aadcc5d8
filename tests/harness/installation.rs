//! A whole installation in one directory, and the programs run in it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::api::{self, Reply};
use crate::daemon::Kmsd;
use crate::outcome::Outcome;
use crate::process;
use crate::program::{program, run, scratch_dir};
use crate::proxy::Proxy;
use crate::token::{Provider, Token};

/// What an installation is made with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Run `kmsd init`?
    pub init: bool,
    /// Start kmsd?
    pub start: bool,
    /// Whose token.
    pub provider: Provider,
}

impl Default for Options {
    fn default() -> Self {
        Self { init: true, start: true, provider: Provider::SoftHsm }
    }
}

/// A token, a kmsd and an `ECS_HOME` of their own.
#[derive(Debug)]
pub struct Installation {
    dir: PathBuf,
    token: Token,
    kmsd: Kmsd,
    _owner: TempDir,
}

/// A disk as `ecsctl disk attach` shows it.
#[derive(Debug)]
pub struct Attached {
    /// The raw view.
    pub path: PathBuf,
    /// The serving process.
    pub pid: u32,
}

impl Default for Installation {
    fn default() -> Self {
        Self::new()
    }
}

impl Installation {
    /// With kmsd running.
    #[track_caller]
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// With parts left out.
    #[track_caller]
    pub fn with(options: Options) -> Self {
        let owner = scratch_dir("i");
        let dir = owner.path().canonicalize().expect("it was just made");
        for private in ["run", "home"] {
            fs::create_dir(dir.join(private)).expect("a directory can be made");
            fs::set_permissions(dir.join(private), fs::Permissions::from_mode(0o700)).expect("it is ours");
        }
        let token = Token::create(&dir.join("token"), options.provider);
        let mut kmsd = if options.init { Kmsd::init(&dir, &token) } else { Kmsd::at(&dir, &token) };
        if options.start {
            kmsd.start();
        }
        Self { dir, token, kmsd, _owner: owner }
    }

    /// The directory that holds everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `$ECS_HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.join("ecs")
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The module between kmsd and the token.
    ///
    /// # Panics
    /// If the installation was made without.
    #[track_caller]
    pub fn proxy(&self) -> &Proxy {
        self.token.proxy().expect("made with a provider that has one")
    }

    /// The key service.
    pub fn kmsd(&self) -> &Kmsd {
        &self.kmsd
    }

    /// The key service, to stop, kill and start.
    pub fn kmsd_mut(&mut self) -> &mut Kmsd {
        &mut self.kmsd
    }

    /// One of the programs in this installation's environment, and in no other.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("ECS_HOME", self.home())
            .env("KMSD_SOCKET", self.kmsd.socket())
            .current_dir(&self.dir);
        command
    }

    /// `ecsctl` with JSON output, the arguments as in a shell without quotes.
    pub fn ecsctl(&self, line: &str) -> Outcome {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        self.ecsctl_with(&arguments)
    }

    /// The same for arguments with spaces, control characters or nothing in them.
    pub fn ecsctl_with<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Outcome {
        run(self.command("ecsctl").arg("--json").args(arguments))
    }

    /// `evsfs` with JSON output.
    pub fn evsfs<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Outcome {
        run(self.command("evsfs").args(arguments).arg("--json"))
    }

    /// A verb of the published API, for instance `create-key`.
    #[track_caller]
    pub fn kms(&self, verb: &str, body: &Value) -> Reply {
        self.api("POST", &format!("/v1.0/default/kms/{verb}"), Some(body))
    }

    /// The same where kmsd may be gone.
    pub fn try_kms(&self, verb: &str, body: &Value) -> std::io::Result<Reply> {
        api::request(self.kmsd.socket(), "POST", &format!("/v1.0/default/kms/{verb}"), Some(body))
    }

    /// Any request to kmsd.
    #[track_caller]
    pub fn api(&self, method: &str, target: &str, body: Option<&Value>) -> Reply {
        api::request(self.kmsd.socket(), method, target, body)
            .unwrap_or_else(|error| panic!("{method} {target}: {error}\n{}", self.kmsd.log()))
    }

    /// Attaches a disk to a server, making the server when it is not there, and demands success.
    #[track_caller]
    pub fn attach(&self, disk: &str, server: &str) -> Attached {
        if self.ecsctl(&format!("server show {server}")).code != 0 {
            self.ecsctl(&format!("server create {server}")).ok();
        }
        let shown = self.ecsctl(&format!("disk attach {disk} {server}")).json();
        self.attached(&shown)
    }

    /// The raw view and the process behind it of an attached disk, from its JSON.
    #[track_caller]
    pub fn attached(&self, disk: &Value) -> Attached {
        let path: PathBuf = disk["path"].as_str().unwrap_or_else(|| panic!("no path in {disk}")).into();
        let id = disk["id"].as_str().unwrap_or_else(|| panic!("no id in {disk}"));
        let mut servers = process::with_argument(&self.home().join("mnt").join(id));
        servers.sort_unstable();
        assert!(servers.len() == 1, "one process should serve {id}: {servers:?}");
        Attached { path, pid: servers[0] }
    }

    /// Makes an encrypted (`--encrypted` in `options`) or plain disk and returns its JSON.
    #[track_caller]
    pub fn create_disk(&self, name: &str, options: &str) -> Value {
        self.ecsctl(&format!("disk create {name} {options}")).json()
    }

    /// The data key of a volume file as its header holds it, and opened by the key service: docs/volume-format.md, Header.
    #[track_caller]
    pub fn data_key(&self, volume: &Value) -> (Vec<u8>, String) {
        const AT: usize = 134;
        let file = volume["file"].as_str().unwrap_or_else(|| panic!("no file in {volume}"));
        let bytes = fs::read(file).expect("the volume file can be read");
        let length = usize::from(u16::from_le_bytes([bytes[AT], bytes[AT + 1]]));
        assert!(length > 0, "{file} has no wrapped data key");
        let wrapped = bytes[AT + 2..AT + 2 + length].to_vec();
        let cipher_text: String = wrapped.iter().map(|byte| format!("{byte:02x}")).collect();
        let kind = if volume["status"] == "active" { "image" } else { "disk" };
        let context = serde_json::json!({"evs:volume": volume["id"], "evs:kind": kind});
        let body = serde_json::json!({
            "cipher_text": cipher_text, "datakey_cipher_length": "32", "encryption_context": context
        });
        let opened = self.kms("decrypt-datakey", &body).ok();
        (wrapped, opened["data_key"].as_str().unwrap_or_else(|| panic!("no key in {opened}")).to_owned())
    }

    /// What a refused command must not have changed: the files under `ECS_HOME` (SQLite's own side files and logs excepted), and
    /// what the listings say.
    #[track_caller]
    pub fn fingerprint(&self) -> Vec<String> {
        let mut found = crate::tree::fingerprint(&self.home());
        found.retain(|line| !line.contains("/catalog.db") && !line.contains("/ecs/log/"));
        for list in ["disk list", "server list"] {
            found.push(self.ecsctl(list).json().to_string());
        }
        found
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- kmsd's log\n{}", self.kmsd.log());
            for log in fs::read_dir(self.home().join("log")).into_iter().flatten().flatten() {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                eprintln!("--- {}\n{text}", log.path().display());
            }
        }
        let mounted = |point: &str| run(Command::new("umount").arg("-l").arg(point));
        for (point, _) in
            process::mounts_under(&self.dir).into_iter().filter(|(_, kind)| !kind.starts_with("fuse"))
        {
            mounted(&point);
        }
        for device in process::loops_under(&self.dir) {
            run(Command::new("losetup").arg("--detach").arg(device));
        }
        for pid in process::with_argument(&self.home()) {
            process::send(pid, Signal::TERM);
            if !process::wait_for_exit(pid, Duration::from_secs(10)) {
                process::kill_hard(pid);
            }
        }
        for (point, _) in process::mounts_under(&self.dir) {
            mounted(&point);
        }
    }
}
