//! What a command did.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde_json::Value;

/// A command's exit status and output.
#[derive(Debug)]
pub struct Outcome {
    command: String,
    /// The exit code; 128 + N for a death by signal N.
    pub code: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Outcome {
    pub(crate) fn new(command: String, status: ExitStatus, stdout: String, stderr: String) -> Self {
        let code = status.code().unwrap_or_else(|| 128 + status.signal().expect("no code means a signal"));
        Self { command, code, stdout, stderr }
    }

    /// Demands success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "failed: {self}");
        self
    }

    /// Demands success and a JSON document.
    #[track_caller]
    pub fn json(self) -> Value {
        let this = self.ok();
        serde_json::from_str(&this.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {this}"))
    }

    /// Demands a failure with this exit code, nothing on stdout, and exactly one JSON error with a code, a message and
    /// a hint on stderr.
    #[track_caller]
    pub fn error(self, code: i32) -> Failure {
        assert!(self.code == code, "exit code {} expected: {self}", code);
        assert!(self.stdout.is_empty(), "a failed command wrote to stdout: {self}");
        let document: Value = serde_json::from_str(self.stderr.trim())
            .unwrap_or_else(|error| panic!("stderr is not one JSON document ({error}): {self}"));
        let field = |name: &str| {
            let value = document["error"][name].as_str().unwrap_or_default().trim().to_owned();
            assert!(!value.is_empty(), "the error has no {name}: {self}");
            value
        };
        Failure { code: field("code"), message: field("message"), hint: field("hint") }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "{command}\nexit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// An error as a program prints it with `--json`.
#[derive(Debug)]
pub struct Failure {
    /// For programs.
    pub code: String,
    /// For people: the thing and the reason.
    pub message: String,
    /// The remedy.
    pub hint: String,
}

impl Failure {
    /// Demands that message and hint together name each of these (in any case).
    #[track_caller]
    pub fn naming(self, words: &[&str]) -> Self {
        let text = format!("{} {}", self.message, self.hint).to_lowercase();
        for word in words {
            assert!(text.contains(&word.to_lowercase()), "the error does not name {word:?}: {self:?}");
        }
        self
    }
}
