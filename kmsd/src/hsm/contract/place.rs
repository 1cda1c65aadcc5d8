//! Where a token comes from.
//!
//! A PKCS#11 module is one per process and reads its configuration from the environment, so each test on one runs in a
//! process of its own, on a token of its own, with the label "test".

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::hsm::pkcs11::{PinFile, Pkcs11Settings, Select};

/// SoftHSM.
pub(super) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const INSIDE: &str = "KMSD_TEST_TOKEN_DIR";
const INSIDE_MODULE: &str = "KMSD_TEST_MODULE";

/// Whose token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    /// SoftHSM.
    SoftHsm,
    /// The same behind the proxy, which obeys [`control`].
    SoftHsmByProxy,
    /// The same, which hides AES-GCM.
    SoftHsmWithoutGcm,
    /// The soft token of opencryptoki; needs root.
    OpenCryptoki,
}

/// Runs the calling test again in a process that has a token of that provider's.
pub(super) fn on(provider: Provider, test: &str, body: impl FnOnce(PathBuf)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return body(dir.into());
    }
    let owner = tempfile::tempdir().unwrap();
    let dir = owner.path();
    let this = std::env::current_exe().unwrap();
    let mut command = match provider {
        Provider::OpenCryptoki => {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/opencryptoki.sh");
            let module = Command::new(&script).arg("--module").output().unwrap();
            assert!(module.status.success(), "{}", String::from_utf8_lossy(&module.stderr));
            let mut command = Command::new(script);
            command.arg(dir).arg(this).env(INSIDE_MODULE, String::from_utf8_lossy(&module.stdout).trim());
            command
        }
        Provider::SoftHsm | Provider::SoftHsmByProxy | Provider::SoftHsmWithoutGcm => {
            let conf = make_softhsm(dir);
            let module = if provider == Provider::SoftHsm {
                MODULE.into()
            } else {
                control(dir, if provider == Provider::SoftHsmWithoutGcm { WITHOUT_GCM } else { "" });
                this.with_file_name("libpkcs11_proxy.so")
            };
            let mut command = Command::new(this);
            command
                .env("SOFTHSM2_CONF", conf)
                .env("PKCS11_PROXY_MODULE", MODULE)
                .env("PKCS11_PROXY_CONTROL", dir.join("control"))
                .env(INSIDE_MODULE, module);
            command
        }
    };
    let run = command
        .args(["--exact", &format!("hsm::contract::{test}"), "--test-threads=1"])
        .env(INSIDE, dir)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}

pub(super) fn on_softhsm(test: &str, body: impl FnOnce(PathBuf)) {
    on(Provider::SoftHsm, test, body);
}

/// A SoftHSM token, and where its configuration is.
fn make_softhsm(dir: &Path) -> PathBuf {
    fs::create_dir(dir.join("tokens")).unwrap();
    let conf = dir.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", dir.join("tokens").display());
    fs::write(&conf, text).unwrap();
    write_pin(&dir.join("pin"), "1234");
    let init = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "test", "--so-pin", "12345678", "--pin", "1234"])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .expect("softhsm2-util is installed (package softhsm2)");
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    conf
}

/// `CKM_AES_GCM` is not listed.
const WITHOUT_GCM: &str = "hide 0x1087\n";

/// New orders for the proxy, in place of the old ones.
pub(super) fn control(dir: &Path, orders: &str) {
    let new = dir.join("control.new");
    fs::write(&new, orders).unwrap();
    fs::rename(new, dir.join("control")).unwrap();
}

/// From now on the calls are written down, by a token without GCM.
pub(super) fn trace_anew(dir: &Path) {
    control(dir, &format!("{WITHOUT_GCM}trace\n"));
}

/// The calls since.
pub(super) fn traced(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("control.trace")).unwrap().lines().map(str::to_owned).collect()
}

pub(super) fn write_pin(path: &Path, pin: &str) {
    let new = path.with_extension("new");
    fs::write(&new, format!("{pin}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

pub(super) fn settings(dir: &Path) -> Pkcs11Settings {
    Pkcs11Settings {
        module: std::env::var_os(INSIDE_MODULE).expect("set for the process inside").into(),
        select: Select::Label("test".into()),
        expected: None,
        pin: PinFile::file(dir.join("pin"), Some(dir.join("mark"))),
    }
}
