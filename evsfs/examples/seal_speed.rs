//! How fast 4 KiB blocks are sealed and opened on one core, by backend and suite: `cargo run --release -p evsfs --example seal_speed`.
//!
//! The rounds of all candidates are interleaved and medians compared, so that the ratios hold on a noisy machine.
#![allow(clippy::print_stdout)]

use evsfs::crypto::{Backend, Dek, FreshEpoch, Suite, SystemEntropy, Tag, VolumeKeys};
use evsfs::format::{data_aad, layout::BLOCK};
use std::hint::black_box;
use std::time::{Duration, Instant};
use uuid::Uuid;

const ROUNDS: usize = 31;
/// 1 MiB: a large request, larger than the first-level caches.
const BLOCKS: usize = 256;

struct Candidate {
    name: &'static str,
    epoch: FreshEpoch,
    seal: Vec<Duration>,
    seal_into: Vec<Duration>,
    open: Vec<Duration>,
}

fn candidate(suite: Suite, backend: Backend) -> Candidate {
    let uuid = Uuid::from_u128(1);
    let (keys, name) = match (suite, backend) {
        (Suite::Aes256Gcm, Backend::AwsLc) => {
            (VolumeKeys::new(Dek::new(&[7; 32]), uuid, backend), "aws-lc-rs")
        }
        (Suite::Aes256Gcm, Backend::AesGcm) => {
            (VolumeKeys::new(Dek::new(&[7; 32]), uuid, backend), "aes-gcm")
        }
        (Suite::Plain, Backend::AwsLc) => (VolumeKeys::plain(uuid, backend), "plain, aws-lc-rs"),
        (Suite::Plain, Backend::AesGcm) => (VolumeKeys::plain(uuid, backend), "plain, aes-gcm"),
    };
    let epoch = keys.begin_epoch(&SystemEntropy).expect("the system has randomness");
    Candidate { name, epoch, seal: vec![], seal_into: vec![], open: vec![] }
}

impl Candidate {
    fn round(&mut self, plain: &[u8], work: &mut [u8]) {
        let uuid = Uuid::from_u128(1);
        let cipher = self.epoch.keys.data.as_ref();
        let count = u32::try_from(BLOCKS).expect("small");

        let nonces = self.epoch.nonces.take(count).expect("few rounds");
        let start = Instant::now();
        for ((lba, nonce), (from, to)) in
            (0..).zip(nonces).zip(plain.as_chunks::<BLOCK>().0.iter().zip(work.as_chunks_mut::<BLOCK>().0))
        {
            black_box(cipher.seal_into(nonce, &data_aad(&uuid, lba), from, to));
        }
        self.seal_into.push(start.elapsed());

        work.copy_from_slice(plain);
        let nonces = self.epoch.nonces.take(count).expect("few rounds");
        let mut sealed: Vec<(u32, Tag)> = Vec::with_capacity(BLOCKS);
        let start = Instant::now();
        for ((lba, nonce), block) in (0..).zip(nonces).zip(work.as_chunks_mut::<BLOCK>().0) {
            let counter = nonce.counter();
            sealed.push((counter, cipher.seal(nonce, &data_aad(&uuid, lba), block)));
        }
        self.seal.push(start.elapsed());

        let start = Instant::now();
        for ((lba, (counter, tag)), block) in (0..).zip(&sealed).zip(work.as_chunks_mut::<BLOCK>().0) {
            cipher.open(*counter, &data_aad(&uuid, lba), block, tag).expect("sealed a moment ago");
        }
        self.open.push(start.elapsed());
        assert_eq!(work, plain);
    }
}

/// GB/s of the median round.
fn rate(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let bytes = u32::try_from(BLOCKS * BLOCK).expect("1 MiB");
    f64::from(bytes) / times[times.len() / 2].as_secs_f64() / 1e9
}

fn main() {
    let mut candidates = [
        candidate(Suite::Aes256Gcm, Backend::AwsLc),
        candidate(Suite::Aes256Gcm, Backend::AesGcm),
        candidate(Suite::Plain, Backend::AwsLc),
        candidate(Suite::Plain, Backend::AesGcm),
    ];
    let plain: Vec<u8> = (0..=250).cycle().take(BLOCKS * BLOCK).collect();
    let mut work = vec![0; plain.len()];
    for _ in 0..ROUNDS {
        for candidate in &mut candidates {
            candidate.round(&plain, &mut work);
        }
    }
    println!("{:<18} {:>14} {:>14} {:>14}", "GB/s (ratio)", "seal", "seal_into", "open");
    let mut first = None;
    for candidate in &mut candidates {
        let rates = [rate(&mut candidate.seal), rate(&mut candidate.seal_into), rate(&mut candidate.open)];
        let base = *first.get_or_insert(rates);
        let cells = [0, 1, 2].map(|at| format!("{:.2} ({:.2})", rates[at], rates[at] / base[at]));
        println!("{:<18} {:>14} {:>14} {:>14}", candidate.name, cells[0], cells[1], cells[2]);
    }
}
