//! Prints how fast the engine alone is, without FUSE: one thread, a volume file in the directory given (default `/dev/shm`).
//!
//! Beside each job stands what no engine of this kind can pass: a bare file in the same directory that does the same requests, and AES-GCM
//! over as many bytes, one after the other. The jobs are run in rounds, each with files of its own; the figures are medians.
//!
//! `cargo run --release -p evsfs --example engine_speed [DIRECTORY] [ROUNDS]`

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evsfs::backing::FileBacking;
use evsfs::crypto::{Backend, Dek, Suite, SystemEntropy, VolumeKeys};
use evsfs::engine::{CreateParams, OpenOptions, Volume};
use evsfs::format::{Header, Text, VolumeKind, WrappedDekField};
use uuid::Uuid;

const SIZE: u64 = 4 << 30;
const SPAN: u64 = 1 << 30;
const LARGE: usize = 1 << 20;
const SMALL: usize = 4096;
const BLOCKS: u64 = SPAN / 4096;
/// Requests of the job that flushes after each.
const FLUSHES: u64 = 40_000;

/// Something that is read and written by offset: the volume, or the bare file.
trait Target {
    fn read(&self, offset: u64, buf: &mut [u8]) -> anyhow::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> anyhow::Result<()>;
    fn flush(&self) -> anyhow::Result<()>;
    /// Puts what is still in memory where it belongs.
    fn settle(&self) -> anyhow::Result<()>;
}

impl Target for Volume {
    fn read(&self, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        Ok(self.read(offset, buf)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        Ok(self.write(offset, data)?)
    }

    fn flush(&self) -> anyhow::Result<()> {
        Ok(self.flush()?)
    }

    fn settle(&self) -> anyhow::Result<()> {
        Ok(self.checkpoint()?)
    }
}

impl Target for File {
    fn read(&self, offset: u64, buf: &mut [u8]) -> anyhow::Result<()> {
        Ok(self.read_exact_at(buf, offset)?)
    }

    fn write(&self, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        Ok(self.write_all_at(data, offset)?)
    }

    fn flush(&self) -> anyhow::Result<()> {
        Ok(self.sync_data()?)
    }

    fn settle(&self) -> anyhow::Result<()> {
        Ok(self.sync_data()?)
    }
}

/// One line of the table.
struct Job {
    name: &'static str,
    /// What 5-goals asks for, in GB/s.
    must: Option<f64>,
    bytes: u64,
    seals: bool,
    /// What came before it is in the map.
    settled: bool,
    run: fn(&dyn Target) -> anyhow::Result<()>,
}

const JOBS: [Job; 11] = [
    job("write 1 MiB, first time", Some(2.0), true, |target| in_order(target, true)),
    job("read 1 MiB, first time", Some(3.0), false, |target| in_order(target, false)),
    job("write 1 MiB, again", Some(2.0), true, |target| in_order(target, true)),
    job("read 1 MiB, again", Some(3.0), false, |target| in_order(target, false)),
    job("write 4 KiB random", Some(1.0), true, |target| at_random(target, true)),
    job("read 4 KiB random", Some(1.5), false, |target| at_random(target, false)),
    job("write 4 KiB random, again", Some(1.0), true, |target| at_random(target, true)),
    job("read 4 KiB random, again", Some(1.5), false, |target| at_random(target, false)),
    Job {
        name: "write 4 KiB and flush",
        must: None,
        bytes: FLUSHES * 4096,
        seals: true,
        settled: false,
        run: flushed,
    },
    Job { settled: true, ..job("read 4 KiB, settled", Some(1.5), false, |target| at_random(target, false)) },
    job("read 1 MiB, scattered", None, false, |target| in_order(target, false)),
];

const fn job(
    name: &'static str,
    must: Option<f64>,
    seals: bool,
    run: fn(&dyn Target) -> anyhow::Result<()>,
) -> Job {
    Job { name, must, bytes: SPAN, seals, settled: false, run }
}

/// GB/s of each job in each round.
#[derive(Default)]
struct Rates {
    engine: Vec<f64>,
    file: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let rounds: usize = arguments.next().map_or(Ok(3), |rounds| rounds.parse())?;
    let directory = tempfile::Builder::new().prefix("engine-speed-").tempdir_in(directory)?;
    let mut rates: [Rates; JOBS.len()] = std::array::from_fn(|_| Rates::default());
    let mut ciphers = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let path = directory.path().join("volume.evs");
        let volume = create(&path)?;
        let bare_path = directory.path().join("bare");
        let bare = File::options().read(true).write(true).create_new(true).open(&bare_path)?;
        for (job, rates) in JOBS.iter().zip(&mut rates) {
            // Who goes first changes from round to round: the one that does takes pages that the other leaves in the caches.
            let one = |target: &dyn Target| {
                if job.settled {
                    target.settle()?;
                }
                timed(job.bytes, || (job.run)(target))
            };
            if round % 2 == 0 {
                rates.file.push(one(&bare)?);
                rates.engine.push(one(&volume)?);
            } else {
                rates.engine.push(one(&volume)?);
                rates.file.push(one(&bare)?);
            }
        }
        let [open, seal] = cipher_alone()?;
        ciphers[0].push(open);
        ciphers[1].push(seal);
        drop(volume);
        std::fs::remove_file(&path)?;
        std::fs::remove_file(&bare_path)?;
    }
    print(&mut rates, &mut ciphers)
}

fn print(rates: &mut [Rates], ciphers: &mut [Vec<f64>; 2]) -> anyhow::Result<()> {
    let ciphers = ciphers.each_mut().map(|rates| median(rates));
    let mut out = std::io::stdout().lock();
    writeln!(out, "AES-256-GCM of 4 KiB alone: seals {:.2} GB/s, opens {:.2} GB/s", ciphers[1], ciphers[0])?;
    writeln!(out, "{:28}{:>8}{:>8}{:>8}{:>8}{:>8}", "GB/s", "engine", "must", "file", "limit", "of it")?;
    for (job, rates) in JOBS.iter().zip(rates) {
        let (engine, file) = (median(&mut rates.engine), median(&mut rates.file));
        let limit = 1.0 / (file.recip() + ciphers[usize::from(job.seals)].recip());
        let must = job.must.map_or_else(|| "-".to_owned(), |must| format!("{must:.1}"));
        writeln!(
            out,
            "{:28}{engine:8.2}{must:>8}{file:8.2}{limit:8.2}{:7.0} %",
            job.name,
            engine / limit * 100.0
        )?;
    }
    Ok(())
}

fn create(path: &Path) -> anyhow::Result<Volume> {
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
    Ok(Volume::open(Arc::new(backing), header, keys(), OpenOptions::default(), Arc::new(SystemEntropy))?)
}

/// GB/s at which blocks are opened and sealed that lie in memory, a request of 1 MiB at a time.
fn cipher_alone() -> anyhow::Result<[f64; 2]> {
    let epoch =
        VolumeKeys::new(Dek::new(&[1; 32]), Uuid::nil(), Backend::AwsLc).begin_epoch(&SystemEntropy)?;
    let mut buffer = vec![7; LARGE];
    let mut sealed = Vec::new();
    let seal = timed(SPAN, || {
        for _ in 0..SPAN / LARGE as u64 {
            sealed.clear();
            for block in buffer.chunks_mut(SMALL) {
                let nonce = epoch.nonces.next()?;
                let counter = nonce.counter();
                sealed.push((counter, epoch.keys.data.seal(nonce, &[], block)));
            }
        }
        Ok(())
    })?;
    let ciphertext = buffer.clone();
    let open = timed(SPAN, || {
        for _ in 0..SPAN / LARGE as u64 {
            for ((block, from), (counter, tag)) in
                buffer.chunks_mut(SMALL).zip(ciphertext.chunks(SMALL)).zip(&sealed)
            {
                epoch.keys.data.open_into(*counter, &[], from, block, tag)?;
            }
        }
        Ok(())
    })?;
    Ok([open, seal])
}

/// Runs it, and says how many GB/s it made.
fn timed(bytes: u64, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    run()?;
    Ok(Duration::from_nanos(bytes).as_secs_f64() / start.elapsed().as_secs_f64())
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn in_order(target: &dyn Target, write: bool) -> anyhow::Result<()> {
    let mut buffer = vec![7; LARGE];
    for offset in (0..SPAN).step_by(LARGE) {
        if write {
            target.write(offset, &buffer)?;
        } else {
            target.read(offset, &mut buffer)?;
        }
    }
    Ok(())
}

/// A block of the span, by a permutation that is as good as random.
const fn place(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % BLOCKS * 4096
}

fn at_random(target: &dyn Target, write: bool) -> anyhow::Result<()> {
    let mut buffer = [9; SMALL];
    for number in 0..BLOCKS {
        if write {
            target.write(place(number), &buffer)?;
        } else {
            target.read(place(number), &mut buffer)?;
        }
    }
    Ok(())
}

fn flushed(target: &dyn Target) -> anyhow::Result<()> {
    for number in 0..FLUSHES {
        target.write(place(number), &[5; SMALL])?;
        target.flush()?;
    }
    Ok(())
}
