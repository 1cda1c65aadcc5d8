//! Examines an installation: what it stands on (kernel, programs, key service, space), and whether catalogue, volume files and
//! mounts agree. It changes nothing; [`rebuild`] is what puts volumes back into a catalogue that lost them.

pub(crate) mod rebuild;

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    os::unix::fs::MetadataExt,
    path::Path,
};

use uuid::Uuid;

use crate::{
    app::App,
    catalog::{disks, operations},
    error::Error,
    model::{
        Noun,
        count::counted,
        disk::DiskStatus,
        finding::{self, Finding},
    },
    volumes::{Failure, ToolError, mounts},
};

const EVSFS_MISSING: &str = "install evsfs beside ecsctl or on PATH, or name it as `evsfs` in ecs.toml";

/// Looks at everything. What cannot be looked at is a finding, too.
///
/// # Errors
/// Those of the catalogue.
pub(crate) fn examine(app: &App) -> Result<Vec<Finding>, Error> {
    let mut found = vec![fuse(Path::new("/proc/filesystems"), Path::new("/dev/fuse"))];
    found.extend(helper());
    found.push(evsfs(app));
    found.extend(key_service(app));
    found.extend(home(app));
    found.push(catalogue(app)?);
    found.extend(volume_files(app)?);
    found.extend(stray_mounts(app)?);
    found.push(unsettled(app)?);
    Ok(found)
}

/// The kernel's part: without it no disk can be shown.
fn fuse(filesystems: &Path, device: &Path) -> Finding {
    let known = fs::read_to_string(filesystems)
        .is_ok_and(|text| text.lines().any(|line| line.split_whitespace().next_back() == Some("fuse")));
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) if known => {
            Finding::good("fuse", format!("the kernel has FUSE, {} can be opened", device.display()))
        }
        Ok(_) => {
            Finding::bad("fuse", "the kernel does not list FUSE among its file systems", "modprobe fuse")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::bad(
            "fuse",
            format!("{} does not exist", device.display()),
            "modprobe fuse; in a container, pass the device to it (--device /dev/fuse)",
        ),
        Err(error) => Finding::bad(
            "fuse",
            format!("{} cannot be opened: {error}", device.display()),
            format!("chmod 666 {} (as distributions ship it), or run as root", device.display()),
        ),
    }
}

/// What an ordinary user needs to mount; root mounts by itself.
fn helper() -> Option<Finding> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join("fusermount3").is_file());
    Some(if there {
        Finding::good("fusermount3", "found on PATH")
    } else {
        Finding::bad(
            "fusermount3",
            "not on PATH: only root can mount without it",
            "install the package fuse3, or run as root",
        )
    })
}

fn evsfs(app: &App) -> Finding {
    match app.volumes.version() {
        Ok(version) => finding::versions("evsfs", "evsfs", &version, env!("CARGO_PKG_VERSION")),
        Err(error) => Finding::bad("evsfs", error.to_string(), EVSFS_MISSING),
    }
}

fn key_service(app: &App) -> Vec<Finding> {
    let health = match app.keys.health() {
        Ok(health) => health,
        Err(error) => {
            return vec![Finding::bad(
                "kmsd",
                error.to_string(),
                format!(
                    "start it with `kmsd serve`, or set KMSD_SOCKET (now {}). Attached disks work on without it",
                    app.installation.kmsd_socket.display()
                ),
            )];
        }
    };
    let mut found = vec![finding::versions("kmsd", "kmsd", &health.version, env!("CARGO_PKG_VERSION"))];
    found.push(if health.token_present {
        Finding::good("token", health.token)
    } else {
        Finding::bad(
            "token",
            health.token,
            "plug the token in, or start what it runs on; kmsd goes on by itself. kmsd doctor says more",
        )
    });
    if !health.well {
        found.push(Finding::warning("kmsd-state", "kmsd says that it is degraded", "kmsd doctor"));
    }
    found
}

fn home(app: &App) -> Vec<Finding> {
    let place = app.installation.home.display().to_string();
    let own = rustix::process::geteuid().as_raw();
    let mut found = Vec::new();
    match fs::metadata(&app.installation.home) {
        Ok(metadata) => found.push(finding::privacy(metadata.mode(), metadata.uid(), own, &place)),
        Err(error) => found.push(Finding::bad(
            "home",
            format!("{place}: {error}"),
            "set ECS_HOME to a directory that you may write",
        )),
    }
    match rustix::fs::statvfs(&app.installation.home) {
        Ok(space) => found.push(finding::space(
            space.f_bavail * space.f_frsize,
            space.f_blocks * space.f_frsize,
            &place,
        )),
        Err(error) => found.push(Finding::bad(
            "space",
            format!("{place}: {error}"),
            "set ECS_HOME to a directory that you may write",
        )),
    }
    found
}

fn catalogue(app: &App) -> Result<Finding, Error> {
    let said = app.catalog.verify()?;
    Ok(if said == "ok" {
        Finding::good("catalogue", app.installation.catalogue().display().to_string())
    } else {
        Finding::bad(
            "catalogue",
            format!("{} is damaged: {said}", app.installation.catalogue().display()),
            "move it away, and bring its volumes back: ecsctl doctor --rebuild",
        )
    })
}

/// Whether each volume in the catalogue has its file, with that volume in it, and each file its row.
fn volume_files(app: &App) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for kind in Noun::VOLUMES {
        for disk in disks::all(app.catalog.read(), kind)? {
            known.insert(disk.id);
            // Its operation is told of by itself.
            if matches!(disk.status, DiskStatus::Creating | DiskStatus::Deleting) {
                continue;
            }
            let file = app.installation.place(disk.id).file;
            let what = format!("{kind} {}", disk.name);
            let trouble = match app.volumes.inspect(&file, false) {
                Ok(volume) if volume.uuid == disk.id && volume.encrypted == disk.encrypted => continue,
                Ok(volume) if volume.uuid != disk.id => Finding::bad(
                    "volumes",
                    format!("{what}: {} holds another volume ({})", file.display(), volume.uuid),
                    "put the right file back; nothing of this one is shown as the other",
                ),
                Ok(volume) => Finding::bad(
                    "volumes",
                    format!(
                        "{what}: the catalogue says {}, its file {}",
                        encryption(disk.encrypted),
                        encryption(volume.encrypted)
                    ),
                    "put the right file back: a disk never changes between the two",
                ),
                // The program's own finding says what to do; of the volumes nothing is known.
                Err(ToolError::Spawn { .. }) => {
                    return Ok(vec![Finding::warning(
                        "volumes",
                        "not looked at: evsfs cannot be run",
                        EVSFS_MISSING,
                    )]);
                }
                Err(error @ ToolError::Failed { class: Failure::Damaged, .. }) => Finding::bad(
                    "volumes",
                    format!("{what}: {error}"),
                    format!(
                        "put {} back from a backup, or: ecsctl {kind} delete {}",
                        file.display(),
                        disk.name
                    ),
                ),
                // Its file may be whole.
                Err(source) => {
                    let doing = "looked at";
                    let error =
                        Error::Volume { kind, disk: disk.name.clone(), doing, source: Box::new(source) };
                    Finding::bad("volumes", error.to_string(), error.report().hint)
                }
            };
            // Another ecsctl may have changed or deleted it meanwhile.
            if disks::by_id(app.catalog.read(), disk.id)?.as_ref() == Some(&disk) {
                found.push(trouble);
            }
        }
    }
    for id in files(app)?.difference(&known) {
        // One that was made since has its row now.
        if disks::by_id(app.catalog.read(), *id)?.is_some() {
            continue;
        }
        found.push(Finding::warning(
            "volumes",
            format!("{} is in no catalogue", app.installation.place(*id).file.display()),
            "bring it back: ecsctl doctor --rebuild",
        ));
    }
    if found.is_empty() {
        found.push(Finding::good("volumes", format!("{} in the catalogue, each with its file", known.len())));
    }
    Ok(found)
}

const fn encryption(encrypted: bool) -> &'static str {
    if encrypted { "encrypted" } else { "not encrypted" }
}

/// The volumes whose files lie in the installation, by the names of the files.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn files(app: &App) -> Result<BTreeSet<Uuid>, Error> {
    let dir = app.installation.volumes();
    let failed = |source| Error::Io { doing: "list", path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "evs")
            && let Some(id) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            found.insert(id);
        }
    }
    Ok(found)
}

/// Mounts of disks that nobody serves any more, or that belong to no attached disk.
fn stray_mounts(app: &App) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    let mut attached = BTreeSet::new();
    for disk in disks::all(app.catalog.read(), Noun::Disk)? {
        let place = app.installation.place(disk.id);
        if disk.server_id.is_some() {
            attached.insert(disk.id);
            let is_lost = |status| -> Result<bool, ToolError> {
                Ok(status == DiskStatus::InUse && app.volumes.serving(&place)?.is_none())
            };
            // Another ecsctl may be taking it off.
            let lost = match (is_lost(disk.status), disks::by_id(app.catalog.read(), disk.id)?) {
                (Ok(true), Some(now)) => is_lost(now.status),
                (Ok(true), None) => Ok(false),
                (other, _) => other,
            };
            match lost {
                Ok(false) => {}
                Ok(true) => found.push(Finding::bad(
                    "mounts",
                    format!("disk {}: nobody serves it", disk.name),
                    "ecsctl server recover --all",
                )),
                Err(error) => return Ok(vec![unseen(&error)]),
            }
        }
    }
    let mounts = match mounts::all() {
        Ok(mounts) => mounts,
        Err(error) => return Ok(vec![unseen(&error)]),
    };
    let dir = app.installation.home.join("mnt");
    let dir = dir.canonicalize().unwrap_or(dir);
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let id = path.file_name().and_then(|name| name.to_str()?.parse::<Uuid>().ok());
        if id.is_some_and(|id| !attached.contains(&id)) && mounts.iter().any(|mount| mount.point == path) {
            found.push(Finding::warning(
                "mounts",
                format!("{} is mounted, and no disk in the catalogue is attached there", path.display()),
                format!("ecsctl status settles what was cut short; else: evsfs umount {}", path.display()),
            ));
        }
    }
    if found.is_empty() {
        found.push(Finding::good(
            "mounts",
            format!("{} attached, each served", counted(attached.len(), "disk")),
        ));
    }
    Ok(found)
}

fn unseen(error: &ToolError) -> Finding {
    Finding::bad("mounts", error.to_string(), "see that /proc is mounted and can be read")
}

fn unsettled(app: &App) -> Result<Finding, Error> {
    let mut count = operations::pending(app.catalog.read(), Noun::Server)?.len();
    for kind in Noun::VOLUMES {
        count += operations::pending(app.catalog.read(), kind)?.len();
    }
    Ok(if count == 0 {
        Finding::good("operations", "nothing was cut short")
    } else {
        Finding::warning(
            "operations",
            format!("{count} under way, or cut short"),
            "ecsctl status finishes or undoes what a dead process left",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::Grade;

    #[test]
    fn a_kernel_without_fuse_and_a_missing_device_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (list, device) = (dir.path().join("filesystems"), dir.path().join("fuse"));
        fs::write(&list, "nodev\tfuse\nnodev\tfusectl\n").unwrap();
        let missing = fuse(&list, &device);
        assert_eq!(missing.grade, Grade::Bad);
        assert!(missing.finding.contains("does not exist"), "{missing:?}");
        fs::write(&device, "").unwrap();
        assert_eq!(fuse(&list, &device).grade, Grade::Good);
        fs::write(&list, "nodev\tfusectl\n").unwrap();
        assert!(fuse(&list, &device).remedy.unwrap().contains("modprobe"));
    }
}
