//! D10, F10: the raw view as a plain disk file, on real mounts: random operations against a byte vector, fio with verification, many
//! writers at once. `ECS_TEST_OPERATIONS` makes the first longer, `ECS_TEST_SEED` repeats a run.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Installation, Options, process, run};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
const O_DIRECT: i32 = 0o40000;

/// xorshift64*: the suites need no better randomness, but the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bound = u64::try_from(bound).expect("small");
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound).expect("below a usize")
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} should be a number, not {text:?}"))
    })
}

/// A volume that evsfs serves without ecsctl.
struct Volume<'a> {
    ecs: &'a Installation,
    file: PathBuf,
    point: PathBuf,
    options: &'a [&'a str],
}

impl<'a> Volume<'a> {
    fn create(ecs: &'a Installation, size: &str, options: &'a [&'a str]) -> Self {
        let (file, point) = (ecs.dir().join("v.evs"), ecs.dir().join("point"));
        fs::create_dir(&point).expect("a directory can be made");
        if options.contains(&"--raw") {
            let bytes = size.parse().expect("a number of bytes");
            File::create(&file).and_then(|file| file.set_len(bytes)).expect("a sparse file can be made");
            return Self { ecs, file, point, options };
        }
        ecs.evsfs(&[
            "create".as_ref(),
            file.as_os_str(),
            "--size".as_ref(),
            size.as_ref(),
            "--key".as_ref(),
            "evs/default".as_ref(),
        ])
        .ok();
        Self { ecs, file, point, options }
    }

    /// Mounts it; returns the view and the serving process.
    fn mount(&self) -> (PathBuf, u32) {
        let mut arguments = vec!["mount".as_ref(), self.file.as_os_str(), self.point.as_os_str()];
        arguments.extend(self.options.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
        let mounted = self.ecs.evsfs(&arguments).json();
        let pid = mounted["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id");
        (mounted["path"].as_str().expect("a path").into(), pid)
    }

    fn unmount(&self) {
        self.ecs.evsfs(&["umount".as_ref(), self.point.as_os_str()]).ok();
    }
}

/// A buffer at an address that direct I/O takes.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start }
    }

    fn slice(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + length]
    }
}

fn open(view: &Path, flags: i32) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(view).expect("the view can be opened")
}

/// Random reads and writes of any offset and length, some with `O_DIRECT`, flushes, detaches and kills of the serving process (with only
/// what was flushed expected to stay), each read compared with a vector.
fn against_a_vector(options: &[&str], seed: u64, operations: u64) {
    const SIZE: usize = 24 * MIB + 4 * BLOCK;
    let raw = options.contains(&"--raw");
    let ecs = Installation::with(Options { init: !raw, start: !raw, ..Options::default() });
    let seed = setting("ECS_TEST_SEED", seed);
    eprintln!("ECS_TEST_SEED={seed}");
    let mut random = Random(seed);
    let volume = Volume::create(&ecs, &SIZE.to_string(), options);
    let mut model = vec![0_u8; SIZE];
    let mut buffer = Aligned::new(512 * 1024);
    let (view, mut pid) = volume.mount();
    let (mut plain, mut direct) = (open(&view, 0), open(&view, O_DIRECT));
    for number in 0..setting("ECS_TEST_OPERATIONS", operations) {
        let aligned = random.below(3) == 0;
        let longest = if random.below(20) == 0 { 512 * 1024 } else { 20_000 };
        let (mut offset, mut length) = (random.below(SIZE), random.below(longest) + 1);
        if aligned {
            offset = offset / BLOCK * BLOCK;
            length = length.div_ceil(BLOCK) * BLOCK;
        }
        let length = length.min(SIZE - offset);
        let at = u64::try_from(offset).expect("small");
        let file = if aligned { &direct } else { &plain };
        match random.below(1000) {
            0..450 => {
                let data = buffer.slice(length);
                let salt = random.below(256);
                for (index, byte) in data.iter_mut().enumerate() {
                    *byte = (index.wrapping_mul(31) + salt + index / 255).to_le_bytes()[0];
                }
                file.write_all_at(data, at).unwrap_or_else(|error| panic!("write {number}: {error}"));
                model[offset..offset + length].copy_from_slice(data);
            }
            450..985 => {
                let data = buffer.slice(length);
                file.read_exact_at(data, at).unwrap_or_else(|error| panic!("read {number}: {error}"));
                let wrong = data.iter().zip(&model[offset..]).position(|(left, right)| left != right);
                assert!(
                    wrong.is_none(),
                    "read {number}, {length} bytes at {offset}: differs at {wrong:?} (seed {seed})"
                );
            }
            985..995 => plain.sync_data().expect("a flush"),
            event => {
                if event == 999 {
                    // All that is acknowledged is flushed first: then nothing may be missing after a SIGKILL.
                    plain.sync_all().expect("a flush");
                    process::kill_hard(pid);
                }
                drop((plain, direct));
                volume.unmount();
                let (view, process) = volume.mount();
                (plain, direct, pid) = (open(&view, 0), open(&view, O_DIRECT), process);
            }
        }
    }
    let mut whole = vec![0; SIZE];
    plain.read_exact_at(&mut whole, 0).expect("the whole disk can be read");
    assert!(whole == model, "the disk differs in the end (seed {seed})");
    drop((plain, direct));
    volume.unmount();
    if raw {
        assert!(fs::read(&volume.file).expect("the file can be read") == model, "the file itself differs");
    } else {
        ecs.evsfs(&["check".as_ref(), volume.file.as_os_str()]).ok();
    }
}

#[test]
fn d10_random_operations_agree_with_a_byte_vector() {
    against_a_vector(&[], 0x5eed, 20_000);
}

#[test]
fn d10_random_operations_agree_with_a_byte_vector_in_cached_mode() {
    against_a_vector(&["--cached"], 0xcac4ed, 10_000);
}

#[test]
fn s2_random_operations_on_a_file_served_raw_agree_with_a_byte_vector() {
    against_a_vector(&["--raw"], 0xfee1, 10_000);
}

/// fio's own verification, at depth 16 with direct I/O: what is read is what was written last.
#[test]
fn d10_fio_verifies_what_it_wrote() {
    let ecs = Installation::new();
    let volume = Volume::create(&ecs, "192M", &[]);
    let (view, _) = volume.mount();
    let job = |extra: &[&str]| {
        let mut fio = Command::new("fio");
        fio.args([
            "--name=verify",
            "--size=192M",
            "--ioengine=io_uring",
            "--iodepth=16",
            "--direct=1",
            "--randseed=7",
        ])
        .args(["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"])
        .arg(format!("--filename={}", view.display()))
        .args(extra);
        run(fio.current_dir(ecs.dir()))
    };
    for extra in [
        &["--rw=randwrite", "--bs=4k"][..],
        &["--rw=write", "--bs=1M"],
        &["--rw=randwrite", "--bs=16k", "--fdatasync=32"],
    ] {
        job(extra).ok();
    }
    volume.unmount();
    let (again, _) = volume.mount();
    assert_eq!(again, view);
    job(&["--rw=randwrite", "--bs=16k", "--verify_only=1"]).ok();
    volume.unmount();
}

/// Overlapping writes from several threads: each 4 KiB block is one writer's or another's, never a mixture.
#[test]
fn d10_overlapping_writes_are_whole_in_each_block() {
    const BLOCKS: usize = 16;
    let ecs = Installation::new();
    let volume = Volume::create(&ecs, "16M", &[]);
    let (view, _) = volume.mount();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 1..=3_u8 {
            let (view, stop) = (&view, &stop);
            scope.spawn(move || {
                let (file, mut buffer, mut random) =
                    (open(view, O_DIRECT), Aligned::new(BLOCKS * BLOCK), Random(u64::from(writer)));
                let mut turn = 0_u8;
                while !stop.load(Ordering::Relaxed) {
                    turn = turn.wrapping_add(1);
                    let first = random.below(BLOCKS);
                    let data = buffer.slice((random.below(BLOCKS - first) + 1) * BLOCK);
                    data.fill(turn.wrapping_mul(3).wrapping_add(writer));
                    let offset = u64::try_from(first * BLOCK).expect("small");
                    file.write_all_at(data, offset).expect("a write");
                }
            });
        }
        let (file, mut buffer) = (open(&view, O_DIRECT), Aligned::new(BLOCKS * BLOCK));
        let mut seen = [false; 256];
        let mut torn = None;
        for _ in 0..4000 {
            let data = buffer.slice(BLOCKS * BLOCK);
            file.read_exact_at(data, 0).expect("a read");
            for (number, block) in data.as_chunks::<BLOCK>().0.iter().enumerate() {
                seen[usize::from(block[0])] = true;
                if block.iter().any(|&byte| byte != block[0]) {
                    torn = Some(number);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(torn, None, "a block is a mixture of two writes");
        assert!(seen.iter().filter(|&&seen| seen).count() > 20, "the writers were at work");
    });
    volume.unmount();
}

/// From the command to the disk: with the key unwrapped by the token, the lease taken and both recorded. The best of many, since a busy machine
/// delays any single one.
#[test]
fn f6_an_encrypted_disk_that_was_cleanly_detached_is_there_within_50_ms() {
    const BOUND: Duration = Duration::from_millis(50);
    let ecs = Installation::new();
    let volume = Volume::create(&ecs, "64M", &[]);
    let (view, _) = volume.mount();
    open(&view, 0).write_all_at(&[7; BLOCK], 5 * BLOCK as u64).expect("it can be written");
    volume.unmount();
    let mut best = Duration::MAX;
    for attempt in 0..60 {
        if attempt >= 15 && best < BOUND {
            break;
        }
        let start = Instant::now();
        let (view, _) = volume.mount();
        best = best.min(start.elapsed());
        let mut found = [0; BLOCK];
        open(&view, 0).read_exact_at(&mut found, 5 * BLOCK as u64).expect("it can be read");
        assert_eq!(found, [7; BLOCK]);
        volume.unmount();
    }
    eprintln!("attached within {best:?}");
    assert!(best < BOUND, "{best:?}");
}
