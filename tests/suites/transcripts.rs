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
        ("[PID]", r"\(pid (?<redacted>\d+)\)"),
        ("[SERIAL]", r"\(serial (?<redacted>[0-9a-f]{16})\)"),
        ("[ACCESSKEY]", r"\b(?<redacted>[A-Z2-7]{20})\b"),
        ("[SECRET]", r"\b(?<redacted>[A-Za-z0-9+/]{40})\b"),
        ("[HEX]", r"\b(?<redacted>[0-9a-f]{64})\b"),
        ("[COMMIT]", r"\bcommit (?<redacted>\d+)"),
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
fn keys_access_keys_and_the_audit_log_print_what_their_page_shows() {
    play("keys.md", &Installation::new());
}

#[test]
fn machines_and_tools_print_what_their_page_shows() {
    play("machines.md", &Installation::new());
}

#[test]
fn errors_print_what_their_page_shows() {
    play("errors.md", &Installation::new());
}

#[test]
fn help_prints_what_its_pages_show() {
    let ecs = Installation::with(Options { init: false, start: false, ..Options::default() });
    let pages = pages();
    let help: Vec<&String> = pages.iter().filter(|page| page.starts_with("help")).collect();
    assert!(help.len() > 10, "{help:?}");
    for page in help {
        play(page, &ecs);
    }
}

fn pages() -> Vec<String> {
    let files =
        fs::read_dir(page("")).expect("the transcripts").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = files.filter_map(|name| name.into_string().ok()).collect();
    names.retain(|name| name.ends_with(".md"));
    names.sort();
    names
}

/// What a page shows of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    Help,
    Success,
    Error,
}

/// Each command that there is, as its manual page is called: `ecsctl-disk-create`.
fn commands(ecs: &Installation) -> Vec<String> {
    ecs.ecsctl("man-pages man").ok();
    let files = fs::read_dir(ecs.dir().join("man"))
        .expect("the manual")
        .map(|page| page.expect("a page").file_name());
    let names: Vec<String> =
        files.filter_map(|name| Some(name.to_str()?.strip_suffix(".1")?.to_owned())).collect();
    let is_leaf = |name: &&String| !names.iter().any(|other| other.starts_with(&format!("{name}-")));
    names.iter().filter(is_leaf).cloned().collect()
}

#[test]
fn every_command_has_its_help_a_success_and_an_error_on_some_page() {
    let ecs = Installation::with(Options { init: false, start: false, ..Options::default() });
    let commands = commands(&ecs);
    assert!(commands.len() > 60, "{}: {commands:?}", commands.len());
    let mut seen = std::collections::BTreeSet::new();
    for page_name in pages() {
        let text = fs::read_to_string(page(&page_name)).expect("a page");
        let shown = text.split("\n$ ").skip(1).chain(text.split("```console\n$ ").skip(1));
        for shown in shown {
            let (line, printed) = shown.split_once('\n').unwrap_or((shown, ""));
            let Some((_, arguments)) = line.split_once("ecsctl ") else { continue };
            let verbs: Vec<&str> = arguments.split(' ').filter(|word| !word.starts_with('-')).collect();
            let name = |words: usize| format!("ecsctl-{}", verbs[..words].join("-"));
            let longest = (1..=verbs.len().min(2)).rev().map(name).find(|name| commands.contains(name));
            let Some(command) = longest else { continue };
            let own = printed.split("\n```").next().unwrap_or_default();
            let failed = own.lines().any(|line| line.starts_with("? "));
            let what = match (line.contains("--help"), failed) {
                (true, _) => Shown::Help,
                (false, true) => Shown::Error,
                (false, false) => Shown::Success,
            };
            seen.insert((command, what));
        }
    }
    let missing: Vec<String> = commands
        .iter()
        .flat_map(|command| [Shown::Help, Shown::Success, Shown::Error].map(|what| (command.clone(), what)))
        .filter(|wanted| !seen.contains(wanted))
        .map(|(command, what)| format!("{command}: {what:?}"))
        .collect();
    assert!(
        missing.is_empty(),
        "add these to a page of tests/transcripts, then SNAPSHOTS=overwrite: {missing:#?}"
    );
}
