//! The PKCS#11 adapter (OASIS PKCS#11 v2.40 and v3.0).
//!
//! Handles are good for as long as the module stays initialised, for all sessions alike, so they are cached once, by
//! `CKA_ID`. After a loss everything is dropped and built anew: closing and finalising first is what works on
//! real HSMs, and it keeps the close of a dead session from hitting a live one with the same number.

mod fault;
mod importing;
mod objects;
mod pin;
mod sealing;
mod session;
mod survey;
mod template;
mod token_info;

use std::{
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as CkError, RvError},
    mechanism::MechanismType,
    session::UserType,
    slot::Slot,
};
use parking_lot::Mutex;

use self::{fault::classify, objects::Objects, session::Pkcs11Session};
pub use self::{
    pin::PinFile,
    survey::{Survey, survey},
};
use super::{HsmError, Recovery, Session, Token, TokenIdentity};
use crate::domain::envelope::Mechanism;

/// Which token, and how to get in.
#[derive(Clone, Debug)]
pub struct Pkcs11Settings {
    /// Path of the module (`.so`).
    pub module: PathBuf,
    /// How to find the token.
    pub select: Select,
    /// The token that the store is bound to; `None` while that is decided.
    pub expected: Option<TokenIdentity>,
    /// Where the user PIN is.
    pub pin: PinFile,
}

/// How to find a token. Slot numbers may change from boot to boot, labels do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// By label.
    Label(String),
    /// By slot number.
    Slot(u64),
}

impl std::fmt::Display for Select {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(label) => write!(f, "labelled {label:?}"),
            Self::Slot(slot) => write!(f, "in slot {slot}"),
        }
    }
}

/// A token behind a PKCS#11 module.
pub struct Pkcs11Token {
    settings: Pkcs11Settings,
    identity: TokenIdentity,
    library: Pkcs11,
    generation: AtomicU64,
    /// Number of the mechanism, beside the lock that a recovery holds for long.
    mechanism: AtomicU8,
    state: Mutex<State>,
}

/// A session's place: emptied from outside when the module is finalised.
type Place = Arc<Mutex<Option<cryptoki::session::Session>>>;

#[derive(Default)]
struct State {
    live: Option<Live>,
    places: Vec<Weak<Mutex<Option<cryptoki::session::Session>>>>,
}

/// What there is while the module is initialised and logged in.
struct Live {
    slot: Slot,
    /// The session that the login was made in. The first who opens one gets this: tokens may allow but a few.
    login: Option<cryptoki::session::Session>,
    objects: Arc<Objects>,
    mechanism: Mechanism,
}

/// How long a call may hold up a recovery.
const HUNG_AFTER: Duration = Duration::from_secs(5);

impl Pkcs11Token {
    /// Loads the module, finds the token and logs in.
    ///
    /// # Errors
    /// Names what is missing and what to do.
    pub fn connect(settings: Pkcs11Settings) -> Result<Self, HsmError> {
        let library = load(&settings)?;
        let attempt = match initialise(&library, &settings) {
            // The same that a recovery does: once more from the beginning.
            Err(error) if error.recovery() == Recovery::Reinitialise => {
                tracing::warn!(%error, "the token was lost, recovering");
                finalise(&library);
                initialise(&library, &settings)
            }
            done => done,
        };
        // Unloading does not end every module, and one that stays initialised shows the next who connects what it knew then.
        let (live, identity) = attempt.inspect_err(|_| finalise(&library))?;
        let mechanism = AtomicU8::new(live.mechanism as u8);
        let state = Mutex::new(State { live: Some(live), places: Vec::new() });
        Ok(Self { settings, identity, library, generation: AtomicU64::new(1), mechanism, state })
    }

    fn find(library: &Pkcs11, settings: &Pkcs11Settings) -> Result<(Slot, TokenIdentity), HsmError> {
        let mut found = Vec::new();
        for slot in library.get_slots_with_token().map_err(classify)? {
            let identity = match library.get_token_info(slot) {
                Ok(info) => info.token_initialized().then(|| TokenIdentity {
                    label: info.label().trim_end().to_owned(),
                    serial: info.serial_number().trim_end().to_owned(),
                }),
                Err(error @ CkError::Pkcs11(..)) => return Err(classify(error)),
                // The module answered, in a form that the library does not take.
                Err(_) => token_info::identity(&settings.module, slot)?,
            };
            let Some(identity) = identity else { continue };
            let wanted = match &settings.select {
                Select::Label(label) => *label == identity.label,
                Select::Slot(number) => *number == slot.id(),
            };
            let expected = settings.expected.as_ref();
            // Labels need not be unique: the serial number decides between tokens of one label.
            if wanted && expected.is_none_or(|e| *e == identity) {
                return Ok((slot, identity));
            }
            found.push((wanted, identity));
        }
        match (&settings.expected, found.iter().find(|(wanted, _)| *wanted)) {
            (Some(expected), Some((_, found))) => {
                Err(HsmError::WrongToken { expected: expected.clone(), found: found.clone() })
            }
            _ => Err(HsmError::TokenAbsent {
                wanted: settings.select.to_string(),
                found: found.into_iter().map(|(_, identity)| identity).collect(),
            }),
        }
    }
}

fn load(settings: &Pkcs11Settings) -> Result<Pkcs11, HsmError> {
    Pkcs11::new(&settings.module).map_err(|e| HsmError::Module {
        path: settings.module.clone(),
        reason: match e {
            CkError::LibraryLoading(e) => e.to_string(),
            other => format!("{other:?}"),
        },
    })
}

fn begin(library: &Pkcs11) -> Result<(), HsmError> {
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(CkError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(e) => Err(classify(e)),
    }
}

fn initialise(library: &Pkcs11, settings: &Pkcs11Settings) -> Result<(Live, TokenIdentity), HsmError> {
    begin(library)?;
    let (slot, identity) = Pkcs11Token::find(library, settings)?;
    let mechanisms = library.get_mechanism_list(slot).map_err(classify)?;
    let mechanism = sealing_by(&mechanisms)?;
    let session = library.open_rw_session(slot).map_err(classify)?;
    log_in(&session, settings, &identity)?;
    Ok((Live { slot, login: Some(session), objects: Arc::default(), mechanism }, identity))
}

/// Finds every object at once: one by one, each search of a token with many objects takes its time, and the first use of each key would wait for one.
fn find_all(live: &mut Live) -> Result<(), HsmError> {
    let place: Place = Arc::new(Mutex::new(live.login.take()));
    let found = Pkcs11Session::new(Arc::clone(&place), Arc::clone(&live.objects), live.mechanism).inventory();
    live.login = place.lock().take();
    found.map(drop)
}

/// How a token with these mechanisms seals.
///
/// # Errors
/// If it lacks one that is needed.
fn sealing_by(mechanisms: &[MechanismType]) -> Result<Mechanism, HsmError> {
    for (mechanism, feature) in [
        (MechanismType::AES_KEY_GEN, "CKM_AES_KEY_GEN (it cannot make AES keys)"),
        (MechanismType::GENERIC_SECRET_KEY_GEN, "CKM_GENERIC_SECRET_KEY_GEN (it cannot make HMAC keys)"),
        (MechanismType::SHA256_HMAC, "CKM_SHA256_HMAC (it cannot guard store and audit log)"),
    ] {
        if !mechanisms.contains(&mechanism) {
            return Err(HsmError::Lacks { feature });
        }
    }
    if mechanisms.contains(&MechanismType::AES_GCM) {
        Ok(Mechanism::AesGcm)
    } else if mechanisms.contains(&MechanismType::AES_CBC) {
        Ok(Mechanism::AesCbcHmac)
    } else {
        Err(HsmError::Lacks { feature: "both CKM_AES_GCM and CKM_AES_CBC (it cannot wrap data keys)" })
    }
}

fn log_in(
    session: &cryptoki::session::Session,
    settings: &Pkcs11Settings,
    token: &TokenIdentity,
) -> Result<(), HsmError> {
    let (pin, stamp) = settings.pin.read()?;
    match session.login(UserType::User, Some(&pin)) {
        Ok(()) | Err(CkError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
            settings.pin.accepted();
            Ok(())
        }
        Err(CkError::Pkcs11(
            code @ (RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked
            | RvError::UserPinNotInitialized),
            _,
        )) => Err(settings.pin.refused(stamp, token.clone(), &code)),
        Err(e) => Err(classify(e)),
    }
}

fn finalise(library: &Pkcs11) {
    if let Err(error) = library.clone().finalize() {
        // What is broken cannot always be finalised; initialising decides.
        tracing::debug!(?error, "C_Finalize");
    }
}

impl Token for Pkcs11Token {
    fn identity(&self) -> TokenIdentity {
        self.identity.clone()
    }

    fn open(&self) -> Result<Box<dyn Session>, HsmError> {
        let mut state = self.state.lock();
        let State { live, places } = &mut *state;
        let live = live.as_mut().ok_or_else(|| HsmError::Lost {
            function: "C_OpenSession".to_owned(),
            code: "the module is not initialised".to_owned(),
        })?;
        let session = match live.login.take() {
            Some(session) => session,
            None => {
                let session = self.library.open_rw_session(live.slot).map_err(classify)?;
                // Looked at only now: a session that is still held has kept the login over the opening. If none is, the last one has taken it along.
                if places.iter().all(|place| place.strong_count() == 0) {
                    log_in(&session, &self.settings, &self.identity)?;
                }
                session
            }
        };
        places.retain(|place| place.strong_count() > 0);
        let place: Place = Arc::new(Mutex::new(Some(session)));
        places.push(Arc::downgrade(&place));
        Ok(Box::new(Pkcs11Session::new(place, Arc::clone(&live.objects), live.mechanism)))
    }

    fn recover(&self, seen: u64) -> Result<(), HsmError> {
        let mut state = self.state.lock();
        if state.live.is_some() && self.generation() != seen {
            return Ok(());
        }
        // C_Finalize while another thread is inside a call is undefined: wait for them all.
        for place in state.places.iter().filter_map(Weak::upgrade) {
            let Some(mut session) = place.try_lock_for(HUNG_AFTER) else {
                return Err(HsmError::Lost {
                    function: "a call".to_owned(),
                    code: format!("it has not returned for {} s", HUNG_AFTER.as_secs()),
                });
            };
            *session = None;
        }
        state.places.clear();
        state.live = None;
        finalise(&self.library);
        let (mut live, _) = initialise(&self.library, &self.settings)?;
        find_all(&mut live)?;
        self.mechanism.store(live.mechanism as u8, Ordering::Release);
        state.live = Some(live);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn mechanism(&self) -> Mechanism {
        Mechanism::from_number(self.mechanism.load(Ordering::Acquire)).expect("it was one when it was stored")
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

impl Drop for Pkcs11Token {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        for place in state.places.drain(..).filter_map(|place| place.upgrade()) {
            *place.lock() = None;
        }
        state.live = None;
        finalise(&self.library);
    }
}
