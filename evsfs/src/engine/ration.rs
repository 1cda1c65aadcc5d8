//! What goes wrong again and again is told now and then: a guest that reads one bad block in a loop must not fill the disk of the log.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::sync::Mutex;

/// How long a place that was told of is not told of again.
const PERIOD: Duration = Duration::from_secs(60);
/// Places that are told of in that time at most.
const PLACES: usize = 16;

/// Decides what is told.
#[derive(Default)]
pub struct Ration {
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    since: Option<Instant>,
    places: BTreeSet<(Option<Uuid>, u64)>,
    untold: u64,
}

impl Ration {
    /// Whether what was found at a place is to be told now; then with the number of times that something was found and not told before.
    pub fn take(&self, place: u64) -> Option<u64> {
        self.take_in(None, place)
    }

    /// The same of a place in a snapshot, if one is named: what was told of the volume's own block says nothing of the snapshot's.
    pub fn take_in(&self, snapshot: Option<Uuid>, place: u64) -> Option<u64> {
        self.told.lock().take((snapshot, place), Instant::now())
    }
}

impl Told {
    fn take(&mut self, place: (Option<Uuid>, u64), now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= PERIOD) {
            self.since = Some(now);
            self.places.clear();
        }
        if self.places.len() < PLACES && self.places.insert(place) {
            return Some(std::mem::take(&mut self.untold));
        }
        self.untold += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_told_once_in_a_while_and_the_rest_is_counted() {
        let (mut all, start) = (Told::default(), Instant::now());
        let mut take = |place: u64, now| all.take((None, place), now);
        assert_eq!(take(7, start), Some(0));
        for _ in 0..1000 {
            assert_eq!(take(7, start + PERIOD / 2), None);
        }
        assert_eq!(take(8, start + PERIOD / 2), Some(1000));
        assert_eq!(take(7, start + PERIOD), Some(0));
        let many = (100..1100).filter(|place| take(*place, start + PERIOD).is_some()).count();
        assert_eq!(many, PLACES - 1);
        assert_eq!(take(7, start + 3 * PERIOD), Some(1000 - (PLACES as u64 - 1)));
        // Of a snapshot it is another place.
        assert_eq!(all.take((Some(Uuid::nil()), 7), start + 3 * PERIOD), Some(0));
    }
}
