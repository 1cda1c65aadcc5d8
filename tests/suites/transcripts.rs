//! What people see: transcripts of ecsctl, success and error, compared word for word.
//!
//! A transcript is a page of `$ command` lines with their output, standard error included, and the exit status where it is not 0.
//! `SNAPSHOTS=overwrite` runs the commands of each page again and writes down what they print: read the difference before you commit it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use harness::{Installation, Options, program, repository, run};
use regex::Regex;
use snapbox::{Assert, Data, Redactions, assert::DEFAULT_ACTION_ENV};

fn page(name: &str) -> PathBuf {
    repository().join("tests/transcripts").join(name)
}

/// What differs from run to run.
fn redactions(dir: &str) -> Redactions {
    let mut redactions = Redactions::new();
    let pattern = |text: &str| Regex::new(text).expect("a valid pattern");
    for (name, regex) in [
        ("[ID]", r"(?<redacted>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"),
        ("[TIME]", r"(?<redacted>20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ)"),
        ("[SHORT]", r"(?m)^(?<redacted>[0-9a-f]{8})  "),
        ("[PID]", r#""pid": (?<redacted>\d+)"#),
        ("[SERIAL]", r"\(serial (?<redacted>[0-9a-f]{16})\)"),
        ("[SPACE]", r"(?<redacted>\d+\.\d GiB of \d+\.\d GiB) free"),
    ] {
        redactions.insert(name, pattern(regex)).expect("a valid placeholder");
    }
    redactions.insert("[DIR]", dir.to_owned()).expect("a valid placeholder");
    redactions
}

/// Runs the commands of a page in a shell, in order, and compares all that they print.
fn play(name: &str, ecs: &Installation) {
    let path = page(name);
    let written = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let bin = program("ecsctl");
    let bin = bin.parent().expect("programs lie in a directory");
    let mut shown = String::new();
    let mut outside = true;
    for line in written.lines() {
        if line.starts_with("```") {
            outside = line == "```";
            shown += &format!("{line}\n");
        } else if outside {
            shown += &format!("{line}\n");
        } else if let Some(command) = line.strip_prefix("$ ") {
            let mut shell = ecs.command("ecsctl");
            let environment: Vec<_> =
                shell.get_envs().map(|(n, v)| (n.to_owned(), v.map(ToOwned::to_owned))).collect();
            shell = Command::new("bash");
            shell.env_clear().current_dir(ecs.dir());
            for (name, value) in environment {
                shell.env(name, value.unwrap_or_default());
            }
            let search = std::env::var("PATH").unwrap_or_default();
            shell
                .env("PATH", format!("{}:{search}", bin.display()))
                .args(["-c", &format!("exec 2>&1; {command}")]);
            let outcome = run(&mut shell);
            shown += &format!("$ {command}\n{}", outcome.stdout);
            if outcome.code != 0 {
                shown += &format!("? {}\n", outcome.code);
            }
            shown += "\n";
        }
    }
    // A block ends with its last output, not with an empty line.
    let shown = shown.replace("\n\n```\n", "\n```\n");
    let dir = ecs.dir().to_str().expect("UTF-8").to_owned();
    Assert::new()
        .action_env(DEFAULT_ACTION_ENV)
        .normalize_paths(false)
        .redact_with(redactions(&dir))
        .eq(shown, Data::read_from(&path, Some(snapbox::data::DataFormat::Text)));
}

#[test]
fn the_walk_through_of_every_noun_prints_what_its_page_shows() {
    play("cloud.md", &Installation::new());
}

#[test]
fn refusals_print_what_their_page_shows() {
    play("refusals.md", &Installation::new());
}

#[test]
fn without_a_key_service_each_command_says_so() {
    play("no-kmsd.md", &Installation::with(Options { start: false, ..Options::default() }));
}

#[test]
fn help_prints_what_its_page_shows() {
    play("help.md", &Installation::with(Options { init: false, start: false, ..Options::default() }));
}
