//! Everything that can go wrong. How it is told is in [`report`].

mod report;

use std::{io, path::PathBuf};

use thiserror::Error as ThisError;

pub(crate) use self::report::{Exit, Report};
use crate::{
    catalog::CatalogError,
    claim::ClaimError,
    config::ConfigError,
    engine::past::Loss,
    images::ImageError,
    keys::KeyError,
    machines::MachineError,
    model::{
        Noun,
        count::counted,
        disk::{DiskAction, DiskStatus},
        key::KeyTrouble,
        name::NameError,
        server::ServerStatus,
        size::SizeError,
    },
    volumes::ToolError,
};

/// What is wrong with the description of a data disk.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub(crate) enum DataDiskFault {
    /// A part that means nothing.
    #[error("{part:?} is none of size=SIZE, encrypted and key=KEY")]
    Unknown {
        /// The part.
        part: String,
    },
    /// A part that was given before.
    #[error("{name} is given twice")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A key, and not encrypted.
    #[error("a key is for encrypted disks")]
    KeyOfPlain,
    /// No size.
    #[error("it has no size")]
    NoSize,
}

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
    /// A path that cannot be written down.
    #[error("{} cannot be used: it is not UTF-8", path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// A file of the user's that is not overwritten.
    #[error("{} exists already, and is not overwritten", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// The memory of a machine that cannot be one.
    #[error("{given:?} cannot be the memory of a server: {source}")]
    Memory {
        /// The text.
        given: String,
        /// Why.
        source: SizeError,
    },
    /// Memory that no system runs in.
    #[error("{given:?} is too little memory for a server, which has at least {least} MiB")]
    LittleMemory {
        /// The text.
        given: String,
        /// The least, MiB.
        least: u64,
    },
    /// The state of a disk, image or backup forbids it.
    #[error("{kind} {disk} is {} and cannot be {}{}", status.as_str(), action.done(), reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    DiskStatus {
        /// Disk, image or backup: names are unique among their kind only.
        kind: Noun,
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
    /// The machine of its server runs on it (S2).
    #[error("disk {disk} cannot be detached: the virtual machine of server {server} runs on it")]
    DiskOfMachine {
        /// Its name.
        disk: String,
        /// The server's name.
        server: String,
    },
    /// The machine of its server was started on a view of it that has died since (S3).
    #[error(
        "disk {disk} is up, but the virtual machine of server {server} was started before it came back and cannot use it"
    )]
    StaleMachine {
        /// Its name.
        disk: String,
        /// The server's name.
        server: String,
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
        /// `started`, `stopped`, `copied` or `deleted`.
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
    #[error("{spec:?} is no data disk: {fault}")]
    DataDisk {
        /// The text.
        spec: String,
        /// What is wrong with it.
        fault: DataDiskFault,
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
    /// Its file is older than the key service knows (F3).
    #[error("disk {disk} cannot be attached: {}; with it, {}", loss.standing(), loss.consequences())]
    RolledBack {
        /// Its name.
        disk: String,
        /// The name of the server that it was to be attached to.
        server: String,
        /// Its file.
        file: PathBuf,
        /// What going on with it would cost.
        loss: Box<Loss>,
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
    #[error("disk {disk} is damaged: {bad} of its blocks {} not verify", if *bad == 1 { "does" } else { "do" })]
    Unsound {
        /// Its name.
        disk: String,
        /// How many.
        bad: u64,
        /// The engine's report.
        report: serde_json::Value,
    },
    /// A volume that cannot be copied, since reading it fails.
    #[error("{kind} {name} cannot be read: {source}{}", if is_damage(source) { "; a part of it does not verify, or its storage fails" } else { "" })]
    Unreadable {
        /// Disk, image or backup.
        kind: Noun,
        /// Its name.
        name: String,
        /// Its file.
        file: PathBuf,
        /// What its view said.
        source: io::Error,
    },
    /// A group uses the configuration.
    #[error("configuration {config} is used by group {group}")]
    ConfigInUse {
        /// The configuration.
        config: String,
        /// The group.
        group: String,
    },
    /// Bounds of a group that nothing is between.
    #[error("no group has at least {smallest} and at most {largest} servers")]
    Bounds {
        /// At least.
        smallest: u32,
        /// At most.
        largest: u32,
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
        source: Box<KeyError>,
    },
    /// The key service.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The audit log is not as it was written.
    #[error("the audit log was tampered with: {fault}; records intact before that: {records}")]
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
    #[error("{kind} {disk} cannot be {doing}: {source}")]
    Volume {
        /// Disk, image or backup.
        kind: Noun,
        /// Its name.
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
    /// What was cut short can neither be finished nor undone as yet; each was told already.
    #[error("cut short, and not settled: {}", what.join(", "))]
    Unsettled {
        /// The names of disks, images, backups and servers.
        what: Vec<String>,
    },
    /// Some disks did not come back (S3); each was told already.
    #[error("{} of {} did not come back: {}", failed.len(), counted(*of, "disk"), failed.join(", "))]
    NotRecovered {
        /// The names of those that did not.
        failed: Vec<String>,
        /// How many there were.
        of: usize,
        /// How each of them fared, as the command shows it.
        disks: serde_json::Value,
    },
}

/// Whether this is what a view says of a block that does not verify (D10).
fn is_damage(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO)
}
