//! The real machines: QEMU.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt, net::UnixListener, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::unistd::User;
use uuid::Uuid;

use crate::{
    config::private_dir,
    machines::{
        Machine, MachineError, MachineTool, Stop,
        accel::{self, Acceleration},
        arguments::{self, Host, arguments},
        qmp::Monitor,
    },
    model::disk::Serving,
    volumes::process,
};

/// How long QEMU may take until the machine runs. It takes a second on a busy host.
const COMES_UP: Duration = Duration::from_secs(60);
/// How long the monitor may take to answer, and QEMU to end when it was told to.
const ANSWERS: Duration = Duration::from_secs(20);

/// Runs QEMU.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// The program.
    pub(crate) program: PathBuf,
    /// Whose rights it keeps when everything is open; without it, those of this process.
    pub(crate) user: Option<String>,
    /// Further arguments, such as those of a network.
    pub(crate) extra: Vec<String>,
}

impl Qemu {
    /// Whose process a machine can be: this process's user's, and then that of the user whose rights it keeps.
    fn users(&self) -> Vec<u32> {
        let mut users = vec![rustix::process::geteuid().as_raw()];
        if let Some(user) = &self.user {
            // As QEMU takes it: a name, or the numbers of user and group.
            let number = user.split(':').next().and_then(|number| number.parse().ok());
            let named = || User::from_name(user).ok().flatten().map(|user| user.uid.as_raw());
            users.extend(number.or_else(named));
        }
        users
    }

    /// Whether the process runs QEMU: the configured program, or another QEMU, as before an update of the configuration.
    fn runs_in(&self, process: &Path) -> bool {
        let Ok(program) = fs::read_link(process.join("exe")) else { return false };
        let Some(name) = program.file_name().map(|name| name.as_bytes()) else { return false };
        // So the kernel says that the program was replaced by a newer one.
        let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
        name.starts_with(b"qemu-system") || self.program.file_name().is_some_and(|own| own.as_bytes() == name)
    }

    /// The arguments that make QEMU drop its rights. Since 9.1 they have another name.
    fn drop_to(&self) -> Result<Option<[String; 2]>, MachineError> {
        let Some(user) = &self.user else { return Ok(None) };
        let spawn = |source| MachineError::Spawn { program: self.program.clone(), source };
        let said = Command::new(&self.program).arg("--version").output().map_err(spawn)?.stdout;
        let modern = version(&String::from_utf8_lossy(&said)).is_some_and(|version| version >= (9, 1));
        Ok(Some(if modern {
            ["-run-with".to_owned(), format!("user={user}")]
        } else {
            ["-runas".to_owned(), user.clone()]
        }))
    }
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::File { path: path.to_owned(), source }
}

/// A new, empty file in the place of an older one, for its owner only.
fn private_file(path: &Path) -> Result<File, MachineError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error(path)(error)),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(0o600).open(path).map_err(file_error(path))
}

/// The last lines of QEMU's log.
fn last_words(log: &Path) -> String {
    let mut text = String::new();
    let read = File::open(log).and_then(|file| file.take(1 << 16).read_to_string(&mut text));
    match read {
        Ok(_) => {
            let last: Vec<&str> = text.trim().lines().rev().take(3).collect();
            last.into_iter().rev().collect::<Vec<_>>().join("; ")
        }
        Err(error) => format!("(its log cannot be read: {error})"),
    }
}

/// The first two numbers of "QEMU emulator version 9.2.1 (...)".
fn version(said: &str) -> Option<(u32, u32)> {
    let word = said.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
    let mut numbers = word.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

impl MachineTool for Qemu {
    fn start(&self, machine: &Machine) -> Result<Acceleration, MachineError> {
        let place = &machine.place;
        for path in [&place.monitor, &place.console, &place.log] {
            let dir = path.parent().unwrap_or(path);
            private_dir(dir).map_err(file_error(dir))?;
        }
        // What the guest says is for the owner's eyes; QEMU only writes to it.
        private_file(&place.console)?;
        let run = place.monitor.parent().unwrap_or(&place.monitor);
        let acceleration = accel::decide(machine.acceleration, &self.program, run)?;
        let drop_to = self.drop_to()?;

        // The socket of the machine that ran before.
        match fs::remove_file(&place.monitor) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error(&place.monitor)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&place.monitor).map_err(file_error(&place.monitor))?;
        // A duplicate is inherited by the child; the original is not.
        let inherited =
            rustix::io::dup(&listener).map_err(|errno| file_error(&place.monitor)(errno.into()))?;
        let host = Host { acceleration, monitor: inherited.as_raw_fd(), drop_to, extra: &self.extra };
        let log = private_file(&place.log)?;
        let spawn = |source| MachineError::Spawn { program: self.program.clone(), source };
        let mut child = Command::new(&self.program)
            .args(arguments(machine, &host))
            // What a terminal sends to the group of this process is not meant for the machine.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(spawn)?)
            .stderr(log)
            .spawn()
            .map_err(spawn)?;
        // QEMU alone listens now: if it ends, the connection ends.
        drop((listener, inherited));
        // The monitor greets when everything is open and the machine runs.
        match Monitor::connect(&place.monitor, COMES_UP) {
            Ok(_) => Ok(acceleration),
            Err(source) => {
                let ended = process::wait_for_end(child.id(), Duration::from_secs(1));
                if !ended {
                    // It is this process's own child, and cannot be another one yet.
                    let _ = child.kill();
                }
                let status = child.wait().map_err(spawn)?;
                let timed_out = matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                Err(match (ended, timed_out) {
                    (true, _) => MachineError::Failed { status, said: last_words(&place.log) },
                    (false, true) => MachineError::Slow { within: COMES_UP },
                    (false, false) => MachineError::Monitor { path: place.monitor.clone(), source },
                })
            }
        }
    }

    fn running(&self) -> BTreeMap<Uuid, Serving> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut users = None;
        processes
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let id = server_of(&fs::read(entry.path().join("cmdline")).ok()?)?;
                let users = users.get_or_insert_with(|| self.users());
                let serving = process::identify(pid)?;
                (self.runs_in(&entry.path()) && belongs_to(&entry.path(), users)).then_some((id, serving))
            })
            .collect()
    }

    fn volumes(&self, machine: &Serving) -> BTreeSet<Uuid> {
        let command_line = fs::read(format!("/proc/{}/cmdline", machine.pid)).unwrap_or_default();
        // Looked at after it: what was read is that of this process.
        if process::identify(machine.pid).as_ref() == Some(machine) {
            arguments::volumes(&command_line)
        } else {
            BTreeSet::new()
        }
    }

    fn stop(&self, monitor: &Path, serving: &Serving, how: Stop) -> Result<(), MachineError> {
        let began = Instant::now();
        let command = match how {
            Stop::Ask(_) => "system_powerdown",
            Stop::Cut => "quit",
        };
        let asked = Monitor::connect(monitor, ANSWERS).and_then(|mut monitor| monitor.execute(command));
        let patience = match (how, asked) {
            (Stop::Ask(patience), Ok(_)) => patience.saturating_sub(began.elapsed()),
            (Stop::Cut, Ok(_)) => ANSWERS,
            // It may have ended by itself at this moment.
            (_, Err(_)) if process::identify(serving.pid).as_ref() != Some(serving) => return Ok(()),
            (Stop::Ask(_), Err(source)) => {
                return Err(MachineError::Monitor { path: monitor.to_owned(), source });
            }
            (Stop::Cut, Err(_)) => Duration::ZERO,
        };
        if process::wait_until_gone(serving, patience) {
            return Ok(());
        }
        match how {
            Stop::Ask(within) => Err(MachineError::StillRunning { within }),
            Stop::Cut => {
                process::kill(serving);
                if process::wait_until_gone(serving, ANSWERS) {
                    Ok(())
                } else {
                    Err(MachineError::StillRunning { within: ANSWERS })
                }
            }
        }
    }
}

/// Whether one of these users started the process. The real user counts: another's process is still another's where it runs a
/// program with root's rights (set-user-ID), whatever arguments it gave that.
fn belongs_to(process: &Path, users: &[u32]) -> bool {
    let status = fs::read(process.join("status")).unwrap_or_default();
    real_user(&status).is_some_and(|user| users.contains(&user))
}

/// The first number after `Uid:` (proc_pid_status(5)). The name of the program, before it, has its newlines escaped.
fn real_user(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// The server whose machine a command line starts: `-uuid` and the ID. Anybody can give a process such arguments.
fn server_of(command_line: &[u8]) -> Option<Uuid> {
    let mut words = command_line.split(|byte| *byte == 0);
    words.find(|word| *word == b"-uuid")?;
    Uuid::parse_str(std::str::from_utf8(words.next()?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_in_the_arguments() {
        let id = Uuid::new_v4();
        let line = |option: &str| format!("qemu-system-x86_64\0-name\0x\0{option}\0{id}\0-m\01\0");
        assert_eq!(server_of(line("-uuid").as_bytes()), Some(id));
        assert_eq!(server_of(line("-name").as_bytes()), None);
        assert_eq!(server_of(b""), None);
    }

    #[test]
    fn the_real_user_is_read() {
        let status = b"Name:\tqemu\xff\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nGid:\t7\t7\t7\t7\n";
        assert_eq!(real_user(status), Some(1000));
        assert_eq!(real_user(b"Gid:\t7\n"), None);
    }

    /// A process that outlives its input only: it stands for a machine.
    struct Stand(std::process::Child);

    impl Stand {
        fn new(program: &Path, named: &str, id: Uuid, user: Option<u32>) -> Self {
            let mut command = Command::new(program);
            // `-c` of a shell: what follows the script are its arguments.
            command.arg0(named).args(["-c", "echo up; read _", "-uuid", &id.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            if let Some(user) = user {
                command.uid(user);
            }
            let mut child = command.spawn().unwrap();
            let mut up = [0; 3];
            child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
            Self(child)
        }
    }

    impl Drop for Stand {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    fn qemu(program: &str, user: Option<&str>) -> Qemu {
        Qemu { program: program.into(), user: user.map(str::to_owned), extra: Vec::new() }
    }

    #[test]
    fn a_machine_is_not_what_only_calls_itself_one() {
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // A shell under QEMU's name runs as QEMU does.
        let program = dir.path().join("qemu-system-x86_64");
        fs::copy(&shell, &program).unwrap();
        let id = Uuid::new_v4();
        let tool = qemu("qemu-system-x86_64", None);

        let real = Stand::new(&program, "qemu", id, None);
        assert_eq!(tool.running().get(&id).map(|serving| serving.pid), Some(real.0.id()));
        // As after an update of the package.
        fs::remove_file(&program).unwrap();
        assert!(tool.running().contains_key(&id));
        drop(real);

        let named = Stand::new(&shell, "/usr/bin/qemu-system-x86_64", id, None);
        assert!(!tool.running().contains_key(&id), "the name is the first of its arguments");
        assert!(qemu(shell.to_str().unwrap(), None).running().contains_key(&id), "unless that is configured");
        drop(named);

        // Only root can start a process as another user.
        if rustix::process::geteuid().is_root() {
            fs::copy(&shell, &program).unwrap();
            let _other = Stand::new(&program, "qemu-system-x86_64", id, Some(65534));
            assert!(!tool.running().contains_key(&id), "another user's");
            for user in ["65534:65534", "nobody"] {
                let tool = qemu("qemu-system-x86_64", Some(user));
                assert!(tool.running().contains_key(&id), "{user}: whose rights a machine keeps");
            }
        }
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"), Some((10, 0)));
        assert_eq!(version("QEMU emulator version 7.2.22\nCopyright"), Some((7, 2)));
        assert_eq!(version("something else"), None);
    }
}
