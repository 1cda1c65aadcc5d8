//! A running kmsd.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::outcome::Outcome;
use crate::process;
use crate::program::{program, run};
use crate::token::Token;

/// kmsd's files, and its process while it runs.
#[derive(Debug)]
pub struct Kmsd {
    home: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    token: Token,
    child: Option<Child>,
}

impl Kmsd {
    /// `kmsd init` on a token, under `dir`.
    #[track_caller]
    pub fn init(dir: &Path, token: &Token) -> Self {
        let this = Self::at(dir, token);
        this.try_init(&[]).ok();
        this
    }

    /// The paths only, before `kmsd init`.
    pub fn at(dir: &Path, token: &Token) -> Self {
        Self {
            home: dir.join("kmsd"),
            socket: dir.join("run/kmsd.sock"),
            log: dir.join("kmsd.log"),
            token: token.clone(),
            child: None,
        }
    }

    /// Runs `kmsd init` for the token of this installation; `extra` arguments come last and win.
    pub fn try_init(&self, extra: &[(&str, &Path)]) -> Outcome {
        let pin_file = self.token.pin_file();
        let module = self.token.kmsd_module();
        let mut options: Vec<(&str, &Path)> = vec![
            ("--module", &module),
            ("--token-label", Path::new(self.token.label())),
            ("--pin-file", &pin_file),
            ("--home", &self.home),
            ("--socket", &self.socket),
        ];
        for &(name, value) in extra {
            options.retain(|(known, _)| *known != name);
            options.push((name, value));
        }
        let mut command = self.command();
        command.arg("init");
        for (name, value) in options {
            command.arg(name).arg(value);
        }
        run(&mut command)
    }

    /// Starts it and returns when it accepts requests.
    ///
    /// # Panics
    /// If it ends instead; the panic shows what it logged.
    #[track_caller]
    pub fn start(&mut self) {
        self.try_start()
            .unwrap_or_else(|code| panic!("kmsd ended with {code} instead of starting:\n{}", self.log()));
    }

    /// Starts it; `Err` has its exit code when it ends instead of becoming ready.
    pub fn try_start(&mut self) -> Result<(), i32> {
        self.try_start_under(&[])
    }

    /// The same under another program, such as `strace` with its options; that is what [`Self::pid`] then names.
    pub fn try_start_under(&mut self, runner: &[&str]) -> Result<(), i32> {
        self.try_start_with(runner, &[])
    }

    /// The same with more arguments for `kmsd serve`.
    pub fn try_start_with(&mut self, runner: &[&str], arguments: &[&str]) -> Result<(), i32> {
        assert!(self.child.is_none(), "kmsd runs already");
        let log =
            File::options().create(true).append(true).open(&self.log).expect("kmsd's log can be opened");
        // The shell makes its standard output, a pipe, descriptor 3, and becomes kmsd: the pipe ends with the process.
        let mut child = self
            .with_environment(Command::new("sh"))
            .args(["-c", "exec \"$@\" 3>&1 >&2", "sh"])
            .args(self.token.runner())
            .args(runner)
            .arg(program("kmsd"))
            .args(["serve", "--ready-fd", "3", "--home"])
            .arg(&self.home)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("kmsd can be run");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the pipe can be read");
        if line.trim() == "ready" {
            self.child = Some(child);
            return Ok(());
        }
        Err(child.wait().expect("the child is ours").code().unwrap_or(-1))
    }

    /// Stops it cleanly by SIGTERM.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("kmsd runs");
        process::send(child.id(), Signal::TERM);
        let ended = process::wait_for_exit(child.id(), Duration::from_secs(20));
        if !ended {
            child.kill().expect("the child is ours");
        }
        let status = child.wait().expect("the child is ours");
        assert!(ended && status.success(), "kmsd did not stop cleanly ({status}):\n{}", self.log());
    }

    /// Notes that it has ended on its own, and whether it ended well.
    ///
    /// # Panics
    /// If it was not started; it is waited for.
    pub fn ended(&mut self) -> bool {
        let mut child = self.child.take().expect("kmsd was started");
        child.wait().expect("the child is ours").success()
    }

    /// Kills it with SIGKILL, or finds that it has ended.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("kmsd was started");
        for pid in process::with_argument(&self.home) {
            process::kill_hard(pid);
        }
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The socket that it serves on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory with its configuration and store.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// kmsd with its environment, ready for a subcommand.
    pub fn command(&self) -> Command {
        let mut words = self.token.runner();
        words.push(program("kmsd").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        self.with_environment(command)
    }

    fn with_environment(&self, mut command: Command) -> Command {
        command.env("KMSD_HOME", &self.home).env("KMSD_SOCKET", &self.socket);
        command.envs(self.token.environment());
        command
    }
}

impl Drop for Kmsd {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
