//! Random operations against a plain byte vector (the reference model in `evsfs/tests` does more).

use proptest::prelude::*;

use super::{Rig, read};

const SIZE: u64 = 6 << 20;

#[derive(Debug, Clone)]
enum Op {
    Write { offset: u64, len: u64, byte: u8 },
    Read { offset: u64, len: u64 },
    Discard { offset: u64, len: u64 },
    Flush,
    Checkpoint,
    Crash,
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let place = prop_oneof![
        3 => (0..SIZE, 1..20_000u64),
        3 => (0..SIZE / 4096, 1..40u64).prop_map(|(block, blocks)| (block * 4096, blocks * 4096)),
        1 => (0..SIZE / 4096, 100..1400u64).prop_map(|(block, blocks)| (block * 4096, blocks * 4096)),
    ];
    let place = place.prop_map(|(offset, len)| (offset, len.min(SIZE - offset)));
    prop_oneof![
        6 => (place.clone(), any::<u8>()).prop_map(|((offset, len), byte)| Op::Write { offset, len, byte }),
        2 => place.clone().prop_map(|(offset, len)| Op::Read { offset, len }),
        2 => place.prop_map(|(offset, len)| Op::Discard { offset, len }),
        3 => Just(Op::Flush),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Crash),
        1 => Just(Op::Close),
    ]
}

fn at(offset: u64, len: u64) -> std::ops::Range<usize> {
    usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The process may die at any moment here, but the host keeps every write: so nothing that returned is lost after a flush, and a
    /// crash leaves the state of the last commit.
    #[test]
    fn it_behaves_like_a_vector_of_bytes(
        ops in prop::collection::vec(op(), 1..60),
        ring in prop_oneof![Just(8u64), Just(16), Just(64)],
        dirty in prop_oneof![Just(300usize), Just(1000), Just(100_000)],
        seals in prop_oneof![Just(1024u64), Just(1 << 32)],
    ) {
        let mut rig = Rig::new(SIZE, ring);
        rig.options.dirty_limit = Some(dirty);
        rig.options.seals_per_epoch = seals;
        let mut model = vec![0u8; usize::try_from(SIZE).unwrap()];
        let mut committed = vec![(0, model.clone())];
        let mut volume = Some(rig.open());
        for op in ops {
            let now = volume.as_ref().unwrap();
            match op {
                Op::Write { offset, len, byte } => {
                    let data: Vec<u8> = (0..len).map(|place| byte.wrapping_add(u8::try_from(place % 251).unwrap())).collect();
                    now.write(offset, &data).unwrap();
                    model[at(offset, len)].copy_from_slice(&data);
                }
                Op::Read { offset, len } => {
                    prop_assert!(read(now, offset, usize::try_from(len).unwrap()) == model[at(offset, len)]);
                }
                Op::Discard { offset, len } => {
                    now.discard(offset, len).unwrap();
                    model[at(offset, len)].fill(0);
                }
                Op::Flush => now.flush().unwrap(),
                Op::Checkpoint => now.checkpoint().unwrap(),
                Op::Crash => {
                    now.flush().unwrap();
                    drop(volume.take());
                    volume = Some(rig.open());
                }
                Op::Close => {
                    volume.take().unwrap().close().unwrap();
                    volume = Some(rig.open());
                }
            }
            committed.push((volume.as_ref().unwrap().anchor().commit, Vec::new()));
        }
        let now = volume.unwrap();
        let all = read(&now, 0, usize::try_from(SIZE).unwrap());
        prop_assert!(all == model);
        prop_assert!(committed.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        now.flush().unwrap();
        drop(now);
        prop_assert!(read(&rig.open(), 0, usize::try_from(SIZE).unwrap()) == model);
        rig.open().close().unwrap();
        let now = rig.open();
        prop_assert!(read(&now, 0, usize::try_from(SIZE).unwrap()) == model);
        // Where the model has data there must be data.
        for (block, bytes) in (0u64..).zip(model.chunks(4096)) {
            if bytes.iter().any(|byte| *byte != 0) {
                prop_assert_eq!(now.next_data(block * 4096).unwrap(), Some(block * 4096));
            }
        }
    }
}
