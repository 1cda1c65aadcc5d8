//! What an attached disk costs, measured at the process that serves it: memory and the time to attach (F6), space for metadata (F7).

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disk::{Aligned, Disk, Kind, MIB, Numbers, evsfs, read, refusal, run};

const TIB: u64 = 1 << 40;
const BLOCK: u64 = 4096;

/// A line of `/proc/PID/status` that is in kB, in bytes.
fn memory(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel counts memory");
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<u64>().expect("a number") * 1024
}

/// What the programs that this process ran and that have ended cost the processors (`cutime` and `cstime` of proc_pid_stat(5)).
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, which may hold anything, ends with the last parenthesis; the state behind it is field 3.
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[16 - 3..=17 - 3].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

fn direct(disk: &Disk) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(disk.path()).unwrap()
}

/// A block at an address that direct I/O takes, which says what number it is.
struct Numbered {
    memory: Vec<u8>,
    start: usize,
}

impl Numbered {
    fn new() -> Self {
        let memory = vec![0; 8192];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + 4096]
    }

    fn set(&mut self, number: u64) -> &[u8] {
        self.bytes().as_chunks_mut::<8>().0.fill(number.to_le_bytes());
        self.bytes()
    }
}

/// The same offsets each time, anywhere in the disk.
fn scattered(lane: u64) -> impl Iterator<Item = u64> {
    let mut numbers = Numbers(0x0ff5_e700 + lane);
    std::iter::repeat_with(move || numbers.below(32 * TIB / BLOCK) * BLOCK)
}

/// The hardest load for a map: each block has a leaf of its own. Then the process is killed, and recovers from what it left.
fn memory_stays_below(options: &[&'static str], bound: u64) {
    const LANES: u64 = 2;
    const EACH: usize = (1 << 30) / 4096 / LANES as usize;
    let mut disk = Disk::with(Kind::Plain, 32 * TIB, options);
    thread::scope(|scope| {
        for lane in 0..LANES {
            let (disk, mut block) = (&disk, Numbered::new());
            scope.spawn(move || {
                let view = direct(disk);
                for offset in scattered(lane).take(EACH) {
                    view.write_all_at(block.set(offset), offset).unwrap();
                }
            });
        }
    });
    disk.open().sync_all().unwrap();
    let written = memory(disk.pid, "VmHWM");
    let verify = |disk: &Disk, step: usize| {
        let (view, mut block) = (direct(disk), Numbered::new());
        for lane in 0..LANES {
            for offset in scattered(lane).take(EACH).step_by(step) {
                view.read_exact_at(block.bytes(), offset).unwrap();
                assert!(block.bytes().as_chunks::<8>().0.iter().all(|word| *word == offset.to_le_bytes()));
            }
        }
    };
    verify(&disk, 17);
    let peak = memory(disk.pid, "VmHWM");
    eprintln!(
        "{options:?}: {} MiB after writing, {} MiB at most, of {} MiB",
        written / MIB,
        peak / MIB,
        bound / MIB
    );
    assert!(peak <= bound, "{} of {} MiB", peak / MIB, bound / MIB);

    disk.kill();
    disk.umount();
    let start = Instant::now();
    disk.attach();
    let took = start.elapsed();
    verify(&disk, 1009);
    let peak = memory(disk.pid, "VmHWM");
    eprintln!("{options:?}: attached after the kill within {took:?}, {} MiB at most", peak / MIB);
    assert!(took < Duration::from_secs(2), "{took:?} after a crash");
    assert!(peak <= bound, "{} of {} MiB after recovery", peak / MIB, bound / MIB);
}

#[test]
fn f6_memory_is_below_192_mib_on_a_sparse_volume_of_32_tib() {
    memory_stays_below(&[], 192 * MIB);
}

#[test]
fn f6_memory_is_below_64_mib_when_so_configured() {
    memory_stays_below(&["--memory=64M"], 64 * MIB);
}

/// Sixteen writers and readers at once, a mebibyte each time, over all of a disk of 256 MiB.
fn large_requests(disk: &Disk, seed: u8) {
    const LANES: u64 = 16;
    thread::scope(|scope| {
        for lane in 0..LANES {
            scope.spawn(move || {
                let (view, data) = (direct(disk), Aligned::new(seed ^ u8::try_from(lane).unwrap(), 1 << 20));
                let mut seen = Aligned::new(0, 1 << 20);
                for part in 0..256 / LANES {
                    let offset = (part * LANES + lane) * MIB;
                    view.write_all_at(data.bytes(), offset).unwrap();
                    view.read_exact_at(seen.bytes_mut(), offset).unwrap();
                    assert!(seen.bytes() == data.bytes());
                }
            });
        }
    });
}

#[track_caller]
fn has_stayed_within_64_mib(disk: &Disk, when: &str) {
    let peak = memory(disk.pid, "VmHWM");
    eprintln!("{when}: {} KiB at most", peak / 1024);
    assert!(peak <= 64 * MIB, "{when}: {} KiB", peak / 1024);
}

#[test]
fn f6_large_requests_at_depth_over_a_snapshot_stay_within_64_mib() {
    let disk = Disk::with(Kind::Plain, 256 * MIB, &["--memory=64M"]);
    large_requests(&disk, 1);
    let file = disk.file();
    run(
        env!("CARGO_BIN_EXE_evsfs"),
        &["snapshot".as_ref(), file.as_os_str(), "kept".as_ref(), "--json".as_ref()],
    );
    large_requests(&disk, 77);
    disk.open().sync_all().unwrap();
    has_stayed_within_64_mib(&disk, "over a snapshot");
}

#[test]
fn f6_a_flatten_beside_large_requests_stays_within_64_mib() {
    let evsfs = env!("CARGO_BIN_EXE_evsfs");
    let mut image = Disk::new(Kind::Plain, 256 * MIB);
    for part in 0..256 {
        let data = Aligned::new(u8::try_from(part % 251 + 1).unwrap(), 1 << 20);
        direct(&image).write_all_at(data.bytes(), part * MIB).unwrap();
    }
    image.detach();
    let mut disk = Disk::with(Kind::Plain, 256 * MIB, &["--memory=64M"]);
    disk.detach();
    let (base, file) = (image.file(), disk.file());
    fs::remove_file(&file).unwrap();
    run(
        evsfs,
        &["create".as_ref(), file.as_os_str(), "--plain".as_ref(), "--base".as_ref(), base.as_os_str()],
    );
    disk.attach();
    thread::scope(|scope| {
        let flatten = scope.spawn(|| run(evsfs, &["flatten".as_ref(), file.as_os_str(), "--wait".as_ref()]));
        large_requests(&disk, 3);
        flatten.join().unwrap();
    });
    has_stayed_within_64_mib(&disk, "beside a flatten");
}

/// Everything, size apart, as on a small volume: nobody walks over what was never written. (15 TiB: a file of ext4 has 16 at most.) It is the
/// processors' time that counts: how long the host takes to make things durable says nothing of it.
#[test]
fn f6_checking_and_salvaging_cost_what_the_data_does_whatever_the_size() {
    use std::os::unix::fs::MetadataExt;
    const PIECES: u64 = 6;
    let mut took = [Duration::ZERO; 2];
    for (size, took) in [64 * MIB, 15 * TIB].into_iter().zip(&mut took) {
        let mut disk = Disk::new(Kind::Plain, size);
        let offset = |piece: u64| (size - MIB) / (PIECES - 1) * piece / BLOCK * BLOCK;
        let contents = |piece: u64| vec![u8::try_from(piece).unwrap() + 1; 1 << 20];
        let view = disk.open();
        for piece in 0..PIECES {
            view.write_all_at(&contents(piece), offset(piece)).unwrap();
        }
        drop(view);
        disk.detach();
        let saved = disk.dir().join("saved");
        let before = processor_time();
        for arguments in [
            &[OsStr::new("check"), disk.file().as_os_str()][..],
            &["salvage".as_ref(), disk.file().as_os_str(), saved.as_os_str()],
        ] {
            let output = evsfs(&[arguments, &["--json".as_ref()]].concat());
            assert!(output.status.success(), "{output:?}");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let seen = [&report["blocks"], &report["salvaged_bytes"]];
            assert!(
                seen.contains(&&(PIECES * 256).into()) || seen.contains(&&(PIECES * MIB).into()),
                "{report}"
            );
        }
        *took = processor_time() - before;
        let saved = File::open(saved).unwrap();
        assert_eq!(saved.metadata().unwrap().len(), size);
        let space = saved.metadata().unwrap().blocks() * 512;
        assert!((PIECES * MIB..(PIECES + 1) * MIB).contains(&space), "{space} bytes for {PIECES} MiB");
        for piece in 0..PIECES {
            assert!(read(&saved, offset(piece), 1 << 20) == contents(piece), "piece {piece}");
        }
    }
    eprintln!("64 MiB: {:?}, 15 TiB: {:?}", took[0], took[1]);
    assert!(took[1] < took[0] * 4 + Duration::from_secs(2), "{took:?}");
}

#[test]
fn f6_an_idle_disk_costs_at_most_12_mib() {
    for size in [1 << 30, 32 * TIB] {
        let mut disk = Disk::new(Kind::Plain, size);
        disk.open().write_all_at(&[1; 1 << 20], size / 2).unwrap();
        disk.detach();
        disk.attach();
        assert_eq!(read(&disk.open(), size / 2, 4096), [1; 4096]);
        let idle = memory(disk.pid, "VmRSS");
        eprintln!("{size} bytes, idle: {} KiB", idle / 1024);
        assert!(idle <= 12 * MIB, "{} KiB", idle / 1024);
    }
}

/// What a burst of work took goes back when nobody asks for anything any more, also when all memory is locked.
#[test]
fn f6_a_disk_that_was_busy_costs_at_most_12_mib_again_when_it_is_idle() {
    const SIZE: u64 = 64 << 30;
    const COUNT: usize = 10_000;
    let disk = Disk::with(Kind::Plain, SIZE, &["--tick=200"]);
    let view = direct(&disk);
    let mut numbers = Numbers(5);
    let offsets: Vec<u64> = (0..COUNT).map(|_| numbers.below(SIZE / BLOCK) * BLOCK).collect();
    let large = Aligned::new(3, 1 << 20);
    for part in 0..64 {
        view.write_all_at(large.bytes(), part * MIB).unwrap();
    }
    let mut block = Numbered::new();
    for offset in &offsets {
        view.write_all_at(block.set(*offset), *offset).unwrap();
    }
    let file = disk.file();
    let snapshot = [OsStr::new("snapshot"), file.as_os_str(), "now".as_ref(), "--json".as_ref()];
    assert!(evsfs(&snapshot).status.success(), "which brings what was written into the map");
    // Nearly all of them under a page of the map of their own.
    for offset in &offsets {
        view.read_exact_at(block.bytes(), *offset).unwrap();
    }
    let busy = memory(disk.pid, "VmRSS");
    assert!(busy > 40 * MIB, "{} KiB, of which nothing needs to go", busy / 1024);
    let asked = Instant::now();
    let mut idle = busy;
    while idle > 12 * MIB && asked.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(50));
        idle = memory(disk.pid, "VmRSS");
    }
    eprintln!("busy: {} KiB, idle after {:?}: {} KiB", busy / 1024, asked.elapsed(), idle / 1024);
    assert!(idle <= 12 * MIB, "{} KiB", idle / 1024);
    for offset in offsets.iter().step_by(97) {
        view.read_exact_at(block.bytes(), *offset).unwrap();
        assert!(block.bytes().as_chunks::<8>().0.iter().all(|word| *word == offset.to_le_bytes()));
    }
}

/// Both in one run and in turn, the best of each: a machine under load delays any single one, and for a while it may delay one of the two each time.
#[test]
fn f6_attaching_takes_as_long_for_32_tib_as_for_1_gib() {
    let mut disks = [1 << 30, 32 * TIB].map(|size| {
        let disk = Disk::new(Kind::Plain, size);
        let mut numbers = Numbers(77);
        for _ in 0..2000 {
            disk.open().write_all_at(&[7; 4096], numbers.below(size / BLOCK) * BLOCK).unwrap();
        }
        disk
    });
    let mut best = [Duration::MAX; 2];
    let is_alike = |best: [Duration; 2]| best[1] < best[0] * 3 / 2;
    for attempt in 0..60 {
        if attempt >= 15 && is_alike(best) {
            break;
        }
        for (disk, best) in disks.iter_mut().zip(&mut best) {
            disk.detach();
            let start = Instant::now();
            disk.attach();
            *best = start.elapsed().min(*best);
        }
    }
    eprintln!("1 GiB: {:?}, 32 TiB: {:?}", best[0], best[1]);
    assert!(is_alike(best), "{best:?}");
    assert!(best.iter().all(|best| *best < Duration::from_millis(50)), "{best:?}");
}

/// The largest disk: its last block is as good as its first, and there is none behind it.
#[test]
fn f6_a_disk_may_have_64_tib() {
    const LARGEST: u64 = 64 * TIB;
    let mut disk = Disk::new(Kind::Plain, LARGEST);
    let empty = disk.taken();
    for offset in [0, LARGEST / 2, LARGEST - BLOCK] {
        disk.open().write_all_at(&offset.to_le_bytes(), offset).unwrap();
    }
    disk.open().sync_all().unwrap();
    disk.kill();
    disk.attach();
    for offset in [0, LARGEST / 2, LARGEST - BLOCK] {
        assert_eq!(read(&disk.open(), offset, 8), offset.to_le_bytes());
    }
    assert_eq!(disk.open().read_at(&mut [0; 8], LARGEST).unwrap(), 0, "the end");
    let file = disk.file();
    let larger =
        [OsStr::new("extend"), file.as_os_str(), "--size".as_ref(), "65T".as_ref(), "--json".as_ref()];
    let (code, _) = refusal(&evsfs(&larger));
    assert_eq!(code, 2);
    assert!(disk.taken() < empty + 8 * MIB, "{} of {empty} when it was empty", disk.taken());
}

/// A disk with so much data, in the order that `write` chooses: bytes that its file takes on the host beyond the data and what an empty
/// one takes, and bytes of the pages that are in use.
fn metadata(data: u64, write: impl FnOnce(&File)) -> (u64, u64) {
    let mut disk = Disk::new(Kind::Plain, 4 << 30);
    disk.detach();
    let empty = disk.taken();
    disk.attach();
    write(&disk.open());
    disk.detach();
    let output =
        run(env!("CARGO_BIN_EXE_evsfs"), &["check".as_ref(), disk.file().as_os_str(), "--json".as_ref()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["blocks"], data / BLOCK);
    (disk.taken() - empty - data, report["pages"].as_u64().unwrap() * BLOCK)
}

#[test]
fn f7_metadata_takes_at_most_a_hundredth_of_the_data() {
    // Aligned: the kernel cuts requests from other buffers in the midst of a block, which is then written twice, and its first slot waits to
    // be used again.
    let (ordered, random): (u64, u64) = (1 << 30, 256 * MIB);
    let in_order = metadata(ordered, |view| {
        let data = Aligned::new(3, 1 << 20);
        for part in 0..ordered / MIB {
            view.write_all_at(data.bytes(), part * MIB).unwrap();
        }
    });
    // Every block once, in an order as good as random.
    let scattered = metadata(random, |view| {
        let (blocks, data) = (random / BLOCK, Aligned::new(3, 4096));
        for number in 0..blocks {
            let block = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % blocks;
            view.write_all_at(data.bytes(), block * BLOCK).unwrap();
        }
    });
    eprintln!("{ordered} bytes in order: {in_order:?}; {random} scattered: {scattered:?}");
    let (ordered, random) = (ordered / 100, random / 100);
    for (most, (on_host, in_use)) in [(ordered, in_order), (random, scattered)] {
        assert!(in_use <= most && on_host <= most, "{on_host} on the host, {in_use} in use, of {most}");
    }
}
