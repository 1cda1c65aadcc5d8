//! Prints how fast the engine alone is, without FUSE: one thread, a volume file in the directory given (default `/dev/shm`).
//!
//! `cargo run --release -p evsfs --example engine_speed [DIRECTORY] [THREADS]`

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use evsfs::backing::FileBacking;
use evsfs::crypto::{Backend, Dek, Suite, SystemEntropy, VolumeKeys};
use evsfs::engine::{CreateParams, OpenOptions, Volume};
use evsfs::format::{Header, Text, VolumeKind, WrappedDekField};
use uuid::Uuid;

const SIZE: u64 = 4 << 30;
const SPAN: u64 = 1 << 30;
const LARGE: usize = 1 << 20;
const SMALL: usize = 4096;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let threads: u64 = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let path = directory.join(format!("engine-speed-{}.evs", std::process::id()));
    let result = run(&path, threads);
    std::fs::remove_file(&path)?;
    result
}

fn run(path: &std::path::Path, threads: u64) -> anyhow::Result<()> {
    let uuid = Uuid::new_v4();
    let keys = || VolumeKeys::new(Dek::new(&[1; 32]), uuid, Backend::AwsLc);
    let params = CreateParams { size: SIZE };
    let header = Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 1,
        uuid,
        created: 0,
        ring_pages: params.ring_pages(),
        cmk_id: Text::new("speed").expect("short"),
        cmk_version: 1,
        wrapped_dek: WrappedDekField::new(vec![1; 40]).expect("short"),
        next: None,
        base_copied: false,
        base: None,
    };
    let backing = FileBacking::create(path)?;
    Volume::create(&backing, &header, &params, &keys(), &SystemEntropy)?;
    let volume =
        Volume::open(Arc::new(backing), header, keys(), OpenOptions::default(), Arc::new(SystemEntropy))?;
    let volume = &volume;
    let mut out = std::io::stdout().lock();
    let mut line = |name: &str, bytes: u64, run: &mut dyn FnMut() -> anyhow::Result<()>| {
        let start = Instant::now();
        run()?;
        let seconds = start.elapsed().as_secs_f64();
        let rate = std::time::Duration::from_nanos(bytes).as_secs_f64() / seconds;
        writeln!(
            out,
            "{name:28} {rate:6.2} GB/s  {:8.0} requests/s",
            rate * 1e9 / if name.contains("1 MiB") { 1_048_576.0 } else { 4096.0 }
        )?;
        anyhow::Ok(())
    };
    for round in ["fresh", "again"] {
        line(&format!("write 1 MiB, {round}"), SPAN, &mut || in_order(volume, true))?;
        line(&format!("read 1 MiB, {round}"), SPAN, &mut || in_order(volume, false))?;
    }
    let count = SPAN / 4096;
    for round in ["first", "again"] {
        line(&format!("write 4 KiB random, {round}"), count * 4096, &mut || {
            at_random(volume, true, count, threads)
        })?;
        line(&format!("read 4 KiB random, {round}"), count * 4096, &mut || {
            at_random(volume, false, count, threads)
        })?;
    }
    line("write 4 KiB and flush", 40_000 * 4096, &mut || {
        let data = [5; SMALL];
        for number in 0..40_000u64 {
            volume.write(place(number), &data)?;
            volume.flush()?;
        }
        Ok(())
    })?;
    volume.checkpoint()?;
    line("read 4 KiB, all in the map", count * 4096, &mut || at_random(volume, false, count, threads))?;
    line("read 1 MiB, scattered", SPAN, &mut || in_order(volume, false))?;
    writeln!(out, "{:?}", volume.stats())?;
    Ok(())
}

fn in_order(volume: &Volume, write: bool) -> anyhow::Result<()> {
    let mut buffer = vec![7; LARGE];
    let mut offset = 0;
    while offset < SPAN {
        if write {
            volume.write(offset, &buffer)?;
        } else {
            volume.read(offset, &mut buffer)?;
        }
        offset += 1 << 20;
    }
    Ok(())
}

/// A block of the span, by a permutation that is as good as random.
const fn place(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SPAN / 4096) * 4096
}

fn at_random(volume: &Volume, write: bool, count: u64, threads: u64) -> anyhow::Result<()> {
    let work = |thread: u64| -> anyhow::Result<()> {
        let mut buffer = [9; SMALL];
        for number in (thread..count).step_by(usize::try_from(threads)?) {
            if write {
                volume.write(place(number), &buffer)?;
            } else {
                volume.read(place(number), &mut buffer)?;
            }
        }
        Ok(())
    };
    if threads == 1 {
        return work(0);
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })
}
