//! A private SoftHSM token, and what another PKCS#11 client sees in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::Outcome;
use crate::program::{repository, run};

/// The token's label.
pub(crate) const LABEL: &str = "ecs-test";

/// A token in a directory of its own.
#[derive(Debug)]
pub struct Token {
    dir: PathBuf,
}

impl Token {
    /// Makes a token, by the script that users run.
    #[track_caller]
    pub fn create(dir: &Path) -> Self {
        run(Command::new(repository().join("softhsm-config/make-token.sh")).arg(dir).arg(LABEL)).ok();
        Self { dir: dir.to_owned() }
    }

    /// SoftHSM's configuration file: the value of `SOFTHSM2_CONF`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    /// The file with the user PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.join("pin")
    }

    /// The directory that SoftHSM keeps the objects in. Moved away, the token is absent.
    pub fn objects(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    /// The PKCS#11 module.
    pub fn module() -> PathBuf {
        let fixed = PathBuf::from("/usr/lib/softhsm/libsofthsm2.so");
        if fixed.exists() {
            return fixed;
        }
        let lib = std::fs::read_dir("/usr/lib").expect("/usr/lib exists");
        lib.flatten()
            .map(|entry| entry.path().join("softhsm/libsofthsm2.so"))
            .find(|file| file.exists())
            .expect("the package softhsm2 is installed")
    }

    /// Runs `pkcs11-tool` on the token, logged in as the user.
    pub fn pkcs11_tool(&self, arguments: &[&str]) -> Outcome {
        let pin = std::fs::read_to_string(self.pin_file()).expect("the PIN file was made");
        let mut command = self.tool();
        run(command.env("USER_PIN", pin.trim()).args(["--login", "--pin", "env:USER_PIN"]).args(arguments))
    }

    /// The same without a login: what anybody sees.
    pub fn pkcs11_tool_without_login(&self, arguments: &[&str]) -> Outcome {
        run(self.tool().args(arguments))
    }

    fn tool(&self) -> Command {
        let mut command = Command::new("pkcs11-tool");
        command
            .env("SOFTHSM2_CONF", self.config())
            .arg("--module")
            .arg(Self::module())
            .args(["--token-label", LABEL]);
        command
    }

    /// The master keys: AES keys with a value. SoftHSM makes an object and then writes its attributes, so one that is killed amid this
    /// leaves an object without name and value; that is no key, and must not be mistaken for one.
    #[track_caller]
    pub fn master_keys(&self) -> Vec<SecretKey> {
        let (keys, torn): (Vec<_>, Vec<_>) = self
            .secret_keys()
            .into_iter()
            .filter(|key| key.kind.starts_with("AES"))
            .partition(|key| key.kind.starts_with("AES length"));
        assert!(torn.iter().all(|key| key.id.is_empty()), "a key with a name has no value: {torn:?}");
        keys
    }

    /// Every secret key in the token, as `pkcs11-tool` lists it.
    #[track_caller]
    pub fn secret_keys(&self) -> Vec<SecretKey> {
        let listing = self.pkcs11_tool(&["--list-objects", "--type", "secrkey"]).ok().stdout;
        let mut keys: Vec<SecretKey> = Vec::new();
        for line in listing.lines() {
            if let Some(kind) = line.strip_prefix("Secret Key Object; ") {
                keys.push(SecretKey { kind: kind.trim().to_owned(), ..SecretKey::default() });
                continue;
            }
            let Some((name, value)) = line.trim().split_once(':') else { continue };
            let Some(key) = keys.last_mut() else { continue };
            let words = || value.split(',').map(|word| word.trim().to_owned()).collect();
            match name.trim() {
                "label" => key.label = value.trim().to_owned(),
                "ID" => key.id = value.trim().to_owned(),
                "Usage" => key.usage = words(),
                "Access" => key.access = words(),
                _ => {}
            }
        }
        keys
    }
}

/// One secret key object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretKey {
    /// Type and length, for instance `AES length 32`.
    pub kind: String,
    /// `CKA_LABEL`.
    pub label: String,
    /// `CKA_ID` in hexadecimal.
    pub id: String,
    /// What it may be used for: `encrypt`, `wrap` and so on.
    pub usage: Vec<String>,
    /// `sensitive`, `never extractable` and so on.
    pub access: Vec<String>,
}
