//! What a power failure may leave: the durable image, and for everything since the last sync any of its versions.

use super::image::{Cell, Image, PAGE, SECTORS, length_weight, weight};

/// One page and the contents that it may have after the crash, oldest first; the first is the durable one.
#[derive(Clone)]
struct Item {
    index: u64,
    /// Each with the number of the call that made it.
    versions: Vec<(u64, Cell)>,
}

/// A moment at which the power may fail.
#[derive(Clone)]
pub struct CrashPoint {
    durable: Image,
    items: Vec<Item>,
    /// Lengths that the file may have, oldest first, each with the call that made it.
    lengths: Vec<(u64, u64)>,
    base_sum: u64,
    mark: u64,
    call: u64,
}

/// Which version of each sector, and which length, survived.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Survivors {
    sectors: Vec<[u8; SECTORS]>,
    length: u8,
}

/// How many states of a crash point are tried.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// All combinations are tried while there are at most so many.
    pub exhaustive: u64,
    /// Random combinations beyond that.
    pub random: u32,
    /// Random combinations of single sectors (tears); each item is torn at each sector besides.
    pub torn: u32,
}

impl Default for Bound {
    fn default() -> Self {
        Self { exhaustive: 4096, random: 1000, torn: 64 }
    }
}

/// A small generator (SplitMix64): the same seed gives the same states.
pub struct Dice(u64);

impl Dice {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound` (which must not be zero).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// An index into something with `len` elements.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(u64::try_from(len).expect("usize fits u64"))).expect("below a usize")
    }
}

impl CrashPoint {
    pub(super) fn new(
        durable: Image,
        pending: impl Iterator<Item = (u64, Vec<(u64, Cell)>)>,
        lengths: &[(u64, u64)],
        mark: u64,
        call: u64,
    ) -> Self {
        let mut items = Vec::new();
        for (index, versions) in pending {
            let mut item = Item { index, versions: vec![(0, durable.page(index))] };
            for (seq, cell) in versions {
                let last = &item.versions.last().expect("the durable one is there").1;
                if (0..SECTORS).any(|s| weight(last, index, s) != weight(&cell, index, s)) {
                    item.versions.push((seq, cell));
                }
            }
            // More versions of one page than a byte counts: the oldest un-synced ones go.
            while item.versions.len() > 250 {
                item.versions.remove(1);
            }
            if item.versions.len() > 1 {
                items.push(item);
            }
        }
        let mut all = vec![(0, durable.len())];
        for &(seq, len) in lengths {
            if all.last().is_some_and(|&(_, last)| last != len) && all.len() < 250 {
                all.push((seq, len));
            }
        }
        let base_sum = durable.sum();
        Self { durable, items, lengths: all, base_sum, mark, call }
    }

    /// What the caller had noted with [`super::SimBacking::mark`] by then.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// The number of calls that had been made.
    pub fn call(&self) -> u64 {
        self.call
    }

    /// Pages and lengths whose survival is open.
    pub fn open_items(&self) -> usize {
        self.items.len() + usize::from(self.lengths.len() > 1)
    }

    /// The states to try, without repetition of the same choice.
    pub fn states(&self, bound: &Bound, seed: u64) -> Vec<Survivors> {
        let mut dice = Dice::new(seed);
        let mut states = Vec::new();
        let product = self
            .radices()
            .try_fold(1_u64, |product, radix| product.checked_mul(u64::from(radix)))
            .filter(|&product| product <= bound.exhaustive);
        match product {
            Some(product) => states.extend((0..product).map(|number| self.combination(number))),
            None => self.outline(bound.random, &mut dice, &mut states),
        }
        self.tears(bound.torn, &mut dice, &mut states);
        states
    }

    /// The state in which everything survived: the process died, the machine did not.
    pub fn all_survive(&self) -> Survivors {
        self.prefix(u64::MAX)
    }

    /// The state in which nothing since the last sync survived.
    pub fn none_survive(&self) -> Survivors {
        self.prefix(0)
    }

    /// The sum of the image of that state, as [`Image::sum`] gives it.
    pub fn sum(&self, state: &Survivors) -> u64 {
        let length = self.lengths[usize::from(state.length)].1;
        // Everything must lie below every length that may come out, else what is cut off counts too.
        let simple = self.lengths.len() == 1
            || (self.durable.len() <= length
                && self.items.iter().all(|item| (item.index + 1) * PAGE_U64 <= length));
        if !simple || self.items.iter().any(|item| item.index >= length.div_ceil(PAGE_U64)) {
            return self.image(state).sum();
        }
        let mut sum = self.base_sum.wrapping_sub(length_weight(self.durable.len()));
        sum = sum.wrapping_add(length_weight(length));
        for (item, picks) in self.items.iter().zip(&state.sectors) {
            for (sector, &pick) in picks.iter().enumerate() {
                if pick != 0 {
                    sum = sum.wrapping_sub(weight(&item.versions[0].1, item.index, sector));
                    sum = sum.wrapping_add(weight(&item.versions[usize::from(pick)].1, item.index, sector));
                }
            }
        }
        sum
    }

    /// The image of that state.
    pub fn image(&self, state: &Survivors) -> Image {
        let mut image = self.durable.clone();
        let length = self.lengths[usize::from(state.length)].1;
        for (item, picks) in self.items.iter().zip(&state.sectors) {
            let first = picks[0];
            if picks.iter().all(|&pick| pick == first) {
                if first != 0 {
                    image.put(item.index, item.versions[usize::from(first)].1.clone());
                }
            } else {
                image.put(item.index, Some(item.torn(picks)));
            }
        }
        // Pages may lie beyond a length that did not survive, or were cut off by one that did.
        image.clip(length);
        image
    }

    fn radices(&self) -> impl Iterator<Item = u8> + '_ {
        let lengths = u8::try_from(self.lengths.len()).expect("at most 250");
        self.items.iter().map(Item::count).chain([lengths])
    }

    fn combination(&self, mut number: u64) -> Survivors {
        let mut digit = |radix: u8| {
            let digit = number % u64::from(radix);
            number /= u64::from(radix);
            u8::try_from(digit).expect("below a byte")
        };
        let sectors = self.items.iter().map(|item| [digit(item.count()); SECTORS]).collect();
        Survivors { sectors, length: digit(u8::try_from(self.lengths.len()).expect("at most 250")) }
    }

    /// Everything up to call `call` survived and nothing after it.
    fn prefix(&self, call: u64) -> Survivors {
        let newest = |seqs: &mut dyn Iterator<Item = u64>| {
            u8::try_from(seqs.take_while(|&seq| seq <= call).count() - 1).expect("at most 250 versions")
        };
        Survivors {
            sectors: self
                .items
                .iter()
                .map(|item| [newest(&mut item.versions.iter().map(|v| v.0)); SECTORS])
                .collect(),
            length: newest(&mut self.lengths.iter().map(|l| l.0)),
        }
    }

    /// Prefixes, leave-one-out, keep-one, and random combinations.
    fn outline(&self, random: u32, dice: &mut Dice, states: &mut Vec<Survivors>) {
        let mut calls: Vec<u64> =
            self.items.iter().flat_map(|item| item.versions.iter().map(|v| v.0)).collect();
        calls.extend(self.lengths.iter().map(|l| l.0));
        calls.sort_unstable();
        calls.dedup();
        states.extend(calls.into_iter().map(|call| self.prefix(call)));
        let (all, none) = (self.all_survive(), self.none_survive());
        for at in 0..self.items.len() {
            for version in 0..self.items[at].count() {
                for rest in [&all, &none] {
                    let mut state = rest.clone();
                    state.sectors[at] = [version; SECTORS];
                    if state != *rest {
                        states.push(state);
                    }
                }
            }
        }
        for length in 0..u8::try_from(self.lengths.len()).expect("at most 250") {
            states.push(Survivors { length, ..all.clone() });
        }
        for _ in 0..random {
            states.push(self.random(dice));
        }
    }

    fn random(&self, dice: &mut Dice) -> Survivors {
        let pick =
            |dice: &mut Dice, count: u8| u8::try_from(dice.below(u64::from(count))).expect("below a byte");
        let sectors = self.items.iter().map(|item| [pick(dice, item.count()); SECTORS]).collect();
        Survivors { sectors, length: pick(dice, u8::try_from(self.lengths.len()).expect("at most 250")) }
    }

    /// Each page torn at each sector between its newest and an older version, and random tears.
    fn tears(&self, random: u32, dice: &mut Dice, states: &mut Vec<Survivors>) {
        if self.items.is_empty() || random == 0 {
            return;
        }
        let all = self.all_survive();
        for at in 0..self.items.len().min(64) {
            let newest = self.items[at].count() - 1;
            for cut in 1..SECTORS {
                for (low, high) in [(newest, newest - 1), (newest - 1, newest)] {
                    let mut state = all.clone();
                    state.sectors[at][..cut].fill(low);
                    state.sectors[at][cut..].fill(high);
                    states.push(state);
                }
            }
        }
        for _ in 0..random {
            let mut state = self.random(dice);
            for (item, picks) in self.items.iter().zip(&mut state.sectors) {
                if dice.below(2) == 0 {
                    for pick in picks {
                        *pick = u8::try_from(dice.below(u64::from(item.count()))).expect("below a byte");
                    }
                }
            }
            states.push(state);
        }
    }
}

const PAGE_U64: u64 = PAGE as u64;

impl Item {
    fn count(&self) -> u8 {
        u8::try_from(self.versions.len()).expect("at most 250 versions")
    }

    fn torn(&self, picks: &[u8; SECTORS]) -> std::sync::Arc<super::image::Page> {
        let mut bytes = [0; PAGE];
        let sector_size = PAGE / SECTORS;
        for (sector, &pick) in picks.iter().enumerate() {
            if let Some(page) = &self.versions[usize::from(pick)].1 {
                let range = sector * sector_size..(sector + 1) * sector_size;
                bytes[range.clone()].copy_from_slice(&page.bytes()[range]);
            }
        }
        std::sync::Arc::new(super::image::Page::new(bytes))
    }
}
