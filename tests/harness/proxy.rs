//! The PKCS#11 module before the token (`tests/pkcs11-proxy`), and the orders that it gets.

use std::fs;
use std::path::{Path, PathBuf};

/// Its control file.
#[derive(Clone, Debug)]
pub struct Proxy {
    control: PathBuf,
    /// Orders that stand whatever else is ordered.
    standing: &'static str,
}

impl Proxy {
    /// One that forwards everything, but for the orders that stand.
    pub(crate) fn new(control: PathBuf, standing: &'static str) -> Self {
        let proxy = Self { control, standing };
        proxy.order("");
        proxy
    }

    /// The module: cargo builds it beside the test executable.
    ///
    /// # Panics
    /// If it is not there.
    #[track_caller]
    pub fn module() -> PathBuf {
        let this = std::env::current_exe().expect("the test executable has a path");
        let file = this.with_file_name("libpkcs11_proxy.so");
        assert!(
            file.is_file(),
            "{} is missing: build it with `cargo build -p ecs-tests --tests`",
            file.display()
        );
        file
    }

    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// New orders in place of the old ones, one on each line; `tests/pkcs11-proxy/src/lib.rs` lists them. Calls are counted anew. They are written down
    /// from here on.
    pub fn order(&self, orders: &str) {
        let new = self.control.with_extension("new");
        fs::write(&new, format!("trace\n{}\n{orders}\n", self.standing))
            .expect("the control file can be written");
        // First, so that what was written under the last order is not mistaken for the calls of this one.
        match fs::remove_file(self.trace()) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
        }
        fs::rename(new, &self.control).expect("the control file can be replaced");
    }

    /// The calls since the last order; one that was made to fail ends in ` struck`.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.trace()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Whether a fault of the last order has struck.
    pub fn has_struck(&self) -> bool {
        self.calls().iter().any(|call| call.ends_with(" struck"))
    }

    fn trace(&self) -> PathBuf {
        self.control.with_extension("trace")
    }
}
