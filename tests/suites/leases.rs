//! F12: one writer, wherever the volume's file can be reached from, on a real token, daemon and mount. A second host is a mount namespace whose
//! kernel, by its own word, is another one; what a lock that is local to a host lets through is a copy, whose lock is another's.
#![allow(clippy::unwrap_used)] // helpers too: a test that cannot go on has failed

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Installation, Options, process, run};
use rustix::process::Signal;
use serde_json::Value;

/// Becomes a host of another boot id, and of a machine id that may be another, and runs a command there.
const HOST: &str = r#"
    hostname "$1"
    mount --bind "$2/boot_id" /proc/sys/kernel/random/boot_id
    mount --bind "$2/etc" /etc
    shift 2
    exec "$@"
"#;

/// How long anything here may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host besides this one.
struct Host {
    name: &'static str,
    dir: PathBuf,
}

impl Host {
    /// `machine` is its machine id.
    fn new(ecs: &Installation, name: &'static str, machine: &str) -> Self {
        let dir = ecs.dir().join(name);
        fs::create_dir_all(dir.join("etc")).unwrap();
        // What programs look at there to run at all; the rest of it is another host's.
        for needed in ["passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "ld.so.cache"] {
            match fs::copy(Path::new("/etc").join(needed), dir.join("etc").join(needed)) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{needed}: {error}"),
            }
        }
        fs::write(dir.join("etc/machine-id"), machine).unwrap();
        let boot: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        fs::write(dir.join("boot_id"), format!("{boot:0<32}\n")).unwrap();
        Self { name, dir }
    }

    /// `evsfs mount` there; the view is to be had through the serving process.
    fn mount(&self, ecs: &Installation, file: &Path) -> harness::Outcome {
        let evsfs = ecs.command("evsfs");
        let point = self.dir.join("point");
        let _ = fs::create_dir(&point);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--propagation", "private", "sh", "-euc", HOST, "sh", self.name]);
        command.arg(&self.dir).arg(evsfs.get_program()).arg("mount").arg(file).arg(&point).arg("--json");
        command.env_clear().envs(evsfs.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(&mut command)
    }

    fn view(&self, pid: u32) -> PathBuf {
        let point = self.dir.join("point/disk");
        Path::new("/proc").join(pid.to_string()).join("root").join(point.strip_prefix("/").unwrap())
    }
}

/// kmsd where a lease lasts so many seconds.
fn installation(seconds: u64) -> Installation {
    let mut ecs = Installation::with(Options { start: false, ..Options::default() });
    let config = ecs.kmsd().home().join("kmsd.toml");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("\nlease_seconds = 45\n"), "{text}");
    let text = text.replace("\nlease_seconds = 45\n", &format!("\nlease_seconds = {seconds}\n"));
    fs::write(&config, text).unwrap();
    ecs.kmsd_mut().start();
    ecs
}

fn volume(ecs: &Installation) -> (PathBuf, String) {
    let disk = ecs.create_disk("d", "--size 16M --encrypted");
    (disk["file"].as_str().unwrap().into(), disk["id"].as_str().unwrap().to_owned())
}

/// `evsfs mount` on this host, by a socket that need not be kmsd's own; `name` is that of mount point and log.
fn mount(ecs: &Installation, file: &Path, name: &str, socket: &Path) -> harness::Outcome {
    let point = ecs.dir().join(name);
    let _ = fs::create_dir(&point);
    let mut command = ecs.command("evsfs");
    command.arg("mount").arg(file).arg(point).arg("--log").arg(ecs.dir().join(format!("{name}.log")));
    run(command.arg("--json").env("KMSD_SOCKET", socket))
}

fn mount_here(ecs: &Installation, file: &Path, name: &str) -> harness::Outcome {
    mount(ecs, file, name, ecs.kmsd().socket())
}

fn pid_of(mounted: &Value) -> u32 {
    u32::try_from(mounted["pid"].as_u64().unwrap()).unwrap()
}

fn write(view: &Path, text: &[u8]) -> io::Result<()> {
    let view = OpenOptions::new().write(true).open(view)?;
    view.write_all_at(text, 4096).and_then(|()| view.sync_all())
}

fn read(view: &Path) -> Vec<u8> {
    let mut text = [0; 5];
    File::open(view).and_then(|view| view.read_exact_at(&mut text, 4096)).unwrap();
    text.to_vec()
}

fn status(ecs: &Installation, file: &Path) -> Value {
    ecs.evsfs(&["info".as_ref(), file.as_os_str()]).json()
}

/// Tries until it holds.
#[track_caller]
fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// While a volume is attached, a copy of its file is not, nor is the volume on another host, whatever wants to write to it; kmsd's restart changes
/// nothing of that. When its process is killed, this host goes on at once, and every other waits.
#[test]
fn f12_copies_and_other_hosts_are_refused_and_a_restart_waits_for_nothing() {
    let mut ecs = installation(45);
    let (file, id) = volume(&ecs);
    let mut serving = pid_of(&mount_here(&ecs, &file, "here").json());
    write(&ecs.dir().join("here/disk"), b"first").unwrap();
    let copy = ecs.home().join("copy.evs");
    fs::copy(&file, &copy).unwrap();
    let other = Host::new(&ecs, "other-host", "0123456789abcdef0123456789abcdef");
    let me = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let refused = |ecs: &Installation, pid: u32| {
        let (holder, on) = (format!("process {pid}"), format!("host {me}"));
        let facts = [id.as_str(), &holder, &on, "lasts until 2", "detach it there"];
        for outcome in [
            mount_here(ecs, &copy, "there"),
            ecs.evsfs(&["rekey".as_ref(), copy.as_os_str()]),
            ecs.evsfs(&["rekey".as_ref(), copy.as_os_str(), "--new-data-key".as_ref()]),
            ecs.evsfs(&["snapshot".as_ref(), copy.as_os_str(), "s".as_ref()]),
            ecs.evsfs(&["erase".as_ref(), copy.as_os_str()]),
            other.mount(ecs, &copy),
        ] {
            let error = outcome.error(3).naming(&facts);
            assert_eq!(error.code, "attached_elsewhere");
        }
    };
    refused(&ecs, serving);
    // To look at it takes no lease.
    ecs.evsfs(&["check".as_ref(), copy.as_os_str()]).ok();
    ecs.kmsd_mut().kill();
    ecs.kmsd_mut().start();
    refused(&ecs, serving);

    // Killed, it is gone for this host alone.
    for _ in 0..5 {
        process::kill_hard(serving);
        other.mount(&ecs, &file).error(3).naming(&[&format!("process {serving}"), &me]);
        refused(&ecs, serving);
        let started = Instant::now();
        serving = pid_of(&mount_here(&ecs, &file, "here").json());
        // The lease has half a minute left and more.
        assert!(started.elapsed() < Duration::from_secs(20), "it waited for {:?}", started.elapsed());
    }
    assert_eq!(read(&ecs.dir().join("here/disk")), b"first");
    // Detached, it is anybody's at once.
    ecs.evsfs(&["umount".as_ref(), file.as_os_str()]).ok();
    let there = pid_of(&other.mount(&ecs, &file).json());
    assert_eq!(read(&other.view(there)), b"first");
    mount_here(&ecs, &file, "here").error(3);
    process::send(there, Signal::TERM);
    assert!(process::wait_for_exit(there, PATIENCE));
    let records = ecs.ecsctl("audit list --limit 1000").json();
    let told = |outcome: &str| {
        let of = |record: &&Value| record["operation"] == "take-lease" && record["outcome"] == outcome;
        records.as_array().unwrap().iter().filter(of).count()
    };
    assert_eq!((told("ok"), told("KMSD.0013")), (7, 47), "{records}");
}

/// F12: after a crash of its host a volume can be attached on another when the lease has ended, and not before. A host that was started anew waits for
/// that within the one command.
#[test]
fn f12_a_lease_ends_by_itself_when_its_holder_is_gone() {
    let ecs = installation(10);
    let (file, _) = volume(&ecs);
    let serving = pid_of(&mount_here(&ecs, &file, "here").json());
    write(&ecs.dir().join("here/disk"), b"first").unwrap();
    let other = Host::new(&ecs, "other-host", "0123456789abcdef0123456789abcdef");
    let rebooted = Host::new(&ecs, "other-anew", "0123456789abcdef0123456789abcdef");
    process::kill_hard(serving);
    other.mount(&ecs, &file).error(3).naming(&["lasts until"]);
    let there = pid_of(&until("the lease ends", || {
        let outcome = other.mount(&ecs, &file);
        (outcome.code == 0).then(|| outcome.json())
    }));
    assert_eq!(read(&other.view(there)), b"first");
    process::kill_hard(there);
    mount_here(&ecs, &file, "here").error(3).naming(&["other-host"]);
    let anew = pid_of(&rebooted.mount(&ecs, &file).json());
    assert_eq!(read(&rebooted.view(anew)), b"first");
    process::kill_hard(anew);
}

/// F12, D3: kmsd may be away for longer than a lease lasts: the disk works on, and is still its holder's when kmsd is back.
#[test]
fn f12_a_disk_outlives_its_lease_while_kmsd_is_away_and_keeps_it() {
    // Long enough that a machine under load renews it in time, each time.
    const LEASE: u64 = 8;
    let mut ecs = installation(LEASE);
    let (file, _) = volume(&ecs);
    mount_here(&ecs, &file, "here").ok();
    let view = ecs.dir().join("here/disk");
    let copy = ecs.home().join("copy.evs");
    fs::copy(&file, &copy).unwrap();
    ecs.kmsd_mut().kill();
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(LEASE + 1) {
        write(&view, b"alone").unwrap();
        thread::sleep(Duration::from_millis(200));
    }
    ecs.kmsd_mut().start();
    mount_here(&ecs, &copy, "there").error(3);
    let log = || fs::read_to_string(ecs.dir().join("here.log")).unwrap();
    until("it hears of kmsd again", || log().contains("the key service is back").then_some(()));
    // Longer than a lease lasts, and longer than kmsd waits for those of before.
    let back = Instant::now();
    while back.elapsed() < Duration::from_secs(LEASE + 1) {
        mount_here(&ecs, &copy, "there").error(3);
        thread::sleep(Duration::from_millis(250));
    }
    write(&view, b"again").unwrap();
    assert!(!log().contains("ERROR"), "{}", log());
    ecs.evsfs(&["umount".as_ref(), file.as_os_str()]).ok();
}

/// F12: kmsd was away from one side only, and the other got the lease: the first takes and acknowledges nothing from the moment on that it hears of
/// it, says so once, reads on, and comes off.
#[test]
fn f12_who_lost_the_lease_acknowledges_nothing_and_says_so_once() {
    let mut ecs = installation(2);
    let (file, id) = volume(&ecs);
    let way = ecs.dir().join("run/way");
    symlink(ecs.kmsd().socket(), &way).unwrap();
    let serving = pid_of(&mount(&ecs, &file, "here", &way).json());
    let (here, there) = (ecs.dir().join("here/disk"), ecs.dir().join("there/disk"));
    write(&here, b"first").unwrap();
    let copy = ecs.home().join("copy.evs");
    fs::copy(&file, &copy).unwrap();

    // From here on kmsd is away from this side.
    ecs.kmsd_mut().stop();
    fs::remove_file(&way).unwrap();
    ecs.kmsd_mut().start();
    until("the lease ends", || (mount_here(&ecs, &copy, "there").code == 0).then_some(()));
    write(&here, b"alone").unwrap();
    write(&there, b"other").unwrap();

    symlink(ecs.kmsd().socket(), &way).unwrap();
    until("it hears that it lost", || write(&here, b"alone").is_err().then_some(()));
    let log = || fs::read_to_string(ecs.dir().join("here.log")).unwrap();
    let lines =
        |log: &str| log.lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect::<Vec<_>>();
    until("it says so", || (!lines(&log()).is_empty()).then_some(()));
    // Nothing is acknowledged ever again, reads go on, and nothing more is said, however often it would have renewed.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        let error = write(&here, b"worse").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{error}");
        assert_eq!(read(&here), b"alone");
        thread::sleep(Duration::from_millis(100));
    }
    let said = lines(&log());
    assert_eq!(said.len(), 1, "{said:#?}");
    for fact in [id.as_str(), "writing stops for good", "process ", "remedy", "one host only"] {
        assert!(said[0].contains(fact), "{fact}: {}", said[0]);
    }
    let status = status(&ecs, &file);
    assert!(status.to_string().contains("was attached for writing by"), "{status}");
    // The other goes on, and is the one that counts.
    write(&there, b"right").unwrap();
    ecs.evsfs(&["umount".as_ref(), copy.as_os_str()]).ok();
    ecs.evsfs(&["umount".as_ref(), file.as_os_str()]);
    assert!(process::wait_for_exit(serving, PATIENCE), "it comes off");
    let refused = mount_here(&ecs, &file, "here").error(3);
    assert!(["forked", "rolled_back"].contains(&refused.code.as_str()), "{refused:?}");
    mount_here(&ecs, &copy, "there").ok();
    assert_eq!(read(&there), b"right");
    ecs.evsfs(&["umount".as_ref(), copy.as_os_str()]).ok();
}
