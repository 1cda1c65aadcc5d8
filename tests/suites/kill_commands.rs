//! D4, D7, D10, I2, S1, A2: ecsctl is killed with SIGKILL before each of its effects in turn, in each command that changes something, with
//! real volumes, mounts and keys. The next command finishes or undoes what was cut short, and nothing half-made or ownerless stays.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use harness::{Installation, Outcome, process, run, whole};

/// The system calls by which ecsctl changes the world outside, or begins and ends what it has others do. What it asks the key service changes
/// nothing of an installation, so to die before that is to die after the effect before it.
const EFFECTS: &str = "fdatasync,fsync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,symlink,symlinkat,rmdir,\
                       clone,clone3,vfork,wait4,waitid,umount2,kill";

/// The disk at work, whose volume is looked into after each kill.
const OPENED: &[&str] = &["d"];

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
        let ecs = self.ecs;
        let go_back = |changed| {
            if changed {
                back.iter().for_each(|line| drop(ecs.ecsctl(line).ok()));
            }
        };
        self.each_of(|_| line.to_owned(), go_back, |_| ());
    }

    /// The same for a command that differs each time, and with a look at what is not in the catalogue. The way back is told whether the
    /// catalogue has changed.
    fn each_of(&mut self, line: impl Fn(usize) -> String, go_back: impl Fn(bool), look: impl Fn(&str)) {
        let first = line(0);
        let before = whole(self.ecs, OPENED, &format!("before {first}"));
        let effects = self.effects(&first);
        let after = whole(self.ecs, OPENED, &first);
        look(&first);
        go_back(after != before);
        let mut kills = 0;
        for (n, effect) in effects.iter().enumerate() {
            let line = line(n + 1);
            let context = format!("{line}, killed before {}({}", effect.call, effect.arguments);
            kills += usize::from(self.killed_before(effect, &line));
            self.ecs.ecsctl(if n % 2 == 0 { "status" } else { "server recover --all" }).ok();
            let found = whole(self.ecs, OPENED, &context);
            assert!(found == before || found == after, "{context}: {found:?} is half of it");
            look(&context);
            go_back(found != before);
        }
        assert_eq!(whole(self.ecs, OPENED, &first), before, "after {first} was undone");
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

    /// The effect by which the command, which is run to its end, starts its n-th program.
    fn nth_program(&self, line: &str, n: usize) -> Effect {
        let starts = |effect: &Effect| effect.call.starts_with("clone") || effect.call == "vfork";
        let mut programs = self.effects(line).into_iter().filter(starts);
        programs.nth(n - 1).unwrap_or_else(|| panic!("{line} does not start {n} programs"))
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
    killer.each_of(|n| format!("disk extend d --size {}K", (16 << 10) + 4 * (n + 1)), |_| (), |_| ());
    killer.each("disk rekey d --key other", &[]);
    killer.each("disk rekey d --new-data-key", &[]);
    killer.each("disk flatten t", &["disk delete t --yes", "disk create t --image i --encrypted"]);
    killer.each("snapshot create s2 --disk d", &["snapshot delete s2 --yes"]);
    ok("snapshot create s2 --disk d");
    killer.each("snapshot delete s2 --yes", &["snapshot create s2 --disk d"]);
    killer.each("snapshot rollback s --yes", &[]);
    // Each time the file is older again than what the key service knows: the newest state is given up, which has one write more.
    let file = ecs.ecsctl("disk show d").json()["file"].as_str().expect("a file").to_owned();
    let old = ecs.dir().join("old");
    let make_older = |_| {
        drop(ecs.ecsctl("disk detach d"));
        fs::copy(&file, &old).expect("it can be copied");
        ok("disk attach d web1 --accept-rollback --yes");
        fill(&ecs, 1);
        ok("disk detach d");
        fs::copy(&old, &file).expect("it can be copied");
    };
    make_older(true);
    killer.sparing = true;
    killer.each_of(|_| "disk attach d web1 --accept-rollback --yes".to_owned(), make_older, |_| ());
    ok("disk attach d web1 --accept-rollback --yes");
    ok("disk detach d");
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
    killer.each_of(|_| "image export i exported.raw --format raw --yes".to_owned(), |_| (), look);
    eprintln!("{} kills", killer.kills);
    assert_eq!(ecs.ecsctl("disk check d").json()["sound"], true);
}

/// A copy that was killed had its source mounted, to be read only: whatever is asked of that disk next finds it free all the same.
#[test]
fn after_a_copy_was_killed_any_command_about_its_source_succeeds() {
    const COPY: &str = "backup create b --disk d";
    let ecs = Installation::new();
    ecs.create_disk("d", "--size 4M --encrypted");
    ecs.ecsctl("server create web1").ok();
    let killer = Killer::new(&ecs, true);
    let end_of_copy = killer.nth_program(COPY, 4);
    ecs.ecsctl("backup delete b --yes").ok();
    for (line, there) in [
        ("disk extend d --size 8M", true),
        ("snapshot create s --disk d", true),
        ("snapshot delete s --yes", true),
        ("disk rekey d", true),
        ("disk rekey d --new-data-key", true),
        ("disk check d", true),
        ("backup create c --disk d", true),
        ("disk attach d web1", true),
        ("disk detach d", true),
        ("disk delete d --yes", false),
    ] {
        // What is attached is copied from a snapshot.
        if line != "disk detach d" {
            assert!(killer.killed_before(&end_of_copy, COPY), "{COPY}, before {line}");
            let mounts = process::mounts_under(ecs.dir());
            assert!(mounts.iter().any(|(point, _)| point.ends_with(".source")), "{line}: {mounts:?}");
        }
        ecs.ecsctl(line).ok();
        let found = whole(&ecs, OPENED, line);
        assert_eq!(found.iter().any(|row| row.starts_with("disk d ")), there, "{line}: {found:?}");
        assert!(!found.iter().any(|row| row.starts_with("backup b ")), "{line}: {found:?}");
    }
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

    // A1: a server whose second disk was never made is no model for others.
    ok("server delete web2 --yes");
    ok("disk delete web2-data1 --yes");
    let before = whole(&ecs, OPENED, "before");
    let second_disk = killer.nth_program(CREATE, 3);
    ok("server delete web2 --yes");
    ok("disk delete web2-data1 --yes");
    for line in ["as-config create half --from-server web2", "image create half --from-server web2"] {
        assert!(killer.killed_before(&second_disk, CREATE), "{CREATE}, before {line}");
        ecs.ecsctl(line).error(6).naming(&["web2"]);
        assert_eq!(whole(&ecs, OPENED, line), before, "{line}");
    }
}
