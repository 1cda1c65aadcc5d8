//! The host's clocks.

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::domain::time::{Reading, WallTime};

/// Where times come from.
pub trait Clock: Send + Sync + 'static {
    /// All clocks at once.
    fn read(&self) -> Reading;
}

/// The kernel's clocks.
#[derive(Debug)]
pub struct SystemClock {
    boot_id: String,
}

impl SystemClock {
    /// Looks up which boot this is.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn new() -> std::io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot_id })
    }
}

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        Reading {
            wall: WallTime(jiff::Timestamp::now().as_millisecond()),
            since_boot: millis(clock_gettime(ClockId::Boottime)),
            boot_id: self.boot_id.clone(),
        }
    }
}

fn millis(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

#[cfg(test)]
pub(crate) mod manual {
    use parking_lot::Mutex;

    use super::{Clock, Reading, WallTime};

    /// Clocks that stand until they are set.
    pub(crate) struct ManualClock(Mutex<Reading>);

    impl ManualClock {
        pub(crate) const START: i64 = 1_760_000_000_000;

        pub(crate) fn new() -> Self {
            Self(Mutex::new(Reading {
                wall: WallTime(Self::START),
                since_boot: 0,
                boot_id: "boot".to_owned(),
            }))
        }

        /// Time goes by.
        pub(crate) fn pass(&self, millis: i64) {
            let mut reading = self.0.lock();
            reading.wall.0 += millis;
            reading.since_boot += millis;
        }

        /// The host is started anew.
        pub(crate) fn reboot(&self) {
            let mut reading = self.0.lock();
            reading.since_boot = 0;
            reading.boot_id.push('+');
        }

        /// The wall clock leaps.
        pub(crate) fn leap(&self, millis: i64) {
            self.0.lock().wall.0 += millis;
        }
    }

    impl Clock for ManualClock {
        fn read(&self) -> Reading {
            self.0.lock().clone()
        }
    }
}
