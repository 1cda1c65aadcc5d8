//! The token without kmsd before it: what it does by itself, and keys that only fill it. Runs in a process of its own, because a PKCS#11 module
//! takes its configuration from the environment.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, KeyType, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};
use harness::{Token, run};
use serde_json::{Value, json};

/// The first word of the command line of that process.
pub(crate) const WORD: &str = "--on-token";

/// `C_Decrypt` a second, by so many sessions at once, for so long.
pub(crate) fn decrypts_per_s(token: &Token, sessions: usize, time: Duration) -> Value {
    on(token, &["decrypt", &sessions.to_string(), &time.as_secs_f64().to_string()])
}

/// Makes so many keys.
pub(crate) fn fill(token: &Token, keys: usize) {
    on(token, &["fill", &keys.to_string()]);
}

fn on(token: &Token, words: &[&str]) -> Value {
    let mut this = Command::new(std::env::current_exe().expect("this program has a path"));
    this.env("SOFTHSM2_CONF", token.config()).arg(WORD).arg(token.pin_file()).args(words);
    run(&mut this).json()
}

/// That process.
pub(crate) fn main(words: &[String]) -> Result<Value, String> {
    let [pin, work @ ..] = words else { return Err("no PIN file".to_owned()) };
    let module = Pkcs11::new(Token::module()).map_err(|e| e.to_string())?;
    let library = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
    module.initialize(library).map_err(|e| e.to_string())?;
    let slots = module.get_slots_with_initialized_token().map_err(|e| e.to_string())?;
    let slot = *slots.first().ok_or("no token")?;
    let pin = std::fs::read_to_string(Path::new(pin)).map_err(|e| e.to_string())?;
    let open = || module.open_rw_session(slot).map_err(|e| e.to_string());
    let login = open()?;
    login.login(UserType::User, Some(&AuthPin::new(pin.trim().into()))).map_err(|e| e.to_string())?;
    match work {
        [word, keys] if word == "fill" => {
            let keys: u32 = keys.parse().map_err(|_| "not a number")?;
            for number in 0..keys {
                generate(&login, true, &number.to_be_bytes())?;
            }
            Ok(json!({"made": keys}))
        }
        [word, sessions, seconds] if word == "decrypt" => {
            let sessions: usize = sessions.parse().map_err(|_| "not a number")?;
            let time = Duration::from_secs_f64(seconds.parse().map_err(|_| "not a number")?);
            let sessions = (0..sessions).map(|_| open()).collect::<Result<Vec<_>, _>>()?;
            let began = Instant::now();
            let counts: Vec<Result<u32, String>> = thread::scope(|scope| {
                let threads: Vec<_> = sessions
                    .into_iter()
                    .map(|session| scope.spawn(move || decrypt(&session, time)))
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
            });
            let done: u32 = counts.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().sum();
            Ok(json!({"per_s": (f64::from(done) / began.elapsed().as_secs_f64()).round()}))
        }
        _ => Err("known are fill and decrypt".to_owned()),
    }
}

/// As kmsd's master keys are; one of the token's, or one that ends with the session.
fn generate(session: &Session, stays: bool, id: &[u8]) -> Result<cryptoki::object::ObjectHandle, String> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Id([b"load ", id].concat()),
        Attribute::Token(stays),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &template).map_err(|e| e.to_string())
}

/// What kmsd asks of the token for an unwrap: 32 bytes by AES-GCM with authenticated data.
fn decrypt(session: &Session, time: Duration) -> Result<u32, String> {
    let key = generate(session, false, b"raw")?;
    let aad = [7; 120];
    let by = |iv: &mut [u8], text: &[u8], opens: bool| {
        let mechanism = Mechanism::AesGcm(GcmParams::new(iv, &aad, 128.into())?);
        if opens { session.decrypt(&mechanism, key, text) } else { session.encrypt(&mechanism, key, text) }
    };
    let mut iv = [1; 12];
    let sealed = by(&mut iv, &[9; 32], false).map_err(|e| e.to_string())?;
    let (began, mut done) = (Instant::now(), 0);
    while began.elapsed() < time {
        by(&mut iv, &sealed, true).map_err(|e| e.to_string())?;
        done += 1;
    }
    Ok(done)
}
