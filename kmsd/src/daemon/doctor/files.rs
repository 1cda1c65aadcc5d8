//! Files, directories, certificates, limits of the process.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};

use super::Finding;
use crate::{
    api::net,
    daemon::{Config, init::check_home},
};

/// Below so many free bytes something should be done.
const LOW_SPACE: u64 = 256 << 20;
/// Below so many the next file of the audit log does not fit.
const NO_SPACE: u64 = 4 << 20;

pub(super) fn check_files(home: &Path, config: &Config, findings: &mut Vec<Finding>) {
    findings.push(match check_home(home) {
        Ok(()) => Finding::ok("home", home.display().to_string()),
        Err(error) => Finding::failed("home", error.to_string(), format!("chmod 700 {}", home.display())),
    });
    findings.push(secret_files(home));
    findings.push(space(home));
    findings.push(
        match config.pin(home).map_err(|e| e.to_string()).and_then(|pin| {
            let path = pin.path().display().to_string();
            pin.check().map(|()| path).map_err(|e| e.to_string())
        }) {
            Ok(path) => Finding::ok("pin", path),
            Err(error) => Finding::failed(
                "pin",
                error,
                "the PIN file holds the token's user PIN on one line, mode 0600, owned by kmsd's user",
            ),
        },
    );
    findings.push(socket(config));
    if let Some(listen) = &config.listen {
        let client_ca = listen.client_ca.as_ref().map(|path| home.join(path));
        let (certificate, key) = (home.join(&listen.certificate), home.join(&listen.key));
        findings.push(match net::server_config(&certificate, &key, client_ca.as_deref()) {
            Ok(_) => Finding::ok("tls", format!("{} with {}", listen.address, certificate.display())),
            Err(error) => {
                Finding::failed("tls", error.to_string(), "kmsd tls renew, or see [listen] in kmsd.toml")
            }
        });
    }
    findings.push(memory_lock());
}

/// Everything in the home that others could read or that somebody else owns.
fn secret_files(home: &Path) -> Finding {
    let mut exposed = Vec::new();
    let owner = fs::metadata(home).map(|home| home.uid()).ok();
    let mut directories = vec![home.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                // The token's directory is the module's business; the home's mode keeps others out of it.
                if directory == home && [Config::AUDIT, "tls"].iter().any(|name| entry.file_name() == *name) {
                    directories.push(entry.path());
                }
                continue;
            }
            let is_public = entry.path().extension().is_some_and(|extension| extension == "pem")
                && entry.file_name() == "ca.pem";
            let is_open = metadata.permissions().mode() & 0o077 != 0 && !is_public;
            let is_other = Some(metadata.uid()) != owner;
            if metadata.is_file() && (is_open || is_other) {
                exposed.push(entry.path().display().to_string());
            }
        }
    }
    if exposed.is_empty() {
        return Finding::ok("permissions", "nothing in the home is open to others");
    }
    exposed.sort_unstable();
    let remedy = format!("chown them to the owner of {}, and chmod 600", home.display());
    Finding::warning("permissions", format!("open to others, or another's: {}", exposed.join(", ")), remedy)
}

fn space(home: &Path) -> Finding {
    let free = match rustix::fs::statvfs(home) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => return Finding::failed("space", error.to_string(), "is the home's disk mounted?"),
    };
    let found = format!("{} MiB free", free >> 20);
    let remedy = "make room or enlarge the file system: without it operations are refused. Leave the files of audit/ where they are: the log is checked from its first line on";
    match free {
        _ if free < NO_SPACE => Finding::failed("space", found, remedy),
        _ if free < LOW_SPACE => Finding::warning("space", found, remedy),
        _ => Finding::ok("space", found),
    }
}

fn socket(config: &Config) -> Finding {
    let path = &config.socket;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let metadata = match fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) => {
            let found = format!("{}: {error}", directory.display());
            return Finding::warning("socket", found, "kmsd makes it at its start, if it may");
        }
    };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        let found = format!("{} has mode {mode:04o}, which lets every user in", directory.display());
        return Finding::failed("socket", found, format!("chmod o-rwx {}", directory.display()));
    }
    if mode & 0o020 != 0 {
        let found =
            format!("{} has mode {mode:04o}, which lets its group exchange the socket", directory.display());
        return Finding::failed("socket", found, format!("chmod g-w {}", directory.display()));
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => Finding::failed(
            "socket",
            format!("{} is no socket", path.display()),
            "move it away, or set another socket in kmsd.toml",
        ),
        _ => Finding::ok("socket", format!("{}, its directory has mode {mode:04o}", path.display())),
    }
}

/// Keys in memory should not reach the swap.
fn memory_lock() -> Finding {
    use rustix::process::{Resource, getrlimit};
    let swaps = fs::read_to_string("/proc/swaps").map_or(0, |text| text.lines().count().saturating_sub(1));
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        None => Finding::ok("memory", "may be locked without limit"),
        Some(_) if swaps == 0 => Finding::ok("memory", "this host has no swap"),
        Some(bytes) => Finding::warning(
            "memory",
            format!("only {} KiB may be locked here, and this host has swap", bytes >> 10),
            "LimitMEMLOCK=infinity in kmsd's unit (this process' own limit is shown), or encrypted swap",
        ),
    }
}
