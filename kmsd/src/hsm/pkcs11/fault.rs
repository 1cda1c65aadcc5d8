//! Return codes (PKCS#11 v3.0, section 5.1), sorted by what can be done about them.
//!
//! Real modules give the two general codes both when the device is gone and when it does not do this one thing. Which of the two it is shows when the token
//! was recovered and the call is made once more.

use cryptoki::{
    context::Function,
    error::{Error as CkError, RvError},
};

use crate::hsm::HsmError;

/// Sorts an error of the module.
pub(super) fn classify(error: CkError) -> HsmError {
    match error {
        CkError::Pkcs11(code, function) if is_loss(&code) => {
            HsmError::Lost { function: name(function), code: format!("{code:?}") }
        }
        CkError::Pkcs11(code @ (RvError::FunctionFailed | RvError::GeneralError), function) => {
            HsmError::Unclear { function: name(function), code: format!("{code:?}") }
        }
        CkError::Pkcs11(RvError::SessionCount, _) => HsmError::NoSession,
        CkError::Pkcs11(code, function) => {
            HsmError::Failed { function: name(function), code: format!("{code:?}") }
        }
        other => HsmError::Failed { function: "the module".to_owned(), code: format!("{other:?}") },
    }
}

/// Codes after which the session, the login or the whole module is dead. A token that is full (`CKR_DEVICE_MEMORY`) is none of these: that is an answer.
const fn is_loss(code: &RvError) -> bool {
    matches!(
        code,
        RvError::CryptokiNotInitialized
            | RvError::DeviceError
            | RvError::DeviceRemoved
            | RvError::HostMemory
            | RvError::OperationActive
            | RvError::OperationNotInitialized
            | RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::SlotIdInvalid
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::UserNotLoggedIn
    )
}

/// The handle is dead although the session lives: the object was destroyed, or the login was renewed.
pub(super) const fn is_stale_handle(error: &CkError) -> bool {
    matches!(error, CkError::Pkcs11(RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid, _))
}

/// What modules answer to a ciphertext that is not authentic. SoftHSM up to 2.6 has only the general code for it, so
/// the caller must rule out that the token is gone.
pub(super) const fn is_bad_ciphertext(error: &CkError) -> bool {
    matches!(
        error,
        CkError::Pkcs11(
            RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::FunctionFailed
                | RvError::GeneralError
                | RvError::SignatureInvalid,
            Function::Decrypt,
        )
    )
}

/// Of these, the codes that may as well be a hiccup of the token's.
pub(super) const fn is_ambiguous(error: &CkError) -> bool {
    matches!(error, CkError::Pkcs11(RvError::FunctionFailed | RvError::GeneralError, _))
}

fn name(function: Function) -> String {
    format!("C_{function:?}")
}
