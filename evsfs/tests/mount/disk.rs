//! A disk in a directory of its own, and the program that serves it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// What lies behind the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A bare file.
    Raw,
    /// A volume without encryption, which needs no key service.
    Plain,
}

/// Defines a test for each kind of disk from a function that takes the kind.
macro_rules! each_kind {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        mod raw {
            $($(#[$doc])* #[test] fn $name() { super::$name(crate::disk::Kind::Raw) })*
        }
        mod plain {
            $($(#[$doc])* #[test] fn $name() { super::$name(crate::disk::Kind::Plain) })*
        }
    };
}
pub(crate) use each_kind;

/// One disk. Dropped, it is detached and removed, whatever state it is in.
pub(crate) struct Disk {
    kind: Kind,
    dir: TempDir,
    file: PathBuf,
    options: Vec<&'static str>,
    pub(crate) pid: u32,
}

pub(crate) fn evsfs<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evsfs")).args(arguments).output().expect("evsfs can be run")
}

#[track_caller]
pub(crate) fn create_plain(file: &Path, size: u64) {
    let output = evsfs(&[
        OsStr::new("create"),
        file.as_os_str(),
        OsStr::new("--plain"),
        OsStr::new("--size"),
        OsStr::new(&size.to_string()),
        OsStr::new("--json"),
    ]);
    assert!(output.status.success(), "{output:?}");
}

fn new_dir() -> TempDir {
    tempfile::Builder::new().prefix("evsfs-mount.").tempdir().expect("a directory can be made")
}

/// Makes what lies behind a view.
#[track_caller]
pub(crate) fn make(kind: Kind, file: &Path, size: u64) {
    match kind {
        Kind::Raw => File::create_new(file).and_then(|file| file.set_len(size)).expect("a file"),
        Kind::Plain => create_plain(file, size),
    }
}

/// The error that a command printed with `--json`, and its exit status.
#[track_caller]
pub(crate) fn refusal(output: &Output) -> (i32, Value) {
    assert!(output.stdout.is_empty(), "a failed command wrote to standard output: {output:?}");
    let value: Value = serde_json::from_slice(&output.stderr)
        .unwrap_or_else(|error| panic!("no JSON on standard error ({error}): {output:?}"));
    for field in ["code", "message", "hint"] {
        assert!(value["error"][field].as_str().is_some_and(|text| !text.is_empty()), "no {field}: {value}");
    }
    (output.status.code().expect("it was not killed"), value["error"].clone())
}

impl Disk {
    pub(crate) fn new(kind: Kind, size: u64) -> Self {
        Self::with(kind, size, &[])
    }

    pub(crate) fn with(kind: Kind, size: u64, options: &[&'static str]) -> Self {
        let dir = new_dir();
        let file = dir.path().join("volume");
        make(kind, &file, size);
        let mut this = Self { kind, dir, file, options: options.to_vec(), pid: 0 };
        this.begin();
        this
    }

    /// Over a file that lies elsewhere, and stays there.
    pub(crate) fn over(kind: Kind, file: &Path, options: &[&'static str]) -> Self {
        let mut this =
            Self { kind, dir: new_dir(), file: file.to_owned(), options: options.to_vec(), pid: 0 };
        this.begin();
        this
    }

    fn begin(&mut self) {
        fs::create_dir(self.point()).expect("a directory can be made");
        self.attach();
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.file.clone()
    }

    pub(crate) fn point(&self) -> PathBuf {
        self.dir().join("point")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.point().join("disk")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir().join("control.sock")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// The command line that attaches it.
    pub(crate) fn mount_arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["mount".into()];
        match self.kind {
            Kind::Raw => arguments.push("--raw".into()),
            Kind::Plain => {}
        }
        arguments.extend(self.options.iter().map(Into::into));
        arguments.extend([self.file().into(), self.point().into(), "--json".into()]);
        arguments.extend(["--log".into(), self.dir().join("log").into()]);
        arguments.extend(["--control".into(), self.control().into()]);
        arguments
    }

    #[track_caller]
    pub(crate) fn attach(&mut self) {
        let output = evsfs(&self.mount_arguments());
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        let ready: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
        assert_eq!(ready["path"], self.path().canonicalize().unwrap().to_str().unwrap());
        assert_eq!(ready["size"], self.open().metadata().unwrap().len());
        self.pid = u32::try_from(ready["pid"].as_u64().expect("a number")).unwrap();
    }

    /// Opens the view for reading and writing.
    #[track_caller]
    pub(crate) fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.path()).expect("the view can be opened")
    }

    pub(crate) fn umount(&self) -> Output {
        evsfs(&["umount".as_ref(), self.point().as_os_str(), "--json".as_ref()])
    }

    #[track_caller]
    pub(crate) fn detach(&mut self) {
        let output = self.umount();
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        assert!(ended(self.pid, Duration::ZERO), "the process is there after umount returned");
        self.pid = 0;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid), signal).expect("the process is there");
    }

    /// SIGKILL, and waits for the end.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert!(ended(self.pid, Duration::from_secs(20)));
        self.pid = 0;
    }

    /// Bytes that the file takes on the host.
    pub(crate) fn taken(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.file()).unwrap().blocks() * 512
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log\n{}", self.log());
        }
        if self.pid != 0 && !self.umount().status.success() {
            self.kill();
            evsfs(&["umount".as_ref(), self.point().as_os_str()]);
        }
    }
}

/// Waits until a process has ended; false when it still runs after that time.
pub(crate) fn ended(process: u32, patience: Duration) -> bool {
    let fd = match pidfd_open(pid(process), PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return true,
        Err(error) => panic!("pidfd_open: {error}"),
    };
    let timeout = Timespec::try_from(patience).expect("it fits");
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).expect("poll works") > 0
}

pub(crate) fn pid(process: u32) -> Pid {
    Pid::from_raw(process.cast_signed()).expect("not zero")
}

/// A loop device over a file, with direct I/O.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    pub(crate) fn over(file: &Path) -> Self {
        let output = run(
            "losetup",
            &[OsStr::new("--find"), "--show".as_ref(), "--direct-io=on".as_ref(), file.as_ref()],
        );
        Self(PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim()))
    }
}

impl Loop {
    /// The file that it shows now.
    fn file(&self) -> Option<String> {
        let name = self.0.file_name().expect("a device has a name");
        fs::read_to_string(Path::new("/sys/block").join(name).join("loop/backing_file")).ok()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let file = self.file();
        run("losetup", &[OsStr::new("--detach"), self.0.as_os_str()]);
        // The kernel lets go of the file with the last who has the device: a mount namespace that another test is making may have a copy of its mount.
        let asked = Instant::now();
        while file.is_some() && self.file() == file && !std::thread::panicking() {
            assert!(asked.elapsed() < Duration::from_secs(20), "{} is still bound", self.0.display());
            std::thread::yield_now();
        }
    }
}

/// Runs a program that must succeed.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program}: {output:?}");
    output
}

/// Numbers that look random and are the same each time.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

#[track_caller]
pub(crate) fn read(file: &File, offset: u64, length: usize) -> Vec<u8> {
    let mut buf = vec![0xee; length];
    file.read_exact_at(&mut buf, offset).expect("the view can be read");
    buf
}

/// A buffer that begins with a page, as those of direct I/O must.
pub(crate) struct Aligned(Vec<u8>);

impl Aligned {
    pub(crate) fn new(byte: u8, len: usize) -> Self {
        Self(vec![byte; len + 4096])
    }

    fn range(&self) -> std::ops::Range<usize> {
        let start = self.0.as_ptr().align_offset(4096);
        start..start + self.0.len() - 4096
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[self.range()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut self.0[range]
    }
}
