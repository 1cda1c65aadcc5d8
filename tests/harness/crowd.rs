//! Commands that begin at the same moment.

use std::fs::File;
use std::io::{Read, pipe};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::outcome::Outcome;
use crate::process;
use crate::program::{scratch_dir, text};

/// One that waits for longer than this hangs: ecsctl itself gives up waiting for another one after a minute.
const PATIENCE: Duration = Duration::from_secs(80);

/// Says that it is there, waits until the pipe on its standard input is closed, and becomes the command.
const HELD: &str = r#"echo; read -r _; exec "$@" </dev/null >"$0""#;

/// Runs commands all at once, each a process of its own. They are held at a barrier, a pipe that all of them wait on, until every one of them
/// has come there. What came out of each, in their order.
///
/// # Panics
/// If one does not come to its end.
#[track_caller]
pub fn at_once(commands: &[Command]) -> Vec<Outcome> {
    let scratch = scratch_dir("crowd");
    let (mut here, there) = pipe().expect("a pipe can be made");
    let (barrier, release) = pipe().expect("a pipe can be made");
    let held: Vec<(Child, File, File)> = commands
        .iter()
        .enumerate()
        .map(|(n, command)| {
            let (stdout, stderr) =
                (scratch.path().join(format!("{n}.out")), scratch.path().join(format!("{n}.err")));
            let open = |path: &Path| {
                File::options().read(true).write(true).create(true).truncate(true).open(path).expect("a file")
            };
            let (stdout_file, stderr_file) = (open(&stdout), open(&stderr));
            let child = shell(command, &stdout)
                .stdin(barrier.try_clone().expect("a descriptor can be duplicated"))
                .stdout(there.try_clone().expect("a descriptor can be duplicated"))
                .stderr(Stdio::from(stderr_file.try_clone().expect("a descriptor can be duplicated")))
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}"));
            (child, stdout_file, stderr_file)
        })
        .collect();
    drop((there, barrier));
    here.read_exact(&mut vec![0; commands.len()]).expect("every one of them comes to the barrier");
    drop(release);

    let mut outcomes = Vec::new();
    let mut hanging = Vec::new();
    for (command, (mut child, mut stdout, mut stderr)) in commands.iter().zip(held) {
        if !process::wait_for_exit(child.id(), PATIENCE) {
            hanging.push(format!("{command:?} hangs:\n{}", process::where_it_waits(child.id())));
            child.kill().expect("the child is ours");
        }
        let status = child.wait().expect("the child is ours");
        outcomes.push(Outcome::new(format!("{command:?}"), status, text(&mut stdout), text(&mut stderr)));
    }
    assert!(hanging.is_empty(), "{}", hanging.join("\n"));
    outcomes
}

/// The command behind the barrier, in its own environment and directory.
fn shell(command: &Command, stdout: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", HELD]).arg(stdout).arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        shell.env(name, value.expect("set"));
    }
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    shell
}
