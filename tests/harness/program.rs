//! Finding and running programs.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::outcome::Outcome;
use crate::process;

/// No command of these suites takes this long; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(100);

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests folder lies in the repository")
        .to_owned()
}

/// The path of `kmsd`, `evsfs` or `ecsctl` as it is tested.
///
/// # Panics
/// If it has not been built.
pub fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("ECS_TEST_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let this = std::env::current_exe().expect("the test executable has a path");
        this.ancestors().nth(2).expect("test executables lie in target/PROFILE/deps").to_owned()
    });
    let file = folder.join(name);
    assert!(file.is_file(), "{} is missing: build it with `cargo build -p {name}`", file.display());
    file
}

/// A directory for one test under the run directory, deleted when dropped.
pub fn scratch_dir(name: &str) -> TempDir {
    let parent = std::env::var_os("ECS_TEST_RUN_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let prefix = format!("ecs-e2e.{name}.");
    tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).expect("a directory can be made")
}

/// Runs a command to its end and returns all that came out of it. A daemon that it leaves running may go on holding its
/// output: that is written to files, not to pipes, so the end of the command is what counts.
pub fn run(command: &mut Command) -> Outcome {
    run_within(command, PATIENCE)
}

/// The same for scripts that build programs: only the test runner's own limit ends them.
pub fn run_patiently(command: &mut Command) -> Outcome {
    run_within(command, Duration::from_secs(3600))
}

fn run_within(command: &mut Command, patience: Duration) -> Outcome {
    let line = format!("{command:?}");
    let scratch = || tempfile::tempfile().expect("a temporary file can be made");
    let (mut stdout, mut stderr) = (scratch(), scratch());
    let copy = |file: &File| Stdio::from(file.try_clone().expect("a descriptor can be duplicated"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(copy(&stdout))
        .stderr(copy(&stderr))
        .spawn()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let ended = process::wait_for_exit(child.id(), patience);
    let mut where_it_is = String::new();
    if !ended {
        where_it_is = process::where_it_waits(child.id());
        child.kill().expect("the child is ours");
    }
    let status = child.wait().expect("the child is ours");
    let outcome = Outcome::new(line, status, text(&mut stdout), text(&mut stderr));
    assert!(ended, "did not end within {patience:?}: {outcome}\n{where_it_is}");
    outcome
}

pub(crate) fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a temporary file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}
