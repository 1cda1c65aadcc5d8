//! The wrapped key in the header is exchanged, and power fails at any moment.

use evsfs::backing::sim::{Bound, SimBacking};
use evsfs::format::Header;

use crate::volume::{create, holds, open, wrapped};

/// However the change is cut short, one of the two opens; and the next attach that writes leaves nothing of the other in the file.
#[test]
fn f9_a_crash_leaves_one_wrapped_key_and_the_next_attach_overwrites_the_other() {
    let file = create(64, 1);
    let volume = open(&file, 1);
    volume.write(0, &[7; 4096]).unwrap();
    volume.flush().unwrap();
    file.record_crash_points();
    // The same data key in another wrapping.
    volume.rewrite_header(&Header { wrapped_dek: wrapped(1, 2), ..volume.header() }).unwrap();
    assert!(!holds(&file, &wrapped(1, 1)) && holds(&file, &wrapped(1, 2)));
    let mut seen = [0; 2];
    for point in file.take_crash_points() {
        for survivors in point.states(&Bound::default(), 1) {
            let left = SimBacking::from_image(point.image(&survivors));
            let volume = open(&left, 2);
            let chosen = volume.header().wrapped_dek;
            seen[usize::from(chosen == wrapped(1, 2))] += 1;
            volume.close().unwrap();
            for wrapping in [1, 2] {
                assert_eq!(holds(&left, &wrapped(1, wrapping)), chosen == wrapped(1, wrapping));
            }
            let volume = open(&left, 3);
            assert_eq!(volume.header().wrapped_dek, chosen);
            let mut data = [0; 4096];
            volume.read(0, &mut data).unwrap();
            assert_eq!(data, [7; 4096]);
        }
    }
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
}
