//! QEMU's monitor protocol (docs/interop/qmp-spec.rst), as far as it is needed: one command, one answer.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

/// An answer is a few hundred bytes; events come in between.
const LONGEST: u64 = 1 << 20;

/// A connection to the monitor of one machine.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects and says what it must before any command. Each answer must come within `patience`.
    ///
    /// # Errors
    /// Also when somebody else is connected: the monitor serves one at a time.
    pub(super) fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        if monitor.line()?.get("QMP").is_none() {
            return Err(bad("it is no monitor of QEMU"));
        }
        monitor.execute("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Gives a command without arguments.
    ///
    /// # Errors
    /// Also QEMU's own, in its words.
    pub(super) fn execute(&mut self, command: &str) -> io::Result<Value> {
        let line = format!("{}\n", json!({"execute": command}));
        self.stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(bad(error["desc"].as_str().unwrap_or("it refuses")));
            }
            // What else comes is an event.
        }
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.stream).take(LONGEST).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(|_| bad("it does not speak QMP"))
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
