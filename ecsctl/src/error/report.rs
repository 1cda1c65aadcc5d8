//! How errors are told: one table from error to code, exit status and hint.

use std::path::Path;

use super::{Error, is_damage};
use crate::{
    catalog::CatalogError,
    claim::ClaimError,
    config::{ConfigError, HOME_BYTES, SOCKET_PATH_BYTES, Untrusted, is_too_long},
    images::ImageError,
    keys::KeyError,
    machines::MachineError,
    model::{Noun, disk::DiskStatus, server::ServerStatus, size::SizeError},
    volumes::{Failure, ToolError, holders},
};

/// Exit statuses, the same meanings as evsfs has. docs/semantics.md lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Tried, and failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Refused by a rule, a state or a key.
    Refused = 3,
    /// kmsd or its token cannot be reached.
    Unreachable = 4,
    /// A volume or image file is damaged.
    Damaged = 5,
    /// Nothing is called that.
    NotFound = 6,
    /// What was cut short can neither be finished nor undone as yet.
    Unsettled = 7,
}

/// How an error is told.
#[derive(Debug)]
pub(crate) struct Report {
    /// The exit status.
    pub(crate) exit: Exit,
    /// A stable word.
    pub(crate) code: &'static str,
    /// What to do about it.
    pub(crate) hint: String,
}

impl Error {
    /// What else stands in the error's JSON.
    pub(crate) fn details(&self) -> Option<(&'static str, serde_json::Value)> {
        match self {
            Self::NotRecovered { disks, .. } => Some(("disks", disks.clone())),
            Self::Unsound { report, .. } => Some(("report", report.clone())),
            Self::RolledBack { loss, .. } => Some(("rollback", loss.json())),
            Self::Volume { source, .. } => match &**source {
                ToolError::Busy { holders, .. } => Some(("holders", serde_json::json!(holders))),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Error {
    /// Whether the volume engine refused, before it changed anything.
    pub(crate) fn is_untouched(&self) -> bool {
        matches!(self, Self::Volume { source, .. } if source.is_untouched())
    }

    /// The table.
    pub(crate) fn report(&self) -> Report {
        let (exit, code, hint) = match self {
            Self::Name { noun, .. } => {
                (Exit::Usage, "invalid-name", format!("give the {noun} a name such as {noun}1"))
            }
            Self::Alias { .. } => (Exit::Usage, "invalid-name", "--alias db-key, say".to_owned()),
            Self::Size { source, .. } => (Exit::Usage, "invalid-size", size_hint(source)),
            Self::NotText { .. } => (Exit::Usage, "invalid-path", "give it a name in UTF-8".to_owned()),
            Self::FileExists { .. } => {
                (Exit::Refused, "exists", "name another file, or remove this one".to_owned())
            }
            Self::Memory { .. } => (Exit::Usage, "invalid-size", "--memory 2G, say".to_owned()),
            // QEMU's own option counts MiB.
            Self::LittleMemory { given, .. } if given.bytes().all(|byte| byte.is_ascii_digit()) => {
                (Exit::Usage, "invalid-size", format!("--memory {given}M, if these are MiB"))
            }
            Self::LittleMemory { least, .. } => {
                (Exit::Usage, "invalid-size", format!("--memory {least}M, or more"))
            }
            Self::Rate { .. } => (Exit::Usage, "invalid-rate", "--rate 50M, or 0 for no limit".to_owned()),
            Self::NotFound { noun, near, .. } => {
                let hint = match near {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("ecsctl {noun} list"),
                };
                (Exit::NotFound, "not-found", hint)
            }
            Self::Ambiguous { .. } => {
                (Exit::Refused, "ambiguous", "give more of the ID, or the name".to_owned())
            }
            Self::Exists { noun, name } => (Exit::Refused, "exists", format!("ecsctl {noun} show {name}")),
            Self::DiskStatus { kind, disk, status, .. } => {
                (Exit::Refused, "wrong-state", status_hint(*kind, disk, *status))
            }
            Self::AlreadyAttached { disk, .. } => {
                (Exit::Refused, "already-attached", format!("ecsctl disk detach {disk}"))
            }
            Self::NotAttached { disk } => (Exit::Refused, "not-attached", format!("ecsctl disk show {disk}")),
            Self::DiskOfMachine { server, .. } => {
                (Exit::Refused, "in-use", format!("ecsctl server stop {server}"))
            }
            Self::StaleMachine { server, .. } => (
                Exit::Failed,
                "stale-machine",
                format!("ecsctl server stop {server}, then: ecsctl server start {server}"),
            ),
            Self::OtherServer { disk, .. } => {
                (Exit::Refused, "other-server", format!("ecsctl disk detach {disk}"))
            }
            Self::ServerDeleting { .. } => (Exit::Refused, "wrong-state", "ecsctl server list".to_owned()),
            Self::ServerStatus { server, status, .. } => {
                (Exit::Refused, "wrong-state", server_hint(server, *status))
            }
            Self::NothingToBoot { server } => (
                Exit::Refused,
                "nothing-to-boot",
                format!("attach a disk, or name a kernel: ecsctl server start {server} --kernel FILE"),
            ),
            Self::Machine { server, source, .. } => return machine_report(source, server),
            Self::KeyUnusable { key, trouble, .. } => (Exit::Refused, trouble.code(), trouble.remedy(key)),
            Self::Material { .. } => (
                Exit::Usage,
                "invalid-material",
                "head -c 32 /dev/random >FILE makes new material".to_owned(),
            ),
            Self::Image { source, .. } => return image_report(source),
            Self::SourceStatus { kind, name, status, .. } => {
                (Exit::Refused, "wrong-state", status_hint(*kind, name, *status))
            }
            Self::TooSmall { wanted, .. } => {
                (Exit::Refused, "too-small", format!("--size {wanted}, or leave it out"))
            }
            Self::StaysEncrypted { image, .. } => (
                Exit::Refused,
                "stays-encrypted",
                format!(
                    "ecsctl image copy {image} NEW --plain makes a plain image, if that is what you want"
                ),
            ),
            Self::KeyUnrecorded { source_kind: Noun::AsConfig, .. } => (
                Exit::Refused,
                "key-unrecorded",
                "make another configuration, of a server whose keys are known: ecsctl as-config create NEW --from-server SERVER".to_owned(),
            ),
            Self::KeyUnrecorded { source_kind, source_name, .. } => (
                Exit::Refused,
                "key-unrecorded",
                format!(
                    "name a key: --encrypted --key KEY; ecsctl doctor says what is wrong with {source_kind} {source_name}"
                ),
            ),
            Self::DerivedName { owner, .. } => {
                (Exit::Usage, "invalid-name", format!("give the {owner} a shorter name"))
            }
            Self::NotEncrypted { disk } => (
                Exit::Refused,
                "not-encrypted",
                format!("ecsctl backup create B --disk {disk}, then ecsctl backup restore B NEW --encrypted"),
            ),
            Self::Unverified { .. } => (
                Exit::Failed,
                "unverified",
                "check the host's memory and storage; nothing was kept".to_owned(),
            ),
            Self::DataDisk { .. } => {
                (Exit::Usage, "invalid-disk", "--data-disk size=5G,encrypted,key=db-key".to_owned())
            }
            Self::ConfigInUse { group, .. } => {
                (Exit::Refused, "in-use", format!("ecsctl as-group delete {group}"))
            }
            Self::Bounds { largest, .. } => {
                (Exit::Usage, "invalid-bounds", format!("--min {largest} at most, or a greater --max"))
            }
            Self::OutOfBounds { smallest, largest, .. } => {
                (Exit::Refused, "out-of-bounds", format!("--desired between {smallest} and {largest}"))
            }
            Self::RolledBack { disk, server, file, .. } => (
                Exit::Refused,
                "rolled-back",
                format!(
                    "put the newest file back as {}; to go on with this one, a restored backup: ecsctl disk attach {disk} {server} --accept-rollback",
                    file.display()
                ),
            ),
            Self::Shrink { size, .. } => (Exit::Refused, "shrink", format!("--size above {size}")),
            Self::HasDependants { kind: Noun::Image, dependants, .. } => {
                let first =
                    dependants.first().and_then(|first| first.split_once(' ')).map_or("DISK", |d| d.1);
                let hint = format!("ecsctl disk flatten {first}, or: ecsctl disk delete {first}");
                (Exit::Refused, "has-dependants", hint)
            }
            Self::HasDependants { dependants, .. } => {
                let first =
                    dependants.first().and_then(|first| first.split_once(' ')).unwrap_or(("disk", "NAME"));
                (Exit::Refused, "has-dependants", format!("ecsctl {} delete {}", first.0, first.1))
            }
            Self::Unsound { .. } => (
                Exit::Damaged,
                "volume-damaged",
                "restore a backup, or save what verifies: evsfs salvage".to_owned(),
            ),
            Self::Unreadable { file, source, .. } if is_damage(source) => {
                let file = file.display();
                (
                    Exit::Damaged,
                    "volume-damaged",
                    format!(
                        "evsfs check {file} says what is bad; restore a backup, or save what verifies: evsfs salvage {file} NEW"
                    ),
                )
            }
            Self::Unreadable { file, .. } => (Exit::Failed, "io", io_hint(file)),
            Self::NoSystemDisk { server } => {
                (Exit::Refused, "no-system-disk", format!("ecsctl server show {server}"))
            }
            Self::Claim { source, .. } => match source {
                ClaimError::Taken { .. } => {
                    (Exit::Refused, "busy", "try again when it has finished".to_owned())
                }
                ClaimError::Io { path, .. } => (Exit::Failed, "io", io_hint(path)),
            },
            Self::AuditTampered { .. } => (
                Exit::Damaged,
                "audit-tampered",
                "keep a copy of the log as it is, compare it with others, and find out who did it".to_owned(),
            ),
            Self::Audit(_) => (Exit::Failed, "io", "is it a copy of kmsd's directory audit/?".to_owned()),
            Self::AuditKeys { .. } => {
                (Exit::Failed, "audit-keys", "ecsctl audit export-keys FILE".to_owned())
            }
            Self::AuditEnd { .. } => (
                Exit::Usage,
                "invalid-end",
                "--expect NUMBER:MAC, as `ecsctl audit verify --quiet` prints it".to_owned(),
            ),
            Self::Keys(source) => return key_report(source),
            Self::Release { source, .. } => return key_report(source),
            Self::Volume { kind, source, disk, doing } => return volume_report(source, *kind, disk, doing),
            Self::Catalog(source) => match source {
                CatalogError::TooNew { .. } => {
                    (Exit::Failed, "catalogue-too-new", "use the newer ecsctl that wrote it".to_owned())
                }
                CatalogError::Sqlite { source, .. } if is_corrupt(source) => {
                    (Exit::Failed, "catalogue", CORRUPT.to_owned())
                }
                CatalogError::Word { .. } => (Exit::Failed, "catalogue", CORRUPT.to_owned()),
                CatalogError::Sqlite { path, .. }
                | CatalogError::Open { path, .. }
                | CatalogError::Lock { path, .. } => (Exit::Failed, "catalogue", io_hint(path)),
            },
            Self::Config(source) => match source {
                ConfigError::Parse { .. } => (Exit::Usage, "config", CONFIG_KEYS.to_owned()),
                ConfigError::Read { .. } | ConfigError::MakeDir { .. } => {
                    (Exit::Failed, "config", "set ECS_HOME to a directory that you may write".to_owned())
                }
                ConfigError::Untrusted { path, fault: Untrusted::Writable { .. } } => (
                    Exit::Refused,
                    "config-untrusted",
                    format!("see who wrote to it, then: chmod go-w {}", path.display()),
                ),
                ConfigError::Untrusted { path, fault: Untrusted::Owner { .. } } => (
                    Exit::Refused,
                    "config-untrusted",
                    format!(
                        "run ecsctl as the owner of {}, or set ECS_HOME to a directory of your own",
                        path.display()
                    ),
                ),
                ConfigError::NotText { .. } => {
                    (Exit::Usage, "invalid-path", "set ECS_HOME and KMSD_SOCKET to paths in UTF-8".to_owned())
                }
                ConfigError::NoHome => (Exit::Failed, "config", "set ECS_HOME".to_owned()),
            },
            Self::Misplaced { file, found } => (
                Exit::Refused,
                "misplaced",
                format!("mv {} {}", file.display(), file.with_file_name(format!("{found}.evs")).display()),
            ),
            Self::BaseMissing { base, .. } => (
                Exit::Refused,
                "base-missing",
                format!(
                    "put the image's file {base}.evs back among the volumes, then again: ecsctl doctor --rebuild"
                ),
            ),
            Self::Unwell { .. } => {
                (Exit::Failed, "not-well", "each finding above has its own hint".to_owned())
            }
            Self::Io { doing: "read", .. } => {
                (Exit::Failed, "io", "is it a file that you may read?".to_owned())
            }
            Self::Io { path, source, .. } => (
                Exit::Failed,
                "io",
                match source.kind() {
                    std::io::ErrorKind::NotFound => missing_hint(path),
                    _ => io_hint(path),
                },
            ),
            Self::Unsettled { .. } => {
                (Exit::Unsettled, "unsettled", "remove the reasons, then: ecsctl status".to_owned())
            }
            Self::Unconfirmed { .. } => {
                (Exit::Usage, "unconfirmed", "say --yes to go on without a question".to_owned())
            }
            Self::Declined => (Exit::Failed, "declined", "answer y, or say --yes".to_owned()),
            Self::NotRecovered { .. } => (
                Exit::Failed,
                "not-recovered",
                "remove the reasons, then: ecsctl server recover --all".to_owned(),
            ),
        };
        Report { exit, code, hint }
    }
}

/// What `ecs.toml` may hold.
const CONFIG_KEYS: &str =
    "known keys: kmsd_socket, evsfs, wait_seconds, qemu, qemu_user, qemu_arguments, accel (auto, kvm or tcg)";

/// What is left to do about a catalogue that is none: volumes say themselves what they are.
const CORRUPT: &str = "move catalog.db, and catalog.db-wal and -shm beside it, away from ECS_HOME; then bring its volumes back: ecsctl doctor --rebuild";

fn shorter_home() -> String {
    format!(
        "set ECS_HOME to a directory of your own with a path of at most {HOME_BYTES} bytes: that of a socket in it has at most {SOCKET_PATH_BYTES}"
    )
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Where the system itself refused.
fn io_hint(path: &Path) -> String {
    format!("check the permissions of, and the space on, the file system that holds {}", path.display())
}

/// Where there is nothing to put it into.
fn missing_hint(path: &Path) -> String {
    match path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
        Some(dir) => format!("make the directory first: mkdir -p {}", dir.display()),
        None => io_hint(path),
    }
}

fn size_hint(error: &SizeError) -> String {
    match error {
        SizeError::Unaligned { next, .. } => format!("--size {next}"),
        SizeError::Fraction => "--size 1536M for 1.5G".to_owned(),
        SizeError::TooLarge => "--size 64T at most".to_owned(),
        SizeError::Form | SizeError::Negative | SizeError::Zero => "--size 10G, say".to_owned(),
    }
}

fn status_hint(kind: Noun, name: &str, status: DiskStatus) -> String {
    match status {
        // Nothing else is ever in use.
        DiskStatus::InUse if kind == Noun::Disk => format!("ecsctl disk detach {name}"),
        DiskStatus::ErrorDeleting => format!(
            "ecsctl {kind} delete {name}; if its header cannot be read: ecsctl {kind} delete {name} --skip-erase"
        ),
        DiskStatus::Creating | DiskStatus::Attaching | DiskStatus::Detaching | DiskStatus::Deleting => {
            "ecsctl status finishes or undoes what was cut short".to_owned()
        }
        DiskStatus::InUse | DiskStatus::Available | DiskStatus::Deleted | DiskStatus::Error => {
            format!("ecsctl {kind} show {name}")
        }
    }
}

fn server_hint(server: &str, status: ServerStatus) -> String {
    match status {
        ServerStatus::Running => format!("ecsctl server stop {server}"),
        ServerStatus::Stopped => format!("ecsctl server show {server}"),
        ServerStatus::Building | ServerStatus::Deleting => {
            "ecsctl status finishes or undoes what was cut short".to_owned()
        }
    }
}

fn machine_report(error: &MachineError, server: &str) -> Report {
    let (exit, code, hint) = match error {
        MachineError::Spawn { .. } => (
            Exit::Failed,
            "qemu-missing",
            "install qemu-system-x86, or name the program as `qemu` in ecs.toml".to_owned(),
        ),
        MachineError::File { path, .. } if is_too_long(path) => {
            (Exit::Failed, "path-too-long", shorter_home())
        }
        MachineError::File { path, .. } => (Exit::Failed, "io", io_hint(path)),
        MachineError::Failed { .. } | MachineError::Slow { .. } => (
            Exit::Failed,
            "machine-failed",
            "look at memory, kernel files and `qemu_arguments` in ecs.toml".to_owned(),
        ),
        MachineError::NoKvm { .. } => {
            (Exit::Refused, "no-kvm", "--accel auto or tcg emulates the processor".to_owned())
        }
        MachineError::Monitor { .. } | MachineError::StillRunning { .. } => (
            Exit::Failed,
            "still-running",
            format!("shut it down from within, or cut its power: ecsctl server stop {server} --force"),
        ),
    };
    Report { exit, code, hint }
}

fn image_report(error: &ImageError) -> Report {
    let (exit, code, hint) = match error {
        ImageError::Io(_) => (Exit::Failed, "io", "is it a file that you may read?"),
        ImageError::OtherFormat { .. } => {
            (Exit::Refused, "image-format", "name the format that it really has, or none")
        }
        ImageError::OtherFile { .. } => (
            Exit::Refused,
            "image-other-file",
            "make one file of it first, where you trust it: qemu-img convert -O qcow2 OLD NEW",
        ),
        ImageError::Encrypted => (Exit::Refused, "image-encrypted", "decrypt it first: qemu-img convert"),
        ImageError::Unsupported { .. } => {
            (Exit::Refused, "image-unsupported", "convert it first: qemu-img convert -O qcow2 OLD NEW")
        }
        // Whole, perhaps, as a disk of one byte again and again under zstd is; nobody can tell before all of it is unpacked.
        ImageError::Bomb { .. } => (
            Exit::Refused,
            "image-unsupported",
            "unpack it first, where you trust it: qemu-img convert -O qcow2 OLD NEW",
        ),
        ImageError::Damaged { .. }
        | ImageError::Outside { .. }
        | ImageError::TooLarge { .. }
        | ImageError::Overlap => (Exit::Damaged, "image-damaged", "fetch it again, and compare its checksum"),
    };
    Report { exit, code, hint: hint.to_owned() }
}

fn key_report(error: &KeyError) -> Report {
    let (exit, code, hint) = match error {
        KeyError::NotFound { .. } => (Exit::NotFound, "not-found", "ecsctl key list".to_owned()),
        KeyError::Refused { key, code, hint, .. } => {
            (Exit::Refused, "key-refused", hint.clone().unwrap_or_else(|| refusal_hint(key, code)))
        }
        KeyError::Unavailable { hint, .. } => (
            Exit::Unreachable,
            "kmsd-unreachable",
            hint.clone().unwrap_or_else(|| "look at kmsd's log".to_owned()),
        ),
        KeyError::Protocol { .. } => {
            (Exit::Unreachable, "kmsd-protocol", "is KMSD_SOCKET the socket of kmsd?".to_owned())
        }
    };
    Report { exit, code, hint }
}

/// What to do about a refusal that kmsd has no hint for, by its code.
fn refusal_hint(key: &str, code: &str) -> String {
    match code {
        "KMS.1101" => "--alias db-key, say".to_owned(),
        "KMS.1103" => "--description with at most 255 characters".to_owned(),
        "KMS.0312" => format!("ecsctl key tag {key} --remove NAME"),
        "KMS.2401" | "KMS.2402" => "--to uid:1001 --allow decrypt-datakey, say".to_owned(),
        "KMS.2501" => format!("ecsctl key grant {key} lists the grants with their IDs"),
        "KMS.3001" => "--every 90, say".to_owned(),
        "KMS.0330" => "ask one of kmsd's administrators (`access.admins` in kmsd.toml)".to_owned(),
        "KMSD.0008" => format!("ecsctl key alias {key} lists its names"),
        _ if key.is_empty() => "kmsd's log says more".to_owned(),
        _ => format!("ecsctl key show {key}"),
    }
}

fn volume_report(error: &ToolError, kind: Noun, name: &str, doing: &str) -> Report {
    let show = || format!("ecsctl {kind} show {name}");
    let (exit, code, hint) = match error {
        ToolError::Spawn { .. } => (
            Exit::Failed,
            "evsfs-missing",
            "install evsfs beside ecsctl or on PATH, or name it as `evsfs` in ecs.toml".to_owned(),
        ),
        ToolError::Busy { holders, .. } => (Exit::Refused, "busy", holders::remedy(holders)),
        // evsfs's hint names an option of its own.
        ToolError::Failed { code, .. } if code == "rolled_back" || code == "forked" => (
            Exit::Refused,
            "rolled-back",
            if kind == Noun::Disk {
                format!(
                    "put the newest file back; to go on with a restored backup: ecsctl disk attach {name} SERVER --accept-rollback"
                )
            } else {
                // It is never attached, so the command for its file is the one that there is.
                format!(
                    "put the newest file back; if that is lost for good: evsfs accept-rollback \"$(ecsctl {kind} show {name} --json | jq -r .file)\""
                )
            },
        ),
        ToolError::LongSocket { .. } => (Exit::Failed, "path-too-long", shorter_home()),
        // evsfs's hints are for who names files, and who would have one of it back.
        ToolError::Failed { class: Failure::Damaged, .. } if doing == "deleted" => (
            Exit::Damaged,
            "volume-damaged",
            format!("what is left of it goes by: ecsctl {kind} delete {name} --skip-erase"),
        ),
        ToolError::Failed { class: Failure::Damaged, code, .. } if code == "not_a_volume" => (
            Exit::Damaged,
            "volume-damaged",
            format!(
                "put its file back from a copy; if there is none: ecsctl {kind} delete {name} --skip-erase"
            ),
        ),
        ToolError::Failed { class, hint, .. } => {
            let (exit, code) = match class {
                Failure::Other => (Exit::Failed, "volume-failed"),
                Failure::Refused => (Exit::Refused, "volume-refused"),
                Failure::Unreachable => (Exit::Unreachable, "kmsd-unreachable"),
                Failure::Damaged => (Exit::Damaged, "volume-damaged"),
            };
            (exit, code, hint.clone().unwrap_or_else(show))
        }
        ToolError::Contract { .. } => {
            (Exit::Failed, "evsfs-contract", "are evsfs and ecsctl of the same version?".to_owned())
        }
        ToolError::MountTable { .. } => (
            Exit::Failed,
            "mount-table",
            "nothing was changed; see that /proc is mounted and can be read, then again".to_owned(),
        ),
        ToolError::Clear { .. } => (Exit::Failed, "dead-mount", show()),
    };
    Report { exit, code, hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::disk::DiskAction;

    /// A name is unique among its kind only: a hint for another kind names another volume, and may destroy it.
    #[test]
    fn every_hint_about_a_volume_is_about_its_own_kind() {
        let failed = |code: &str| ToolError::Failed {
            class: Failure::Refused,
            code: code.to_owned(),
            message: "no".to_owned(),
            hint: None,
        };
        for kind in Noun::VOLUMES {
            let mut errors = Vec::new();
            for status in DiskStatus::ALL {
                let (disk, action) = ("same".to_owned(), DiskAction::Copy);
                errors.push(Error::DiskStatus { kind, disk, status, action, reason: None });
            }
            for code in ["rolled_back", "forked", "other"] {
                let source = Box::new(failed(code));
                errors.push(Error::Volume { kind, disk: "same".to_owned(), doing: "copied", source });
            }
            for (code, doing) in
                [("not_a_volume", "copied"), ("not_a_volume", "deleted"), ("damaged", "deleted")]
            {
                let class = Failure::Damaged;
                let source = ToolError::Failed { class, code: code.into(), message: "no".into(), hint: None };
                let error = Error::Volume { kind, disk: "same".to_owned(), doing, source: Box::new(source) };
                let hint = error.report().hint;
                assert!(hint.ends_with(&format!("ecsctl {kind} delete same --skip-erase")), "{hint}");
                errors.push(error);
            }
            for error in errors {
                assert!(error.to_string().starts_with(&format!("{kind} same ")), "{error}");
                let hint = error.report().hint;
                let others = Noun::VOLUMES.into_iter().filter(|other| *other != kind);
                for other in others {
                    assert!(!hint.contains(&format!("ecsctl {other} ")), "{error}: {hint}");
                }
                assert!(
                    hint.contains(&format!("ecsctl {kind} ")) || hint.contains("ecsctl status"),
                    "{hint}"
                );
                assert!(kind == Noun::Disk || !hint.contains("tach "), "{error}: {hint}");
            }
        }
    }
}
