//! A clock that destroys nothing early, however the wall clock leaps (K4).
//!
//! Due dates are points on a *trusted* axis. While the host runs, that axis advances with `CLOCK_BOOTTIME`, which neither leaps nor
//! stops in suspend; what the wall clock does meanwhile is ignored. Only over a reboot does nothing but the wall clock tell how long
//! the host was down, and it may be wrong then too. So after a reboot a lead of the wall clock over the axis counts, but only once it
//! has stood unchanged for a day of running time: a true downtime delays destruction by at most that day, a false one is corrected
//! before it does harm. Once wall clock and axis have agreed, no lead counts before the next reboot. A wall clock that is
//! behind is ignored: the axis has seen the time go by.
//!
//! The axis may itself be behind, and for good: the first start may have seen a clock that was slow and has been corrected since. A lead that there was while
//! the host ran is no downtime, neither then nor after the next reboot; what counts there is only by how much the wall clock is further ahead.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970 by the wall clock. For people; decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub i64);

/// Milliseconds on the trusted axis, which begins at the wall time of the service's first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustedTime(pub i64);

/// Milliseconds of a day.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

impl TrustedTime {
    /// So many days later; the end of time at most.
    #[must_use]
    pub const fn plus_days(self, days: u16) -> Self {
        Self(self.0.saturating_add(days as i64 * DAY_MS))
    }
}

/// The clocks at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The wall clock.
    pub wall: WallTime,
    /// Milliseconds since the host booted, suspend included.
    pub since_boot: i64,
    /// Which boot that was.
    pub boot_id: String,
}

/// The state of the trusted axis; stored, so that it goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedClock {
    now: TrustedTime,
    seen: Reading,
    lead: Option<Lead>,
    /// Whether wall clock and axis have agreed in this boot: what the wall clock says after that is no downtime.
    #[serde(default)]
    is_settled: bool,
    /// By how much the axis is behind a wall clock that runs ahead of it though the host was not down. It grows as soon as such a lead is seen, and
    /// shrinks when another has stood for a day.
    #[serde(default)]
    behind: i64,
    /// When the store was last one that was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    put_back: Option<TrustedTime>,
}

/// By how much the wall clock is ahead (or behind, below zero), and since when it has been so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lead {
    ms: i64,
    since_boot: i64,
}

/// A lead that drifts by more than this is another lead.
const TOLERANCE_MS: i64 = 60_000;
/// How long a lead must stand.
const HOLD_MS: i64 = DAY_MS;

impl TrustedClock {
    /// The axis at the service's first start.
    #[must_use]
    pub fn start(reading: Reading) -> Self {
        Self {
            now: TrustedTime(reading.wall.0),
            seen: reading,
            lead: None,
            is_settled: true,
            behind: 0,
            put_back: None,
        }
    }

    /// The axis at a later moment.
    #[must_use]
    pub fn observe(&self, reading: Reading) -> Self {
        let same_boot = reading.boot_id == self.seen.boot_id && reading.since_boot >= self.seen.since_boot;
        let elapsed = if same_boot { reading.since_boot - self.seen.since_boot } else { 0 };
        let now = TrustedTime(self.now.0.saturating_add(elapsed));
        let ahead = reading.wall.0.saturating_sub(now.0);
        let lead = match self.lead {
            Some(lead) if same_boot && ahead.saturating_sub(lead.ms).abs() <= TOLERANCE_MS => lead,
            _ => Lead { ms: ahead, since_boot: reading.since_boot },
        };
        let has_stood = reading.since_boot - lead.since_boot >= HOLD_MS;
        if same_boot && self.is_settled {
            let behind = if has_stood { ahead.max(0) } else { self.behind.max(ahead) };
            return Self { now, seen: reading, lead: Some(lead), is_settled: true, behind, ..*self };
        }
        // Of a clock that an earlier version stored: what it would have noted.
        let noted = if self.is_settled { self.seen.wall.0.saturating_sub(self.now.0) } else { 0 };
        let behind = self.behind.max(noted);
        let down = ahead.saturating_sub(behind);
        if down.abs() <= TOLERANCE_MS {
            // They agree. A short downtime is made up for at once.
            let now = TrustedTime(now.0.saturating_add(down.max(0)));
            return Self { now, seen: reading, lead: None, is_settled: true, behind, ..*self };
        }
        if has_stood && down > 0 {
            let now = TrustedTime(now.0.saturating_add(down));
            return Self { now, seen: reading, lead: None, is_settled: true, behind, ..*self };
        }
        if has_stood && ahead >= -TOLERANCE_MS {
            // The lead that there was before is there no longer: the wall clock was wrong then. How long the host was down is not known.
            return Self { now, seen: reading, lead: None, is_settled: true, behind: ahead.max(0), ..*self };
        }
        // Ahead for a while only; or behind: not set yet, as on a host without a clock of its own, or wrong.
        Self { now, seen: reading, lead: Some(lead), is_settled: false, behind, ..*self }
    }

    /// Now, on the axis.
    #[must_use]
    pub const fn now(&self) -> TrustedTime {
        self.now
    }

    /// The same, for a store that was put back at this moment.
    #[must_use]
    pub fn put_back(self) -> Self {
        Self { put_back: Some(self.now), ..self }
    }

    /// Whether that was so within so many milliseconds. Also after restarts: time that nobody has seen go by does not count.
    #[must_use]
    pub fn was_put_back_within(&self, millis: i64) -> bool {
        self.put_back.is_some_and(|at| self.now.0.saturating_sub(at.0) < millis)
    }

    /// The clocks at the last observation.
    #[must_use]
    pub const fn reading(&self) -> &Reading {
        &self.seen
    }

    /// The wall clock at the last observation.
    #[must_use]
    pub const fn wall(&self) -> WallTime {
        self.seen.wall
    }

    /// Whether the wall clock is ahead and not believed, or not yet.
    #[must_use]
    pub const fn is_wall_distrusted(&self) -> bool {
        self.seen.wall.0.saturating_sub(self.now.0) > TOLERANCE_MS
    }

    /// When, by the wall clock as it is now, a point on the axis will be reached.
    #[must_use]
    pub fn wall_of(&self, point: TrustedTime) -> WallTime {
        WallTime(self.seen.wall.0.saturating_add(point.0.saturating_sub(self.now.0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * DAY_MS;
    const START: i64 = 1_760_000_000_000;

    fn at(boot: &str, since_boot: i64, wall: i64) -> Reading {
        Reading { wall: WallTime(wall), since_boot, boot_id: boot.into() }
    }

    /// Observes every hour of a stretch of running time.
    fn run(mut clock: TrustedClock, boot: &str, from: i64, hours: i64, wall_minus_boot: i64) -> TrustedClock {
        for hour in 0..=hours {
            let since_boot = from + hour * HOUR;
            clock = clock.observe(at(boot, since_boot, since_boot + wall_minus_boot));
        }
        clock
    }

    #[test]
    fn k4_time_passes_as_it_should() {
        let clock = run(TrustedClock::start(at("a", 0, START)), "a", 0, 24 * 7, START);
        assert_eq!(clock.now(), TrustedTime(START + 7 * DAY_MS));
        assert!(!clock.is_wall_distrusted());
    }

    #[test]
    fn k4_a_leap_of_ten_years_forward_brings_nothing_nearer() {
        let clock = TrustedClock::start(at("a", 0, START));
        let leapt = run(clock, "a", HOUR, 20, START + 10 * YEAR);
        assert_eq!(leapt.now(), TrustedTime(START + 21 * HOUR));
        assert!(leapt.is_wall_distrusted());
        // Corrected before a day has gone: as if nothing had been.
        let corrected = run(leapt, "a", 22 * HOUR, 100, START);
        assert_eq!(corrected.now(), TrustedTime(START + 122 * HOUR));
        assert!(!corrected.is_wall_distrusted());
    }

    /// However long it stands: while the host runs, no downtime can explain it.
    #[test]
    fn k4_a_leap_that_stays_is_never_believed_while_the_host_runs() {
        let clock = TrustedClock::start(at("a", 0, START));
        let leapt = run(clock, "a", HOUR, 24 * 30, START + 10 * YEAR);
        assert_eq!(leapt.now(), TrustedTime(START + HOUR + 30 * DAY_MS));
        assert!(leapt.is_wall_distrusted());
        // Nor by small steps.
        let mut crept = leapt;
        for step in 1..1000 {
            let since_boot = HOUR + 30 * DAY_MS + step;
            crept = crept.observe(at("a", since_boot, START + since_boot + step * (TOLERANCE_MS - 1)));
        }
        assert_eq!(crept.now(), TrustedTime(START + HOUR + 30 * DAY_MS + 999));
    }

    /// A host without a clock of its own begins in the past, and learns the time later.
    #[test]
    fn k4_downtime_counts_though_the_clock_is_set_late() {
        let clock = TrustedClock::start(at("a", 0, START));
        let clock = run(clock, "b", 0, 3, START - 10 * YEAR);
        assert_eq!(clock.now(), TrustedTime(START + 3 * HOUR));
        let offset = START + 30 * DAY_MS;
        let clock = run(clock, "b", 4 * HOUR, 23, offset);
        assert_eq!(clock.now(), TrustedTime(START + 27 * HOUR));
        let clock = run(clock, "b", 28 * HOUR, 0, offset);
        assert_eq!(clock.now(), TrustedTime(offset + 28 * HOUR));
    }

    #[test]
    fn k4_a_clock_that_was_stored_by_an_earlier_version_goes_on() {
        let stored = r#"{"now":5,"seen":{"wall":5,"since_boot":1,"boot_id":"a"},"lead":null}"#;
        let clock: TrustedClock = serde_json::from_str(stored).unwrap();
        assert_eq!(clock.observe(at("a", 11, 15)).now(), TrustedTime(15));
    }

    #[test]
    fn k4_a_leap_of_ten_years_back_holds_nothing_up() {
        let clock = TrustedClock::start(at("a", 0, START));
        let clock = run(clock, "a", HOUR, 24 * 8, START - 10 * YEAR);
        assert_eq!(clock.now(), TrustedTime(START + 8 * DAY_MS + HOUR));
    }

    #[test]
    fn k4_downtime_without_reboot_counts_at_once() {
        let clock = TrustedClock::start(at("a", 0, START));
        let clock = clock.observe(at("a", 30 * DAY_MS, START + 30 * DAY_MS));
        assert_eq!(clock.now(), TrustedTime(START + 30 * DAY_MS));
    }

    #[test]
    fn k4_downtime_with_reboot_counts_after_a_day() {
        let clock = TrustedClock::start(at("a", 0, START));
        let offset = START + 30 * DAY_MS;
        let clock = run(clock, "b", 0, 23, offset);
        assert_eq!(clock.now(), TrustedTime(START + 23 * HOUR));
        let clock = run(clock, "b", 24 * HOUR, 1, offset);
        assert_eq!(clock.now(), TrustedTime(offset + 25 * HOUR));
    }

    #[test]
    fn k4_restarts_do_not_reset_the_wait() {
        let mut clock = TrustedClock::start(at("a", 0, START));
        let offset = START + 30 * DAY_MS;
        for hour in 0..=24 {
            let stored = serde_json::to_string(&clock).unwrap();
            clock = serde_json::from_str::<TrustedClock>(&stored).unwrap().observe(at(
                "b",
                hour * HOUR,
                offset + hour * HOUR,
            ));
        }
        assert_eq!(clock.now(), TrustedTime(offset + DAY_MS));
    }

    /// The first start saw a clock that was eight days slow and is corrected in the same boot: after a reboot those days are no downtime.
    #[test]
    fn k4_a_slow_clock_at_the_first_start_brings_nothing_nearer() {
        for slow in [8 * DAY_MS, 50 * YEAR] {
            let first = START - slow;
            let clock = TrustedClock::start(at("a", 0, first));
            let clock = run(clock, "a", HOUR, 2, START);
            // Down for an hour.
            let offset = START + 4 * HOUR;
            let clock = run(clock, "b", 0, 26, offset);
            // The hour counts, and no more than that.
            assert_eq!(clock.now().0 - first, 30 * HOUR);
            // As stored by a version that did not note it.
            let clock = run(TrustedClock::start(at("a", 0, first)), "a", HOUR, 2, START);
            let mut stored = serde_json::to_value(clock).unwrap();
            stored.as_object_mut().unwrap().remove("behind");
            let clock: TrustedClock = serde_json::from_value(stored).unwrap();
            assert_eq!(run(clock, "b", 0, 26, offset).now().0 - first, 30 * HOUR);
        }
    }

    /// A leap that was there when the host went down and is corrected at the next boot is forgotten, so that later downtimes count again.
    #[test]
    fn k4_downtime_counts_again_after_a_leap_was_corrected() {
        let clock = TrustedClock::start(at("a", 0, START));
        let clock = run(clock, "a", HOUR, 5, START + 10 * YEAR);
        let clock = run(clock, "b", 0, 30, START + 6 * HOUR);
        assert_eq!(clock.now(), TrustedTime(START + 36 * HOUR));
        let offset = START + 36 * HOUR + 20 * DAY_MS;
        let clock = run(clock, "c", 0, 25, offset);
        assert_eq!(clock.now(), TrustedTime(offset + 25 * HOUR));
    }

    #[test]
    fn dates_are_shown_by_the_wall_clock_of_now() {
        let clock = run(TrustedClock::start(at("a", 0, START)), "a", 0, 1, START - YEAR);
        let due = clock.now().plus_days(7);
        assert_eq!(clock.wall_of(due), WallTime(START + HOUR - YEAR + 7 * DAY_MS));
    }

    proptest! {
        /// K4: whatever the wall clock does within less than a day of running time, the axis never runs ahead of
        /// the time that truly went by.
        #[test]
        fn k4_never_early(steps in proptest::collection::vec((0..2 * HOUR, -20 * YEAR..20 * YEAR, any::<bool>()), 1..11)) {
            let mut clock = TrustedClock::start(at("0", 0, START));
            let (mut since_boot, mut elapsed, mut boot) = (0, 0, 0);
            for (step, leap, reboot) in steps {
                if reboot {
                    boot += 1;
                    since_boot = 0;
                }
                since_boot += step;
                elapsed += step;
                clock = clock.observe(at(&boot.to_string(), since_boot, START + elapsed + leap));
                // Drift within the tolerance is followed once per observation.
                prop_assert!(clock.now().0 <= START + elapsed + 11 * TOLERANCE_MS);
            }
        }

        /// K4: however wrong the clock was at the first start, if it is right from then on the axis gains no more than the time that truly went by,
        /// over any number of reboots and however long they take.
        #[test]
        fn k4_never_early_after_a_wrong_first_start(
            wrong in -20 * YEAR..20 * YEAR,
            boots in proptest::collection::vec((0..60i64, 0..20 * DAY_MS), 1..6),
        ) {
            let first = START + wrong;
            let mut clock = TrustedClock::start(at("0", 0, first));
            clock = clock.observe(at("0", 1000, START + 1000));
            let mut elapsed = 1000;
            for (number, (hours, down)) in (1..).zip(boots) {
                elapsed += down;
                clock = run(clock, &number.to_string(), 0, hours, START + elapsed);
                elapsed += hours * HOUR;
                prop_assert!(clock.now().0 - first <= elapsed + number * TOLERANCE_MS);
            }
        }
    }
}
