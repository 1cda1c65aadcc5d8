//! Random operations against a plain byte vector (the reference model in `evsfs/tests` does more).

use proptest::prelude::*;

use uuid::Uuid;

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
    Snapshot,
    Delete(usize),
    Rollback(usize),
    Extend(u64),
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
        1 => Just(Op::Snapshot),
        1 => any::<usize>().prop_map(Op::Delete),
        1 => any::<usize>().prop_map(Op::Rollback),
        1 => (1..6u64).prop_map(Op::Extend),
    ]
}

fn at(offset: u64, len: u64) -> std::ops::Range<usize> {
    usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

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
        let mut snapshots: Vec<(Uuid, Vec<u8>)> = Vec::new();
        let mut next_id = 1;
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
                Op::Snapshot => {
                    let id = Uuid::from_u128(next_id);
                    next_id += 1;
                    now.snapshot("one", id, 5).unwrap();
                    snapshots.push((id, model.clone()));
                }
                Op::Delete(which) if !snapshots.is_empty() => {
                    let (id, _) = snapshots.remove(which % snapshots.len());
                    now.delete_snapshot(id).unwrap();
                }
                Op::Rollback(which) if !snapshots.is_empty() => {
                    let (id, kept) = &snapshots[which % snapshots.len()];
                    now.rollback(*id).unwrap();
                    model.fill(0);
                    model[..kept.len()].copy_from_slice(kept);
                }
                Op::Extend(blocks) => {
                    let size = u64::try_from(model.len()).unwrap() + blocks * 4096 * 97;
                    now.extend(size).unwrap();
                    model.resize(usize::try_from(size).unwrap(), 0);
                }
                Op::Delete(_) | Op::Rollback(_) => {}
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
        let size = model.len();
        let all = read(&now, 0, size);
        prop_assert!(all == model);
        prop_assert!(committed.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        now.flush().unwrap();
        drop(now);
        let now = rig.open();
        prop_assert!(read(&now, 0, size) == model);
        for (id, kept) in &snapshots {
            let mut bytes = vec![1; kept.len()];
            now.read_snapshot(*id, 0, &mut bytes).unwrap();
            prop_assert!(bytes == *kept);
        }
        let report = now.check(&mut |_, _| {}).unwrap();
        prop_assert!(report.is_sound(), "{:?}", report);
        now.close().unwrap();
        let now = rig.open();
        prop_assert!(read(&now, 0, size) == model);
        // Where the model has data there must be data.
        for (block, bytes) in (0u64..).zip(model.chunks(4096)) {
            if bytes.iter().any(|byte| *byte != 0) {
                prop_assert_eq!(now.next_data(block * 4096).unwrap(), Some(block * 4096));
            }
        }
        // When all is deleted and discarded nothing but tables is left.
        for (id, _) in &snapshots {
            now.delete_snapshot(*id).unwrap();
        }
        now.discard(0, u64::try_from(size).unwrap()).unwrap();
        now.checkpoint().unwrap();
        for _ in 0..100 {
            now.checkpoint().unwrap();
        }
        let report = now.check(&mut |_, _| {}).unwrap();
        prop_assert!(report.is_sound(), "{:?}", report);
        let least = 16 + ring + 4 * now.stats().file_slots.div_ceil(32_768);
        prop_assert!(now.stats().used_slots < least + 8, "{:?}, {} are fixed", now.stats(), least);
    }
}
