//! Sizes of disks: whole numbers with an optional suffix, where K, M, G and T are powers of 1024.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A disk's block, in bytes: each size is a multiple of it.
pub(crate) const BLOCK: u64 = 4096;
/// The largest disk, in bytes (64 TiB).
pub(crate) const MAX_SIZE: u64 = 64 << 40;

/// The size of a disk in bytes: a multiple of [`BLOCK`], at least one block, at most [`MAX_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

/// Why a text is no disk size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum SizeError {
    /// Not a number with a known suffix.
    #[error("a size is a whole number with an optional K, M, G or T (powers of 1024), such as 512M or 10G")]
    Form,
    /// A fraction, such as 1.5G.
    #[error("a size is a whole number; write 1536M for 1.5G")]
    Fraction,
    /// Below zero.
    #[error("a size cannot be negative")]
    Negative,
    /// Zero bytes.
    #[error("a size cannot be 0; the smallest disk has 4096 bytes")]
    Zero,
    /// Not whole blocks.
    #[error("{bytes} bytes are not a multiple of 4096; the next size that is: {next}")]
    Unaligned {
        /// The size that was asked for, in bytes.
        bytes: u64,
        /// The next larger size that is whole blocks, in bytes.
        next: u64,
    },
    /// Above [`MAX_SIZE`].
    #[error("a disk has at most 64T")]
    TooLarge,
}

impl Size {
    /// Checks a number of bytes.
    pub(crate) fn from_bytes(bytes: u64) -> Result<Self, SizeError> {
        if bytes == 0 {
            return Err(SizeError::Zero);
        }
        if bytes > MAX_SIZE {
            return Err(SizeError::TooLarge);
        }
        if !bytes.is_multiple_of(BLOCK) {
            return Err(SizeError::Unaligned { bytes, next: bytes.next_multiple_of(BLOCK) });
        }
        Ok(Self(bytes))
    }

    /// The size in bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

/// Bytes in a second, written as a size is; 0 stands for no limit.
///
/// # Errors
/// As for a size, but any number of bytes will do.
pub(crate) fn parse_rate(text: &str) -> Result<u64, SizeError> {
    match text.parse::<Size>() {
        Ok(size) => Ok(size.bytes()),
        Err(SizeError::Zero) => Ok(0),
        Err(SizeError::Unaligned { bytes, .. }) => Ok(bytes),
        Err(other) => Err(other),
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        if text.starts_with('-') {
            return Err(SizeError::Negative);
        }
        let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, suffix) = text.split_at(digits_end);
        if digits.is_empty() {
            return Err(SizeError::Form);
        }
        if suffix.starts_with(['.', ',']) {
            return Err(SizeError::Fraction);
        }
        let shift = match suffix.to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KB" | "KIB" => 10,
            "M" | "MB" | "MIB" => 20,
            "G" | "GB" | "GIB" => 30,
            "T" | "TB" | "TIB" => 40,
            _ => return Err(SizeError::Form),
        };
        // Only digits: the one way to fail is too many of them.
        let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge)?;
        Self::from_bytes(number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)?)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human(self.0))
    }
}

/// Bytes for people, in the units that sizes are given in: exact where a unit divides them, else one decimal.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    for (shift, unit) in UNITS {
        let one = 1u64 << shift;
        if bytes >= one {
            let (whole, rest) = (bytes / one, bytes % one);
            return if rest == 0 {
                format!("{whole}{unit}")
            } else {
                format!("{whole}.{}{unit}", rest.saturating_mul(10) / one)
            };
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4K", 4096),
            ("1m", 1 << 20),
            ("10GiB", 10 << 30),
            ("10GB", 10 << 30),
            ("64T", 64 << 40),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn bad_sizes_are_told_why() {
        use SizeError::*;
        for (text, why) in [
            ("0", Zero),
            ("0G", Zero),
            ("-1", Negative),
            ("-5G", Negative),
            ("", Form),
            ("G", Form),
            ("ten", Form),
            ("1X", Form),
            ("1e9", Form),
            ("+1G", Form),
            ("1.5G", Fraction),
            ("1000", Unaligned { bytes: 1000, next: 4096 }),
            ("5K", Unaligned { bytes: 5120, next: 8192 }),
            ("65T", TooLarge),
            ("99999999999999999999999", TooLarge),
            ("18446744073709551615T", TooLarge),
        ] {
            assert_eq!(text.parse::<Size>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn people_read_exact_sizes_where_they_can() {
        for (bytes, text) in [(10 << 30, "10G"), (4096, "4K"), (1536 << 20, "1.5G"), (100, "100B")] {
            assert_eq!(human(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_each_size_is_whole_blocks(text in "\\PC{0,12}") {
            if let Ok(size) = text.parse::<Size>() {
                prop_assert_eq!(size.bytes() % BLOCK, 0);
                prop_assert!((BLOCK..=MAX_SIZE).contains(&size.bytes()));
            }
        }
    }
}
