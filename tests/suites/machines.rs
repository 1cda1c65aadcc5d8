//! S2, S3: servers run by QEMU on the plain views of their encrypted disks. The guests are emulated, so that it is the same on
//! every host.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Guest, Installation, LoopDevice, process, tree};
use rustix::process::Signal;
use serde_json::Value;

/// A guest boots in three seconds; this covers a crowded host.
const BOOTS: Duration = Duration::from_secs(80);

fn pid(server: &Value) -> u32 {
    let pid = server["machine"]["pid"].as_u64().unwrap_or_else(|| panic!("no machine in {server}"));
    u32::try_from(pid).expect("a process id")
}

fn path(value: &Value) -> PathBuf {
    value.as_str().unwrap_or_else(|| panic!("no path in {value}")).into()
}

/// Waits until the guest has written a word to its console.
#[track_caller]
fn wait_for(console: &Path, word: &str) {
    let mut follow = Command::new("timeout");
    follow.arg(BOOTS.as_secs().to_string()).args(["tail", "-n", "+1", "-f"]).arg(console);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("timeout and tail run");
    let lines = BufReader::new(follow.stdout.take().expect("it is piped")).split(b'\n');
    let said = lines.map_while(Result::ok).any(|line| String::from_utf8_lossy(&line).contains(word));
    process::send(follow.id(), Signal::TERM);
    follow.wait().expect("the child is ours");
    assert!(said, "the guest never said {word:?}: {}", fs::read_to_string(console).unwrap_or_default());
}

/// What the guest writes beside the rest, deletes, and discards again.
const BIG: u64 = 24 << 20;

/// S2, F7: a server made from an encrypted image boots from its encrypted system disk, mounts an encrypted data disk, writes and
/// powers off. The host finds what it wrote after another attach, no plaintext in any volume file, and the space back that the guest has
/// discarded.
#[test]
fn s2_f7_a_server_boots_from_its_encrypted_disk_and_what_it_writes_and_discards_is_found_after_another_attach()
 {
    let ecs = Installation::new();
    let guest = Guest::fetch();
    // What QEMU discards after it has given root's rights up reaches the disk as well.
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all(ecs.home()).expect("a directory can be made");
        fs::write(ecs.home().join("ecs.toml"), "qemu_user = 'nobody'\n").expect("it can be written");
    }
    let canary = format!("canary-{}", std::process::id());
    let system = ecs.dir().join("system.raw");
    let script = "
mkdir /data
mount -t ext4 /dev/vda /mnt && mount -t ext4 /dev/vdb /data
echo \"system disk says: $(cat /mnt/hello)\"
for n in 1 2 3 4 5 6 7 8; do cp /mnt/hello /data/copy$n; done
dd if=/dev/urandom of=/data/big bs=1M count=24 conv=fsync 2>/dev/null
rm /data/big && sync && fstrim /data && echo GUEST TRIMMED
echo \"$(cat /mnt/hello) and back\" >/mnt/written
umount /data && umount /mnt && echo GUEST DONE
poweroff -f
";
    guest.bootable_disk(&system, script, &[("hello", &canary)]);
    ecs.ecsctl(&format!("image create debian --from-file {} --encrypted", system.display())).ok();
    ecs.ecsctl("server create web1 --image debian --data-disk size=64M,encrypted").ok();
    let disk = |name: &str| ecs.ecsctl(&format!("disk show {name}")).json();
    LoopDevice::attach(&path(&disk("web1-data1")["path"])).format("ext4");
    let data = path(&disk("web1-data1")["file"]);
    let size_of = |file: &Path| {
        let metadata = fs::metadata(file).expect("a volume file");
        (metadata.len(), metadata.blocks() * 512)
    };
    let (_, taken) = size_of(&data);

    let server = ecs.ecsctl("server start web1 --memory 256M --accel tcg").json();
    assert_eq!(server["status"], "running", "{server}");
    let (pid, console) = (pid(&server), path(&server["machine"]["console"]));
    let again = ecs.ecsctl("server start web1").error(3).naming(&["web1", "running"]);
    assert_eq!(again.code, "wrong-state");
    // What it boots from cannot be taken from it.
    ecs.ecsctl("disk detach web1-data1").error(3).naming(&["web1-data1", "ecsctl server stop web1"]);
    ecs.ecsctl("server delete web1 --yes").error(3).naming(&["running", "server stop"]);
    assert!(
        process::wait_for_exit(pid, BOOTS),
        "it never powered off: {}",
        fs::read_to_string(&console).unwrap()
    );
    let said = fs::read_to_string(&console).expect("the console is a file");
    for word in [&format!("system disk says: {canary}"), "GUEST TRIMMED", "GUEST DONE"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let status = ecs.ecsctl("status").json();
    assert!(status["settled"].to_string().contains("web1"), "the end is noticed: {status}");
    assert_eq!(ecs.ecsctl("server show web1").json()["status"], "stopped");

    for name in ["web1-system", "web1-data1"] {
        ecs.ecsctl(&format!("disk detach {name}")).ok();
    }
    let (length, left) = size_of(&data);
    assert!(length > BIG, "all of it was there: {length}");
    assert!(left < taken + BIG / 4, "{left} of {length} bytes are taken, and {taken} were before");
    for (name, file, expected) in
        [("web1-data1", "copy8", canary.clone()), ("web1-system", "written", format!("{canary} and back\n"))]
    {
        let device = LoopDevice::attach(&ecs.attach(name, "web1").path);
        let check = device.check("ext4");
        assert_eq!(check.code, 0, "{check}");
        let mounted = device.mount(&ecs.dir().join("mnt"));
        assert_eq!(fs::read_to_string(mounted.path().join(file)).expect("the guest wrote it"), expected);
        mounted.unmount();
    }
    assert!(tree::holds(&system, &canary), "the search finds what is in the open");
    for file in fs::read_dir(ecs.home().join("volumes")).expect("volumes").flatten() {
        assert!(!tree::holds(&file.path(), &canary), "{} holds plaintext", file.path().display());
    }
    ecs.ecsctl("server delete web1 --yes").ok();
    assert!(!console.exists(), "what the guest said goes with its server");
}

/// S2, S3: a machine outlives the command that started it, runs without root's rights, shuts down when it is asked, and its
/// death is noticed.
#[test]
fn s3_a_machine_is_found_again_stopped_and_missed() {
    let ecs = Installation::new();
    let guest = Guest::fetch();
    fs::create_dir_all(ecs.home()).expect("a directory can be made");
    let user = if rustix::process::geteuid().is_root() { "qemu_user = 'nobody'\n" } else { "" };
    fs::write(ecs.home().join("ecs.toml"), format!("accel = 'tcg'\n{user}")).expect("it can be written");
    let initrd = ecs.dir().join("initrd");
    // The power button is an input device: what can be read from it is that it was pressed.
    guest.initrd(
        &initrd,
        "
echo \"disk of $(cat /sys/class/block/vda/size 2>/dev/null || blockdev --getsize64 /dev/vda) bytes\"
dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null
n=3
for button in /dev/input/event*; do
    eval \"exec $n<$button\"
    (head -c 1 <&$n >/dev/null; echo GUEST DOWN; poweroff -f) &
    n=$((n + 1))
done
echo GUEST UP
wait
",
    );
    ecs.ecsctl("server create web1").ok();
    ecs.ecsctl("server start web1").error(3).naming(&["web1", "disk"]);
    ecs.create_disk("d", "--size 16M --encrypted");
    ecs.attach("d", "web1");
    let start = |acceleration: &str| {
        let kernel = guest.kernel();
        let mut arguments: Vec<String> =
            "server start web1 --memory 128M".split(' ').map(str::to_owned).collect();
        arguments.extend(["--accel".to_owned(), acceleration.to_owned()]);
        arguments.extend(["--append", "console=ttyS0 panic=-1", "--kernel"].map(str::to_owned));
        arguments.extend([kernel, "--initrd".into(), initrd.clone()].map(|path| path.display().to_string()));
        let server = ecs.ecsctl_with(&arguments).json();
        wait_for(&path(&server["machine"]["console"]), "GUEST UP");
        server
    };

    let server = start("tcg");
    let found = ecs.ecsctl("server show web1").json();
    assert_eq!(
        (pid(&found), &found["status"]),
        (pid(&server), &"running".into()),
        "another process finds it"
    );
    if !user.is_empty() {
        let ids = process::status_field(pid(&server), "Uid").expect("it runs");
        assert!(!ids.split_whitespace().any(|id| id == "0"), "QEMU keeps root's rights: {ids}");
    }
    let stopped = ecs.ecsctl("server stop web1").json();
    assert_eq!(stopped["status"], "stopped");
    assert!(!process::is_running(pid(&server)));
    let said = fs::read_to_string(path(&server["machine"]["console"])).expect("the console is a file");
    assert!(said.contains("GUEST DOWN"), "it was asked, not killed: {said}");
    ecs.ecsctl("server stop web1").error(3).naming(&["web1", "stopped"]);

    // A guest that hears nothing runs on until its power is cut.
    let server = start("tcg");
    process::send(pid(&server), Signal::STOP);
    let deaf = ecs.ecsctl("server stop web1 --force");
    assert_eq!(deaf.code, 2, "it asks first, and there is no terminal: {deaf}");
    ecs.ecsctl("server stop web1 --force --yes").ok();
    assert!(!process::is_running(pid(&server)));

    // The process that serves its disk is killed: that comes back, but not to this guest, which keeps it all the same.
    let server = start("tcg");
    let serving = ecs.attached(&ecs.ecsctl("disk show d").json()).pid;
    process::kill_hard(serving);
    assert!(process::wait_for_exit(serving, BOOTS));
    for _ in 0..2 {
        ecs.ecsctl("server recover web1").error(1).naming(&["1 disk", "d"]);
        let shown = ecs.ecsctl("disk show d").json();
        assert_eq!(shown["status"], "in-use", "it is up: {shown}");
        ecs.ecsctl("disk detach d").error(3).naming(&["ecsctl server stop web1"]);
    }
    // Killed from outside: the next command says so, and it starts again.
    process::kill_hard(pid(&server));
    assert!(process::wait_for_exit(pid(&server), BOOTS));
    let recovered = ecs.ecsctl("server recover web1").json();
    assert_eq!(recovered[0]["result"], "present", "its disk did not suffer: {recovered}");
    assert_eq!(ecs.ecsctl("server show web1").json()["status"], "stopped");
    let server = start("auto"); // by KVM only where it works
    ecs.ecsctl("server stop web1").ok();
    assert!(!process::is_running(pid(&server)));
    ecs.ecsctl("disk detach d").ok();
}
