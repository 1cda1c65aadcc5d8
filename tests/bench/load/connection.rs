//! A connection that costs next to nothing: what is measured is the service.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

pub(crate) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("kmsd serves");
        Self { stream, buffer: vec![0; 16 << 10] }
    }

    /// Sends a request and reads its answer, which must be a success.
    pub(crate) fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).expect("kmsd reads");
        let mut len = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[len..]).expect("kmsd answers");
            assert!(read > 0, "kmsd closed the connection");
            len += read;
            if is_whole(&self.buffer[..len]) {
                break;
            }
        }
        let answer = &self.buffer[..len];
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(answer));
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = std::str::from_utf8(&answer[..head]).expect("headers are text");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|digits| digits.parse().ok()).expect("kmsd says the length");
    answer.len() >= head + 4 + length
}
