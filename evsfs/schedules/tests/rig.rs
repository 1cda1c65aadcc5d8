//! Volumes to run schedules on, and the schedules.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use evsfs::backing::Backing;
use evsfs::crypto::{Backend, Chain, Dek, SeededEntropy, Suite, VolumeKeys};
use evsfs::format::{Header, Text, VolumeKind, WrappedDekField};
use evsfs_schedules::engine::{
    Anchor, BLOCK, BaseIdentity, BaseImage, OpenOptions, Protection, Volume, VolumeError,
};
use evsfs_schedules::{Memory, leaving_out};
use parking_lot::RwLock;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};
use uuid::Uuid;

const BLOCKS: u64 = 8;

/// Orders tried of each workload: by chance, and by priorities that change a few times. `EVSFS_SCHEDULES` multiplies both.
const RANDOM: usize = 300;
const BY_PRIORITY: usize = 300;

fn header() -> Header {
    Header {
        suite: Suite::Aes256Gcm,
        kind: VolumeKind::Disk,
        sequence: 1,
        uuid: Uuid::from_u128(7),
        created: 0,
        ring_pages: 32,
        cmk_id: Text::new("key").unwrap(),
        cmk_version: 1,
        wrapped_dek: WrappedDekField::new(vec![1; 40]).unwrap(),
        next: None,
        base_copied: false,
        base: None,
    }
}

/// What lies under a thin volume: blocks of version [`Under::VERSION`].
pub(crate) struct Under;

impl Under {
    pub(crate) const VERSION: u64 = 77;
    const BLOCKS: u64 = 16;
    const STATE: Anchor = Anchor { commit: 1, chain: Chain([5; 32]) };
    const ID: Uuid = Uuid::from_u128(8);

    fn header() -> Header {
        let path = Text::new("under.evs").unwrap();
        Header { base: Some(Self.identity().reference(path)), ..header() }
    }
}

impl BaseImage for Under {
    fn identity(&self) -> BaseIdentity {
        BaseIdentity { uuid: Self::ID, encrypted: true, state: Self::STATE, mac: [6; 32] }
    }
    fn size(&self) -> u64 {
        Self::BLOCKS * BLOCK
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), VolumeError> {
        for (block, bytes) in (offset / BLOCK..).zip(buf.chunks_mut(4096)) {
            bytes.copy_from_slice(&fill(block, Self::VERSION));
        }
        Ok(())
    }
    fn next_data(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        Ok((offset < self.size()).then_some(offset))
    }
    fn next_hole(&self, _: u64, end: u64) -> Result<u64, VolumeError> {
        Ok(self.size().min(end))
    }
}

fn keys() -> VolumeKeys {
    VolumeKeys::new(Dek::new(&[3; 32]), Uuid::from_u128(7), Backend::AwsLc)
}

/// A block that says which it is and which version, all over.
pub(crate) fn fill(block: u64, version: u64) -> Vec<u8> {
    [block, version].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().repeat(256)
}

/// The version that a block holds; panics if it is a mixture, or another block.
#[track_caller]
pub(crate) fn version_of(block: u64, bytes: &[u8]) -> u64 {
    let version = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    assert!(*bytes == fill(block, version), "block {block} is a mixture");
    version
}

#[track_caller]
pub(crate) fn read(volume: &Volume, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    volume.read(block * BLOCK, &mut bytes).unwrap();
    bytes
}

#[track_caller]
pub(crate) fn read_one(volume: &Volume, block: u64) -> u64 {
    version_of(block, &read(volume, block))
}

/// A volume in memory, each of whose first blocks has version 1.
pub(crate) struct Rig {
    pub(crate) memory: Arc<Memory>,
}

impl Rig {
    pub(crate) fn over(memory: Arc<Memory>) -> Self {
        Self { memory }
    }

    /// The host has space.
    pub(crate) fn roomy() -> Self {
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        Self::over(Memory::new(IMAGE.get_or_init(|| image(0)).clone(), false))
    }

    /// The host is full, and but a few slots are free besides those that are kept for checkpoints and for tables.
    pub(crate) fn crowded() -> Self {
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        Self::over(Memory::new(IMAGE.get_or_init(|| image(21)).clone(), true))
    }

    /// A thin volume in which nothing was written, open.
    pub(crate) fn thin() -> Arc<Volume> {
        use evsfs::engine as real;
        static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = IMAGE.get_or_init(|| {
            let file = Plain::default();
            let params = real::CreateParams { size: 1024 * BLOCK };
            real::Volume::create(&file, &Under::header(), &params, &keys(), &SeededEntropy::new(8)).unwrap();
            file.0.into_inner()
        });
        let base: Option<Arc<dyn BaseImage>> = Some(Arc::new(Under));
        let options = OpenOptions { background: false, memory: 0, base, ..OpenOptions::default() };
        let entropy = Arc::new(SeededEntropy::new(9));
        let memory = Memory::new(bytes.clone(), false);
        Arc::new(Volume::open(memory, Under::header(), keys(), options, entropy).unwrap())
    }

    pub(crate) fn open(&self) -> Arc<Volume> {
        let options = OpenOptions { background: false, memory: 0, ..OpenOptions::default() };
        let backing: Arc<dyn Backing> = Arc::clone(&self.memory) as _;
        let volume = Volume::open(backing, header(), keys(), options, Arc::new(SeededEntropy::new(9)));
        Arc::new(volume.unwrap())
    }
}

/// The volume after the death of the process: as its file is.
pub(crate) fn reopened(rig: &Rig) -> Arc<Volume> {
    Rig::over(Memory::new(rig.memory.bytes(), false)).open()
}

/// Runs a workload in many orders; a failure names the order.
#[track_caller]
pub(crate) fn schedules(left_out: Option<Protection>, workload: impl Fn() + Send + Sync + Copy + 'static) {
    let mut scale: usize = std::env::var("EVSFS_SCHEDULES").map_or(1, |text| text.parse().unwrap());
    if left_out.is_some() {
        // It ends with the first that fails.
        scale *= 20;
    }
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        config.stack_size = 512 << 10;
        config.failure_persistence = FailurePersistence::None;
        Runner::new(scheduler, config).run(workload)
    };
    leaving_out(left_out, || {
        let tried = run(Box::new(PctScheduler::new_from_seed(11, 3, BY_PRIORITY * scale)))
            + run(Box::new(RandomScheduler::new_from_seed(12, RANDOM * scale)));
        eprintln!("{tried} orders");
    });
}

/// Without this protection some order fails, and in this way.
pub(crate) fn must_fail(
    protection: Protection,
    how: &str,
    workload: impl Fn() + Send + Sync + Copy + 'static,
) {
    let failed = catch_unwind(AssertUnwindSafe(|| schedules(Some(protection), workload)))
        .expect_err("no order fails although the protection is left out");
    let message = failed
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| failed.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    assert!(message.contains(how), "it failed in another way: {message}");
}

/// A file in memory for the engine as it is, outside any schedule.
#[derive(Default)]
struct Plain(RwLock<Vec<u8>>);

impl Backing for Plain {
    fn len(&self) -> std::io::Result<u64> {
        Ok(u64::try_from(self.0.read().len()).unwrap())
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        buf.copy_from_slice(self.0.read().get(at..at + buf.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> std::io::Result<()> {
        let (at, mut bytes) = (usize::try_from(offset).unwrap(), self.0.write());
        let end = (at + buf.len()).max(bytes.len());
        bytes.resize(end, 0);
        bytes[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.write().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }
    fn punch(&self, offset: u64, len: u64) -> std::io::Result<bool> {
        let (at, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
        self.0.write()[at..at + len].fill(0);
        Ok(true)
    }
    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A volume made by the engine as it is. With `free` slots left if that is not 0, else with as many as there are.
fn image(free: u64) -> Vec<u8> {
    use evsfs::engine as real;
    let (file, entropy) = (Arc::new(Plain::default()), Arc::new(SeededEntropy::new(8)));
    // Blocks beyond the first ones fill the file.
    let size = 1024 * BLOCK;
    real::Volume::create(&*file, &header(), &real::CreateParams { size }, &keys(), &*entropy).unwrap();
    let open = || {
        let options = real::OpenOptions { background: false, ..real::OpenOptions::default() };
        let backing: Arc<dyn Backing> = Arc::clone(&file) as _;
        real::Volume::open(backing, header(), keys(), options, Arc::clone(&entropy) as _).unwrap()
    };
    let volume = open();
    for block in 0..BLOCKS {
        volume.write(block * BLOCK, &fill(block, 1)).unwrap();
    }
    volume.checkpoint().unwrap();
    if free > 0 {
        let mut block = BLOCKS;
        loop {
            volume.checkpoint().unwrap();
            let stats = volume.stats();
            if stats.file_slots - stats.used_slots <= free {
                break;
            }
            volume.write(block * BLOCK, &fill(block, 1)).unwrap();
            block += 1;
        }
    }
    volume.close().unwrap();
    file.0.read().clone()
}
