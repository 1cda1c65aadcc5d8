//! Thousands of small changes to good images: a reader answers with data or an error, and soon.

use super::*;

/// Images with data, holes and every kind of table.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let mut contents = vec![0; 3 << 20];
    contents[..70_000].fill(7);
    contents[2 << 20..(2 << 20) + 70_000].fill(9);
    [
        ("qcow2", "cluster_size=4k"),
        ("qcow2", "compression_type=zstd"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed"),
        ("vhdx", "block_size=1M"),
        ("vdi", ""),
    ]
    .map(|(format, options)| (format, made(&contents, format, options)))
    .into()
}

/// The places that are no data, as far as can be told without knowing the format: not 7, 9 or 0, or near such a byte.
fn tables(bytes: &[u8]) -> Vec<usize> {
    let odd = |at: usize| !matches!(bytes[at], 0 | 7 | 9);
    (0..bytes.len()).filter(|at| (at.saturating_sub(2)..(at + 3).min(bytes.len())).any(odd)).collect()
}

#[test]
fn i3_no_single_byte_of_the_tables_makes_a_reader_panic_or_run_away() {
    let mut tried = 0;
    for (format, good) in samples() {
        let places = tables(&good);
        assert!(places.len() > 50, "{format}: {}", places.len());
        let step = places.len().div_ceil(300);
        for at in places.into_iter().step_by(step) {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                if let Ok((_, mut source)) = open(bytes, None) {
                    let _ = walk(&mut *source);
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 4_000, "{tried}");
}

#[test]
fn i3_many_changes_at_once_make_no_reader_panic_or_run_away() {
    let mut state = 0x2545_f491_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(state >> 8).unwrap()
    };
    for (_, good) in samples() {
        let places = tables(&good);
        for _ in 0..250 {
            let mut bytes = good.clone();
            for _ in 0..1 + random() % 6 {
                let at = places[random() % places.len()];
                bytes[at] = [0x00, 0xff, 0x7f, 0x80, 0x01, random().to_le_bytes()[0]][random() % 6];
            }
            if random() % 8 == 0 {
                bytes.truncate(random() % bytes.len());
            }
            if let Ok((_, mut source)) = open(bytes, None) {
                let _ = walk(&mut *source);
            }
        }
    }
}
