//! `tests/kill-switch`, preloaded into a program.

use std::fs;
use std::path::PathBuf;

/// Its control file, and what it has counted.
#[derive(Clone, Debug)]
pub struct KillSwitch {
    control: PathBuf,
}

impl KillSwitch {
    /// One that counts nothing yet. `control` is a path that nothing is at.
    pub const fn new(control: PathBuf) -> Self {
        Self { control }
    }

    /// What a program is run by so that the switch is in it.
    ///
    /// # Panics
    /// If the library is not there: cargo builds it beside the test executable.
    #[track_caller]
    pub fn runner(&self) -> [String; 3] {
        let this = std::env::current_exe().expect("the test executable has a path");
        let file = this.with_file_name("libkill_switch.so");
        assert!(
            file.is_file(),
            "{} is missing: build it with `cargo build -p ecs-tests --tests`",
            file.display()
        );
        let control = self.control.display();
        ["env".to_owned(), format!("LD_PRELOAD={}", file.display()), format!("KILL_SWITCH={control}")]
    }

    /// From here on the calls with these names are counted, and the program dies before that one, from 1. One program obeys one order.
    pub fn arm(&self, at: u64, calls: &[&str]) {
        self.disarm();
        let new = self.control.with_extension("new");
        fs::write(&new, format!("{at} {}", calls.join(" "))).expect("the control file can be written");
        fs::rename(new, &self.control).expect("the control file can be put in its place");
    }

    /// A program that is started from here on is left alone.
    pub fn disarm(&self) {
        for file in [&self.control, &self.log()] {
            match fs::remove_file(file) {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
            }
        }
    }

    /// The calls that were counted since, the one that it died before among them.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn log(&self) -> PathBuf {
        let mut name = self.control.clone().into_os_string();
        name.push(".calls");
        name.into()
    }
}
