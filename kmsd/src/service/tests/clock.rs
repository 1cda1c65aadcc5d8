//! Many look at the clocks at once.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::{
    clock::Clock,
    domain::time::{Reading, TrustedTime, WallTime},
};

/// Clocks that go on at every look, and whose readers are held up until another has looked, if one comes by.
struct Overtaking {
    reading: Mutex<Reading>,
    looks: AtomicU64,
}

impl Overtaking {
    fn pass(&self, millis: i64, leap: i64) {
        let mut reading = self.reading.lock();
        reading.since_boot += millis;
        reading.wall.0 += millis + leap;
    }
}

impl Clock for Overtaking {
    fn read(&self) -> Reading {
        let (reading, look) = {
            let mut reading = self.reading.lock();
            reading.since_boot += 1;
            reading.wall.0 += 1;
            (reading.clone(), self.looks.fetch_add(1, Ordering::SeqCst))
        };
        for _ in 0..20 {
            if self.looks.load(Ordering::SeqCst) > look + 1 {
                break;
            }
            std::thread::yield_now();
        }
        reading
    }
}

/// K4: the wall clock leaps while many look at it, and stays so for two days: the axis has gained what truly went by, to the millisecond.
#[tokio::test]
async fn k4_readers_that_overtake_each_other_bring_nothing_nearer() {
    const HOUR: i64 = 3_600_000;
    let start = Reading { wall: WallTime(ManualClock::START), since_boot: 0, boot_id: "boot".to_owned() };
    let clock = Arc::new(Overtaking { reading: Mutex::new(start), looks: AtomicU64::new(0) });
    let (token, audit) = (FakeToken::new(), tempfile::tempdir().unwrap());
    let parts = Parts {
        store: Box::new(MemoryStore::new(token.identity())),
        audit: audit.path().to_owned(),
        pool: Pool::start(Arc::new(token), PoolSettings::default()).unwrap(),
        clock: Arc::clone(&clock) as _,
        limits: Limits::default(),
        accept_restored: false,
    };
    let service = Service::start(parts).await.unwrap();
    let began = service.trusted_now();
    let from = clock.reading.lock().since_boot;
    for hour in 0..48 {
        clock.pass(HOUR, if hour == 0 { 10 * 365 * 24 * HOUR } else { 0 });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).for_each(|_| drop(service.observe_clock())));
            }
        });
    }
    let now = service.trusted_now();
    assert_eq!(now, TrustedTime(began.0 + clock.reading.lock().since_boot - from));
}
