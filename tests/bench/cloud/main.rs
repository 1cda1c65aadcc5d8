//! How long the cloud model takes: thin disks, servers, attachment, import and lists, each beside a baseline of the same run.
//!
//! `tests/bench/cloud.sh` builds and runs it. Each figure is a median; `goal` is that of the project, for an idle machine.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use harness::{Installation, run};
use serde_json::{Value, json};

/// What the command line says.
struct Options {
    disks: usize,
    import_mib: u64,
    rounds: usize,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self { disks: 1000, import_mib: 1024, rounds: 5 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let number: u64 = value.parse().map_err(|_| format!("{word} {value}: not a number"))?;
            let count = usize::try_from(number).map_err(|_| format!("{word} {value}: too large"))?.max(1);
            match word.as_str() {
                "--disks" => options.disks = count,
                "--import-mib" => options.import_mib = number.max(1),
                "--rounds" => options.rounds = count,
                _ => return Err(format!("{word}: known are --disks, --import-mib and --rounds")),
            }
        }
        Ok(options)
    }
}

#[allow(clippy::print_stdout)] // the figures are this program's result
fn main() -> Result<(), String> {
    let options = Options::parse()?;
    let ecs = Installation::new();
    ecs.ecsctl("server create web1").ok();
    let report = json!({
        "import": import(&ecs, &options),
        "thin": thin(&ecs, &options),
        "attach": attach(&ecs, &options),
        "list": list(&ecs, &options),
    });
    println!("{report:#}");
    Ok(())
}

/// A qcow2 with contents that do not compress, into an encrypted image; beside it, `qemu-img convert` into LUKS.
fn import(ecs: &Installation, options: &Options) -> Value {
    let (raw, image, luks) =
        (ecs.dir().join("import.raw"), ecs.dir().join("import.qcow2"), ecs.dir().join("import.luks"));
    noise(&raw, options.import_mib << 20);
    qemu_img("convert -f raw -O qcow2", &[&raw, &image]);
    fs::remove_file(&raw).expect("it was made");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.min(3) {
        let create = format!("image create imported --from-file {} --encrypted", image.display());
        ours.push(timed(|| drop(ecs.ecsctl(&create).ok())));
        ecs.ecsctl("image delete imported --yes").ok();
        // As ours does, it waits until what it wrote is on the disk.
        let convert =
            "convert -t writeback -f qcow2 -O luks --object secret,id=s,data=x -o key-secret=s,iter-time=10";
        theirs.push(timed(|| {
            qemu_img(convert, &[&image, &luks]);
            run(Command::new("sync").arg(&luks)).ok();
        }));
        fs::remove_file(&luks).expect("it was made");
    }
    fs::remove_file(&image).expect("it was made");
    let (ours, theirs) = (median(ours), median(theirs));
    json!({
        "mib": options.import_mib, "seconds": ours, "qemu_img_into_luks_seconds": theirs,
        "times_as_fast": theirs / ours, "goal": {"times_as_fast": 2.0},
    })
}

/// A thin disk of a 10 GiB image, and a server with it and two data disks; beside them, an empty disk.
fn thin(ecs: &Installation, options: &Options) -> Value {
    let raw = ecs.dir().join("system.raw");
    noise(&raw, 64 << 20);
    fs::File::options().write(true).open(&raw).and_then(|file| file.set_len(10 << 30)).expect("it is ours");
    ecs.ecsctl(&format!("image create system --from-file {} --encrypted", raw.display())).ok();
    let (mut disks, mut empty, mut servers) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..options.rounds {
        disks.push(timed(|| drop(ecs.create_disk(&format!("thin-{n}"), "--image system --encrypted"))));
        empty.push(timed(|| drop(ecs.create_disk(&format!("empty-{n}"), "--size 10G --encrypted"))));
        let create = format!(
            "server create s{n} --image system --data-disk size=5G,encrypted --data-disk size=5G,encrypted"
        );
        servers.push(timed(|| drop(ecs.ecsctl(&create).ok())));
        ecs.ecsctl(&format!("server delete s{n} --yes")).ok();
    }
    let (disk, empty, server) = (median(disks), median(empty), median(servers));
    json!({
        "disk_seconds": disk, "server_with_three_disks_seconds": server, "empty_disk_seconds": empty,
        "disk_to_empty_disk": disk / empty, "goal": {"disk_seconds": 0.3, "server_with_three_disks_seconds": 0.3},
    })
}

/// From the command to a view that can be read: 1 GiB and 32 TiB.
fn attach(ecs: &Installation, options: &Options) -> Value {
    let seconds = ["1G", "32T"].map(|size| {
        let name = format!("attached-{size}");
        ecs.create_disk(&name, &format!("--size {size} --encrypted"));
        let rounds = (0..options.rounds).map(|_| {
            let took = timed(|| {
                let attached = ecs.attach(&name, "web1");
                let mut block = [1; 4096];
                fs::File::open(attached.path)
                    .and_then(|view| view.read_exact_at(&mut block, 0))
                    .expect("it can be read");
            });
            ecs.ecsctl(&format!("disk detach {name}")).ok();
            took
        });
        median(rounds.collect())
    });
    json!({
        "1_gib_seconds": seconds[0], "32_tib_seconds": seconds[1], "32_tib_to_1_gib": seconds[1] / seconds[0],
        "note": "ecsctl server show, disk attach and the first read; the goal of 0.05 s is evsfs's alone",
    })
}

/// A list of many disks; beside it, one of few.
fn list(ecs: &Installation, options: &Options) -> Value {
    let listed = |ecs: &Installation| {
        let rounds = (0..options.rounds * 4).map(|_| timed(|| drop(ecs.ecsctl("disk list").ok())));
        median(rounds.collect())
    };
    let few = ecs.ecsctl("disk list").json().as_array().map_or(0, Vec::len);
    let baseline = listed(ecs);
    let workers = 4;
    thread::scope(|scope| {
        for worker in 0..workers {
            scope.spawn(move || {
                for n in (few + worker..options.disks).step_by(workers) {
                    ecs.create_disk(&format!("many-{n}"), "--size 1M");
                }
            });
        }
    });
    let many = ecs.ecsctl("disk list").json().as_array().map_or(0, Vec::len);
    let seconds = listed(ecs);
    json!({
        "disks": many, "seconds": seconds, "baseline_disks": few, "baseline_seconds": baseline,
        "to_baseline": seconds / baseline, "goal": {"seconds": 0.05},
    })
}

/// Writes bytes that do not compress: xorshift, from a fixed seed.
fn noise(path: &Path, length: u64) {
    const PART: usize = 1 << 20;
    let file = fs::File::create(path).expect("a file can be made");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut part = vec![0; PART];
    let mut at = 0;
    while at < length {
        for word in part.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        let now = usize::try_from(length - at).unwrap_or(PART).min(PART);
        file.write_all_at(&part[..now], at).expect("it can be written");
        at += u64::try_from(now).expect("a part is small");
    }
    file.sync_all().expect("it can be made durable");
}

fn qemu_img(line: &str, files: &[&Path]) {
    run(Command::new("qemu-img").args(line.split_whitespace()).args(files)).ok();
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// Seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
