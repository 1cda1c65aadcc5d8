//! Where an installation lies, from options, the environment, `ecs.toml` and defaults, in this order.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use thiserror::Error;
use uuid::Uuid;

use crate::{
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
    /// How long to wait for another ecsctl.
    pub(crate) patience: Duration,
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
    /// A directory cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    MakeDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No variable says where to put things.
    #[error("neither ECS_HOME nor XDG_STATE_HOME nor HOME is set")]
    NoHome,
}

impl Installation {
    /// Finds the installation. `home` and `socket` come from options or their variables.
    ///
    /// # Errors
    /// A configuration file that cannot be read or understood; no place to put things.
    pub(crate) fn find(home: Option<PathBuf>, socket: Option<PathBuf>) -> Result<Self, ConfigError> {
        let root = rustix::process::geteuid().is_root();
        let home = match home {
            Some(home) => home,
            None if root => PathBuf::from("/var/lib/ecs"),
            None => state_home().ok_or(ConfigError::NoHome)?.join("ecs"),
        };
        let home = std::path::absolute(&home).unwrap_or(home);
        let file = read(&home.join("ecs.toml"))?;
        let kmsd_socket = socket.or(file.kmsd_socket).unwrap_or_else(|| default_socket(root));
        Ok(Self {
            evsfs: file.evsfs.unwrap_or_else(beside_or_on_path),
            patience: Duration::from_secs(file.wait_seconds.unwrap_or(60)),
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
        private_dir(&path).map_err(|source| ConfigError::MakeDir { path, source })
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

/// Makes a directory, and those above it, readable by their owner only. One that exists stays as it is.
///
/// # Errors
/// Those of the file system.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn read(path: &Path) -> Result<File, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) }),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(File::default()),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
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
}
