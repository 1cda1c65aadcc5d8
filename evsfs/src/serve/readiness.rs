//! How a serving process tells the one who started it that the disk can be used, or why not: one line of JSON on its standard
//! output, which is a pipe then.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Child;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Report, StartError};

/// A disk that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The serving process.
    pub pid: u32,
    /// The raw view.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    Ok(Ready),
    Error(Report),
}

/// Prints that a disk can be used.
type Print = Box<dyn FnOnce(&Ready) -> io::Result<()>>;

/// Who is to be told.
pub enum Readiness {
    /// The one who started this process, at the other end of its standard output.
    Parent,
    /// Whoever reads what `print` writes.
    Here {
        /// Prints it.
        print: Print,
    },
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Parent => "Parent",
            Self::Here { .. } => "Here",
        })
    }
}

impl Readiness {
    /// The disk can be used.
    ///
    /// # Errors
    /// If nobody is there to hear it.
    pub fn tell(self, ready: &Ready) -> Result<(), StartError> {
        match self {
            Self::Parent => send(&Message::Ok(ready.clone())),
            Self::Here { print } => print(ready),
        }
        .map_err(|source| StartError::Abandoned { source })
    }

    /// It cannot.
    ///
    /// # Errors
    /// If nobody is there to hear it.
    pub fn fail(report: &Report) -> io::Result<()> {
        send(&Message::Error(report.clone()))
    }
}

/// Writes the line and lets go of the pipe, whose end tells the parent that no more comes.
fn send(message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// Waits for a started process to be ready or to say why it is not.
///
/// # Errors
/// What it said, or that it ended without a word.
pub fn await_ready(child: &mut Child) -> Result<Ready, Failure> {
    let system = |operation| move |source| StartError::System { operation, source };
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe).read_line(&mut line).map_err(system("listen to the serving process"))?;
    }
    match serde_json::from_str(&line) {
        Ok(Message::Ok(ready)) => Ok(ready),
        Ok(Message::Error(report)) => {
            child.wait().map_err(system("wait for the serving process"))?;
            Err(report.into())
        }
        Err(_) => {
            let status = child.wait().map_err(system("wait for the serving process"))?;
            Err(StartError::Ended { status }.into())
        }
    }
}
