use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use super::*;
use crate::{domain::Principal, pki::TlsFiles};

/// Answers with the client's certificate digest and the body, and takes `proof` in the path as proof of identity.
struct Echo(Limits);

impl Handler for Echo {
    type Open = ();

    fn opened(&self) {}

    async fn handle(&self, peer: &Peer, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/proof" {
            peer.prove(&Principal::AccessKey("AK1".into()));
        }
        let certificate = peer.certificate.map(hex::encode).unwrap_or_default();
        let (status, text) = match read_body(request.into_body(), &self.0).await {
            Ok(body) => (StatusCode::OK, format!("[{certificate}] {}", String::from_utf8_lossy(&body))),
            Err(fault) => (StatusCode::BAD_REQUEST, fault.to_string()),
        };
        Response::builder().status(status).body(Full::from(text)).unwrap()
    }
}

struct Server {
    address: SocketAddr,
    files: TlsFiles,
    dir: TempDir,
    tls: watch::Sender<Arc<ServerConfig>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn quick() -> Limits {
    Limits {
        handshake: Duration::from_millis(300),
        headers: Duration::from_millis(300),
        body: Duration::from_millis(300),
        body_bytes: 1000,
        ..Limits::default()
    }
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles::at(dir.path().join("tls"));
        files.create("127.0.0.1".parse().unwrap(), jiff::Timestamp::now()).unwrap();
        let tls = server_config(&files.server(), &files.server(), Some(&files.authority())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (tls, used) = watch::channel(Arc::new(tls));
        let task = tokio::spawn(serve(listener, used, limits, Arc::new(Echo(limits)), stopped));
        Self { address, files, dir, tls, stop, task }
    }

    fn client(&self, identity: Option<&PathBuf>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.files.authority()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(file) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(file).unwrap()],
                    PrivateKeyDer::from_pem_file(file).unwrap(),
                )
                .unwrap(),
        };
        TlsConnector::from(Arc::new(config))
    }

    async fn connect(&self, identity: Option<&PathBuf>) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        self.client(identity).connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }
}

async fn ask(stream: &mut TlsStream<TcpStream>, path: &str, body: &str) -> io::Result<String> {
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let n = stream.read(&mut answer).await?;
    answer.truncate(n);
    if answer.is_empty() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(String::from_utf8(answer).unwrap())
    }
}

/// The other end closes the connection, without an answer, in `within`.
async fn assert_closed(mut stream: impl AsyncReadExt + Unpin, within: Duration) {
    let began = Instant::now();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(within, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open after {:?}", began.elapsed());
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn clients_are_known_by_the_keys_of_their_certificates() {
    let server = Server::start(Limits::default()).await;
    let mut stranger = server.connect(None).await.unwrap();
    let answer = ask(&mut stranger, "/", "hello").await.unwrap();
    assert!(answer.ends_with("[] hello"), "{answer}");

    let identity = server.dir.path().join("client.pem");
    let digest = server.files.issue_client("c1", &identity, jiff::Timestamp::now()).unwrap();
    let mut known = server.connect(Some(&identity)).await.unwrap();
    let answer = ask(&mut known, "/", "hello").await.unwrap();
    assert!(answer.ends_with(&format!("[{}] hello", hex::encode(digest))), "{answer}");
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused() {
    let server = Server::start(Limits::default()).await;
    let other = TlsFiles::at(server.dir.path().join("other"));
    other.create("127.0.0.1".parse().unwrap(), jiff::Timestamp::now()).unwrap();
    let identity = server.dir.path().join("client.pem");
    other.issue_client("c1", &identity, jiff::Timestamp::now()).unwrap();
    // With TLS 1.3 the client learns of it when it first reads.
    let answer = match server.connect(Some(&identity)).await {
        Ok(mut stream) => ask(&mut stream, "/", "hello").await,
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "{answer:?}");
    // And a server of another authority is refused by the client.
    let renewed = TlsFiles::at(server.dir.path().join("tls"));
    assert_eq!(renewed.authority(), server.files.authority());
    std::fs::copy(other.authority(), server.files.authority()).unwrap();
    assert!(server.connect(None).await.is_err());
}

#[tokio::test]
async fn nothing_is_said_without_tls() {
    let server = Server::start(Limits::default()).await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good as an alert and an end.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
}

#[tokio::test]
async fn slow_clients_are_cut() {
    let server = Server::start(quick()).await;
    let limit = Duration::from_secs(5);
    assert_closed(TcpStream::connect(server.address).await.unwrap(), limit).await;

    assert_closed(server.connect(None).await.unwrap(), limit).await;
    let mut half_a_header = server.connect(None).await.unwrap();
    half_a_header.write_all(b"POST / HTTP/1.1\r\nHost: lo").await.unwrap();
    assert_closed(half_a_header, limit).await;

    let mut half_a_body = server.connect(None).await.unwrap();
    half_a_body
        .write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345")
        .await
        .unwrap();
    let mut answer = vec![0; 1000];
    let n = tokio::time::timeout(limit, half_a_body.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..n]).ends_with("did not come in time"));
}

#[tokio::test]
async fn long_headers_and_bodies_are_refused() {
    let server = Server::start(quick()).await;
    let mut stream = server.connect(None).await.unwrap();
    let answer = ask(&mut stream, "/", &"x".repeat(1000)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut stream = server.connect(None).await.unwrap();
    let answer = ask(&mut stream, "/", &"x".repeat(1001)).await.unwrap();
    assert!(answer.ends_with("the body has more than 1000 bytes"), "{answer}");

    let mut chunked = server.connect(None).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunked.write_all(format!("{head}7d0\r\n{}\r\n0\r\n\r\n", "x".repeat(2000)).as_bytes()).await.unwrap();
    let mut answer = vec![0; 1000];
    let n = chunked.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..n]).ends_with("more than 1000 bytes"));

    let mut stream = server.connect(None).await.unwrap();
    let answer = ask(&mut stream, &format!("/{}", "x".repeat(20_000)), "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414"), "{answer}");
}

#[tokio::test]
async fn strangers_that_hold_connections_open_keep_nobody_out() {
    let server = Server::start(Limits { connections: 4, ..Limits::default() }).await;
    let mut known = server.connect(None).await.unwrap();
    ask(&mut known, "/proof", "").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(TcpStream::connect(server.address).await.unwrap());
        let mut served = server.connect(None).await.unwrap();
        assert!(ask(&mut served, "/", "hello").await.unwrap().ends_with("hello"));
    }
    // The one that proved itself was never the one to go.
    assert!(ask(&mut known, "/", "hello").await.unwrap().ends_with("hello"));
}

#[tokio::test]
async fn it_stops_when_told_though_connections_are_open() {
    let server = Server::start(Limits::default()).await;
    let mut open = server.connect(None).await.unwrap();
    ask(&mut open, "/", "hello").await.unwrap();
    let silent = TcpStream::connect(server.address).await.unwrap();
    server.stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(4), server.task).await.expect("it stops").unwrap();
    assert_closed(open, Duration::from_secs(1)).await;
    assert_closed(silent, Duration::from_secs(1)).await;
}

#[test]
fn exposed_missing_and_foreign_files_are_named() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles::at(dir.path().join("tls"));
    files.create("127.0.0.1".parse().unwrap(), jiff::Timestamp::now()).unwrap();
    let (server, authority) = (files.server(), files.authority());
    let refused = |certificate, key, clients| server_config(certificate, key, clients).unwrap_err();
    let absent = dir.path().join("absent");
    assert!(matches!(refused(&absent, &server, None), TlsConfigError::Read { .. }));
    assert!(matches!(refused(&server, &absent, None), TlsConfigError::Read { .. }));
    assert!(matches!(refused(&server, &server, Some(&absent)), TlsConfigError::Read { .. }));
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    assert!(matches!(refused(&empty, &server, None), TlsConfigError::Empty { .. }));
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(refused(&server, &empty, None), TlsConfigError::Pem { .. }));
    assert!(matches!(refused(&authority, &server, None), TlsConfigError::Unusable { .. }));
    fs::set_permissions(&server, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(refused(&server, &server, None), TlsConfigError::Exposed { mode: 0o640, .. }));
}

/// A new certificate is shown to connections that begin after it was put in place; those that are open go on.
#[tokio::test]
async fn a_new_certificate_is_taken_up_without_a_restart() {
    let server = Server::start(Limits::default()).await;
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let mut open = server.connect(None).await.unwrap();
    ask(&mut open, "/", "hello").await.unwrap();
    server.files.renew_server("127.0.0.1".parse().unwrap(), jiff::Timestamp::now()).unwrap();
    let again = server.connect(None).await.unwrap();
    assert_eq!(shown(&open), shown(&again));
    let file = server.files.server();
    let renewed = server_config(&file, &file, Some(&server.files.authority())).unwrap();
    server.tls.send(Arc::new(renewed)).unwrap();
    let mut new = server.connect(None).await.unwrap();
    assert_ne!(shown(&open), shown(&new));
    assert!(ask(&mut new, "/", "hello").await.unwrap().ends_with("hello"));
    assert!(ask(&mut open, "/", "hello").await.unwrap().ends_with("hello"));
}
