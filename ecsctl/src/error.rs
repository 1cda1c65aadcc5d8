//! Everything that can go wrong, and how it is told: one table from error to code, exit status and hint.

use std::{io, path::PathBuf};

use thiserror::Error as ThisError;

use crate::{
    catalog::CatalogError,
    claim::ClaimError,
    config::{ConfigError, Untrusted},
    images::ImageError,
    keys::KeyError,
    machines::MachineError,
    model::{
        Noun,
        disk::{DiskAction, DiskStatus},
        key::KeyTrouble,
        name::NameError,
        server::ServerStatus,
        size::SizeError,
    },
    volumes::{Failure, ToolError, holders},
};

/// An error of a command.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    /// A name that cannot be one.
    #[error("{given:?} cannot be the name of a {noun}: {source}")]
    Name {
        /// What it was to name.
        noun: Noun,
        /// The text.
        given: String,
        /// Why.
        source: NameError,
    },
    /// An alias that cannot be one.
    #[error("{given:?} cannot be the alias of a key: {source}")]
    Alias {
        /// The text.
        given: String,
        /// Why.
        source: <kmsd::domain::Alias as std::str::FromStr>::Err,
    },
    /// A size that cannot be one.
    #[error("{given:?} cannot be the size of a disk: {source}")]
    Size {
        /// The text.
        given: String,
        /// Why.
        source: SizeError,
    },
    /// A rate that cannot be one.
    #[error("{given:?} cannot be a rate in bytes per second: {source}")]
    Rate {
        /// The text.
        given: String,
        /// Why.
        source: SizeError,
    },
    /// Nothing is called that.
    #[error("there is no {noun} {given:?}")]
    NotFound {
        /// What was looked for.
        noun: Noun,
        /// The user's word.
        given: String,
        /// A name that is nearly the same.
        near: Option<String>,
    },
    /// The beginning of more than one ID.
    #[error("{given:?} is the beginning of more than one {noun}'s ID: {}", names.join(", "))]
    Ambiguous {
        /// What was looked for.
        noun: Noun,
        /// The user's word.
        given: String,
        /// The names of those that fit.
        names: Vec<String>,
    },
    /// The name is taken.
    #[error("a {noun} with the name {name} exists already")]
    Exists {
        /// What it names.
        noun: Noun,
        /// The name.
        name: String,
    },
    /// The state of a disk forbids it.
    #[error("disk {disk} is {} and cannot be {}{}", status.as_str(), action.done(), reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    DiskStatus {
        /// Its name.
        disk: String,
        /// Its state.
        status: DiskStatus,
        /// What was asked.
        action: DiskAction,
        /// Why it is in that state, if it is recorded.
        reason: Option<String>,
    },
    /// It is attached, and must be detached first (D7).
    #[error("disk {disk} is attached to server {server}")]
    AlreadyAttached {
        /// Its name.
        disk: String,
        /// The server's name.
        server: String,
    },
    /// There is nothing to detach.
    #[error("disk {disk} is not attached to any server")]
    NotAttached {
        /// Its name.
        disk: String,
    },
    /// It is attached to another server than the one named.
    #[error("disk {disk} is attached to server {server}, not to {named}")]
    OtherServer {
        /// Its name.
        disk: String,
        /// Where it is.
        server: String,
        /// Where it was said to be.
        named: String,
    },
    /// The server is going away.
    #[error("server {server} is being deleted")]
    ServerDeleting {
        /// Its name.
        server: String,
    },
    /// The state of a server forbids it.
    #[error("server {server} is {} and cannot be {doing}", status.as_str())]
    ServerStatus {
        /// Its name.
        server: String,
        /// Its state.
        status: ServerStatus,
        /// `started`, `stopped` or `deleted`.
        doing: &'static str,
    },
    /// A server without a disk and without a kernel.
    #[error("server {server} has no disk that it could boot from")]
    NothingToBoot {
        /// Its name.
        server: String,
    },
    /// Its virtual machine.
    #[error("server {server} cannot be {doing}: {source}")]
    Machine {
        /// Its name.
        server: String,
        /// `started` or `stopped`.
        doing: &'static str,
        /// What went wrong.
        source: Box<MachineError>,
    },
    /// The key cannot open the disk (D2).
    #[error("{kind} {disk} cannot be {doing}: its key {key} is {}", trouble.as_str())]
    KeyUnusable {
        /// Disk, image or backup.
        kind: Noun,
        /// Its name.
        disk: String,
        /// `attached` or `created`.
        doing: &'static str,
        /// The key's alias, or its ID.
        key: String,
        /// What is wrong with it.
        trouble: KeyTrouble,
    },
    /// Another process works on it.
    #[error("{noun} {name}: {source}")]
    Claim {
        /// What it is.
        noun: Noun,
        /// Its name, or its ID.
        name: String,
        /// Who.
        source: ClaimError,
    },
    /// Not the material of an AES-256 key.
    #[error("{} is not the material of a key: it has {}{len} bytes, and a key has 32", path.display(), if *is_longer { "more than 32, at least " } else { "" })]
    Material {
        /// The file.
        path: PathBuf,
        /// Whether there is more than was read.
        is_longer: bool,
        /// How many bytes were read.
        len: usize,
    },
    /// An image file that is not taken.
    #[error("{}: {source}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// A source that is not in a state to be copied.
    #[error("{kind} {name} is {} and cannot be copied", status.as_str())]
    SourceStatus {
        /// What it is.
        kind: Noun,
        /// Its name.
        name: String,
        /// Its state.
        status: DiskStatus,
    },
    /// Smaller than what it is to hold.
    #[error("{name} would have {size} bytes, and what it is made from has {wanted}")]
    TooSmall {
        /// The name of what was to be made.
        name: String,
        /// The size that was asked for, bytes.
        size: u64,
        /// The size of the source, bytes.
        wanted: u64,
    },
    /// A plain disk from an encrypted image (S1).
    #[error("disk {name} cannot be plain: image {image} is encrypted, and so is every disk made from it")]
    StaysEncrypted {
        /// The disk.
        name: String,
        /// The image.
        image: String,
    },
    /// An encrypted source whose key is not recorded: what is made from it must not become plain for that.
    #[error(
        "{kind} {name} cannot be made: {source_kind} {source_name} is encrypted, and the catalogue does not know its key"
    )]
    KeyUnrecorded {
        /// What was to be made.
        kind: Noun,
        /// Its name.
        name: String,
        /// What it was to be made from.
        source_kind: Noun,
        /// Its name.
        source_name: String,
    },
    /// A name made from another one is none.
    #[error("{owner} {given} cannot be made: its {noun} would be called {derived}, and {source}")]
    DerivedName {
        /// What was to be made.
        owner: Noun,
        /// The name that was given.
        given: String,
        /// What belongs to it.
        noun: Noun,
        /// The name that this would have.
        derived: String,
        /// Why it cannot.
        source: NameError,
    },
    /// There is no data key to wrap (D1).
    #[error("disk {disk} is not encrypted, and that never changes in place")]
    NotEncrypted {
        /// Its name.
        disk: String,
    },
    /// What was written does not read back as it was.
    #[error("{} does not read back as it was written, at byte {offset}", path.display())]
    Unverified {
        /// The view.
        path: PathBuf,
        /// The first byte that differs.
        offset: u64,
    },
    /// There is no system disk to make an image from.
    #[error("server {server} has no system disk")]
    NoSystemDisk {
        /// Its name.
        server: String,
    },
    /// A data disk's description that cannot be one.
    #[error("{spec:?} is no data disk")]
    DataDisk {
        /// The text.
        spec: String,
    },
    /// A disk only grows (D6).
    #[error("disk {disk} has {size} bytes and cannot have {asked}: a disk only grows")]
    Shrink {
        /// Its name.
        disk: String,
        /// Its size, bytes.
        size: u64,
        /// What was asked for, bytes.
        asked: u64,
    },
    /// Others need it (D7, I4).
    #[error("{kind} {name} is needed by {}", dependants.join(", "))]
    HasDependants {
        /// What it is.
        kind: Noun,
        /// Its name.
        name: String,
        /// Who needs it: noun and name.
        dependants: Vec<String>,
    },
    /// A volume that does not verify.
    #[error("disk {disk} is damaged: {bad} of its blocks do not verify")]
    Unsound {
        /// Its name.
        disk: String,
        /// How many.
        bad: u64,
        /// The engine's report.
        report: serde_json::Value,
    },
    /// A group uses the configuration.
    #[error("configuration {config} is used by group {group}")]
    ConfigInUse {
        /// The configuration.
        config: String,
        /// The group.
        group: String,
    },
    /// A number of servers that a group may not have.
    #[error("group {group} has {smallest} to {largest} servers, not {desired}")]
    OutOfBounds {
        /// The group.
        group: String,
        /// What was asked for.
        desired: u32,
        /// At least.
        smallest: u32,
        /// At most.
        largest: u32,
    },
    /// What would leave encryption could not be recorded, so it did not leave it (I2).
    #[error("{name} was not written to {to} in the open, because kmsd did not record it: {source}")]
    Release {
        /// What was to be written.
        name: String,
        /// Where to.
        to: String,
        /// Why.
        source: KeyError,
    },
    /// The key service.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The audit log is not as it was written.
    #[error("the audit log was tampered with: {fault}; {records} records before that are intact")]
    AuditTampered {
        /// The first thing that is wrong.
        fault: String,
        /// Records that are as they were written.
        records: u64,
    },
    /// A copy of the audit log cannot be read.
    #[error(transparent)]
    Audit(#[from] kmsd::audit::AuditError),
    /// A file of exported keys that does not serve.
    #[error("{}: {source}", path.display())]
    AuditKeys {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: kmsd::audit::keys::KeysFault,
    },
    /// An expected end of the audit log that is none.
    #[error("{given:?} is no end of an audit log: {source}")]
    AuditEnd {
        /// The text.
        given: String,
        /// Why.
        source: kmsd::domain::audit::InvalidHead,
    },
    /// The volume engine.
    #[error("disk {disk} cannot be {doing}: {source}")]
    Volume {
        /// The disk's name.
        disk: String,
        /// `created`, `attached`, `detached` or `deleted`.
        doing: &'static str,
        /// What it said.
        source: Box<ToolError>,
    },
    /// A volume file lies under the name of another volume.
    #[error("{} holds the volume {found}", file.display())]
    Misplaced {
        /// The file.
        file: PathBuf,
        /// What is in it.
        found: uuid::Uuid,
    },
    /// A thin volume's image is in no catalogue.
    #[error("{disk} is thin over the volume {base}, which is not in the catalogue")]
    BaseMissing {
        /// The thin one.
        disk: String,
        /// The image.
        base: uuid::Uuid,
    },
    /// `doctor` found something that does not work; each was told already.
    #[error("not well: {}", checks.join(", "))]
    Unwell {
        /// What does not work.
        checks: Vec<&'static str>,
    },
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file system.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A destructive command without a terminal to ask on.
    #[error("{question} There is no terminal to ask on")]
    Unconfirmed {
        /// What would have been asked.
        question: String,
    },
    /// The user said no.
    #[error("nothing was done")]
    Declined,
    /// Some disks did not come back (S3); each was told already.
    #[error("{} of {of} disks did not come back: {}", failed.len(), failed.join(", "))]
    NotRecovered {
        /// The names of those that did not.
        failed: Vec<String>,
        /// How many there were.
        of: usize,
        /// How each of them fared, as the command shows it.
        disks: serde_json::Value,
    },
}

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
            Self::Volume { source, .. } => match &**source {
                ToolError::Busy { holders, .. } => Some(("holders", serde_json::json!(holders))),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Error {
    /// The table.
    pub(crate) fn report(&self) -> Report {
        let (exit, code, hint) = match self {
            Self::Name { noun, .. } => {
                (Exit::Usage, "invalid-name", format!("give the {noun} a name such as {noun}1"))
            }
            Self::Alias { .. } => (Exit::Usage, "invalid-name", "--alias db-key, say".to_owned()),
            Self::Size { source, .. } => (Exit::Usage, "invalid-size", size_hint(source)),
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
            Self::DiskStatus { disk, status, .. } => {
                (Exit::Refused, "wrong-state", status_hint(disk, *status))
            }
            Self::AlreadyAttached { disk, .. } => {
                (Exit::Refused, "already-attached", format!("ecsctl disk detach {disk}"))
            }
            Self::NotAttached { disk } => (Exit::Refused, "not-attached", format!("ecsctl disk show {disk}")),
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
            Self::SourceStatus { kind, name, .. } => {
                (Exit::Refused, "wrong-state", format!("ecsctl {kind} show {name}"))
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
            Self::OutOfBounds { smallest, largest, .. } => {
                (Exit::Refused, "out-of-bounds", format!("--desired between {smallest} and {largest}"))
            }
            Self::Shrink { size, .. } => (Exit::Refused, "shrink", format!("--size above {size}")),
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
            Self::NoSystemDisk { server } => {
                (Exit::Refused, "no-system-disk", format!("ecsctl server show {server}"))
            }
            Self::Claim { source, .. } => match source {
                ClaimError::Taken { .. } => {
                    (Exit::Refused, "busy", "try again when it has finished".to_owned())
                }
                ClaimError::Io { .. } => (Exit::Failed, "io", IO_HINT.to_owned()),
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
            Self::Keys(source) | Self::Release { source, .. } => return key_report(source),
            Self::Volume { source, disk, .. } => return volume_report(source, disk),
            Self::Catalog(source) => match source {
                CatalogError::TooNew { .. } => {
                    (Exit::Failed, "catalogue-too-new", "use the newer ecsctl that wrote it".to_owned())
                }
                CatalogError::Sqlite { .. } | CatalogError::Word { .. } | CatalogError::Lock { .. } => {
                    (Exit::Failed, "catalogue", IO_HINT.to_owned())
                }
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
            Self::Io { .. } => (Exit::Failed, "io", IO_HINT.to_owned()),
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

/// Where the system itself refused.
const IO_HINT: &str = "check the permissions of, and the space on, the file system that holds ECS_HOME";

fn size_hint(error: &SizeError) -> String {
    match error {
        SizeError::Unaligned { next, .. } => format!("--size {next}"),
        SizeError::Form
        | SizeError::Fraction
        | SizeError::Negative
        | SizeError::Zero
        | SizeError::TooLarge => "--size 10G, say".to_owned(),
    }
}

fn status_hint(disk: &str, status: DiskStatus) -> String {
    match status {
        DiskStatus::InUse => format!("ecsctl disk detach {disk}"),
        DiskStatus::ErrorDeleting => format!("ecsctl disk delete {disk}"),
        DiskStatus::Creating | DiskStatus::Attaching | DiskStatus::Detaching | DiskStatus::Deleting => {
            "ecsctl status finishes or undoes what was cut short".to_owned()
        }
        DiskStatus::Available | DiskStatus::Deleted | DiskStatus::Error => format!("ecsctl disk show {disk}"),
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
        MachineError::File { .. } => (Exit::Failed, "io", IO_HINT.to_owned()),
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
        ImageError::Damaged { .. }
        | ImageError::Outside { .. }
        | ImageError::TooLarge { .. }
        | ImageError::Bomb { .. }
        | ImageError::Overlap => (Exit::Damaged, "image-damaged", "fetch it again, and compare its checksum"),
    };
    Report { exit, code, hint: hint.to_owned() }
}

fn key_report(error: &KeyError) -> Report {
    let (exit, code, hint) = match error {
        KeyError::NotFound { .. } => (Exit::NotFound, "not-found", "ecsctl key list".to_owned()),
        KeyError::Refused { hint, .. } => {
            (Exit::Refused, "key-refused", hint.clone().unwrap_or_else(|| "ecsctl key list".to_owned()))
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

fn volume_report(error: &ToolError, disk: &str) -> Report {
    let show = || format!("ecsctl disk show {disk}");
    let (exit, code, hint) = match error {
        ToolError::Spawn { .. } => (
            Exit::Failed,
            "evsfs-missing",
            "install evsfs beside ecsctl or on PATH, or name it as `evsfs` in ecs.toml".to_owned(),
        ),
        ToolError::Busy { holders, .. } => (Exit::Refused, "busy", holders::remedy(holders)),
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
