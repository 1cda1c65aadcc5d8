//! Label and serial number from a token whose description is not quite as PKCS#11 has it.
//!
//! opencryptoki's soft token, for one, has a clock, whose time it gives in a form of its own; `cryptoki` then refuses all of the description.
//!
//! All that is unsafe of this adapter is here. The invariants:
//! - The module has been loaded and initialised before, by `cryptoki`; loading it once more only counts, and runs nothing anew.
//! - The library that is loaded here lives until the call has returned.
//! - The one call is given a structure of the standard's layout, which is what it fills in.
#![allow(unsafe_code)]

use std::path::Path;

use cryptoki::{
    context::Function,
    error::{Error as CkError, Rv},
    slot::Slot,
};
use cryptoki_sys::{CK_TOKEN_INFO, CKF_TOKEN_INITIALIZED, Pkcs11};

use super::fault::classify;
use crate::hsm::{HsmError, TokenIdentity};

/// The token in a slot, if it is initialised, by C_GetTokenInfo (PKCS#11 v2.40, section 5.5).
pub(super) fn identity(module: &Path, slot: Slot) -> Result<Option<TokenIdentity>, HsmError> {
    // SAFETY: the module is loaded already, so none of its initialisers run.
    let library = unsafe { Pkcs11::new(module) }
        .map_err(|e| HsmError::Module { path: module.to_owned(), reason: e.to_string() })?;
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a place for a pointer. A module that lacks the function could not have been loaded by `cryptoki`.
    let rv = unsafe { library.C_GetFunctionList(&mut list) };
    Rv::from(rv).into_result(Function::GetFunctionList).map_err(classify)?;
    // SAFETY: after CKR_OK it leads to the module's list, which lives as long as the module is loaded; or it is null, which gives `None`.
    let function = unsafe { list.as_ref() }.and_then(|list| list.C_GetTokenInfo);
    let function = function.ok_or_else(|| classify(CkError::NullFunctionPointer))?;
    let mut info = CK_TOKEN_INFO::default();
    // SAFETY: the structure has the layout that the function fills in.
    let rv = unsafe { function(slot.id(), &mut info) };
    Rv::from(rv).into_result(Function::GetTokenInfo).map_err(classify)?;
    let text = |padded: &[u8]| String::from_utf8_lossy(padded).trim_end_matches([' ', '\0']).to_owned();
    let is_initialized = info.flags & CKF_TOKEN_INITIALIZED != 0;
    Ok(is_initialized.then(|| TokenIdentity { label: text(&info.label), serial: text(&info.serialNumber) }))
}
