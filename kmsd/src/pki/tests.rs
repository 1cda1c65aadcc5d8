use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::*;

const NOW: &str = "2026-11-24T23:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles::at(dir.path().join("tls"));
    files.create("127.0.0.1".parse().unwrap(), now()).unwrap();
    assert_eq!(mode(&dir.path().join("tls")), 0o700);
    assert_eq!(mode(&dir.path().join("tls/ca.key")), 0o600);
    assert_eq!(mode(&files.server()), 0o600);
    let client = dir.path().join("client.pem");
    files.issue_client("host-1", &client, now()).unwrap();
    assert_eq!(mode(&client), 0o600);
    assert!(!fs::read_to_string(files.authority()).unwrap().contains("PRIVATE"));
}

#[test]
fn nothing_is_overwritten_and_nothing_half_done_stays() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles::at(dir.path().join("tls"));
    files.create("127.0.0.1".parse().unwrap(), now()).unwrap();
    let before = fs::read(files.server()).unwrap();
    let again = files.create("127.0.0.1".parse().unwrap(), now());
    assert!(matches!(again, Err(PkiError::Exists { .. })), "{again:?}");
    assert_eq!(fs::read(files.server()).unwrap(), before);

    let client = dir.path().join("client.pem");
    fs::write(&client, "mine").unwrap();
    assert!(matches!(files.issue_client("c", &client, now()), Err(PkiError::Exists { .. })));
    assert_eq!(fs::read(&client).unwrap(), b"mine");

    let nowhere = TlsFiles::at(dir.path().join("absent/tls"));
    assert!(matches!(nowhere.create("::1".parse().unwrap(), now()), Err(PkiError::File { .. })));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn names_of_clients_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles::at(dir.path().join("tls"));
    files.create("127.0.0.1".parse().unwrap(), now()).unwrap();
    for name in ["", "a b", "a/../b", "a\nb", "x".repeat(65).as_str()] {
        let refused = files.issue_client(name, &dir.path().join("c.pem"), now());
        assert!(matches!(refused, Err(PkiError::Name { .. })), "{name:?}");
    }
    assert!(!dir.path().join("c.pem").exists());
}

#[test]
fn renewing_keeps_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles::at(dir.path().join("tls"));
    files.create("127.0.0.1".parse().unwrap(), now()).unwrap();
    let (authority, server) = (fs::read(files.authority()).unwrap(), fs::read(files.server()).unwrap());
    files.renew_server("10.0.0.1".parse().unwrap(), now()).unwrap();
    assert_eq!(fs::read(files.authority()).unwrap(), authority);
    assert_ne!(fs::read(files.server()).unwrap(), server);
    assert_eq!(mode(&files.server()), 0o600);
    assert_eq!(fs::read_dir(dir.path().join("tls")).unwrap().count(), 3);
}
