//! The compressed streams of an image: each byte of the file is unpacked once only, and to no more than real compression gives.

use std::collections::BTreeMap;

use crate::images::ImageError;

/// Streams may unpack to this much whatever their length, bytes ...
pub(crate) const FREE: u64 = 64 << 20;
/// ... and then to so many times their length. Deflate cannot do more than 1,032; zstd repeats one byte without end.
pub(crate) const TIMES: u64 = 1100;
/// The most separate stretches of a file that are remembered. Streams lie one after another in all files but those made to have this many.
const MOST: usize = 1 << 20;
/// An inflater may have looked so far past the end of its stream.
const LOOKAHEAD: u64 = 8;

/// What has been unpacked so far.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Stretches of the file, by their starts, that do not touch.
    used: BTreeMap<u64, u64>,
    packed: u64,
    produced: u64,
}

impl Streams {
    /// Asks whether the stream at `start` may be unpacked to `size` bytes.
    ///
    /// # Errors
    /// [`ImageError::Overlap`] for a stream that was unpacked already; [`ImageError::Bomb`].
    pub(crate) fn admit(&mut self, start: u64, size: u64) -> Result<(), ImageError> {
        if self.used.range(..=start).next_back().is_some_and(|(_, end)| *end > start) {
            return Err(ImageError::Overlap);
        }
        let limit = FREE.saturating_add(self.packed.saturating_mul(TIMES));
        self.produced = self.produced.saturating_add(size);
        if self.produced > limit { Err(ImageError::Bomb { limit }) } else { Ok(()) }
    }

    /// Remembers that the stream at `start` had this length, or a little less.
    ///
    /// # Errors
    /// [`ImageError::Overlap`] where another one begins within it; [`ImageError::TooLarge`] for too many stretches.
    pub(crate) fn used(&mut self, start: u64, length: u64) -> Result<(), ImageError> {
        self.packed = self.packed.saturating_add(length);
        let sure = start.saturating_add(length.saturating_sub(LOOKAHEAD).max(1));
        if self.used.range(start..sure).next().is_some() {
            return Err(ImageError::Overlap);
        }
        let (mut from, mut until) = (start, sure);
        if let Some((&before, &end)) = self.used.range(..start).next_back()
            && start - end <= LOOKAHEAD
        {
            from = before;
        }
        if let Some((&after, &end)) = self.used.range(sure..).next()
            && after - sure <= LOOKAHEAD
        {
            self.used.remove(&after);
            until = end;
        }
        self.used.insert(from, until);
        let count = self.used.len();
        if count > MOST {
            let [value, limit] = [count, MOST].map(|n| u64::try_from(n).unwrap_or(u64::MAX));
            return Err(ImageError::TooLarge { what: "the number of its scattered parts", value, limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn i3_streams_in_any_order_become_few_stretches_and_none_is_admitted_twice() {
        let mut streams = Streams::default();
        for n in (0..1000).map(|n| n * 7 % 1000) {
            streams.admit(n * 100, 4096).unwrap();
            streams.used(n * 100, 100).unwrap();
        }
        assert_eq!(streams.used.len(), 1);
        for start in [0, 1, 99, 50_000, 99_900] {
            assert!(matches!(streams.admit(start, 1), Err(ImageError::Overlap)), "{start}");
        }
        streams.admit(100_000, 1).unwrap();
    }

    #[test]
    fn i3_a_file_of_scattered_parts_does_not_fill_the_memory() {
        let mut streams = Streams::default();
        let refused = (0..).map(|n| streams.used(n * 4096, 20)).find_map(Result::err).unwrap();
        assert!(matches!(refused, ImageError::TooLarge { .. }), "{refused}");
        assert_eq!(streams.used.len(), MOST + 1);
    }

    proptest! {
        /// Against a plain list of bytes: a stream is refused exactly where one of its sure bytes was unpacked before.
        #[test]
        fn i3_what_was_unpacked_is_known(parts in prop::collection::vec((0..2000_u64, 9..300_u64), 1..60)) {
            let mut streams = Streams::default();
            let mut bytes = vec![false; 4000];
            for (start, length) in parts {
                let sure = usize::try_from(start).unwrap()..usize::try_from(start + length - LOOKAHEAD).unwrap();
                let overlaps = bytes[sure.clone()].contains(&true);
                let admitted = streams.admit(start, 1).and_then(|()| streams.used(start, length));
                // Where less than the look-ahead is between two, it belongs to the first.
                if overlaps {
                    prop_assert!(admitted.is_err());
                    break;
                }
                if admitted.is_err() {
                    let near = usize::try_from(start.saturating_sub(LOOKAHEAD)).unwrap()..=sure.start;
                    prop_assert!(bytes[near].contains(&true));
                    break;
                }
                bytes[sure].fill(true);
            }
        }
    }
}
