//! When a request was signed, and how far that may be from now.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use super::SignatureError;

/// How far the client's clock may be off, either way.
pub(crate) const TOLERANCE: SignedDuration = SignedDuration::from_mins(15);

/// A signing time: `20150830T123600Z`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SigningTime<'a> {
    text: &'a str,
    at: Timestamp,
}

impl<'a> SigningTime<'a> {
    /// Takes exactly that form, so that the signed text and its meaning cannot part.
    pub(super) fn parse(header: &'static str, text: &'a str) -> Result<Self, SignatureError> {
        let bad = SignatureError::Malformed { part: header };
        let bytes = text.as_bytes();
        let digits = |range: std::ops::Range<usize>| {
            bytes.get(range).is_some_and(|d| d.iter().all(u8::is_ascii_digit))
        };
        if bytes.len() != 16 || !digits(0..8) || bytes[8] != b'T' || !digits(9..15) || bytes[15] != b'Z' {
            return Err(bad);
        }
        let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", text).map_err(|_| bad.clone())?;
        let at = civil.to_zoned(TimeZone::UTC).map_err(|_| bad)?.timestamp();
        Ok(Self { text, at })
    }

    pub(super) const fn as_str(&self) -> &'a str {
        self.text
    }

    /// The day, `20150830`.
    pub(super) fn day(&self) -> &'a str {
        &self.text[..8]
    }

    /// Demands that `now` is within the tolerance.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), SignatureError> {
        let age = now.duration_since(self.at);
        if age > TOLERANCE {
            return Err(SignatureError::Expired { signed_at: self.at, now });
        }
        if -age > TOLERANCE {
            return Err(SignatureError::NotYetValid { signed_at: self.at, now });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_form_of_a_date_is_read() {
        let time = SigningTime::parse("x", "20150830T123600Z").unwrap();
        assert_eq!(time.at, "2015-08-30T12:36:00Z".parse().unwrap());
        assert_eq!(time.day(), "20150830");
        for bad in [
            "",
            "20150830T123600",
            "2015083012:36:00Z",
            "20151330T123600Z",
            "20150830T126000Z",
            "2015-830T123600Z",
            "２0150830T123600Z",
        ] {
            assert!(SigningTime::parse("x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fifteen_minutes_either_way_and_no_more() {
        let time = SigningTime::parse("x", "20150830T123600Z").unwrap();
        let at = |text: &str| time.check(text.parse().unwrap());
        assert_eq!(at("2015-08-30T12:51:00Z"), Ok(()));
        assert_eq!(at("2015-08-30T12:21:00Z"), Ok(()));
        assert!(matches!(at("2015-08-30T12:51:01Z"), Err(SignatureError::Expired { .. })));
        assert!(matches!(at("2015-08-30T12:20:59Z"), Err(SignatureError::NotYetValid { .. })));
    }
}
