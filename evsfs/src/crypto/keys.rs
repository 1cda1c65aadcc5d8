//! The keys of one volume, all derived from its DEK; docs/volume-format.md draws the schedule.

use super::Dek;
use super::cipher::{
    AuthenticationFailed, Backend, BlockCipher, Nonce, Suite, Tag, bare_cipher, epoch_cipher,
};
use super::entropy::{Entropy, EntropyUnavailable};
use super::kdf::{Key, MacKey, derive};
use super::nonce::{EpochId, NonceSequence, SEALS_PER_EPOCH};
use std::fmt;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zeroize::Zeroizing;

/// Size of a block, a page and a table page in bytes.
const PAGE: usize = 4096;
/// The one nonce of a table page's key, which seals one page.
const ONLY_NONCE: Nonce = [0; 12];
const TABLE_SALT: usize = 32;
const TABLE_PAYLOAD: usize = PAGE - TABLE_SALT - Tag::LEN;

/// The random salt of an epoch. Not secret.
pub type EpochSalt = [u8; 16];

/// HMAC-SHA-256 of a header.
pub type HeaderMac = [u8; 32];

/// What the header of a thin volume has of its base's state.
pub type BaseMac = [u8; 32];

/// The running MAC over all that was ever logged: names a state of the volume and its whole past.
#[derive(Clone, Copy, Eq)]
pub struct Chain(pub [u8; 32]);

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What a table page holds. Each purpose has keys of its own, so that no page passes for another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TablePurpose {
    /// The root of everything.
    Superblock = 0,
    /// Entries of epoch pages.
    EpochDirectory = 1,
    /// Salts of epochs.
    EpochPage = 2,
    /// Snapshots and trash.
    Versions = 3,
}

impl TablePurpose {
    /// The end of the HKDF info.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::EpochDirectory => "epoch directory",
            Self::EpochPage => "epoch page",
            Self::Versions => "versions",
        }
    }
}

/// All keys of a volume. They are wiped when this is dropped; nothing prints them.
pub struct VolumeKeys {
    dek: Dek,
    uuid: Uuid,
    suite: Suite,
    backend: Backend,
    header: MacKey,
    chain: MacKey,
}

/// The three keys of one epoch.
pub struct EpochKeys {
    /// For data blocks.
    pub data: Box<dyn BlockCipher>,
    /// For pages of the map and of the allocation tree.
    pub map: Box<dyn BlockCipher>,
    /// For log pages.
    pub log: Box<dyn BlockCipher>,
}

/// An epoch that this attach began: the only thing that can seal.
pub struct FreshEpoch {
    /// To be recorded: what was sealed cannot be opened without it.
    pub salt: EpochSalt,
    /// Its keys.
    pub keys: EpochKeys,
    /// Its counter, shared by the three keys.
    pub nonces: NonceSequence,
}

impl VolumeKeys {
    /// The keys of an encrypted volume (AES-256-GCM).
    #[must_use]
    pub fn new(dek: Dek, uuid: Uuid, backend: Backend) -> Self {
        Self::with_suite(dek, uuid, Suite::Aes256Gcm, backend)
    }

    /// The keys of a volume without encryption: everybody has them.
    #[must_use]
    pub fn plain(uuid: Uuid, backend: Backend) -> Self {
        Self::with_suite(Dek::new(&[0; Dek::LEN]), uuid, Suite::Plain, backend)
    }

    fn with_suite(dek: Dek, uuid: Uuid, suite: Suite, backend: Backend) -> Self {
        let header = MacKey::new(derive(&dek, uuid.as_bytes(), &[b"evs/v1 header"]).as_ref());
        let chain = MacKey::new(derive(&dek, uuid.as_bytes(), &[b"evs/v1 chain"]).as_ref());
        Self { dek, uuid, suite, backend, header, chain }
    }

    /// The volume that the keys belong to.
    #[must_use]
    pub const fn uuid(&self) -> &Uuid {
        &self.uuid
    }

    /// What they protect it with.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether they are derived from this DEK.
    #[must_use]
    pub fn are_of(&self, dek: &Dek) -> bool {
        self.dek.expose().ct_eq(dek.expose()).into()
    }

    /// The MAC that commits a header to the DEK (F13).
    #[must_use]
    pub fn header_mac(&self, header: &[u8]) -> HeaderMac {
        self.header.mac(&[header])
    }

    /// Whether a header was made with this DEK for this volume, and not changed since.
    #[must_use]
    pub fn verify_header(&self, header: &[u8], mac: &HeaderMac) -> bool {
        self.header.verify(&[header], mac)
    }

    /// The MAC that commits a header, besides that of the older DEK, to this one, which a re-encryption goes to (F13).
    #[must_use]
    pub fn next_header_mac(&self, header: &[u8]) -> HeaderMac {
        self.header.mac(&[b"evs/v1 re-encryption", header])
    }

    /// Whether that MAC was made with this DEK.
    #[must_use]
    pub fn verify_next_header(&self, header: &[u8], mac: &HeaderMac) -> bool {
        self.header.verify(&[b"evs/v1 re-encryption", header], mac)
    }

    /// The chain value of a volume to which nothing was ever written.
    #[must_use]
    pub fn genesis_chain(&self) -> Chain {
        Chain(self.chain.mac(&[b"evs/v1 genesis"]))
    }

    /// The chain value after a log page with this tag.
    #[must_use]
    pub fn chain_step(&self, chain: &Chain, tag: &Tag) -> Chain {
        Chain(self.chain.mac(&[&chain.0, &tag.0]))
    }

    /// The chain value after a change that only a superblock records (size, versions). The label is longer than a tag, so no step is an event.
    #[must_use]
    pub fn chain_event(&self, chain: &Chain, event: &[u8]) -> Chain {
        Chain(self.chain.mac(&[&chain.0, b"evs/v1 superblock event", event]))
    }

    /// What the header of a thin volume over this one says of the state that it reads. A chain value is public, and whoever has a DEK of his own
    /// can write it into a superblock; this takes the DEK of the base.
    #[must_use]
    pub fn base_mac(&self, commit: u64, chain: &Chain) -> BaseMac {
        self.chain.mac(&[&chain.0, b"evs/v1 base reference", &commit.to_le_bytes()])
    }

    /// The keys of the epoch with this salt: to open, as there is no counter to seal with.
    #[must_use]
    pub fn epoch(&self, salt: &EpochSalt) -> EpochKeys {
        let cipher = |info: &[u8]| {
            let key = match self.suite {
                Suite::Aes256Gcm => derive(&self.dek, salt, &[info]),
                Suite::Plain => Zeroizing::new([0; 32]),
            };
            epoch_cipher(self.suite, self.backend, &key, EpochId::of(salt))
        };
        EpochKeys { data: cipher(b"evs/v1 data"), map: cipher(b"evs/v1 map"), log: cipher(b"evs/v1 log") }
    }

    /// Begins an epoch: draws a salt that nobody had before, so that its counter may start at 0.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn begin_epoch(&self, entropy: &dyn Entropy) -> Result<FreshEpoch, EntropyUnavailable> {
        self.begin_epoch_of(entropy, SEALS_PER_EPOCH)
    }

    /// The same with fewer seals than [`SEALS_PER_EPOCH`], to rehearse the change of epochs.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn begin_epoch_of(
        &self,
        entropy: &dyn Entropy,
        seals: u64,
    ) -> Result<FreshEpoch, EntropyUnavailable> {
        let mut salt = EpochSalt::default();
        entropy.fill(&mut salt)?;
        Ok(FreshEpoch {
            salt,
            keys: self.epoch(&salt),
            nonces: NonceSequence::new(EpochId::of(&salt), seals),
        })
    }

    fn table_key(&self, purpose: TablePurpose, salt: &[u8]) -> Key {
        match self.suite {
            Suite::Aes256Gcm => derive(&self.dek, salt, &[b"evs/v1 table ", purpose.label().as_bytes()]),
            Suite::Plain => Zeroizing::new([0; 32]),
        }
    }

    /// Associated data of a table page: `"evsT" uuid purpose salt`.
    fn table_aad(&self, purpose: TablePurpose, salt: &[u8]) -> [u8; 53] {
        let mut aad = [0; 53];
        aad[..4].copy_from_slice(b"evsT");
        aad[4..20].copy_from_slice(self.uuid.as_bytes());
        aad[20] = purpose as u8;
        aad[21..].copy_from_slice(salt);
        aad
    }

    /// Seals a table page under a key of its own, from a salt that is drawn here.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn seal_table(
        &self,
        purpose: TablePurpose,
        payload: &[u8; TABLE_PAYLOAD],
        entropy: &dyn Entropy,
    ) -> Result<Box<[u8; PAGE]>, EntropyUnavailable> {
        let mut page = Box::new([0; PAGE]);
        let (salt, rest) = page.split_at_mut(TABLE_SALT);
        let (body, tag) = rest.split_at_mut(TABLE_PAYLOAD);
        entropy.fill(salt)?;
        body.copy_from_slice(payload);
        let aead = bare_cipher(self.suite, self.backend, &self.table_key(purpose, salt));
        tag.copy_from_slice(&aead.seal(&ONLY_NONCE, &self.table_aad(purpose, salt), body).0);
        Ok(page)
    }

    /// Opens a table page that a reference with `expected` tag names. Only that very page passes, not an older one of the same kind.
    ///
    /// # Errors
    /// If it is not the page that was sealed.
    pub fn open_table(
        &self,
        purpose: TablePurpose,
        page: &[u8; PAGE],
        expected: &Tag,
    ) -> Result<Box<[u8; TABLE_PAYLOAD]>, AuthenticationFailed> {
        if Self::table_tag(page) != *expected {
            return Err(AuthenticationFailed);
        }
        self.open_page(purpose, page)
    }

    /// Opens a superblock, which nothing refers to: it is authentic, but perhaps not the newest.
    ///
    /// # Errors
    /// If it is not a page that was sealed for this volume.
    pub fn open_superblock(
        &self,
        page: &[u8; PAGE],
    ) -> Result<Box<[u8; TABLE_PAYLOAD]>, AuthenticationFailed> {
        self.open_page(TablePurpose::Superblock, page)
    }

    /// The tag of a sealed table page, for the reference to it.
    #[must_use]
    pub fn table_tag(page: &[u8; PAGE]) -> Tag {
        let mut tag = Tag::default();
        tag.0.copy_from_slice(&page[PAGE - Tag::LEN..]);
        tag
    }

    fn open_page(
        &self,
        purpose: TablePurpose,
        page: &[u8; PAGE],
    ) -> Result<Box<[u8; TABLE_PAYLOAD]>, AuthenticationFailed> {
        let (salt, rest) = page.split_at(TABLE_SALT);
        let mut payload = Box::new([0; TABLE_PAYLOAD]);
        let aead = bare_cipher(self.suite, self.backend, &self.table_key(purpose, salt));
        aead.open_into(
            &ONLY_NONCE,
            &self.table_aad(purpose, salt),
            &rest[..TABLE_PAYLOAD],
            payload.as_mut(),
            &Self::table_tag(page),
        )?;
        Ok(payload)
    }
}
