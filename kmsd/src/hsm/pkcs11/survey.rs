//! What a module and its token say of themselves, without a login.

use cryptoki::{
    context::Pkcs11,
    mechanism::MechanismType,
    slot::{Slot, TokenInfo},
};

use super::{Pkcs11Settings, Pkcs11Token, begin, fault::classify, finalise, load, sealing_by};
use crate::{
    domain::envelope::Mechanism,
    hsm::{HsmError, TokenIdentity},
};

/// What was found.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The module's own words: manufacturer, description, version.
    pub library: String,
    /// The token that the settings select.
    pub token: TokenIdentity,
    /// Its mechanisms, as PKCS#11 names them; those without a name here are left out.
    pub mechanisms: Vec<String>,
    /// How it would seal, or what it lacks for that.
    pub sealing: Result<Mechanism, HsmError>,
    /// Whether keys of external origin can be imported (K6).
    pub imports: bool,
    /// Whether a few more wrong PINs lock it, or it is locked.
    pub pin_trouble: Option<&'static str>,
}

/// Loads the module and looks. Nobody is logged in or out.
///
/// # Errors
/// As [`Pkcs11Token::connect`], but for the login.
pub fn survey(settings: &Pkcs11Settings) -> Result<Survey, HsmError> {
    let library = load(settings)?;
    begin(&library)?;
    let surveyed = look(&library, settings);
    finalise(&library);
    surveyed
}

fn look(library: &Pkcs11, settings: &Pkcs11Settings) -> Result<Survey, HsmError> {
    let info = library.get_library_info().map_err(classify)?;
    let (slot, token) = Pkcs11Token::find(library, settings)?;
    // Some tokens describe themselves in a form that cannot be read; then nothing is known of their PIN.
    let flags = library.get_token_info(slot).ok();
    let flags = flags.as_ref();
    let pin_trouble = if flags.is_some_and(TokenInfo::user_pin_locked) {
        Some("the user PIN is locked: the security officer can set another one")
    } else if flags.is_some_and(TokenInfo::user_pin_final_try) {
        Some("one more wrong PIN locks the token")
    } else if flags.is_some_and(TokenInfo::user_pin_count_low) {
        Some("a wrong PIN was given since the last login; a few more lock the token")
    } else {
        None
    };
    let mechanisms = library.get_mechanism_list(slot).map_err(classify)?;
    Ok(Survey {
        library: format!(
            "{}, {} {}",
            info.manufacturer_id().trim_end(),
            info.library_description().trim_end(),
            info.library_version(),
        ),
        token,
        sealing: sealing_by(&mechanisms),
        imports: can_import(library, slot, &mechanisms),
        mechanisms: mechanisms
            .iter()
            .map(ToString::to_string)
            .filter(|name| name.starts_with("CKM_"))
            .collect(),
        pin_trouble,
    })
}

/// Whether it can make a pair and unwrap with it. That a token lists RSA-OAEP does not say what for.
fn can_import(library: &Pkcs11, slot: Slot, mechanisms: &[MechanismType]) -> bool {
    mechanisms.contains(&MechanismType::RSA_PKCS_KEY_PAIR_GEN)
        && mechanisms.contains(&MechanismType::RSA_PKCS_OAEP)
        && library.get_mechanism_info(slot, MechanismType::RSA_PKCS_OAEP).is_ok_and(|info| info.unwrap())
}
