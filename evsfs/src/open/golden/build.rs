//! How the golden volumes are made: fixed randomness, fixed operations, and a list of bytes beside each that says what it must read as.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::contents::Contents;
use crate::backing::sim::{Image, SimBacking};
use crate::backing::{Backing, FileBacking};
use crate::crypto::{Backend, Dek, Keyring, SeededEntropy, Suite, VolumeKeys};
use crate::engine::{Anchor, BLOCK, BaseImage, CreateParams, OpenOptions, Step, Volume};
use crate::format::layout::REGION_SLOTS;
use crate::format::{
    BaseReference, BaseState, EPOCH_PAGE_SALTS, Entry, Header, HeaderCopies, MapPage, Text, VolumeKind,
    WrappedDekField,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The wrapped form of the data key that a re-encryption goes to.
pub(super) const NEXT: u8 = 253;

/// What came out.
pub(super) struct Built {
    pub(super) file: Vec<u8>,
    pub(super) contents: Contents,
    pub(super) snapshots: Vec<(Uuid, Contents)>,
    pub(super) anchor: Anchor,
}

/// Makes a volume at a path.
pub(super) type Make = fn(&Path) -> Built;

/// All of them. A thin one lies beside its base.
pub(super) const VOLUMES: [(&str, Make); 21] = [
    ("plain", |path| used(path, Suite::Plain)),
    ("plain-log", |path| with_log(path, Suite::Plain)),
    ("plain-snapshots", |path| with_snapshots(path, Suite::Plain)),
    ("plain-discarded", discarded),
    ("encrypted", |path| used(path, Suite::Aes256Gcm)),
    ("encrypted-log", |path| with_log(path, Suite::Aes256Gcm)),
    ("encrypted-compacted", compacted),
    ("encrypted-snapshots", |path| with_snapshots(path, Suite::Aes256Gcm)),
    ("encrypted-extended", extended),
    ("base", |path| used(path, Suite::Aes256Gcm)),
    ("thin", thin),
    ("flattened", flattened),
    ("flattening", flattening),
    ("thin-proven", thin_proven),
    ("thin-over-plain", thin_over_plain),
    ("reencrypting", reencrypting),
    ("reencrypted", reencrypted),
    ("lost", lost),
    ("many-epochs", many_epochs),
    ("four-levels", four_levels),
    ("second-region", second_region),
];

/// The fake key service: a wrapped key of bytes `n` is a key of bytes `n`.
pub(super) fn dek_of(wrapped: &[u8]) -> [u8; 32] {
    [wrapped[0]; 32]
}

fn dek(wrapped: &WrappedDekField) -> Dek {
    Dek::new(&dek_of(wrapped.as_bytes()))
}

/// The keys of a header, of which the first proves it; of a re-encryption both.
fn keys_of(header: &crate::format::UnverifiedHeader) -> (Header, Keyring) {
    let claims = header.claims();
    let of = |wrapped| VolumeKeys::new(dek(wrapped), claims.uuid, Backend::AwsLc);
    let first = match claims.suite {
        Suite::Plain => VolumeKeys::plain(claims.uuid, Backend::AwsLc),
        Suite::Aes256Gcm => of(&claims.wrapped_dek),
    };
    let Some(next) = &claims.next else { return (header.verify(&first).unwrap(), first.into()) };
    let newer = of(&next.wrapped_dek);
    let proved = header.verify_with(&first, Some(&newer)).unwrap();
    (proved, Keyring::from(first).switched(newer, next.switch))
}

fn attach(path: &Path, entropy: &Arc<SeededEntropy>, options: OpenOptions) -> Volume {
    attach_on(Arc::new(FileBacking::open(path).unwrap()), entropy, options)
}

fn attach_on(
    backing: Arc<impl Backing + 'static>,
    entropy: &Arc<SeededEntropy>,
    options: OpenOptions,
) -> Volume {
    let copies: HeaderCopies = crate::unlock::read_header(&backing).unwrap();
    let (header, keys) = keys_of(&copies.candidates()[0]);
    Volume::open(backing, header, keys, options, Arc::clone(entropy) as _).unwrap()
}

/// Changes a volume that was made before.
pub(super) fn open_again(path: &Path, change: impl FnOnce(&Volume)) {
    let entropy = Arc::new(SeededEntropy::new(99));
    let volume = attach(path, &entropy, OpenOptions { background: false, ..OpenOptions::default() });
    change(&volume);
    volume.close().unwrap();
}

struct Maker<'a> {
    path: &'a Path,
    entropy: Arc<SeededEntropy>,
    base: Option<Arc<dyn BaseImage>>,
    contents: Contents,
    snapshots: Vec<(Uuid, Contents)>,
    /// Tells the contents of one write from those of another.
    turn: u8,
}

impl<'a> Maker<'a> {
    /// Each volume's identity, key and randomness follow from its name.
    fn new(path: &'a Path, suite: Suite, size: u64, ring_pages: u64) -> Self {
        Self::over(path, suite, size, ring_pages, None)
    }

    fn over(
        path: &'a Path,
        suite: Suite,
        size: u64,
        ring_pages: u64,
        base: Option<(Arc<dyn BaseImage>, BaseReference, Contents)>,
    ) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let seed = name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let plain = suite == Suite::Plain;
        let header = Header {
            suite,
            kind: if name == "base" { VolumeKind::Image } else { VolumeKind::Disk },
            sequence: 1,
            uuid: Uuid::from_u128(0x601d << 64 | u128::from(seed)),
            created: 1_700_000_000,
            ring_pages,
            cmk_id: Text::new(if plain { "" } else { "0d0466b0-e727-4d9c-b35d-f84bb474a37f" }).unwrap(),
            cmk_version: u32::from(!plain),
            wrapped_dek: if plain {
                WrappedDekField::default()
            } else {
                WrappedDekField::new(vec![u8::try_from(seed % 251).unwrap() + 1; 60]).unwrap()
            },
            next: None,
            base_copied: false,
            base: base.as_ref().map(|(_, reference, _)| *reference),
        };
        let entropy = Arc::new(SeededEntropy::new(seed));
        let backing = FileBacking::create(path).unwrap();
        let keys = match suite {
            Suite::Plain => VolumeKeys::plain(header.uuid, Backend::AwsLc),
            Suite::Aes256Gcm => VolumeKeys::new(dek(&header.wrapped_dek), header.uuid, Backend::AwsLc),
        };
        Volume::create(&backing, &header, &CreateParams { size }, &keys, &*entropy).unwrap();
        let mut contents = Contents::new(size);
        let base = base.map(|(base, _, behind)| {
            contents = behind;
            contents.grow(size);
            base
        });
        Self { path, entropy, base, contents, snapshots: Vec::new(), turn: 0 }
    }

    fn options(&self) -> OpenOptions {
        let base = self.base.clone();
        OpenOptions { background: false, seals_per_epoch: 1024, base, ..OpenOptions::default() }
    }

    fn attach(&self) -> Volume {
        attach(self.path, &self.entropy, self.options())
    }

    fn write(&mut self, volume: &Volume, offset: u64, length: usize) {
        self.turn = self.turn.wrapping_add(1);
        let bytes: Vec<u8> =
            (0..length).map(|place| u8::try_from(place / 512 % 200).unwrap() ^ self.turn).collect();
        self.contents.put(offset, &bytes);
        volume.write(offset, &bytes).unwrap();
    }

    fn discard(&mut self, volume: &Volume, offset: u64, length: u64) {
        self.contents.zero(offset, length);
        volume.discard(offset, length).unwrap();
    }

    fn snapshot(&mut self, volume: &Volume, number: u128) -> Uuid {
        let id = Uuid::from_u128(0x5a << 64 | number);
        volume.snapshot(&format!("snapshot {number}"), id, 1_700_000_100).unwrap();
        self.snapshots.push((id, self.contents.clone()));
        id
    }

    /// What the operations of every volume are: whole blocks, parts of blocks, across blocks, over one another, and holes.
    fn use_it(&mut self, volume: &Volume) {
        self.write(volume, 0, 6 * 4096);
        self.write(volume, 5000, 100);
        self.write(volume, 3 * BLOCK - 10, 20);
        volume.flush().unwrap();
        self.write(volume, 2 * MIB, 2 * 4096);
        self.discard(volume, BLOCK, 2 * BLOCK);
        self.discard(volume, 4 * BLOCK + 100, 50);
        volume.flush().unwrap();
    }

    fn end(self, anchor: Anchor) -> Built {
        let file = fs::read(self.path).unwrap();
        Built { file, contents: self.contents, snapshots: self.snapshots, anchor }
    }
}

/// As a user has it: the ring of its size, used, detached, attached again, detached.
fn used(path: &Path, suite: Suite) -> Built {
    let size = 4 * MIB;
    let mut maker = Maker::new(path, suite, size, CreateParams { size }.ring_pages());
    let volume = maker.attach();
    maker.use_it(&volume);
    volume.close().unwrap();
    let volume = maker.attach();
    maker.write(&volume, size - 4096, 4096);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// The process died: groups of two attaches are in the log, and one write that nobody flushed is lost.
fn with_log(path: &Path, suite: Suite) -> Built {
    let mut maker = Maker::new(path, suite, 4 * MIB, 64);
    let volume = maker.attach();
    maker.use_it(&volume);
    volume.checkpoint().unwrap();
    maker.write(&volume, 3 * MIB, 4096);
    volume.flush().unwrap();
    drop(volume);
    let volume = maker.attach();
    for turn in 0..3 {
        maker.write(&volume, turn * 7000, 700);
        maker.discard(&volume, MIB + turn * BLOCK, BLOCK);
        volume.flush().unwrap();
    }
    let anchor = volume.anchor();
    volume.write(0, &[0xff; 4096]).unwrap();
    drop(volume);
    maker.end(anchor)
}

/// The log was compacted: a dense group, and after it more.
fn compacted(path: &Path) -> Built {
    let mut maker = Maker::new(path, Suite::Aes256Gcm, 4 * MIB, 32);
    let volume = maker.attach();
    maker.use_it(&volume);
    let mut turn = 0;
    while volume.stats().compactions == 0 {
        maker.write(&volume, turn % 4 * BLOCK, 4096);
        volume.flush().unwrap();
        turn += 1;
        assert!(turn < 200, "the log is never compacted");
    }
    maker.write(&volume, MIB, 4096);
    volume.flush().unwrap();
    let anchor = volume.anchor();
    drop(volume);
    maker.end(anchor)
}

/// Three snapshots, one of them deleted and its trash not yet freed, and gone back to another.
fn with_snapshots(path: &Path, suite: Suite) -> Built {
    let mut maker = Maker::new(path, suite, 4 * MIB, 64);
    let volume = maker.attach();
    maker.use_it(&volume);
    let first = maker.snapshot(&volume, 1);
    maker.write(&volume, BLOCK, 3 * 4096);
    let second = maker.snapshot(&volume, 2);
    maker.write(&volume, 3 * MIB, 4096);
    maker.snapshot(&volume, 3);
    volume.rollback(second).unwrap();
    maker.contents.clone_from(&maker.snapshots[1].1);
    maker.write(&volume, 6 * BLOCK, 100);
    volume.delete_snapshot(first).unwrap();
    maker.snapshots.remove(0);
    volume.flush().unwrap();
    let anchor = volume.anchor();
    drop(volume);
    maker.end(anchor)
}

/// Grown twice, once with a snapshot of the smaller size.
fn extended(path: &Path) -> Built {
    let mut maker = Maker::new(path, Suite::Aes256Gcm, MIB / 2, 64);
    let volume = maker.attach();
    maker.write(&volume, MIB / 2 - 100, 100);
    maker.snapshot(&volume, 1);
    volume.extend(4 * MIB).unwrap();
    maker.contents.grow(4 * MIB);
    maker.write(&volume, MIB / 2 - 50, 100);
    // Another level of the map.
    volume.extend(96 * MIB).unwrap();
    maker.contents.grow(96 * MIB);
    maker.write(&volume, 96 * MIB - 4096, 4096);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// A large range was discarded: pages that are dead but not yet freed, and a range in the log.
fn discarded(path: &Path) -> Built {
    let mut maker = Maker::new(path, Suite::Plain, 16 * MIB, 64);
    let volume = maker.attach();
    for part in 0..16 {
        maker.write(&volume, part * MIB, 2 * 4096);
    }
    volume.checkpoint().unwrap();
    maker.discard(&volume, MIB / 2, 8 * MIB);
    volume.checkpoint().unwrap();
    maker.write(&volume, 2 * MIB + 100, 100);
    maker.discard(&volume, 12 * MIB, 3 * MIB);
    maker.write(&volume, 13 * MIB, 4096);
    volume.flush().unwrap();
    let anchor = volume.anchor();
    drop(volume);
    maker.end(anchor)
}

/// How a header names its base.
type Name = fn(&dyn BaseImage, Text<1024>) -> BaseReference;

/// As the first headers did.
fn claimed(base: &dyn BaseImage, path: Text<1024>) -> BaseReference {
    let identity = base.identity();
    BaseReference { state: BaseState::Claimed(identity.state.chain), ..identity.reference(path) }
}

/// Over the image beside it, with a key of its own: what it wrote, what it discarded, and the image behind it.
fn over_base<'a>(path: &'a Path, base: &str, name: Name) -> (Maker<'a>, Volume) {
    let base_path = path.with_file_name(base);
    let named = Text::new(&format!("/golden/{base}")).unwrap();
    let entropy = Arc::new(SeededEntropy::new(5));
    let options = OpenOptions { background: false, read_only: true, ..OpenOptions::default() };
    let base = attach(&base_path, &entropy, options);
    let behind = Contents::of(base.size(), |at, buf| base.read(at, buf));
    let reference = name(&base, named);
    let base = Some((Arc::new(base) as _, reference, behind));
    let mut maker = Maker::over(path, Suite::Aes256Gcm, 8 * MIB, 64, base);
    let volume = maker.attach();
    maker.write(&volume, 2 * MIB + 100, 50);
    maker.write(&volume, 6 * MIB, 4096);
    maker.discard(&volume, 0, 3 * BLOCK);
    (maker, volume)
}

fn thin(path: &Path) -> Built {
    let (maker, volume) = over_base(path, "base.evs", claimed);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// The header proves the state of its base.
fn thin_proven(path: &Path) -> Built {
    let (maker, volume) = over_base(path, "base.evs", |base, path| base.identity().reference(path));
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// It says that its base is not encrypted.
fn thin_over_plain(path: &Path) -> Built {
    let (maker, volume) = over_base(path, "plain.evs", |base, path| base.identity().reference(path));
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// A snapshot, and the image copied into both; used since.
fn flattened(path: &Path) -> Built {
    let (mut maker, volume) = over_base(path, "base.evs", claimed);
    maker.snapshot(&volume, 1);
    maker.write(&volume, 3 * BLOCK + 7, 4096);
    volume.start_flatten(None).unwrap();
    while volume.task_step(3).unwrap() != Step::Finished {}
    maker.discard(&volume, 4 * BLOCK, BLOCK);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// The process died while the image was copied: a part of it is, in the volume and in its snapshot.
fn flattening(path: &Path) -> Built {
    let (mut maker, volume) = over_base(path, "base.evs", claimed);
    maker.snapshot(&volume, 1);
    volume.start_flatten(Some(MIB)).unwrap();
    volume.task_step(1).unwrap();
    maker.write(&volume, 3 * BLOCK + 7, 4096);
    volume.flush().unwrap();
    let anchor = volume.anchor();
    drop(volume);
    maker.end(anchor)
}

fn start_reencryption(volume: &Volume) {
    let wrapped = WrappedDekField::new(vec![NEXT; 60]).unwrap();
    let newer = VolumeKeys::new(dek(&wrapped), volume.header().uuid, Backend::AwsLc);
    volume.start_reencryption(newer, wrapped, 8 * MIB).unwrap();
}

/// A re-encryption that has come a part of the way: what is before its cursor is under the newer key, a snapshot too.
fn begin_reencryption(path: &Path) -> (Maker<'_>, Volume) {
    let mut maker = Maker::new(path, Suite::Aes256Gcm, 4 * MIB, 32);
    let volume = maker.attach();
    maker.use_it(&volume);
    maker.write(&volume, MIB, 4096);
    maker.snapshot(&volume, 1);
    maker.write(&volume, 2 * BLOCK, 4096);
    start_reencryption(&volume);
    volume.task_step(1).unwrap();
    let status = volume.reencryption().expect("it runs");
    assert!(status.phase == "blocks" && (1..4 * MIB).contains(&status.position), "{status:?}");
    (maker, volume)
}

/// The process died amid a re-encryption, and another one after it: two data keys, and groups of two epochs of the newer in the log.
fn reencrypting(path: &Path) -> Built {
    let (mut maker, volume) = begin_reencryption(path);
    maker.write(&volume, 3 * MIB, 4096);
    volume.flush().unwrap();
    drop(volume);
    let volume = maker.attach();
    maker.write(&volume, 5 * BLOCK + 5, 100);
    volume.flush().unwrap();
    let anchor = volume.anchor();
    drop(volume);
    maker.end(anchor)
}

/// One that is done: of the older key nothing is left. Used since.
fn reencrypted(path: &Path) -> Built {
    let (mut maker, volume) = begin_reencryption(path);
    while volume.task_step(100).unwrap() != Step::Finished {}
    maker.write(&volume, 3 * MIB, 4096);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// A page of the map was damaged, and then something was written under it: the other blocks below it are lost.
fn lost(path: &Path) -> Built {
    let mut maker = Maker::new(path, Suite::Plain, 4 * MIB, 64);
    let volume = maker.attach();
    maker.use_it(&volume);
    maker.write(&volume, MIB, 5 * 4096);
    volume.close().unwrap();
    let mut file = fs::read(path).unwrap();
    let first = MIB / BLOCK % 128;
    let is_its_leaf = |slot: &[u8; 4096]| {
        let entries = |page: MapPage| page.entries().iter().map(Entry::is_data).collect::<Vec<_>>();
        MapPage::decode(slot, true).is_ok_and(|page| {
            entries(page).iter().zip(0..).all(|(data, block)| *data == (first..first + 5).contains(&block))
        })
    };
    let slots = file.as_chunks_mut::<4096>().0.iter_mut();
    let leaf = slots.filter(|slot| is_its_leaf(slot)).collect::<Vec<_>>().pop().expect("its leaf");
    leaf[4000] ^= 1;
    fs::write(path, file).unwrap();
    let volume = maker.attach();
    maker.contents.lose(MIB, 128 * BLOCK);
    maker.write(&volume, MIB + 3 * BLOCK, 4096);
    volume.checkpoint().unwrap();
    maker.discard(&volume, MIB + 100 * BLOCK, 2 * BLOCK);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// Attached so often that the salts fill more than a page. In memory: on a disk it would be a thousand barriers.
fn many_epochs(path: &Path) -> Built {
    let mut maker = Maker::new(path, Suite::Plain, 4 * MIB, 64);
    let memory = SimBacking::from_image(Image::from_bytes(&fs::read(path).unwrap()));
    let attaches = u64::try_from(EPOCH_PAGE_SALTS).unwrap() + 8;
    for number in 0..attaches {
        let volume = attach_on(Arc::new(memory.clone()), &maker.entropy, maker.options());
        maker.write(&volume, number % 20 * BLOCK, 4096);
        volume.flush().unwrap();
    }
    let volume = attach_on(Arc::new(memory.clone()), &maker.entropy, maker.options());
    let anchor = volume.close().unwrap();
    fs::write(path, memory.image().to_bytes()).unwrap();
    maker.end(anchor)
}

/// A map of four levels, with a snapshot of when it had two.
fn four_levels(path: &Path) -> Built {
    let mut maker = Maker::new(path, Suite::Aes256Gcm, 4 * MIB, 64);
    let volume = maker.attach();
    maker.write(&volume, 4 * MIB - 100, 100);
    maker.snapshot(&volume, 1);
    let size = 8 * GIB + 4 * MIB;
    volume.extend(size).unwrap();
    maker.contents.grow(size);
    for offset in [2 * BLOCK, 64 * MIB - 50, 4 * GIB + MIB, 8 * GIB - 100, size - BLOCK] {
        maker.write(&volume, offset, 200);
    }
    maker.discard(&volume, 5 * GIB, GIB);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}

/// A file that reaches into a second allocation region. What filled the first is discarded, and a re-encryption has wiped what was left of it.
fn second_region(path: &Path) -> Built {
    let mut maker = Maker::new(path, Suite::Aes256Gcm, 160 * MIB, 64);
    let volume = maker.attach();
    for part in 0..132 {
        maker.write(&volume, part * MIB, 1 << 20);
    }
    maker.write(&volume, 150 * MIB, 2 * 4096);
    maker.discard(&volume, 0, 140 * MIB);
    start_reencryption(&volume);
    while volume.task_step(10_000).unwrap() != Step::Finished {}
    assert!(volume.stats().file_slots > REGION_SLOTS);
    maker.write(&volume, 155 * MIB, 4096);
    let anchor = volume.close().unwrap();
    maker.end(anchor)
}
