//! Sizes as people write them.

use std::str::FromStr;

/// Bytes of the largest disk: 64 TiB.
pub const MAX_SIZE: u64 = 64 << 40;

const BLOCK: u64 = 4096;

/// A size of a disk in bytes: a multiple of 4096, from 4096 to 64 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSize(pub u64);

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(pub u64);

/// Bytes in a second; 0 for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

/// Why text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with an optional suffix.
    #[error("a size is a whole number of bytes, or one with the suffix K, M, G or T (powers of 1024)")]
    NotANumber,
    /// Not a size that a disk can have.
    #[error("the size of a disk is a multiple of 4096 bytes, from 4096 to 64T")]
    NotADisk,
    /// Too little to work in, or more than any disk can use.
    #[error("a disk works in 16M to 64G of memory")]
    NoMemory,
}

impl FromStr for DiskSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        match bytes(text)? {
            bytes if bytes > 0 && bytes <= MAX_SIZE && bytes.is_multiple_of(BLOCK) => Ok(Self(bytes)),
            _ => Err(SizeError::NotADisk),
        }
    }
}

impl FromStr for MemorySize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        match bytes(text)? {
            bytes if (16 << 20..=64 << 30).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(SizeError::NoMemory),
        }
    }
}

impl FromStr for Rate {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        bytes(text).map(Self)
    }
}

fn bytes(text: &str) -> Result<u64, SizeError> {
    let (digits, unit) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        Some(b'T') => (&text[..text.len() - 1], 1 << 40),
        _ => (text, 1u64),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SizeError::NotANumber);
    }
    // More digits than fit are a number all the same, only not one that any limit allows.
    Ok(digits.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_disks() {
        for (text, bytes) in
            [("4096", 4096), ("4k", 4096), ("1M", 1 << 20), ("10G", 10 << 30), ("64T", MAX_SIZE)]
        {
            assert_eq!(text.parse(), Ok(DiskSize(bytes)), "{text}");
        }
        for text in ["0", "4097", "1000", "65T", "99999999999999999999999", "16777216T", "0G"] {
            assert_eq!(text.parse::<DiskSize>(), Err(SizeError::NotADisk), "{text}");
        }
        for text in ["", "G", "-5", "-1G", "1.5G", "1X", "ten", " 1G", "1G ", "１G", "+1G", "0x1000", "1GG"]
        {
            assert_eq!(text.parse::<DiskSize>(), Err(SizeError::NotANumber), "{text}");
        }
    }

    #[test]
    fn memory_has_a_least_and_a_greatest_amount() {
        assert_eq!("16M".parse(), Ok(MemorySize(16 << 20)));
        assert_eq!("64G".parse(), Ok(MemorySize(64 << 30)));
        for text in ["1M", "65G", "99999999T"] {
            assert_eq!(text.parse::<MemorySize>(), Err(SizeError::NoMemory), "{text}");
        }
    }

    #[test]
    fn a_rate_may_be_none() {
        assert_eq!(("0".parse(), "50M".parse()), (Ok(Rate(0)), Ok(Rate(50 << 20))));
        assert_eq!("fast".parse::<Rate>(), Err(SizeError::NotANumber));
    }
}
