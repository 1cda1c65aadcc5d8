//! The client against a peer that answers by script, over a real socket.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread::JoinHandle,
    time::Duration,
};

use super::*;

const KEY: &str = "0d0466b0-e727-4d9c-b35d-f84bb474a37f";

struct Peer {
    socket: PathBuf,
    script: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Peer {
    fn new(script: impl FnOnce(UnixListener) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        Self { socket, script: std::thread::spawn(move || script(listener)), _dir: dir }
    }

    fn finish(self) {
        self.script.join().unwrap();
    }
}

/// Takes one request off the connection and returns its line and body.
fn take(stream: &UnixStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if let Some(n) = header.strip_prefix("content-length: ") {
            length = n.trim().parse().unwrap();
        }
        if header == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (line.trim().to_owned(), String::from_utf8(body).unwrap())
}

fn answer(mut stream: &UnixStream, status: u16, body: &str) {
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

fn enabled() -> String {
    format!(r#"{{"key_info":{{"key_id":"{KEY}","key_state":"2"}}}}"#)
}

#[test]
fn a_request_has_the_published_path_and_names() {
    let peer = Peer::new(|listener| {
        let (stream, _) = listener.accept().unwrap();
        let (line, body) = take(&stream);
        assert_eq!(line, "POST /v1.0/default/kms/decrypt-datakey HTTP/1.1");
        assert_eq!(body, r#"{"cipher_text":"0102","encryption_context":{"a":"b"}}"#);
        let key = "11".repeat(32);
        answer(&stream, 200, &format!(r#"{{"data_key":"{key}","datakey_length":"32","datakey_dgst":""}}"#));
    });
    let client = Client::new(&peer.socket);
    let wrapped = WrappedDek::new(vec![1, 2]).unwrap();
    let dek = client.decrypt_datakey(&wrapped, &[("a", "b")].into_iter().collect()).unwrap();
    assert!(dek.expose() == &[0x11; 32]);
    peer.finish();
}

#[test]
fn k5_a_data_key_is_wrapped_anew_in_the_same_context() {
    let peer = Peer::new(|listener| {
        let (stream, _) = listener.accept().unwrap();
        let (line, body) = take(&stream);
        assert_eq!(line, "POST /v1.0/default/kms/re-encrypt HTTP/1.1");
        let context = r#"{"a":"b"}"#;
        let expected = format!(
            r#"{{"destination_key_id":"k","source_encryption_context":{context},"destination_encryption_context":{context},"cipher_text":"0102"}}"#
        );
        assert_eq!(body, expected);
        answer(&stream, 200, &format!(r#"{{"key_id":"{KEY}","source_key_id":"x","cipher_text":"0304"}}"#));
    });
    let wrapped = WrappedDek::new(vec![1, 2]).unwrap();
    let context = [("a", "b")].into_iter().collect();
    let moved = Client::new(&peer.socket).re_encrypt_datakey(&wrapped, &context, "k").unwrap();
    assert_eq!((moved.wrapped.as_bytes(), moved.key_id.to_string().as_str()), (&[3, 4][..], KEY));
    peer.finish();
}

#[test]
fn the_connection_is_kept_and_reopened_once_when_it_was_closed() {
    let peer = Peer::new(|listener| {
        let (first, _) = listener.accept().unwrap();
        for _ in 0..2 {
            take(&first);
            answer(&first, 200, &enabled());
        }
        drop(first);
        let (second, _) = listener.accept().unwrap();
        take(&second);
        answer(&second, 200, &enabled());
    });
    let client = Client::new(&peer.socket);
    for _ in 0..3 {
        assert_eq!(client.enable_key(KEY).unwrap(), KeyState::Enabled);
    }
    peer.finish();
}

#[test]
fn only_a_harmless_request_is_sent_again_when_its_answer_is_lost() {
    let peer = Peer::new(|listener| {
        for verb in ["describe-key", "create-key"] {
            let (stream, _) = listener.accept().unwrap();
            take(&stream);
            answer(&stream, 200, &enabled());
            assert!(take(&stream).0.contains(verb));
            drop(stream); // after the request, before the answer
            if verb == "describe-key" {
                let (again, _) = listener.accept().unwrap();
                assert!(take(&again).0.contains(verb));
                answer(&again, 404, r#"{"error":{"error_code":"KMS.0207","error_msg":"no such key"}}"#);
            }
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "create-key was sent twice");
    });
    let client = Client::new(&peer.socket);
    client.enable_key(KEY).unwrap();
    assert!(client.describe_key(KEY).unwrap_err().is_not_found());
    let client = Client::new(&peer.socket);
    client.enable_key(KEY).unwrap();
    let error = client.create_key(&NewKey { alias: "a".into(), ..NewKey::default() }).unwrap_err();
    assert!(matches!(error, ClientError::ReplyLost { .. }), "{error}");
    peer.finish();
}

#[test]
fn a_silent_service_is_given_up_in_time() {
    let peer = Peer::new(|listener| {
        let (stream, _) = listener.accept().unwrap();
        take(&stream);
        // Until the client goes away.
        assert_eq!((&stream).read(&mut [0; 1]).unwrap(), 0);
    });
    let timeouts = Timeouts { connect: Duration::from_secs(1), total: Duration::from_millis(50) };
    let client = Client::with_timeouts(&peer.socket, timeouts);
    let error = client.health().unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    assert!(error.is_unavailable());
    peer.finish();
}

#[test]
fn a_missing_service_is_named_with_the_remedy() {
    let error = Client::new("/nonexistent/kmsd.sock").health().unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert!(error.to_string().contains("/nonexistent/kmsd.sock"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("kmsd serve")), "{:?}", error.hint());
}

#[test]
fn a_refusal_carries_code_message_and_hint() {
    let peer = Peer::new(|listener| {
        let (stream, _) = listener.accept().unwrap();
        take(&stream);
        let body =
            r#"{"error":{"error_code":"KMS.0209","error_msg":"key is disabled","error_hint":"enable it"}}"#;
        answer(&stream, 400, body);
    });
    let error = Client::new(&peer.socket).create_datakey("k", &EncryptionContext::default()).err().unwrap();
    assert_eq!(error.to_string(), "key is disabled (KMS.0209)");
    assert_eq!(error.hint(), Some("enable it"));
    assert!(!error.is_unavailable());
    peer.finish();
}

#[test]
fn replies_that_make_no_sense_are_refused_and_not_quoted() {
    for (reply, expected) in [
        ("SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP reply"),
        ("HTTP/1.1 200 OK\r\n\r\n", "without a length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "more than"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":\"s3\"", "unexpected body"),
    ] {
        let peer = Peer::new(move |listener| {
            let (mut stream, _) = listener.accept().unwrap();
            take(&stream);
            stream.write_all(reply.as_bytes()).unwrap();
        });
        let error = Client::new(&peer.socket).health().unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("s3"), "{error}");
        peer.finish();
    }
}
