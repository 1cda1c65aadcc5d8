//! The header: who the volume is, which key opens it, and proof that the two belong together.

use super::base::{BaseReference, BaseState};
use super::bytes::{array, put, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use super::epochs::EPOCHS_MAX;
use super::error::{FormatError, Structure, bounded, zeros};
use super::layout::{
    BLOCK, HEADER_MAC, HEADER_NEXT_MAC, MAGIC as MAGIC_BYTES, RING_PAGES_MAX, RING_PAGES_TEST,
    VERSION as THIS_VERSION,
};
use super::text::Text;
use super::{Block, layout};
use crate::crypto::{Chain, Suite, Switch, VolumeKeys};
use uuid::Uuid;

const STRUCTURE: Structure = Structure::Header;

const MAGIC: usize = 0;
const VERSION: usize = MAGIC + 8;
const SUITE: usize = VERSION + 2;
const KIND: usize = SUITE + 1;
const FLAGS: usize = KIND + 1;
const SEQUENCE: usize = FLAGS + 4;
const UUID: usize = SEQUENCE + 8;
const CREATED: usize = UUID + 16;
const RING_START: usize = CREATED + 8;
const RING_PAGES: usize = RING_START + 8;
const CMK_VERSION: usize = RING_PAGES + 8;
const CMK_LEN: usize = CMK_VERSION + 4;
const CMK: usize = CMK_LEN + 2;
const WRAPPED_LEN: usize = CMK + 64;
const WRAPPED: usize = WRAPPED_LEN + 2;
const NEXT_LEN: usize = WRAPPED + WrappedDekField::MAX;
const NEXT: usize = NEXT_LEN + 2;
const BASE: usize = NEXT + WrappedDekField::MAX;
const BASE_UUID: usize = BASE + 1;
const BASE_COMMIT: usize = BASE_UUID + 16;
const BASE_STATE: usize = BASE_COMMIT + 8;
const BASE_PATH_LEN: usize = BASE_STATE + 32;
const BASE_PATH: usize = BASE_PATH_LEN + 2;
const NEXT_EPOCH: usize = BASE_PATH + 1024;
const NEXT_GENERATION: usize = NEXT_EPOCH + 4;
const UNUSED: usize = NEXT_GENERATION + 8;
const NEXT_MAC: usize = HEADER_NEXT_MAC;
const MAC: usize = HEADER_MAC;

/// A flag: the volume had a base, and has all of it itself now.
const BASE_COPIED: u32 = 1;
/// A flag: the base's state is told by a MAC under the base's key.
const BASE_PROVEN: u32 = 2;
/// A flag beside that one: the base is encrypted.
const BASE_ENCRYPTED: u32 = 4;

/// Offset, size and name, as in docs/volume-format.md.
#[cfg(test)]
pub(super) const FIELDS: &[super::tests::Field] = &[
    (MAGIC, VERSION - MAGIC, "magic"),
    (VERSION, SUITE - VERSION, "version"),
    (SUITE, KIND - SUITE, "suite"),
    (KIND, FLAGS - KIND, "kind"),
    (FLAGS, SEQUENCE - FLAGS, "flags"),
    (SEQUENCE, UUID - SEQUENCE, "sequence"),
    (UUID, CREATED - UUID, "uuid"),
    (CREATED, RING_START - CREATED, "created"),
    (RING_START, RING_PAGES - RING_START, "ring start"),
    (RING_PAGES, CMK_VERSION - RING_PAGES, "ring pages"),
    (CMK_VERSION, CMK_LEN - CMK_VERSION, "CMK version"),
    (CMK_LEN, CMK - CMK_LEN, "CMK id length"),
    (CMK, WRAPPED_LEN - CMK, "CMK id"),
    (WRAPPED_LEN, WRAPPED - WRAPPED_LEN, "wrapped DEK length"),
    (WRAPPED, NEXT_LEN - WRAPPED, "wrapped DEK"),
    (NEXT_LEN, NEXT - NEXT_LEN, "second wrapped DEK length"),
    (NEXT, BASE - NEXT, "second wrapped DEK"),
    (BASE, BASE_UUID - BASE, "base present"),
    (BASE_UUID, BASE_COMMIT - BASE_UUID, "base uuid"),
    (BASE_COMMIT, BASE_STATE - BASE_COMMIT, "base commit"),
    (BASE_STATE, BASE_PATH_LEN - BASE_STATE, "base state"),
    (BASE_PATH_LEN, BASE_PATH - BASE_PATH_LEN, "base path length"),
    (BASE_PATH, NEXT_EPOCH - BASE_PATH, "base path"),
    (NEXT_EPOCH, NEXT_GENERATION - NEXT_EPOCH, "re-encryption epoch"),
    (NEXT_GENERATION, UNUSED - NEXT_GENERATION, "re-encryption generation"),
    (UNUSED, NEXT_MAC - UNUSED, "zero"),
    (NEXT_MAC, MAC - NEXT_MAC, "second MAC"),
    (MAC, BLOCK - MAC, "MAC"),
];

/// What a volume is for. The wrapped key is bound to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum VolumeKind {
    /// A disk.
    Disk = 1,
    /// An image.
    Image = 2,
}

impl VolumeKind {
    /// As in kmsd's encryption context.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Image => "image",
        }
    }
}

/// A wrapped DEK as kmsd gave it: opaque, not secret, at most 1,024 bytes; empty in a volume without encryption.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct WrappedDekField(Vec<u8>);

impl WrappedDekField {
    /// Bytes at most.
    pub const MAX: usize = 1_024;

    /// Takes the bytes: `None` if they are too many.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= Self::MAX).then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn decode(block: &Block, len_at: usize, field: &'static str) -> Result<Self, FormatError> {
        let len = bounded(STRUCTURE, field, u16_at(block, len_at).into(), 0, Self::MAX as u64)?;
        let bytes = &block[len_at + 2..len_at + 2 + Self::MAX];
        let (bytes, rest) = bytes.split_at(usize::try_from(len).expect("at most 1,024"));
        zeros(STRUCTURE, field, rest)?;
        Ok(Self(bytes.to_vec()))
    }

    fn put(&self, out: &mut Block, len_at: usize) {
        put_u16(out, len_at, u16::try_from(self.0.len()).expect("at most 1,024"));
        put(out, len_at + 2, &self.0);
    }
}

impl std::fmt::Debug for WrappedDekField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrappedDekField({} bytes)", self.0.len())
    }
}

/// The DEK that a running re-encryption goes to, and what is sealed under it already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextKey {
    /// That DEK, wrapped; never empty.
    pub wrapped_dek: WrappedDekField,
    /// The first epoch, and the first generation of superblocks, under it.
    pub switch: Switch,
}

/// A header that is authentic, or is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How the contents are protected.
    pub suite: Suite,
    /// What the volume is for.
    pub kind: VolumeKind,
    /// The valid copy with the highest counts.
    pub sequence: u64,
    /// The volume's identity: keys, tags and the anchor are bound to it.
    pub uuid: Uuid,
    /// When it was made: seconds since 1970.
    pub created: u64,
    /// Pages of the log ring, which starts at [`layout::RING_START`].
    pub ring_pages: u64,
    /// The CMK that wraps the DEK; empty in a volume without encryption.
    pub cmk_id: Text<64>,
    /// Its version.
    pub cmk_version: u32,
    /// The DEK, wrapped.
    pub wrapped_dek: WrappedDekField,
    /// What a running re-encryption goes to.
    pub next: Option<NextKey>,
    /// The volume under a thin one.
    pub base: Option<BaseReference>,
    /// There was a base once: no superblock counts that still needs it.
    pub base_copied: bool,
}

impl Header {
    /// The header as it is written to both copies.
    ///
    /// # Errors
    /// If a decoder would refuse it: what this writes can always be read.
    ///
    /// # Panics
    /// If the keys are of another volume or suite, or a re-encryption is running, which needs the keys of both.
    pub fn encode(&self, keys: &VolumeKeys) -> Result<Box<Block>, FormatError> {
        self.encode_with(keys, None)
    }

    /// The same with the keys that a running re-encryption goes to.
    ///
    /// # Errors
    /// As [`Self::encode`].
    ///
    /// # Panics
    /// If the keys are of another volume or suite, or `next` is there without a re-encryption, or not with one.
    pub fn encode_with(
        &self,
        keys: &VolumeKeys,
        next: Option<&VolumeKeys>,
    ) -> Result<Box<Block>, FormatError> {
        let ours = |keys: &VolumeKeys| keys.uuid() == &self.uuid && keys.suite() == self.suite;
        assert!(ours(keys) && next.is_none_or(ours), "keys of another volume");
        assert!(next.is_some() == self.next.is_some(), "the keys of both DEKs, or of the only one");
        let mut block = Box::new([0; BLOCK]);
        let out = block.as_mut();
        put(out, MAGIC, &MAGIC_BYTES);
        put_u16(out, VERSION, THIS_VERSION);
        out[SUITE] = self.suite as u8;
        out[KIND] = self.kind as u8;
        put_u32(out, FLAGS, self.flags());
        put_u64(out, SEQUENCE, self.sequence);
        put(out, UUID, self.uuid.as_bytes());
        put_u64(out, CREATED, self.created);
        put_u64(out, RING_START, layout::RING_START);
        put_u64(out, RING_PAGES, self.ring_pages);
        put_u32(out, CMK_VERSION, self.cmk_version);
        put_u16(out, CMK_LEN, u16::try_from(self.cmk_id.as_str().len()).expect("at most 64"));
        put(out, CMK, self.cmk_id.padded());
        self.wrapped_dek.put(out, WRAPPED_LEN);
        if let Some(next) = &self.next {
            next.wrapped_dek.put(out, NEXT_LEN);
            put_u32(out, NEXT_EPOCH, next.switch.epoch);
            put_u64(out, NEXT_GENERATION, next.switch.generation);
        }
        if let Some(base) = &self.base {
            out[BASE] = 1;
            put(out, BASE_UUID, base.uuid.as_bytes());
            put_u64(out, BASE_COMMIT, base.commit);
            match &base.state {
                BaseState::Proven { mac, .. } => put(out, BASE_STATE, mac),
                BaseState::Claimed(chain) => put(out, BASE_STATE, &chain.0),
            }
            put_u16(out, BASE_PATH_LEN, u16::try_from(base.path.as_str().len()).expect("at most 1,024"));
            put(out, BASE_PATH, base.path.padded());
        }
        if let Some(next) = next {
            let mac = next.next_header_mac(&out[..NEXT_MAC]);
            put(out, NEXT_MAC, &mac);
        }
        let mac = keys.header_mac(&out[..MAC]);
        put(out, MAC, &mac);
        Self::decode(out)?;
        Ok(block)
    }

    fn flags(&self) -> u32 {
        let base = match self.base.map(|base| base.state) {
            Some(BaseState::Proven { encrypted: true, .. }) => BASE_PROVEN | BASE_ENCRYPTED,
            Some(BaseState::Proven { encrypted: false, .. }) => BASE_PROVEN,
            Some(BaseState::Claimed(_)) | None => 0,
        };
        base | if self.base_copied { BASE_COPIED } else { 0 }
    }

    fn decode(block: &Block) -> Result<Self, FormatError> {
        if block[..VERSION] != MAGIC_BYTES {
            return Err(FormatError::NotAVolume);
        }
        let found = u16_at(block, VERSION);
        if found != THIS_VERSION {
            return Err(FormatError::Version { found, supported: THIS_VERSION });
        }
        let number = |field, value, min, max| bounded(STRUCTURE, field, value, min, max);
        let suite = match number("suite", block[SUITE].into(), 0, 1)? {
            0 => Suite::Plain,
            _ => Suite::Aes256Gcm,
        };
        let kind = match number("kind", block[KIND].into(), 1, 2)? {
            1 => VolumeKind::Disk,
            _ => VolumeKind::Image,
        };
        let flags = u32_at(block, FLAGS);
        number("flags", flags.into(), 0, (BASE_COPIED | BASE_PROVEN | BASE_ENCRYPTED).into())?;
        number("ring start", u64_at(block, RING_START), layout::RING_START, layout::RING_START)?;
        zeros(STRUCTURE, "re-encryption generation", &block[UNUSED..NEXT_MAC])?;
        let header = Self {
            suite,
            kind,
            sequence: u64_at(block, SEQUENCE),
            uuid: Uuid::from_bytes(array(block, UUID)),
            created: u64_at(block, CREATED),
            ring_pages: number("ring pages", u64_at(block, RING_PAGES), RING_PAGES_TEST, RING_PAGES_MAX)?,
            cmk_id: Text::decode(STRUCTURE, "CMK id", u16_at(block, CMK_LEN).into(), array(block, CMK))?,
            cmk_version: u32_at(block, CMK_VERSION),
            wrapped_dek: WrappedDekField::decode(block, WRAPPED_LEN, "wrapped DEK")?,
            next: decode_next(block)?,
            base: decode_base(block, flags)?,
            base_copied: flags & BASE_COPIED != 0,
        };
        if header.flags() != flags || (header.base_copied && header.base.is_some()) {
            return Err(FormatError::Contradiction { structure: STRUCTURE, field: "flags" });
        }
        header.check_keys()?;
        Ok(header)
    }

    /// A volume has a wrapped key exactly if it is encrypted.
    fn check_keys(&self) -> Result<(), FormatError> {
        let field = match self.suite {
            Suite::Plain if !self.wrapped_dek.is_empty() => "wrapped DEK",
            Suite::Plain if self.next.is_some() => "second wrapped DEK",
            Suite::Plain if !self.cmk_id.as_str().is_empty() => "CMK id",
            Suite::Aes256Gcm if self.wrapped_dek.is_empty() => "wrapped DEK",
            Suite::Aes256Gcm if self.cmk_id.as_str().is_empty() => "CMK id",
            Suite::Plain | Suite::Aes256Gcm => return Ok(()),
        };
        Err(FormatError::Contradiction { structure: STRUCTURE, field })
    }
}

fn decode_next(block: &Block) -> Result<Option<NextKey>, FormatError> {
    let wrapped_dek = WrappedDekField::decode(block, NEXT_LEN, "second wrapped DEK")?;
    if wrapped_dek.is_empty() {
        zeros(STRUCTURE, "second wrapped DEK", &block[NEXT_EPOCH..UNUSED])?;
        zeros(STRUCTURE, "second wrapped DEK", &block[NEXT_MAC..MAC])?;
        return Ok(None);
    }
    let epoch = u32_at(block, NEXT_EPOCH);
    bounded(STRUCTURE, "re-encryption epoch", epoch.into(), 1, EPOCHS_MAX.into())?;
    let generation = u64_at(block, NEXT_GENERATION);
    bounded(STRUCTURE, "re-encryption generation", generation, 1, u64::MAX)?;
    Ok(Some(NextKey { wrapped_dek, switch: Switch { epoch, generation } }))
}

fn decode_base(block: &Block, flags: u32) -> Result<Option<BaseReference>, FormatError> {
    if bounded(STRUCTURE, "base", block[BASE].into(), 0, 1)? == 0 {
        zeros(STRUCTURE, "base", &block[BASE_UUID..NEXT_EPOCH])?;
        return Ok(None);
    }
    Ok(Some(BaseReference {
        uuid: Uuid::from_bytes(array(block, BASE_UUID)),
        commit: u64_at(block, BASE_COMMIT),
        state: if flags & BASE_PROVEN == 0 {
            BaseState::Claimed(Chain(array(block, BASE_STATE)))
        } else {
            BaseState::Proven { mac: array(block, BASE_STATE), encrypted: flags & BASE_ENCRYPTED != 0 }
        },
        path: Text::decode(
            STRUCTURE,
            "base path",
            u16_at(block, BASE_PATH_LEN).into(),
            array(block, BASE_PATH),
        )?,
    }))
}

/// A header as it was found: well-formed, but perhaps forged. It says what to ask kmsd for, and nothing else is believed.
#[derive(Clone, PartialEq, Eq)]
pub struct UnverifiedHeader {
    header: Header,
    raw: Box<Block>,
}

impl UnverifiedHeader {
    /// Parses one copy.
    ///
    /// # Errors
    /// If it is not a header of this version.
    pub fn parse(copy: &[u8]) -> Result<Self, FormatError> {
        let truncated = FormatError::Truncated { structure: STRUCTURE, len: copy.len(), expected: BLOCK };
        let raw: Box<Block> = Box::new(copy.try_into().map_err(|_| truncated)?);
        Ok(Self { header: Header::decode(&raw)?, raw })
    }

    /// The volume that it claims to be.
    #[must_use]
    pub const fn uuid(&self) -> &Uuid {
        &self.header.uuid
    }

    /// The kind that it claims.
    #[must_use]
    pub const fn kind(&self) -> VolumeKind {
        self.header.kind
    }

    /// The suite that it claims. Who knows that the volume must be encrypted has to refuse [`Suite::Plain`]: everybody can forge such a header.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.header.suite
    }

    /// What it claims in all; to be shown, not to be relied on.
    #[must_use]
    pub const fn claims(&self) -> &Header {
        &self.header
    }

    /// What kmsd is asked to unwrap, in the context of [`Self::uuid`] and [`Self::kind`].
    #[must_use]
    pub const fn wrapped_dek(&self) -> &WrappedDekField {
        &self.header.wrapped_dek
    }

    /// Proves that the header was made with these keys and not changed since (F13). One that speaks of a re-encryption is not proved by the
    /// keys of one DEK.
    ///
    /// # Errors
    /// If it was not. Nothing has been decrypted then, and nothing may be.
    pub fn verify(&self, keys: &VolumeKeys) -> Result<Header, HeaderError> {
        self.verify_with(keys, None)
    }

    /// The same for a header that may speak of a re-encryption: then the keys of both DEKs must prove it, each by itself, so that nobody
    /// who lacks one of them can make a volume go on to a DEK of his, or take one for done that is not.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_with(&self, keys: &VolumeKeys, next: Option<&VolumeKeys>) -> Result<Header, HeaderError> {
        let ours = |keys: &VolumeKeys| keys.uuid() == self.uuid() && keys.suite() == self.suite();
        let authentic = ours(keys)
            && keys.verify_header(&self.raw[..MAC], &array(self.raw.as_ref(), MAC))
            && next.is_some() == self.header.next.is_some()
            && next.is_none_or(|next| {
                ours(next)
                    && next.verify_next_header(&self.raw[..NEXT_MAC], &array(self.raw.as_ref(), NEXT_MAC))
            });
        if !authentic {
            return Err(HeaderError::NotAuthentic { volume: *self.uuid() });
        }
        Ok(self.header.clone())
    }
}

/// Overwrites every wrapped key in a copy of the header, whole or damaged. What is left is no header any more, but still shows
/// the volume's uuid.
pub fn erase_wrapped_keys(copy: &mut Block) {
    copy[WRAPPED_LEN..BASE].fill(0);
}

/// Why a header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a header.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The MAC does not fit the key.
    #[error(
        "header of volume {volume}: it was changed, or its wrapped key was exchanged for another; nothing was decrypted"
    )]
    NotAuthentic {
        /// The volume that the header names.
        volume: Uuid,
    },
}

/// The well-formed ones of the two copies, the newest first.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderCopies {
    found: Vec<UnverifiedHeader>,
    unread: bool,
}

impl HeaderCopies {
    /// Bytes from the start of the file that hold both copies.
    pub const SPAN: usize = 9 * BLOCK;

    /// Parses both copies from the first [`Self::SPAN`] bytes of the file, or from all there are.
    ///
    /// # Errors
    /// If neither is a header; the error is that of the copy which looked most like one.
    pub fn parse(start: &[u8]) -> Result<Self, FormatError> {
        let copy = |slot: u64| {
            let at =
                usize::try_from(slot * layout::BLOCK_BYTES).map_or(start.len(), |at| at.min(start.len()));
            &start[at..start.len().min(at + BLOCK)]
        };
        Self::of(layout::HEADER_SLOTS.map(|slot| Some(copy(slot))))
    }

    /// Parses both copies; nothing is given for one that the host failed to read.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of(copies: [Option<&[u8]>; 2]) -> Result<Self, FormatError> {
        let unread = copies.iter().any(Option::is_none);
        let parsed = copies.map(|copy| copy.map(UnverifiedHeader::parse));
        let errors =
            parsed.each_ref().map(|copy| copy.as_ref().and_then(|copy| copy.as_ref().err().copied()));
        let mut found: Vec<UnverifiedHeader> = parsed.into_iter().flatten().flatten().collect();
        if found.is_empty() {
            let [first, second] = errors.map(|error| error.unwrap_or(FormatError::NotAVolume));
            let telling = |error: &FormatError| {
                !matches!(error, FormatError::NotAVolume | FormatError::Truncated { .. })
            };
            return Err(if !telling(&first) && telling(&second) { second } else { first });
        }
        // Stable: of two equal ones copy 0 comes first.
        found.sort_by_key(|copy| std::cmp::Reverse(copy.header.sequence));
        Ok(Self { found, unread })
    }

    /// Whether the host failed to read one of the two.
    #[must_use]
    pub const fn has_unread(&self) -> bool {
        self.unread
    }

    /// The copies to try, the newest first. There is at least one.
    #[must_use]
    pub fn candidates(&self) -> &[UnverifiedHeader] {
        &self.found
    }

    /// The newest copy that these keys prove.
    ///
    /// # Errors
    /// That of the newest copy, if none is proved.
    pub fn verify(&self, keys: &VolumeKeys) -> Result<Header, HeaderError> {
        let mut first = Err(HeaderError::NotAuthentic { volume: *keys.uuid() });
        for (index, copy) in self.found.iter().enumerate() {
            match copy.verify(keys) {
                Ok(header) => return Ok(header),
                Err(error) if index == 0 => first = Err(error),
                Err(_) => {}
            }
        }
        first
    }
}

const _: () = assert!(UNUSED <= NEXT_MAC);
