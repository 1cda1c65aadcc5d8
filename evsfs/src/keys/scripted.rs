//! A key service that answers by script, over a real socket: for tests of what depends on its answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

use kmsd::client::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::KeyService;

/// Its socket goes with it.
pub(crate) struct Scripted {
    dir: TempDir,
}

impl Scripted {
    /// `script` gives the status and body for each request's path and body.
    pub(crate) fn new(script: impl Fn(&str, &Value) -> (u16, Value) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let script = Arc::new(Mutex::new(script));
        thread::spawn(move || {
            // A lease has a connection of its own.
            for stream in listener.incoming().map_while(Result::ok) {
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    while let Some((path, body)) = take(&stream) {
                        let (status, answer) = if path.ends_with("/lease/release") {
                            (200, json!({}))
                        } else {
                            script.lock()(&path, &body)
                        };
                        let text = answer.to_string();
                        let mut output = &stream;
                        write!(output, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len())
                            .unwrap();
                    }
                });
            }
        });
        Self { dir }
    }

    /// The answer to who asks for a volume's lease, with its anchor.
    pub(crate) fn lease(request: &Value, anchor: Option<&Value>) -> Value {
        json!({"lease": {"session": request["session"], "term": 1}, "seconds": 45, "anchor": anchor})
    }

    pub(crate) fn service(&self) -> KeyService {
        KeyService { client: Client::new(self.dir.path().join("s")) }
    }
}

/// Path and body of the next request, until the connection ends.
fn take(stream: &UnixStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if let Some(number) = header.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = number.trim().parse().unwrap();
        }
        if header == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
