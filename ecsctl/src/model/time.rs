//! Times as the catalogue, JSON and tables have them: RFC 3339 in UTC, to the second.

use jiff::Timestamp;

/// A time as text.
pub(crate) fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The same from seconds since 1970; none if there is no such time.
pub(crate) fn of_seconds(seconds: u64) -> Option<String> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(text)
}

/// The same from milliseconds since 1970; none if there is no such time.
pub(crate) fn of_milliseconds(milliseconds: i64) -> Option<String> {
    Timestamp::from_millisecond(milliseconds).ok().map(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_to_the_second_and_what_is_none_is_not() {
        assert_eq!(of_seconds(1_767_225_600).as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(of_milliseconds(1_767_225_600_999).as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!((of_seconds(u64::MAX), of_milliseconds(i64::MAX)), (None, None));
    }
}
