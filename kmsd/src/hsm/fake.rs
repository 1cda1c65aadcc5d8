//! A token in memory that fails by script: for tests of everything above the HSM.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use aws_lc_rs::{
    encoding::AsDer,
    error::Unspecified,
    rsa::{
        KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
    },
};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{HsmError, Sealed, Session, Token, TokenIdentity};
use crate::domain::{
    envelope::Mechanism,
    import::{Arrival, CheckValue, MATERIAL_LEN, OaepHash, PairId, RsaBits},
    reconcile::ObjectId,
};

/// The token. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct FakeToken {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    objects: Mutex<HashMap<ObjectId, Vec<[u8; 32]>>>,
    weak: Mutex<HashSet<ObjectId>>,
    /// What stands beside an object, if keys have two halves.
    halves: Mutex<HashMap<ObjectId, [u8; 32]>>,
    has_halves: bool,
    pairs: Mutex<BTreeMap<PairId, OaepPrivateDecryptingKey>>,
    integrity: Mutex<bool>,
    note: Mutex<Option<Vec<u8>>>,
    script: Mutex<Script>,
    after: Mutex<Option<(&'static str, Act)>>,
    generation: AtomicU64,
    calls: AtomicU64,
    recoveries: AtomicU64,
    counter: AtomicU64,
}

type Act = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Script {
    /// By index of the call, counted from the script's start.
    faults: BTreeMap<u64, Fault>,
    away: Option<HsmError>,
    /// Calls of these names fail, every one.
    refused: HashMap<&'static str, HsmError>,
    /// Calls of that name take so much longer.
    slow: Option<(&'static str, Duration)>,
    /// How many of these there are at this moment, and were at most.
    slow_now: usize,
    slow_most: usize,
    delay: Duration,
    power: Power,
    log: VecDeque<&'static str>,
}

/// How long the process lives, counted in effects on token and store together. Clones share the count.
#[derive(Clone)]
pub(crate) struct Power {
    left: Arc<AtomicI64>,
    /// Whether the effect that the process dies in takes place.
    last_takes_place: bool,
}

/// What becomes of an effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    /// It takes place.
    Alive,
    /// It takes place, and nobody learns of it.
    LastEffect,
    /// It does not.
    Dead,
}

impl Power {
    /// Dies in the effect with that index.
    #[must_use]
    pub(crate) fn until(index: i64, last_takes_place: bool) -> Self {
        Self { left: Arc::new(AtomicI64::new(index)), last_takes_place }
    }

    /// Counts an effect.
    #[must_use]
    pub(crate) fn spend(&self) -> Spent {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Spent::Alive,
            0 if self.last_takes_place => Spent::LastEffect,
            _ => Spent::Dead,
        }
    }

    /// Whether the process died.
    #[must_use]
    pub(crate) fn is_spent(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    fn gone() -> HsmError {
        HsmError::Failed { function: "power".to_owned(), code: "gone".to_owned() }
    }
}

impl Default for Power {
    fn default() -> Self {
        Self::until(i64::MAX, false)
    }
}

/// How a call fails.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing was done, and the error says so.
    Before(HsmError),
    /// It was done, but the answer is an error: the case that makes duplicates.
    After(HsmError),
}

impl Fault {
    /// The session is lost before or after the call took effect.
    #[must_use]
    pub(crate) fn lost(after: bool) -> Self {
        let error = HsmError::Lost { function: "fake".to_owned(), code: "scripted".to_owned() };
        if after { Self::After(error) } else { Self::Before(error) }
    }

    /// The token refuses the call for good.
    #[must_use]
    pub(crate) fn failed(after: bool) -> Self {
        let error = HsmError::Failed { function: "fake".to_owned(), code: "scripted".to_owned() };
        if after { Self::After(error) } else { Self::Before(error) }
    }
}

impl FakeToken {
    /// An empty token.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An empty token whose keys have two halves, like those of a token without GCM. It seals by GCM all the same, under both together.
    #[must_use]
    pub(crate) fn with_halves() -> Self {
        Self { inner: Arc::new(Inner { has_halves: true, ..Inner::default() }) }
    }

    /// Whether it is such a token.
    #[must_use]
    pub(crate) fn has_halves(&self) -> bool {
        self.inner.has_halves
    }

    /// Objects that have something beside their material, or beside its place.
    #[must_use]
    pub(crate) fn halves(&self) -> BTreeSet<ObjectId> {
        self.inner.halves.lock().keys().copied().collect()
    }

    /// Removes that behind the service's back.
    pub(crate) fn lose_half(&self, object: ObjectId) {
        self.inner.halves.lock().remove(&object);
    }

    /// Makes it anew.
    fn make_half(&self, object: ObjectId) {
        if self.inner.has_halves {
            let mut half = [0; 32];
            self.bytes(&mut half);
            self.inner.halves.lock().insert(object, half);
        }
    }

    fn lacks_half(&self, object: ObjectId) -> bool {
        self.inner.has_halves && !self.inner.halves.lock().contains_key(&object)
    }

    /// Lets the call with that index, counted from now, fail.
    pub(crate) fn fail_call(&self, index: u64, fault: Fault) {
        let now = self.inner.calls.load(Ordering::SeqCst);
        self.inner.script.lock().faults.insert(now + index, fault);
    }

    /// Does something as soon as the next call of that name has taken effect, before it is answered.
    pub(crate) fn after(&self, name: &'static str, act: impl FnOnce() + Send + 'static) {
        *self.inner.after.lock() = Some((name, Box::new(act)));
    }

    /// Forgets all faults that have not struck.
    pub(crate) fn clear_faults(&self) {
        self.inner.script.lock().faults.clear();
    }

    /// Takes the token away, or puts it back.
    pub(crate) fn set_away(&self, error: Option<HsmError>) {
        self.inner.script.lock().away = error;
    }

    /// Refuses every call of that name, as a token that is full does, or no longer.
    pub(crate) fn refuse(&self, name: &'static str, error: Option<HsmError>) {
        let refused = &mut self.inner.script.lock().refused;
        match error {
            Some(error) => refused.insert(name, error),
            None => refused.remove(name),
        };
    }

    /// Lets the calls of one name take so long.
    pub(crate) fn slow(&self, name: &'static str, delay: Duration) {
        self.inner.script.lock().slow = Some((name, delay));
    }

    /// How many of these were made at once at most.
    #[must_use]
    pub(crate) fn slow_at_once(&self) -> usize {
        self.inner.script.lock().slow_most
    }

    /// Lets each call take so long.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.inner.script.lock().delay = delay;
    }

    /// Recoveries so far.
    #[must_use]
    pub(crate) fn recoveries(&self) -> u64 {
        self.inner.recoveries.load(Ordering::SeqCst)
    }

    /// What was noted in it.
    pub(crate) fn note(&self) -> Option<Vec<u8>> {
        self.inner.note.lock().clone()
    }

    /// As if the token had been put back to an older state.
    pub(crate) fn set_note(&self, note: Option<Vec<u8>>) {
        *self.inner.note.lock() = note;
    }

    /// The objects, with how many copies each has.
    #[must_use]
    pub(crate) fn objects(&self) -> BTreeMap<ObjectId, usize> {
        self.inner.objects.lock().iter().map(|(id, copies)| (*id, copies.len())).collect()
    }

    /// RSA pairs that it has.
    #[must_use]
    pub(crate) fn pairs(&self) -> usize {
        self.inner.pairs.lock().len()
    }

    /// Leaves an object without its value, as a token does that dies while it makes one.
    pub(crate) fn tear(&self, object: ObjectId) {
        self.inner.objects.lock().insert(object, Vec::new());
    }

    /// As if the token had been put back to a state in which it had the object.
    pub(crate) fn revive(&self, object: ObjectId) {
        self.inner.objects.lock().insert(object, vec![[7; 32]]);
    }

    /// Takes an object's protection away, as whoever made another one in its place would.
    pub(crate) fn weaken(&self, object: ObjectId) {
        self.inner.weak.lock().insert(object);
    }

    /// Removes an object behind the service's back.
    pub(crate) fn lose(&self, object: ObjectId) {
        self.inner.objects.lock().remove(&object);
    }

    /// The latest calls, oldest first.
    #[must_use]
    pub(crate) fn log(&self) -> Vec<&'static str> {
        self.inner.script.lock().log.iter().copied().collect()
    }

    /// Making one takes its time; that pairs one after the other differ is enough for a fake.
    fn rsa_key() -> Result<PrivateDecryptingKey, Unspecified> {
        static MADE: Mutex<VecDeque<PrivateDecryptingKey>> = Mutex::new(VecDeque::new());
        let mut made = MADE.lock();
        if made.len() < 4 {
            made.push_front(PrivateDecryptingKey::generate(KeySize::Rsa2048)?);
        } else {
            made.rotate_right(1);
        }
        Ok(made[0].clone())
    }

    fn bytes(&self, out: &mut [u8]) {
        // Distinct is enough for a fake: a counter, hashed.
        use sha2::{Digest, Sha256};
        for chunk in out.chunks_mut(32) {
            let digest = Sha256::digest(self.inner.counter.fetch_add(1, Ordering::SeqCst).to_be_bytes());
            chunk.copy_from_slice(&digest[..chunk.len()]);
        }
    }

    /// Lets the token die with the process.
    pub(crate) fn set_power(&self, power: Power) {
        self.inner.script.lock().power = power;
    }

    fn be_slow(&self, name: &'static str) {
        let delay = {
            let mut script = self.inner.script.lock();
            let Some((_, delay)) = script.slow.filter(|(slow, _)| *slow == name) else { return };
            script.slow_now += 1;
            script.slow_most = script.slow_most.max(script.slow_now);
            delay
        };
        std::thread::sleep(delay);
        self.inner.script.lock().slow_now -= 1;
    }

    fn call<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce() -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let index = self.inner.calls.fetch_add(1, Ordering::SeqCst);
        let (fault, delay, spent) = {
            let mut script = self.inner.script.lock();
            if script.log.len() == 1000 {
                script.log.pop_front();
            }
            script.log.push_back(name);
            if let Some(error) = script.away.as_ref().or(script.refused.get(name)) {
                return Err(error.clone());
            }
            (script.faults.remove(&index), script.delay, script.power.spend())
        };
        match spent {
            Spent::Alive => {}
            Spent::LastEffect => return effect().and(Err(Power::gone())),
            Spent::Dead => return Err(Power::gone()),
        }
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        self.be_slow(name);
        let done = match fault {
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::After(error)) => effect().and(Err(error)),
            None => effect(),
        };
        let act = self.inner.after.lock().take_if(|(awaited, _)| *awaited == name);
        if let Some((_, act)) = act {
            act();
        }
        done
    }
}

impl Token for FakeToken {
    fn identity(&self) -> TokenIdentity {
        TokenIdentity { label: "fake".to_owned(), serial: "0".to_owned() }
    }

    fn open(&self) -> Result<Box<dyn Session>, HsmError> {
        self.call("open session", || Ok(()))?;
        Ok(Box::new(FakeSession { token: self.clone(), generation: self.generation() }))
    }

    fn recover(&self, seen: u64) -> Result<(), HsmError> {
        if self.generation() != seen {
            return Ok(());
        }
        self.call("recover", || {
            self.inner.recoveries.fetch_add(1, Ordering::SeqCst);
            self.inner.generation.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }

    fn mechanism(&self) -> Mechanism {
        Mechanism::AesGcm
    }

    fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::SeqCst)
    }
}

struct FakeSession {
    token: FakeToken,
    generation: u64,
}

impl FakeSession {
    fn call<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce() -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        if self.generation != self.token.generation() {
            return Err(HsmError::Lost { function: name.to_owned(), code: "an old session".to_owned() });
        }
        self.token.call(name, effect)
    }

    fn cipher(&self, object: ObjectId) -> Result<Aes256Gcm, HsmError> {
        let objects = self.token.inner.objects.lock();
        let key =
            objects.get(&object).and_then(|copies| copies.first()).ok_or(HsmError::NoObject { object })?;
        if !self.token.inner.has_halves {
            return Ok(Aes256Gcm::new(key.into()));
        }
        let halves = self.token.inner.halves.lock();
        let half = halves.get(&object).ok_or(HsmError::NoObject { object })?;
        let both: [u8; 32] = std::array::from_fn(|at| key[at] ^ half[at]);
        Ok(Aes256Gcm::new((&both).into()))
    }
}

impl Session for FakeSession {
    fn generate(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.call("generate", || {
            let mut key = [0; 32];
            self.token.bytes(&mut key);
            self.token.make_half(object);
            // Like a real token: a second key with the same id stands beside the first.
            self.token.inner.objects.lock().entry(object).or_default().push(key);
            Ok(())
        })
    }

    fn exists(&mut self, object: ObjectId) -> Result<bool, HsmError> {
        self.call("exists", || {
            Ok(self.token.inner.objects.lock().contains_key(&object) && !self.token.lacks_half(object))
        })
    }

    fn is_protected(&mut self, object: ObjectId) -> Result<bool, HsmError> {
        self.call("attributes", || {
            let has = self.token.inner.objects.lock().contains_key(&object);
            if has {
                Ok(!self.token.inner.weak.lock().contains(&object))
            } else {
                Err(HsmError::NoObject { object })
            }
        })
    }

    fn destroy(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.call("destroy", || {
            self.token.inner.objects.lock().remove(&object);
            self.token.inner.halves.lock().remove(&object);
            Ok(())
        })
    }

    fn inventory(&mut self) -> Result<Vec<ObjectId>, HsmError> {
        self.call("inventory", || {
            let mut found = self.token.halves();
            found.extend(self.token.inner.objects.lock().keys().copied());
            Ok(found.into_iter().collect())
        })
    }

    fn seal(&mut self, object: ObjectId, aad: &[u8], plaintext: &[u8]) -> Result<Sealed, HsmError> {
        self.call("seal", || {
            let mut iv = [0; 12];
            self.token.bytes(&mut iv);
            let ciphertext = self
                .cipher(object)?
                .encrypt((&iv).into(), Payload { msg: plaintext, aad })
                .map_err(|_| HsmError::DoesNotOpen)?;
            Ok(Sealed { mechanism: Mechanism::AesGcm, iv: iv.to_vec(), ciphertext })
        })
    }

    fn open(
        &mut self,
        object: ObjectId,
        mechanism: Mechanism,
        iv: &[u8],
        aad: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.call("open", || {
            let iv = iv.try_into().ok().filter(|_| mechanism == Mechanism::AesGcm);
            let iv: &[u8; 12] = iv.ok_or(HsmError::DoesNotOpen)?;
            let plaintext = self.cipher(object)?.decrypt(iv.into(), Payload { msg: ciphertext, aad });
            plaintext.map(Zeroizing::new).map_err(|_| HsmError::DoesNotOpen)
        })
    }

    fn derive(&mut self, purpose: &[u8], create: bool) -> Result<Zeroizing<[u8; 32]>, HsmError> {
        use hmac::{Hmac, KeyInit, Mac};
        self.call("derive", || {
            let mut key = self.token.inner.integrity.lock();
            if !*key && !create {
                return Err(HsmError::NoIntegrityKey);
            }
            *key = true;
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"fake").expect("any length");
            mac.update(purpose);
            Ok(Zeroizing::new(mac.finalize().into_bytes().into()))
        })
    }

    fn make_pair(&mut self, pair: PairId, _: RsaBits, _: OaepHash) -> Result<Vec<u8>, HsmError> {
        self.call("make pair", || {
            let unable = |_| HsmError::Lacks { feature: "RSA" };
            let key = FakeToken::rsa_key().map_err(unable)?;
            let der = key.public_key().as_der().map_err(unable)?.as_ref().to_vec();
            self.token.inner.pairs.lock().insert(pair, OaepPrivateDecryptingKey::new(key).map_err(unable)?);
            Ok(der)
        })
    }

    fn drop_pair(&mut self, pair: PairId) -> Result<(), HsmError> {
        self.call("drop pair", || {
            self.token.inner.pairs.lock().remove(&pair);
            Ok(())
        })
    }

    fn pairs(&mut self) -> Result<Vec<PairId>, HsmError> {
        self.call("pairs", || Ok(self.token.inner.pairs.lock().keys().copied().collect()))
    }

    fn import(
        &mut self,
        object: ObjectId,
        pair: PairId,
        hash: OaepHash,
        wrapped: &[u8],
        arrival: Arrival,
    ) -> Result<(), HsmError> {
        self.call("import", || {
            self.token.inner.objects.lock().remove(&object);
            if arrival == Arrival::First {
                self.token.inner.halves.lock().remove(&object);
            }
            let pairs = self.token.inner.pairs.lock();
            let private = pairs.get(&pair).ok_or(HsmError::NoPair)?;
            let algorithm = match hash {
                OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
                OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
            };
            let mut out = vec![0; private.min_output_size()];
            let opened =
                private.decrypt(algorithm, wrapped, &mut out, None).map_err(|_| HsmError::DoesNotOpen)?;
            let material: [u8; MATERIAL_LEN] = (&*opened).try_into().map_err(|_| HsmError::DoesNotOpen)?;
            match arrival {
                Arrival::First => self.token.make_half(object),
                Arrival::Again if self.token.lacks_half(object) => return Err(HsmError::NoMacKey { object }),
                Arrival::Again => {}
            }
            self.token.inner.objects.lock().insert(object, vec![material]);
            Ok(())
        })
    }

    fn remove_material(&mut self, object: ObjectId) -> Result<(), HsmError> {
        self.call("remove material", || {
            self.token.inner.objects.lock().remove(&object);
            Ok(())
        })
    }

    fn check_value(&mut self, object: ObjectId) -> Result<CheckValue, HsmError> {
        use sha2::{Digest, Sha256};
        self.call("check value", || {
            let objects = self.token.inner.objects.lock();
            let key = objects
                .get(&object)
                .and_then(|copies| copies.first())
                .ok_or(HsmError::NoObject { object })?;
            Ok(CheckValue::new(Sha256::digest(key).into()))
        })
    }

    fn notes(&mut self) -> Result<Vec<Vec<u8>>, HsmError> {
        self.call("notes", || Ok(self.token.inner.note.lock().clone().into_iter().collect()))
    }

    fn put_note(&mut self, note: &[u8]) -> Result<(), HsmError> {
        self.call("put note", || {
            *self.token.inner.note.lock() = Some(note.to_vec());
            Ok(())
        })
    }

    fn answers(&mut self) -> Result<(), HsmError> {
        self.call("answers", || Ok(()))
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), HsmError> {
        self.call("random", || {
            self.token.bytes(out);
            Ok(())
        })
    }
}
