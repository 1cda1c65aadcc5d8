//! Where an installation lies, from options, the environment, `ecs.toml` and defaults, in this order.

use std::{
    env, fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use thiserror::Error;
use uuid::Uuid;

use crate::{
    claim::Patience,
    machines::{MachinePlace, accel::Acceleration},
    volumes::Place,
};

/// `$ECS_HOME/ecs.toml`. Unknown keys are refused: a slip must not be ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// kmsd's socket.
    kmsd_socket: Option<PathBuf>,
    /// The `evsfs` program.
    evsfs: Option<PathBuf>,
    /// How long to wait for another ecsctl that works on the same disk, in seconds.
    wait_seconds: Option<u64>,
    /// The QEMU program.
    qemu: Option<PathBuf>,
    /// Whose rights QEMU keeps when it has opened everything.
    qemu_user: Option<String>,
    /// Further arguments of QEMU, such as those of a network.
    #[serde(default)]
    qemu_arguments: Vec<String>,
    /// What runs the instructions of guests.
    accel: Option<Acceleration>,
}

/// One installation: every path that this program uses.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    /// `$ECS_HOME`.
    pub(crate) home: PathBuf,
    /// kmsd's socket.
    pub(crate) kmsd_socket: PathBuf,
    /// The `evsfs` program.
    pub(crate) evsfs: PathBuf,
    /// How long to wait for another ecsctl, and for what a killed one left at work.
    pub(crate) patience: Patience,
    /// How machines are run.
    pub(crate) machines: MachineSettings,
}

/// How machines are run.
#[derive(Debug, Clone, Default)]
pub(crate) struct MachineSettings {
    /// The QEMU program.
    pub(crate) qemu: PathBuf,
    /// Whose rights QEMU keeps when it has opened everything.
    pub(crate) user: Option<String>,
    /// Further arguments.
    pub(crate) arguments: Vec<String>,
    /// What runs the instructions of guests, unless a command says otherwise.
    pub(crate) acceleration: Acceleration,
}

/// The longest path of a socket, bytes (unix(7): `sun_path` has 108, one of them for the end).
pub(crate) const SOCKET_PATH_BYTES: usize = 107;

/// The longest home whose sockets can all be bound, bytes: the longest is that of a view that is copied from, `run/<id>.source.sock`.
pub(crate) const HOME_BYTES: usize =
    SOCKET_PATH_BYTES - "/run/".len() - uuid::fmt::Hyphenated::LENGTH - ".source.sock".len();

/// Whether nobody can bind a socket there.
pub(crate) fn is_too_long(socket: &Path) -> bool {
    socket.as_os_str().len() > SOCKET_PATH_BYTES
}

/// What is wrong with the configuration.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {}", path.display(), source.message())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Somebody else could have written it, and it decides which programs run.
    #[error("{} is not trusted: {fault}", path.display())]
    Untrusted {
        /// The home, or the file in it.
        path: PathBuf,
        /// Why.
        fault: Untrusted,
    },
    /// A directory cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    MakeDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is to be written into the catalogue, and handed to programs that take text only, must be text.
    #[error("{} cannot be used: it is not UTF-8", path.display())]
    NotText {
        /// The home or the socket.
        path: PathBuf,
    },
    /// No variable says where to put things.
    #[error("neither ECS_HOME nor XDG_STATE_HOME nor HOME is set")]
    NoHome,
}

/// Why a file or directory is not taken as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Untrusted {
    /// It is another user's.
    #[error("it belongs to user {owner}, and must belong to user {own} or root")]
    Owner {
        /// Whose it is.
        owner: u32,
        /// The user of this process.
        own: u32,
    },
    /// Not its owner alone may write it.
    #[error("others than its owner may write to it (mode {mode:03o})")]
    Writable {
        /// Its permissions.
        mode: u32,
    },
}

impl Untrusted {
    /// Looks at what is in the way of trust.
    fn check(metadata: &fs::Metadata) -> Result<(), Self> {
        let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
        let mode = metadata.mode() & 0o777;
        if owner != own && owner != 0 {
            return Err(Self::Owner { owner, own });
        }
        if mode & 0o022 != 0 {
            return Err(Self::Writable { mode });
        }
        Ok(())
    }
}

impl Installation {
    /// Finds the installation. `home` and `socket` come from options or their variables.
    ///
    /// # Errors
    /// A configuration file that cannot be read, trusted or understood; no place to put things; paths that are no text.
    pub(crate) fn find(home: Option<PathBuf>, socket: Option<PathBuf>) -> Result<Self, ConfigError> {
        let root = rustix::process::geteuid().is_root();
        let home = match home {
            Some(home) => home,
            None if root => PathBuf::from("/var/lib/ecs"),
            None => state_home().ok_or(ConfigError::NoHome)?.join("ecs"),
        };
        let home = std::path::absolute(&home).unwrap_or(home);
        let text = |path: PathBuf| match path.to_str() {
            Some(_) => Ok(path),
            None => Err(ConfigError::NotText { path }),
        };
        let home = text(home)?;
        let file = read(&home)?;
        let kmsd_socket = text(socket.or(file.kmsd_socket).unwrap_or_else(|| default_socket(root)))?;
        Ok(Self {
            evsfs: file.evsfs.unwrap_or_else(beside_or_on_path),
            patience: Patience::of(Duration::from_secs(file.wait_seconds.unwrap_or(60))),
            machines: MachineSettings {
                qemu: file.qemu.unwrap_or_else(|| PathBuf::from("qemu-system-x86_64")),
                user: file.qemu_user,
                arguments: file.qemu_arguments,
                acceleration: file.accel.unwrap_or_default(),
            },
            kmsd_socket,
            home,
        })
    }

    /// Makes the home, readable by its owner only. What lies below is made when it is needed.
    ///
    /// # Errors
    /// The directory that cannot be made.
    pub(crate) fn make(&self) -> Result<(), ConfigError> {
        let path = self.home.clone();
        private_dir(&path).map_err(|source| {
            let fault = source.get_ref().and_then(|inner| inner.downcast_ref::<Untrusted>()).copied();
            match fault {
                Some(fault) => ConfigError::Untrusted { path, fault },
                None => ConfigError::MakeDir { path, source },
            }
        })
    }

    /// The catalogue.
    pub(crate) fn catalogue(&self) -> PathBuf {
        self.home.join("catalog.db")
    }

    /// The directory of the volume files.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.home.join("volumes")
    }

    /// The directory of the lock files.
    pub(crate) fn locks(&self) -> PathBuf {
        self.home.join("lock")
    }

    /// The directory of the stable paths.
    pub(crate) fn servers(&self) -> PathBuf {
        self.home.join("servers")
    }

    /// Where a disk's things lie.
    pub(crate) fn place(&self, disk: Uuid) -> Place {
        let mountpoint = self.home.join("mnt").join(disk.to_string());
        Place {
            file: self.volumes().join(format!("{disk}.evs")),
            uuid: disk,
            view: mountpoint.join("disk"),
            mountpoint,
            control: self.home.join("run").join(format!("{disk}.sock")),
            log: self.home.join("log").join(format!("{disk}.log")),
        }
    }

    /// Where the files of a server's machine lie.
    pub(crate) fn machine_place(&self, server: Uuid) -> MachinePlace {
        let log = self.home.join("log");
        MachinePlace {
            monitor: self.home.join("run").join(format!("{server}.qmp")),
            console: log.join(format!("{server}.console")),
            log: log.join(format!("{server}.log")),
        }
    }

    /// The stable path of a disk's view (S2).
    pub(crate) fn stable_path(&self, server: &str, disk: &str) -> PathBuf {
        self.servers().join(server).join(disk)
    }
}

/// Makes a directory, and those above it, readable by their owner only. One that exists stays as it is, if nobody else can put things
/// into it.
///
/// # Errors
/// Those of the file system; [`Untrusted`].
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Untrusted::check(&fs::metadata(path)?)
        .map_err(|fault| io::Error::new(io::ErrorKind::PermissionDenied, fault))
}

/// The configuration in a home. Neither may be such that others can write it: the file names programs to run.
fn read(home: &Path) -> Result<File, ConfigError> {
    let path = home.join("ecs.toml");
    let trusted = |path: &Path, metadata: io::Result<fs::Metadata>| match metadata {
        Ok(metadata) => Untrusted::check(&metadata)
            .map_err(|fault| ConfigError::Untrusted { path: path.to_owned(), fault }),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let mut file = match fs::File::open(&path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        other => other.map_err(|source| ConfigError::Read { path: path.clone(), source })?,
    };
    trusted(home, fs::metadata(home))?;
    trusted(&path, file.metadata())?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path, source: Box::new(source) })
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn state_home() -> Option<PathBuf> {
    variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")))
}

fn default_socket(root: bool) -> PathBuf {
    match variable("XDG_RUNTIME_DIR") {
        Some(run) if !root => run.join("kmsd.sock"),
        _ => PathBuf::from("/run/kmsd/kmsd.sock"),
    }
}

/// `evsfs` beside this program, else wherever PATH has it.
fn beside_or_on_path() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("evsfs")))
        .filter(|beside| beside.is_file())
        .unwrap_or_else(|| PathBuf::from("evsfs"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_slip_in_the_file_is_refused_and_options_win_over_it() {
        let dir = tempfile::tempdir().unwrap();
        let find =
            |socket: Option<&str>| Installation::find(Some(dir.path().to_owned()), socket.map(PathBuf::from));
        fs::write(dir.path().join("ecs.toml"), "kmsd_socket = '/a.sock'\nevsfs = '/opt/evsfs'\n").unwrap();
        let installation = find(None).unwrap();
        assert_eq!(installation.kmsd_socket, Path::new("/a.sock"));
        assert_eq!(installation.evsfs, Path::new("/opt/evsfs"));
        assert_eq!(find(Some("/b.sock")).unwrap().kmsd_socket, Path::new("/b.sock"));

        fs::write(dir.path().join("ecs.toml"), "kmsd_sokcet = '/a.sock'\n").unwrap();
        assert!(matches!(find(None), Err(ConfigError::Parse { .. })));
    }

    #[test]
    fn what_others_could_have_written_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("ecs");
        let file = home.join("ecs.toml");
        let find = || Installation::find(Some(home.clone()), None);
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let refused = |path: &Path| match find() {
            Err(ConfigError::Untrusted { path: named, fault }) if named == path => fault,
            other => panic!("{other:?}"),
        };
        find().unwrap().make().unwrap();
        assert_eq!(fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
        fs::write(&file, "evsfs = '/opt/evsfs'\n").unwrap();
        mode(&home, 0o755);
        mode(&file, 0o644);
        find().unwrap().make().unwrap();
        for writable in [0o664, 0o646, 0o622] {
            mode(&file, writable);
            assert_eq!(refused(&file), Untrusted::Writable { mode: writable });
        }
        mode(&file, 0o600);
        mode(&home, 0o777);
        assert_eq!(refused(&home), Untrusted::Writable { mode: 0o777 });
        fs::remove_file(&file).unwrap();
        let error = find().unwrap().make().unwrap_err();
        assert!(matches!(&error, ConfigError::Untrusted { path, .. } if *path == home), "{error}");
        let below = private_dir(&home).unwrap_err();
        assert_eq!(below.kind(), io::ErrorKind::PermissionDenied);
        assert!(below.to_string().contains("mode 777"), "{below}");
        mode(&home, 0o700);

        // Only root can give things away.
        if rustix::process::geteuid().is_root() {
            fs::write(&file, "evsfs = '/opt/evsfs'\n").unwrap();
            for path in [&file, &home] {
                std::os::unix::fs::chown(path, Some(65534), None).unwrap();
                assert_eq!(refused(path), Untrusted::Owner { owner: 65534, own: 0 });
                std::os::unix::fs::chown(path, Some(0), None).unwrap();
            }
            find().unwrap();
        }
    }
}
