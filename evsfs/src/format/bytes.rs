//! Little-endian fields at constant offsets of structures of constant size: the offsets are in bounds by construction.

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// 40 bits.
pub(super) fn u40_at(bytes: &[u8], at: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..5].copy_from_slice(&bytes[at..at + 5]);
    u64::from_le_bytes(wide)
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(super) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    put(bytes, at, &value.to_le_bytes());
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

pub(super) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes());
}

/// # Panics
/// If `value` has more than 40 bits: cutting it would point elsewhere.
pub(super) fn put_u40(bytes: &mut [u8], at: usize, value: u64) {
    assert!(value < 1 << 40, "{value} has more than 40 bits");
    put(bytes, at, &value.to_le_bytes()[..5]);
}
