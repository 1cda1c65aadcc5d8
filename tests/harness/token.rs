//! A private token, and what another PKCS#11 client sees in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::outcome::Outcome;
use crate::program::{repository, run};
use crate::proxy::Proxy;

/// Whose token it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// SoftHSM.
    SoftHsm,
    /// SoftHSM, with a module before it that fails calls at a test's word.
    SoftHsmByProxy,
    /// The same, which hides AES-GCM.
    SoftHsmWithoutGcm,
    /// The soft token of opencryptoki, which has no AES-GCM in its older versions. Whatever uses it runs in namespaces of its own.
    OpenCryptoki,
}

/// A token in a directory of its own.
#[derive(Clone, Debug)]
pub struct Token {
    dir: PathBuf,
    provider: Provider,
    proxy: Option<Proxy>,
}

impl Token {
    /// Makes a token; with SoftHSM by the script that users run.
    #[track_caller]
    pub fn create(dir: &Path, provider: Provider) -> Self {
        let standing = match provider {
            Provider::SoftHsmByProxy => Some(""),
            // CKM_AES_GCM
            Provider::SoftHsmWithoutGcm => Some("hide 0x1087"),
            Provider::SoftHsm | Provider::OpenCryptoki => None,
        };
        let proxy = standing.map(|orders| Proxy::new(dir.with_extension("proxy"), orders));
        let token = Self { dir: dir.to_owned(), provider, proxy };
        if provider == Provider::OpenCryptoki {
            std::fs::create_dir(dir).expect("a directory can be made");
            run(&mut token.command("true")).ok();
        } else {
            let script = repository().join("softhsm-config/make-token.sh");
            run(Command::new(script).arg(dir).arg(token.label())).ok();
        }
        token
    }

    /// Its label.
    pub const fn label(&self) -> &'static str {
        match self.provider {
            Provider::SoftHsm | Provider::SoftHsmByProxy | Provider::SoftHsmWithoutGcm => "ecs-test",
            Provider::OpenCryptoki => "test",
        }
    }

    /// The module between kmsd and the token, if there is one.
    pub const fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// SoftHSM's configuration file: the value of `SOFTHSM2_CONF`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    /// The file with the user PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.join("pin")
    }

    /// The module that kmsd loads.
    pub(crate) fn kmsd_module(&self) -> PathBuf {
        if self.proxy.is_some() { Proxy::module() } else { self.own_module() }
    }

    /// What a program that uses the token finds in its environment.
    pub(crate) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut variables = vec![("SOFTHSM2_CONF", self.config())];
        if let Some(proxy) = &self.proxy {
            variables.push(("PKCS11_PROXY_MODULE", self.own_module()));
            variables.push(("PKCS11_PROXY_CONTROL", proxy.control().to_owned()));
        }
        variables
    }

    /// What a program that uses the token is started by: nothing, or a script and its arguments.
    pub(crate) fn runner(&self) -> Vec<OsString> {
        match self.provider {
            Provider::SoftHsm | Provider::SoftHsmByProxy | Provider::SoftHsmWithoutGcm => Vec::new(),
            Provider::OpenCryptoki => vec![opencryptoki().into(), self.dir.clone().into()],
        }
    }

    fn own_module(&self) -> PathBuf {
        match self.provider {
            Provider::SoftHsm | Provider::SoftHsmByProxy | Provider::SoftHsmWithoutGcm => Self::module(),
            Provider::OpenCryptoki => {
                run(Command::new(opencryptoki()).arg("--module")).ok().stdout.trim().into()
            }
        }
    }

    /// The directory that SoftHSM keeps the objects in. Moved away, the token is absent.
    pub fn objects(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    /// SoftHSM's PKCS#11 module.
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
        let mut command = self.command("pkcs11-tool");
        command.arg("--module").arg(self.own_module()).args(["--token-label", self.label()]);
        command
    }

    fn command(&self, name: &str) -> Command {
        let mut words = self.runner();
        words.push(name.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("SOFTHSM2_CONF", self.config());
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
            .partition(|key| key.kind.starts_with("AES length") || key.is_imported());
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

fn opencryptoki() -> PathBuf {
    repository().join("tests/opencryptoki.sh")
}

impl SecretKey {
    /// Whether its value was brought along. SoftHSM does not tell the length of such a key.
    fn is_imported(&self) -> bool {
        !self.id.is_empty() && self.access == ["sensitive"]
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
