//! A set of block ranges: what was discarded in large pieces since the last checkpoint.

use std::ops::Range;

/// Disjoint ranges, sorted; neighbours are joined.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // All that overlap or touch the new one are replaced by their union.
        let first = self.0.partition_point(|have| have.end < range.start);
        let last = self.0.partition_point(|have| have.start <= range.end);
        let mut union = range;
        for have in &self.0[first..last] {
            union.start = union.start.min(have.start);
            union.end = union.end.max(have.end);
        }
        self.0.splice(first..last, [union]);
    }

    pub(super) fn contains(&self, block: u64) -> bool {
        let next = self.0.partition_point(|have| have.end <= block);
        self.0.get(next).is_some_and(|have| have.start <= block)
    }

    /// The parts of the set within `span`.
    pub(super) fn within(&self, span: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.0.partition_point(|have| have.end <= span.start);
        self.0[first..]
            .iter()
            .take_while({
                let end = span.end;
                move |have| have.start < end
            })
            .map(move |have| have.start.max(span.start)..have.end.min(span.end))
    }

    /// The set as far as it lies in `span`.
    pub(super) fn clipped(&self, span: Range<u64>) -> Self {
        Self(self.within(span).collect())
    }

    /// Whether any part of `span` is in the set.
    pub(super) fn touches(&self, span: &Range<u64>) -> bool {
        self.within(span.clone()).next().is_some()
    }

    /// Whether all of `span` is in the set.
    pub(super) fn covers(&self, span: &Range<u64>) -> bool {
        self.within(span.clone()).next().is_some_and(|part| part == *span)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_single_blocks(inserts in prop::collection::vec((0u64..200, 0u64..40), 0..30)) {
            let mut set = RangeSet::default();
            let mut model = std::collections::BTreeSet::new();
            for (start, len) in inserts {
                set.insert(start..start + len);
                model.extend(start..start + len);
            }
            for block in 0..250 {
                prop_assert_eq!(set.contains(block), model.contains(&block));
                let span = block..block + 7;
                prop_assert_eq!(set.touches(&span), span.clone().any(|at| model.contains(&at)));
                prop_assert_eq!(set.covers(&span), span.clone().all(|at| model.contains(&at)));
                let parts: Vec<u64> = set.within(span.clone()).flatten().collect();
                let expected: Vec<u64> = model.range(span).copied().collect();
                prop_assert_eq!(&parts, &expected);
                let clipped: Vec<u64> = set.clipped(block..block + 7).iter().flatten().collect();
                prop_assert_eq!(clipped, expected);
            }
            prop_assert!(set.0.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
