//! kmsd's API as any HTTP client sees it, independent of the project's own client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body, null where it is not JSON.
    pub body: Value,
}

impl Reply {
    /// Demands 200 and returns the body.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status == 200, "{self:?}");
        self.body
    }

    /// The published error code, for instance `KMS.0209`, and empty for a success.
    pub fn error_code(&self) -> &str {
        self.body["error"]["error_code"].as_str().unwrap_or_default()
    }
}

/// One request on a connection of its own.
pub(crate) fn request(
    socket: &Path,
    method: &str,
    target: &str,
    body: Option<&Value>,
) -> std::io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

/// None when the connection ended before the whole reply was there.
fn parse(answer: &[u8]) -> Option<Reply> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not an HTTP response: {text}"));
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = length.unwrap_or_else(|| panic!("a small reply should say its length: {head}"));
    (body.len() >= length).then(|| Reply { status, body: serde_json::from_str(body).unwrap_or(Value::Null) })
}
