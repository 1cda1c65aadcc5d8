//! Pages of lists: `limit` and `marker`, numbers as text.

use crate::domain::Refusal;

/// Which part of a list is asked for.
pub(super) struct Page {
    from: usize,
    limit: usize,
}

/// Reads a number if there is one.
pub(super) fn number(
    text: Option<&str>,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<usize>, Refusal> {
    text.map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::parse)
        .transpose()
        .map_err(|_| Refusal::ParameterInvalid { name, expected })
}

impl Page {
    /// # Errors
    /// If the limit is not 1 to `max`, which `expected` says in words, or the marker is none.
    pub(super) fn parse(
        limit: Option<&str>,
        marker: Option<&str>,
        max: usize,
        expected: &'static str,
    ) -> Result<Self, Refusal> {
        let limit = number(limit, "limit", expected)?.unwrap_or(max);
        if limit == 0 || limit > max {
            return Err(Refusal::ParameterInvalid { name: "limit", expected });
        }
        let from = number(marker, "marker", "next_marker of the page before")?.unwrap_or(0);
        Ok(Self { from, limit })
    }

    /// The part, and where the next one begins.
    pub(super) fn of<'a, T>(&self, all: &'a [T]) -> (&'a [T], Option<String>) {
        let from = self.from.min(all.len());
        let end = from.saturating_add(self.limit).min(all.len());
        (&all[from..end], (end < all.len()).then(|| end.to_string()))
    }
}
