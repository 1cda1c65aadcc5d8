//! D4, D7, D10, I2, S1, A2: ecsctl is killed with SIGKILL before each of its effects in turn, in each command that changes something, with
//! real volumes, mounts and keys. The next command finishes or undoes what was cut short, and nothing half-made or ownerless stays.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Installation, Outcome, process, run};

/// The system calls by which ecsctl changes the world outside, or begins and ends what it has others do. What it asks the key service changes
/// nothing of an installation, so to die before that is to die after the effect before it.
const EFFECTS: &str = "fdatasync,fsync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,symlink,symlinkat,rmdir,\
                       clone,clone3,vfork,wait4,waitid,umount2,kill";

/// A system call of a command that had an effect.
#[derive(Debug)]
struct Effect {
    call: String,
    /// Counted among the calls of that name, as strace counts.
    nth: u32,
    arguments: String,
}

impl Effect {
    /// SQLite's own tidying after a commit; its journal's syncs are the commits.
    fn tidies_catalogue(&self) -> bool {
        let journal = self.call.ends_with("sync") && self.arguments.contains("catalog.db-wal");
        self.arguments.contains("catalog.db") && !journal
    }

    /// It divides one step from another: a commit, a program that begins or ends, a name that appears or a directory that goes.
    fn divides(&self) -> bool {
        self.arguments.contains("catalog.db-wal")
            || ["clone", "vfork", "wait", "rename", "link", "rmdir"]
                .iter()
                .any(|call| self.call.starts_with(call))
    }
}

/// Kills commands, and counts.
struct Killer<'a> {
    ecs: &'a Installation,
    /// Only before effects that divide steps.
    sparing: bool,
    kills: usize,
}

impl<'a> Killer<'a> {
    fn new(ecs: &'a Installation, sparing: bool) -> Self {
        Self { ecs, sparing, kills: 0 }
    }

    /// Kills a command before each of its effects. Each time all is as before the command or as after it, once the next command has settled
    /// what was cut short; `back` leads from after to before. So each killed command also shows that it can be given again.
    fn each(&mut self, line: &str, back: &[&str]) {
        self.each_of(|_| line.to_owned(), back, |_| ());
    }

    /// The same for a command that differs each time, and with a look at what is not in the catalogue.
    fn each_of(&mut self, line: impl Fn(usize) -> String, back: &[&str], look: impl Fn(&str)) {
        let go_back = || back.iter().for_each(|line| drop(self.ecs.ecsctl(line).ok()));
        let first = line(0);
        let before = whole(self.ecs, &format!("before {first}"));
        let effects = self.effects(&first);
        let after = whole(self.ecs, &first);
        look(&first);
        go_back();
        let mut kills = 0;
        for (n, effect) in effects.iter().enumerate() {
            let line = line(n + 1);
            let context = format!("{line}, killed before {}({}", effect.call, effect.arguments);
            kills += usize::from(self.killed_before(effect, &line));
            self.ecs.ecsctl(if n % 2 == 0 { "status" } else { "server recover --all" }).ok();
            let found = whole(self.ecs, &context);
            assert!(found == before || found == after, "{context}: {found:?} is half of it");
            look(&context);
            if found != before {
                go_back();
            }
        }
        assert_eq!(whole(self.ecs, &first), before, "after {first} was undone");
        eprintln!("{first}: {kills} kills before {} effects", effects.len());
        assert!(kills > 3 && kills * 10 >= effects.len() * 9, "{first}: {kills} kills, {effects:?}");
        self.kills += kills;
    }

    /// What the command does, in order: it is run to its end.
    fn effects(&self, line: &str) -> Vec<Effect> {
        let trace = self.ecs.dir().join("effects");
        let outcome =
            self.traced(&["--decode-fds=path".to_owned(), format!("--trace={EFFECTS}")], &trace, line);
        outcome.ok();
        let mut seen: Vec<Effect> = Vec::new();
        for line in fs::read_to_string(&trace).expect("strace wrote it").lines() {
            let Some((call, arguments)) = line.split_once('(') else { continue };
            let nth = seen.iter().filter(|effect| effect.call == call).count();
            let nth = u32::try_from(nth).expect("few") + 1;
            seen.push(Effect { call: call.to_owned(), nth, arguments: arguments.to_owned() });
        }
        seen.retain(|effect| !effect.arguments.contains(" = -1 ") && !effect.tidies_catalogue());
        if self.sparing {
            seen.retain(Effect::divides);
        }
        seen
    }

    /// Runs it and kills it before that. False when it came to its end.
    fn killed_before(&self, effect: &Effect, line: &str) -> bool {
        let Effect { call, nth, .. } = effect;
        let options = [format!("--trace={call}"), format!("--inject={call}:signal=KILL:when={nth}")];
        let outcome = self.traced(&options, Path::new("/dev/null"), line);
        match outcome.code {
            0 => false,
            137 => true,
            _ => panic!("before {effect:?}: {outcome}"),
        }
    }

    /// ecsctl under strace; the programs that it runs are not.
    fn traced(&self, options: &[String], trace: &Path, line: &str) -> Outcome {
        let ecsctl = self.ecs.command("ecsctl");
        let mut strace = Command::new("strace");
        strace.args(["--quiet=all", "--signal=none", "--output"]).arg(trace).args(options);
        strace.arg(ecsctl.get_program()).arg("--json").args(line.split_whitespace());
        strace.current_dir(self.ecs.dir()).env_clear();
        for (name, value) in ecsctl.get_envs() {
            strace.env(name, value.expect("set"));
        }
        run(&mut strace)
    }
}

/// A row of the catalogue, read by SQLite's own program.
struct Row {
    kind: String,
    id: String,
    name: String,
    status: String,
    pid: String,
    size: String,
    key: String,
}

fn catalogue(ecs: &Installation) -> Vec<Row> {
    const QUERY: &str = "SELECT 'operation', resource_id, operation, '', '', '', '' FROM operations
        UNION ALL SELECT kind, id, name, status, coalesce(serving_pid, ''), size, coalesce(key_id, '') FROM volumes
        UNION ALL SELECT 'thin', id, name, '', '', '', '' FROM volumes WHERE base_id IS NOT NULL
        UNION ALL SELECT 'snapshot', id, name, '', '', '', '' FROM snapshots
        UNION ALL SELECT 'server', id, name, status, '', '', '' FROM servers";
    let out = run(Command::new("sqlite3").arg(ecs.home().join("catalog.db")).arg(QUERY)).ok().stdout;
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::to_owned);
        let mut next = || cells.next().unwrap_or_else(|| panic!("a short row: {line}"));
        let (kind, id, name, status) = (next(), next(), next(), next());
        Row { kind, id, name, status, pid: next(), size: next(), key: next() }
    };
    out.lines().map(row).collect()
}

/// The names in a directory; one that is not there has none.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().expect("names are UTF-8")).collect()
}

/// What holds whenever nothing is being done: nothing is pending, no state is one of passage, and every file, directory, mount and process is
/// that of something in the catalogue. Returns what there is: kind, name and status.
fn whole(ecs: &Installation, context: &str) -> BTreeSet<String> {
    let (home, rows) = (ecs.home(), catalogue(ecs));
    let is_volume = |row: &&Row| ["disk", "image", "backup"].contains(&row.kind.as_str());
    for row in &rows {
        let stays = match row.kind.as_str() {
            "operation" => panic!("{context}: {} is pending", row.name),
            "server" => row.status == "stopped",
            "thin" | "snapshot" => true,
            _ => row.status == "available" || row.status == "in-use",
        };
        assert!(stays, "{context}: {} {} stays {}", row.kind, row.name, row.status);
    }
    let volumes: Vec<&Row> = rows.iter().filter(is_volume).collect();
    let in_use: Vec<&&Row> = volumes.iter().filter(|row| row.status == "in-use").collect();

    let files = volumes.iter().map(|row| format!("{}.evs", row.id)).collect::<BTreeSet<_>>();
    assert_eq!(names(&home.join("volumes")), files, "{context}: files of volumes");
    let served =
        |suffix: &str| in_use.iter().map(|row| format!("{}{suffix}", row.id)).collect::<BTreeSet<_>>();
    assert_eq!(names(&home.join("mnt")), served(""), "{context}: mount points");
    assert_eq!(names(&home.join("run")), served(".sock"), "{context}: sockets");
    for dir in ["lock", "log"] {
        for name in names(&home.join(dir)) {
            let owned = rows.iter().any(|row| name == format!("{}.{dir}", row.id));
            assert!(owned, "{context}: {dir}/{name} is nobody's");
        }
    }
    let mut links = BTreeSet::new();
    for server in names(&home.join("servers")) {
        let owned = rows.iter().any(|row| row.kind == "server" && row.name == server);
        assert!(owned, "{context}: servers/{server} is nobody's");
        links.append(&mut names(&home.join("servers").join(server)));
    }
    let disks: BTreeSet<String> = in_use.iter().map(|row| row.name.clone()).collect();
    assert_eq!(links, disks, "{context}: stable paths");
    let partial = names(ecs.dir()).into_iter().find(|name| name.ends_with(".partial"));
    assert_eq!(partial, None, "{context}");

    let mounts: BTreeSet<PathBuf> =
        process::mounts_under(&home).into_iter().map(|(point, _)| point.into()).collect();
    let expected = in_use.iter().map(|row| home.join("mnt").join(&row.id)).collect();
    assert_eq!(mounts, expected, "{context}: mounts");
    let serving: Vec<u32> = in_use.iter().map(|row| row.pid.parse().expect("a process")).collect();
    assert!(serving.iter().all(|pid| process::is_running(*pid)), "{context}: a disk in use is not served");
    for pid in process::with_argument(&home).into_iter().filter(|pid| !serving.contains(pid)) {
        // An evsfs that was only asked something may outlive its ecsctl by a moment.
        assert!(process::wait_for_exit(pid, Duration::from_secs(10)), "{context}: process {pid} is nobody's");
    }
    if let Some(disk) = volumes.iter().find(|row| row.kind == "disk" && row.name == "d") {
        assert_volume_agrees(ecs, disk, &rows, context);
    }
    rows.iter().map(|row| format!("{} {} {}", row.kind, row.name, row.status)).collect()
}

/// What the catalogue says of a disk is what its volume says.
fn assert_volume_agrees(ecs: &Installation, disk: &Row, rows: &[Row], context: &str) {
    let file = ecs.home().join("volumes").join(format!("{}.evs", disk.id));
    let file = file.to_str().expect("test paths are UTF-8");
    if disk.status == "available" {
        let info = ecs.evsfs(&["info", file, "--unlock"]).json();
        let told = (info["size"].to_string(), info["key_id"].as_str().unwrap_or_default());
        assert_eq!(told, (disk.size.clone(), disk.key.as_str()), "{context}: size and key of {}", disk.name);
    }
    let kept = ecs.evsfs(&["snapshots", file]).json();
    let kept = kept["snapshots"].as_array().expect("a list").iter();
    let kept: BTreeSet<&str> = kept.map(|snapshot| snapshot["id"].as_str().expect("an ID")).collect();
    let told = rows.iter().filter(|row| row.kind == "snapshot").map(|row| row.id.as_str()).collect();
    assert_eq!(kept, told, "{context}: snapshots of {}", disk.name);
}

/// An image file of 1 MiB, half of it empty, as raw and, by qemu-img, as qcow2. Returns its bytes.
fn image_files(ecs: &Installation) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    bytes[1 << 18..3 << 18].fill(0);
    let raw = ecs.dir().join("original.raw");
    fs::write(&raw, &bytes).expect("it can be written");
    let mut convert = Command::new("qemu-img");
    run(convert
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &ecs.dir().join("original.qcow2")]))
    .ok();
    bytes
}

/// Writes to an attached disk.
fn fill(ecs: &Installation, byte: u8) {
    let view = ecs.attached(&ecs.ecsctl("disk show d").json()).path;
    let file = OpenOptions::new().write(true).open(view).expect("the view can be opened");
    file.write_all_at(&[byte; 10_000], 5000).and_then(|()| file.sync_all()).expect("the view takes writes");
}

/// Disks and their snapshots.
#[test]
fn sigkill_of_ecsctl_before_each_effect_leaves_nothing_half_made() {
    let ecs = Installation::new();
    image_files(&ecs);
    let ok = |line: &str| drop(ecs.ecsctl(line).ok());
    ok("key create --alias other");
    ok("image create i --from-file original.raw --encrypted");
    ok("disk create t --image i --encrypted");
    ok("disk create d --size 16M --encrypted");
    ecs.attach("d", "web1");
    fill(&ecs, 1);
    ok("snapshot create s --disk d");
    fill(&ecs, 2);
    ok("disk detach d");

    let mut killer = Killer::new(&ecs, false);
    killer.each("disk create n --size 16M --encrypted", &["disk delete n --yes"]);
    ok("disk create n --size 16M --encrypted");
    killer.each("disk delete n --yes", &["disk create n --size 16M --encrypted"]);
    killer.each("disk attach d web1", &["disk detach d"]);
    ok("disk attach d web1");
    killer.each("disk detach d", &["disk attach d web1"]);
    ok("disk detach d");
    killer.each_of(|n| format!("disk extend d --size {}K", (16 << 10) + 4 * (n + 1)), &[], |_| ());
    killer.each("disk rekey d --key other", &[]);
    killer.each("disk rekey d --new-data-key", &[]);
    killer.each("disk flatten t", &["disk delete t --yes", "disk create t --image i --encrypted"]);
    killer.each("snapshot create s2 --disk d", &["snapshot delete s2 --yes"]);
    ok("snapshot create s2 --disk d");
    killer.each("snapshot delete s2 --yes", &["snapshot create s2 --disk d"]);
    killer.each("snapshot rollback s --yes", &[]);
    eprintln!("{} kills", killer.kills);

    let mut seen = vec![0; 10_000];
    let view = fs::File::open(ecs.attach("d", "web1").path).expect("the view can be opened");
    view.read_exact_at(&mut seen, 5000).expect("the view can be read");
    assert!(seen.iter().all(|byte| *byte == 1), "the disk is what it was at its snapshot");
    drop(view);
    ok("disk detach d");
    assert_eq!(ecs.ecsctl("disk check d").json()["sound"], true);
}

/// Images, backups, and everything else that is copied.
#[test]
fn sigkill_of_ecsctl_amid_a_copy_leaves_nothing_half_made() {
    let ecs = Installation::new();
    let original = image_files(&ecs);
    let ok = |line: &str| drop(ecs.ecsctl(line).ok());
    ok("image create i --from-file original.qcow2 --encrypted");
    ok("disk create d --image i --encrypted");
    ok("snapshot create s --disk d");
    ok("backup create b --disk d");

    let mut killer = Killer::new(&ecs, true);
    killer.each("image create i2 --from-file original.qcow2 --encrypted", &["image delete i2 --yes"]);
    killer.each("image copy i i2 --encrypted", &["image delete i2 --yes"]);
    ok("image copy i i2 --encrypted");
    killer.each("image delete i2 --yes", &["image copy i i2 --encrypted"]);
    killer.each("disk create c --snapshot s", &["disk delete c --yes"]);
    ecs.attach("d", "web1");
    killer.each("backup create b2 --disk d", &["backup delete b2 --yes"]);
    ok("disk detach d");
    killer.each("backup restore b r --plain --yes", &["disk delete r --yes"]);
    killer.each("backup delete b --yes", &["backup create b --disk d"]);
    let exported = ecs.dir().join("exported.raw");
    let look = |context: &str| {
        if exported.exists() {
            assert!(fs::read(&exported).expect("it can be read") == original, "{context}: not the image");
            fs::remove_file(&exported).expect("it is ours");
        }
    };
    killer.each_of(|_| "image export i exported.raw --format raw --yes".to_owned(), &[], look);
    eprintln!("{} kills", killer.kills);
    assert_eq!(ecs.ecsctl("disk check d").json()["sound"], true);
}

/// Servers with their disks, one by one and in a group.
#[test]
fn sigkill_of_ecsctl_amid_a_change_of_servers_leaves_nothing_half_made() {
    const CREATE: &str = "server create web2 --image i --data-disk size=1M,encrypted";
    let ecs = Installation::new();
    image_files(&ecs);
    let ok = |line: &str| drop(ecs.ecsctl(line).ok());
    ok("image create i --from-file original.raw --encrypted");
    ok("server create web1 --data-disk size=1M,encrypted");
    ok("as-config create c --from-server web1");
    ok("as-group create g --config c --desired 1");

    let mut killer = Killer::new(&ecs, true);
    killer.each(CREATE, &["server delete web2 --yes", "disk delete web2-data1 --yes"]);
    ok(CREATE);
    killer.each("server delete web2 --yes", &["disk delete web2-data1 --yes", CREATE]);
    killer.each("as-group scale g --desired 2", &["as-group scale g --desired 1 --yes"]);
    killer.each("as-group scale g --desired 0 --yes", &["as-group scale g --desired 1"]);
    eprintln!("{} kills", killer.kills);
}
