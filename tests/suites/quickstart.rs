//! The first README command, as a new user runs it: twice, then removed without a trace.

use std::path::Path;
use std::process::Command;

use harness::{Outcome, process, repository, run_patiently, tree};

fn quickstart(dir: &Path, arguments: &[&str]) -> Outcome {
    let script = repository().join("softhsm-config/quickstart.sh");
    run_patiently(
        Command::new(script)
            .arg("--dir")
            .arg(dir)
            .args(arguments)
            .env_remove("ECS_HOME")
            .env_remove("KMSD_SOCKET"),
    )
}

#[test]
fn the_quick_start_runs_twice_stops_and_removes_everything() {
    let parent = harness::scratch_dir("quick");
    let dir = parent.path().join("q");
    let tree = parent.path().join("tree");
    tree::write(&tree, 300, "some text of a real file that is longer than forty characters, for the search");
    let tree = tree.to_str().expect("UTF-8");

    let first = quickstart(&dir, &["--tree", tree]).ok();
    for line in ["in the volume file:            0 ", "identical: 330 files", "is disabled", "It all runs in"]
    {
        assert!(first.stdout.contains(line), "{line:?} is missing: {first}");
    }
    let pin = std::fs::read_to_string(dir.join("token/pin")).expect("the PIN file is there");
    assert!(!first.stdout.contains(pin.trim()) && !first.stderr.contains(pin.trim()), "the PIN was shown");
    let second = quickstart(&dir, &["--tree", tree]).ok();
    assert!(second.stdout.contains("kmsd runs already"), "{second}");

    // What it leaves can be used as it says.
    let script = format!(". {}/env && ecsctl disk list && ecsctl disk show demo1-data", dir.display());
    let used = run_patiently(Command::new("bash").args(["-c", &script])).ok();
    assert!(used.stdout.contains("demo2-data"), "{used}");

    quickstart(&dir, &["--stop"]).ok();
    assert_eq!(process::with_argument(&dir), [] as [u32; 0], "processes are left after --stop");
    assert_eq!(process::mounts_under(&dir), []);
    assert!(dir.join("ecs").is_dir(), "--stop keeps what is stored");
    quickstart(&dir, &["--tree", tree]).ok();

    quickstart(&dir, &["--remove"]).ok();
    assert!(!dir.exists());
    assert_eq!(process::with_argument(&dir), [] as [u32; 0]);
    assert_eq!(process::mounts_under(parent.path()), []);
    assert_eq!(process::loops_under(parent.path()), [] as [String; 0]);
    quickstart(&dir, &["--remove"]).ok();
}

#[test]
fn the_quick_start_takes_no_directory_that_is_not_its_own() {
    let parent = harness::scratch_dir("quick");
    std::fs::write(parent.path().join("precious"), "data").expect("a file can be written");
    for action in ["--remove", "--stop", "--help-me"] {
        let refused = quickstart(parent.path(), &[action]);
        assert!(refused.code != 0 && refused.stderr.contains("error:"), "{refused}");
    }
    let refused = quickstart(parent.path(), &[]);
    assert!(refused.code != 0 && refused.stderr.contains("--dir"), "{refused}");
    assert!(parent.path().join("precious").exists());
}
