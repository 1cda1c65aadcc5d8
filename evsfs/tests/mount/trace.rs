//! The calls of a serving process, counted or held up by strace.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};

use crate::disk::pid;

/// strace, attached to a process or to a single thread of it for as long as this lives.
pub(crate) struct Traced(Child);

impl Traced {
    /// Returns once it is there. With `-f` among the options all threads of the process are meant, also those to come.
    pub(crate) fn new(process: u32, options: &[&str]) -> Self {
        let mut child = Command::new("strace")
            .args(options)
            .args(["-p", &process.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace can be run");
        let mut lines = BufReader::new(child.stderr.as_mut().expect("piped")).lines();
        let attached = lines.next().expect("strace says that it is there").unwrap();
        assert!(attached.contains("attached"), "{attached}");
        Self(child)
    }

    /// Lets go of the process, which goes on, and returns when everything that was seen is written.
    pub(crate) fn finish(mut self) {
        kill_process(pid(self.0.id()), Signal::TERM).expect("strace runs");
        self.0.wait().unwrap();
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // strace lets go of the process when it dies. It may have ended with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
