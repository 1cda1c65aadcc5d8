//! The user PIN: read from a file for each login, and never tried twice when it was refused.
//!
//! A token locks after a few wrong PINs, and then its keys may be lost. So a refused PIN is remembered beside the store, and
//! neither a recovery nor a restart tries it again before the file has changed. It is remembered in memory too, so that a full disk does not bring the tries back.

use std::{
    fs::{self, File, Metadata},
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use cryptoki::{error::RvError, types::AuthPin};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::hsm::{HsmError, TokenIdentity, error::PinFault};

/// Longest PIN taken, in bytes.
const MAX_PIN: usize = 255;

/// Where the PIN is, and where a refusal is remembered.
#[derive(Clone, Debug)]
pub struct PinFile {
    path: PathBuf,
    /// Systemd guards its credentials by access lists, which show in the group bits of the mode.
    is_credential: bool,
    mark: Option<PathBuf>,
    refused: Arc<Mutex<Option<Refused>>>,
}

/// A state of the file whose PIN was refused.
#[derive(Clone, Debug)]
struct Refused {
    stamp: Stamp,
    token: TokenIdentity,
    code: String,
}

/// Tells one state of the file from another, without a digest of the PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(String);

impl PinFile {
    /// A file that only its owner reads. A refusal is remembered in `mark`.
    #[must_use]
    pub fn file(path: PathBuf, mark: Option<PathBuf>) -> Self {
        Self { path, is_credential: false, mark, refused: Arc::default() }
    }

    /// A systemd credential.
    #[must_use]
    pub fn credential(path: PathBuf, mark: Option<PathBuf>) -> Self {
        Self { path, is_credential: true, mark, refused: Arc::default() }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a PIN that may be tried.
    ///
    /// # Errors
    /// If the file is exposed or unusable, or this very PIN was refused before.
    pub fn check(&self) -> Result<(), HsmError> {
        self.read().map(drop)
    }

    /// The PIN, and which state of the file it is from.
    ///
    /// # Errors
    /// If the file is exposed or unusable, or this very PIN was refused before.
    pub(super) fn read(&self) -> Result<(AuthPin, Stamp), HsmError> {
        let fail = |reason| HsmError::PinFile { path: self.path.clone(), reason };
        let unreadable = |e: std::io::Error| fail(PinFault::Unreadable(e.kind()));
        let mut file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc_nonblock())
            .open(&self.path)
            .map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.permissions().mode() & 0o7777;
        let exposed = if self.is_credential { 0o007 } else { 0o077 };
        if mode & exposed != 0 {
            return Err(fail(PinFault::Exposed { mode }));
        }
        if !metadata.is_file() {
            return Err(fail(PinFault::Malformed));
        }
        let stamp = Stamp::of(&metadata);
        let remembered = self.refused.lock().clone();
        let refused =
            [remembered, self.read_mark()].into_iter().flatten().find(|refused| refused.stamp == stamp);
        if let Some(Refused { token, code, .. }) = refused {
            return Err(HsmError::PinRefused { token, path: self.path.clone(), code });
        }
        let pin = read_line(&mut file).map_err(unreadable)?;
        match pin {
            Ok(pin) => Ok((pin, stamp)),
            Err(reason) => Err(fail(reason)),
        }
    }

    /// The token took the PIN.
    pub(super) fn accepted(&self) {
        *self.refused.lock() = None;
        if let Some(mark) = &self.mark
            && mark.exists()
            && let Err(error) = fs::remove_file(mark)
        {
            tracing::warn!(path = %mark.display(), %error, "cannot remove the mark of a refused PIN");
        }
    }

    /// The token refused the PIN from that state of the file: remembers it.
    pub(super) fn refused(&self, stamp: Stamp, token: TokenIdentity, code: &RvError) -> HsmError {
        let code = format!("{code:?}");
        if let Some(mark) = &self.mark {
            let text = format!("{}\n{}\t{}\t{code}", stamp.0, token.label, token.serial);
            // Whole or not at all: what is left of a full disk would be no mark.
            let new = mark.with_extension("new");
            if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, mark)) {
                tracing::error!(path = %mark.display(), %error, "cannot note the refused PIN; a restart of kmsd will try it again");
            }
        }
        *self.refused.lock() = Some(Refused { stamp, token: token.clone(), code: code.clone() });
        HsmError::PinRefused { token, path: self.path.clone(), code }
    }

    fn read_mark(&self) -> Option<Refused> {
        let text = fs::read_to_string(self.mark.as_ref()?).ok()?;
        let (stamp, rest) = text.split_once('\n')?;
        let (label, rest) = rest.split_once('\t')?;
        let (serial, code) = rest.split_once('\t')?;
        let token = TokenIdentity { label: label.to_owned(), serial: serial.to_owned() };
        Some(Refused { stamp: Stamp(stamp.to_owned()), token, code: code.to_owned() })
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self(format!(
            "{} {} {} {}.{:09}",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.ctime(),
            metadata.ctime_nsec()
        ))
    }
}

fn read_line(file: &mut File) -> std::io::Result<Result<AuthPin, PinFault>> {
    let mut bytes = Zeroizing::new(vec![0u8; MAX_PIN + 2]);
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..])? {
            0 => break,
            n => len += n,
        }
    }
    let text = &bytes[..len];
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() {
        return Ok(Err(PinFault::Empty));
    }
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() <= MAX_PIN && !t.contains(['\n', '\0']));
    Ok(text.map(|pin| AuthPin::new(pin.into())).ok_or(PinFault::Malformed))
}

/// A FIFO in the file's place must not hang the start.
fn libc_nonblock() -> i32 {
    i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin_file(text: &str, mode: u32) -> (tempfile::TempDir, PinFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let mark = dir.path().join("refused");
        (dir, PinFile::file(path, Some(mark)))
    }

    fn fault(file: &PinFile) -> PinFault {
        match file.read() {
            Err(HsmError::PinFile { reason, .. }) => reason,
            other => panic!("{:?}", other.map(|_| ())),
        }
    }

    #[test]
    fn exposed_empty_and_malformed_files_are_refused() {
        for mode in [0o604, 0o640, 0o602, 0o777] {
            assert!(matches!(fault(&pin_file("1234\n", mode).1), PinFault::Exposed { .. }), "{mode:o}");
        }
        assert!(matches!(fault(&pin_file("\n", 0o600).1), PinFault::Empty));
        assert!(matches!(fault(&pin_file("1\n2\n", 0o600).1), PinFault::Malformed));
        assert!(matches!(fault(&pin_file(&"1".repeat(256), 0o600).1), PinFault::Malformed));
        let missing = PinFile::file("/nonexistent/pin".into(), None);
        assert!(matches!(fault(&missing), PinFault::Unreadable(std::io::ErrorKind::NotFound)));
        assert!(pin_file("1234\n", 0o600).1.read().is_ok());
    }

    #[test]
    fn a_refused_pin_is_not_given_out_again_until_the_file_changes() {
        let (_dir, file) = pin_file("1234\n", 0o600);
        let token = TokenIdentity { label: "t".into(), serial: "s".into() };
        let (_, stamp) = file.read().unwrap();
        file.refused(stamp, token.clone(), &RvError::PinIncorrect);
        for _ in 0..2 {
            let error = file.read().map(|_| ()).unwrap_err();
            assert!(
                matches!(&error, HsmError::PinRefused { token: t, code, .. } if *t == token && code == "PinIncorrect")
            );
        }
        fs::remove_file(&file.path).unwrap();
        fs::write(&file.path, "12345\n").unwrap();
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(file.read().is_ok());
        file.accepted();
        assert!(!file.mark.as_ref().unwrap().exists());
    }

    /// The mark cannot be written: the PIN is not tried again all the same, and a file that was corrected while it was tried is.
    #[test]
    fn a_refused_pin_is_remembered_without_a_mark() {
        let (dir, file) = pin_file("1234\n", 0o600);
        fs::create_dir(dir.path().join("refused")).unwrap();
        let token = TokenIdentity { label: "t".into(), serial: "s".into() };
        let (_, stamp) = file.read().unwrap();
        file.refused(stamp, token.clone(), &RvError::PinIncorrect);
        for other in [file.clone(), file.clone()] {
            assert!(matches!(other.read(), Err(HsmError::PinRefused { .. })));
        }
        let corrected = |text| {
            fs::remove_file(&file.path).unwrap();
            fs::write(&file.path, text).unwrap();
            fs::set_permissions(&file.path, fs::Permissions::from_mode(0o600)).unwrap();
        };
        corrected("12345\n");
        let (_, tried) = file.read().unwrap();
        corrected("123456\n");
        file.refused(tried, token, &RvError::PinIncorrect);
        assert!(file.read().is_ok(), "this one was not tried");
    }
}
