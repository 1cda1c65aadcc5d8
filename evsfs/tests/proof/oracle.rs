//! What may be seen after a crash: the state at one moment, not older than the last promise, with every block whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::workload::{BLOCK, Op, bytes_of};

/// The content of a block; `None` is zeros, and nothing else is.
pub(crate) type Content = Option<Arc<Vec<u8>>>;

const ZEROS: [u8; 4096] = [0; 4096];

pub(crate) fn bytes(content: &Content) -> &[u8] {
    content.as_ref().map_or(&ZEROS, |bytes| bytes)
}

pub(crate) fn content(bytes: &[u8]) -> Content {
    (bytes != ZEROS).then(|| Arc::new(bytes.to_vec()))
}

/// The blocks of a volume or of a snapshot.
#[derive(Clone, Default)]
pub(crate) struct Contents {
    pub blocks: Vec<Content>,
    /// Blocks whose last change failed: other contents that they may have.
    doubtful: BTreeMap<usize, Vec<Content>>,
}

impl Contents {
    /// Whether `seen` is a content that the block may have.
    pub(crate) fn allows(&self, block: usize, seen: &[u8]) -> bool {
        let known = self.blocks.get(block).is_some_and(|content| bytes(content) == seen);
        known || self.doubtful.get(&block).is_some_and(|others| others.iter().any(|c| bytes(c) == seen))
    }

    /// The same of what a view holds. Most blocks are zeros on both sides, and then nothing is compared.
    pub(crate) fn shows(&self, block: usize, seen: &Content) -> bool {
        let Some(known) = self.blocks.get(block) else { return false };
        known == seen || self.doubtful.get(&block).is_some_and(|others| others.contains(seen))
    }

    fn size(&self) -> u64 {
        u64::try_from(self.blocks.len()).unwrap() * BLOCK
    }
}

/// What a snapshot keeps.
#[derive(Clone)]
pub(crate) struct Kept {
    pub number: u8,
    pub contents: Arc<Contents>,
}

/// A snapshot as an open store shows it: its name, and its size in bytes.
pub(crate) type Shown = (String, u64);

/// A volume as its user knows it.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub now: Contents,
    /// In order of their making.
    pub snapshots: Vec<Kept>,
    /// Which wrapped key the header holds.
    pub key: u8,
}

impl State {
    pub(crate) fn new(size: u64) -> Self {
        Self::over(&[], size)
    }

    /// A volume in which nothing was written, over a base.
    pub(crate) fn over(base: &[Content], size: u64) -> Self {
        let mut blocks = base.to_vec();
        blocks.resize(to_usize(size / BLOCK), None);
        Self { now: Contents { blocks, doubtful: BTreeMap::new() }, ..Self::default() }
    }

    pub(crate) fn size(&self) -> u64 {
        self.now.size()
    }

    pub(crate) fn shown(&self) -> Vec<Shown> {
        let shown = |kept: &Kept| (Op::snapshot_name(kept.number), kept.contents.size());
        self.snapshots.iter().map(shown).collect()
    }

    /// Whether `seen` is a content that this state allows for the block.
    pub(crate) fn allows(&self, block: usize, seen: &[u8]) -> bool {
        self.now.allows(block, seen)
    }

    /// The same of what a view holds.
    pub(crate) fn shows(&self, block: usize, seen: &Content) -> bool {
        self.now.shows(block, seen)
    }

    /// The blocks that an operation changes.
    pub(crate) fn touched(op: &Op) -> std::ops::Range<usize> {
        match *op {
            Op::Write { offset, len, .. } | Op::Discard { offset, len } => {
                to_usize(offset / BLOCK)..to_usize((offset + len).div_ceil(BLOCK))
            }
            _ => 0..0,
        }
    }

    /// Whether the operation lies within the volume: after an extension that failed it may not, and then it does nothing.
    fn has_room(&self, op: &Op) -> bool {
        Self::touched(op).end <= self.now.blocks.len()
    }

    /// Carries the operation out.
    pub(crate) fn apply(&mut self, op: &Op) {
        if !self.has_room(op) {
            return;
        }
        match op {
            Op::Write { offset, len, stamp } => self.overlay(*offset, &bytes_of(*stamp, *len)),
            Op::Discard { offset, len } => self.overlay(*offset, &vec![0; to_usize(*len)]),
            Op::Snapshot(number) => {
                self.snapshots.push(Kept { number: *number, contents: Arc::new(self.now.clone()) });
            }
            // After a fault the snapshot may not be there; then nothing happens.
            Op::Rollback(number) => {
                if let Some(kept) = self.snapshots.iter().find(|kept| kept.number == *number) {
                    let size = self.now.blocks.len();
                    self.now = Contents::clone(&kept.contents);
                    // A volume never shrinks: what was added since the snapshot is empty.
                    self.now.blocks.resize(size.max(self.now.blocks.len()), None);
                }
            }
            Op::DeleteSnapshot(number) => self.snapshots.retain(|kept| kept.number != *number),
            Op::Extend(size) => self.now.blocks.resize(to_usize(size / BLOCK), None),
            Op::Rekey(key) => self.key = *key,
            Op::Flush | Op::Checkpoint | Op::Step { .. } | Op::Reopen | Op::Kill => {}
        }
    }

    fn overlay(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + u64::try_from(done).unwrap();
            let (block, within) = (to_usize(at / BLOCK), to_usize(at % BLOCK));
            let step = (4096 - within).min(data.len() - done);
            let mut new = bytes(&self.now.blocks[block]).to_vec();
            new[within..within + step].copy_from_slice(&data[done..done + step]);
            let new = content(&new);
            if step == 4096 {
                self.now.doubtful.remove(&block);
            } else if let Some(others) = self.now.doubtful.get_mut(&block) {
                for other in others {
                    let mut mixed = bytes(other).to_vec();
                    mixed[within..within + step].copy_from_slice(&data[done..done + step]);
                    *other = content(&mixed);
                }
            }
            self.now.blocks[block] = new;
            done += step;
        }
    }

    /// Notes that the operation failed: each of its blocks may have been changed or not.
    pub(crate) fn apply_doubtfully(&mut self, op: &Op) {
        if !self.has_room(op) {
            return;
        }
        let mut after = self.clone();
        after.apply(op);
        for block in Self::touched(op) {
            let mut others = after.now.doubtful.get(&block).cloned().unwrap_or_default();
            others.push(after.now.blocks[block].clone());
            self.now.doubtful.entry(block).or_default().extend(others);
        }
    }
}

/// What an open store shows.
pub(crate) struct View {
    pub size: u64,
    pub snapshots: Vec<Shown>,
    pub key: u8,
    /// Numbers and contents of the blocks that were read.
    pub blocks: Vec<(usize, Content)>,
    /// The same of the snapshots, each with its place among them.
    pub kept: Vec<(usize, usize, Content)>,
}

/// What was done, and what was promised.
#[derive(Clone)]
pub(crate) struct History {
    /// The state before everything, then after each operation.
    states: Vec<State>,
    ops: Vec<Op>,
    /// For each state: the oldest state that may still come back.
    floors: Vec<usize>,
    /// The same for the header, which is durable by itself.
    key_floors: Vec<usize>,
}

impl History {
    /// From a state that cannot be lost any more.
    pub(crate) fn from(state: State) -> Self {
        Self { states: vec![state], ops: Vec::new(), floors: vec![0], key_floors: vec![0] }
    }

    /// An operation begins; returns how many there were before.
    pub(crate) fn begin(&mut self, op: &Op) -> usize {
        let mut state = self.now().clone();
        state.apply(op);
        self.ops.push(op.clone());
        self.states.push(state);
        self.floors.push(*self.floors.last().unwrap());
        self.key_floors.push(*self.key_floors.last().unwrap());
        self.ops.len() - 1
    }

    /// It succeeded.
    pub(crate) fn succeed(&mut self) {
        let last = self.states.len() - 1;
        if self.ops.last().is_some_and(Op::is_durable) {
            self.floors[last] = last;
        }
        if let Some(Op::Rekey(_)) = self.ops.last() {
            self.key_floors[last] = last;
        }
    }

    /// It failed: its blocks are in doubt.
    pub(crate) fn fail(&mut self) {
        let op = self.ops.last().expect("one began").clone();
        let last = self.states.len() - 1;
        let mut state = self.states[last - 1].clone();
        if op.is_divisible() {
            state.apply_doubtfully(&op);
        }
        self.states[last] = state;
    }

    pub(crate) fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    /// The state after `cut` operations with the contents that were seen (all blocks, in order).
    pub(crate) fn state_as_seen(&self, cut: usize, view: &View) -> State {
        let blocks = view.blocks.iter().map(|(_, content)| content.clone()).collect();
        let now = Contents { blocks, doubtful: BTreeMap::new() };
        State { now, key: view.key, snapshots: self.states[cut].snapshots.clone() }
    }

    /// The newest state is the one seen, which must be one that may be seen at that mark.
    pub(crate) fn know(&mut self, mark: u64, view: &View) -> Result<(), String> {
        let cut = self.admit(mark, view)?;
        let state = self.state_as_seen(cut, view);
        *self.states.last_mut().unwrap() = state;
        Ok(())
    }

    pub(crate) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// What a crash point notes: the operations done, and whether another is under way.
    pub(crate) fn mark(done: usize, under_way: bool) -> u64 {
        u64::try_from(done * 2 + usize::from(under_way)).unwrap()
    }

    /// Which state the view shows, if it is one that may be seen at a crash with this mark.
    pub(crate) fn admit(&self, mark: u64, view: &View) -> Result<usize, String> {
        let done = to_usize(mark / 2);
        let under_way = mark % 2 == 1;
        let floor = self.floors[done];
        let newest = done + usize::from(under_way);
        if !self.states[self.key_floors[done]..=newest].iter().any(|state| state.key == view.key) {
            return Err(format!("the header holds key {}, from before the last re-key", view.key));
        }
        for cut in (floor..=newest).rev() {
            // A commit may fall into the middle of the next operation, if that has a middle.
            let next = (cut < newest && self.ops[cut].is_divisible()).then(|| &self.states[cut + 1]);
            if self.shows(cut, next, view) {
                return Ok(cut);
            }
        }
        Err(self.explain(floor, newest, view))
    }

    fn shows(&self, cut: usize, next: Option<&State>, view: &View) -> bool {
        let state = &self.states[cut];
        state.size() == view.size
            && state.shown() == view.snapshots
            && view
                .kept
                .iter()
                .all(|(snapshot, block, seen)| state.snapshots[*snapshot].contents.shows(*block, seen))
            && view.blocks.iter().all(|(block, seen)| {
                state.shows(*block, seen) || next.is_some_and(|next| next.shows(*block, seen))
            })
    }

    fn explain(&self, floor: usize, newest: usize, view: &View) -> String {
        let mut text = format!(
            "no single state of {floor}..={newest} explains what is seen: size {}, snapshots {:?};",
            view.size, view.snapshots
        );
        for (block, seen) in &view.blocks {
            let matching: Vec<usize> =
                (0..=newest).filter(|&cut| self.states[cut].shows(*block, seen)).collect();
            if matching.len() != newest + 1 {
                text += &format!(" block {block} is that of states {matching:?};");
            }
        }
        text
    }
}

pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}
