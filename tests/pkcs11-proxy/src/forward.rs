//! The function list, each entry a call of the real module's.
//!
//! All that is unsafe of this crate is here. The invariants:
//! - The real module is loaded once and never unloaded, so its function pointers stay good.
//! - Arguments are passed on untouched, but for the template in `C_GenerateKeyPair`: what the caller owes the real module, it owes through this one
//!   just the same.
//! - Only `C_GetSlotList`, `C_GetMechanismList`, `C_OpenSession` and `C_GenerateKeyPair` look at memory of the caller's, and only where PKCS#11 makes it the caller's duty
//!   that it is valid.
#![allow(unsafe_code)]
#![allow(non_snake_case)] // the names of the standard

use std::{
    ffi::c_void,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use cryptoki_sys::*;

use crate::control::{self, Verdict, demand};

/// The real module's functions.
static REAL: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
/// Sessions that are open, as far as this module has seen.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The one entry that a module must export (PKCS#11 v2.40, section 5.4).
///
/// # Safety
/// `list` points to a place for a pointer, as the standard demands.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    REAL.get_or_init(load);
    // SAFETY: not null, and valid by the caller's duty. Callers do not write to a function list, so that it comes from a shared static is no harm.
    unsafe { *list = (&raw const LIST).cast_mut() };
    CKR_OK
}

fn load() -> CK_FUNCTION_LIST {
    let path =
        demand(std::env::var("PKCS11_PROXY_MODULE"), "PKCS11_PROXY_MODULE does not name the real module");
    // SAFETY: loading runs the module's initialisers; it is the module that the test chose, and no other thread of a test loads one.
    let library = demand(unsafe { Pkcs11::new(&path) }, "the real module cannot be loaded");
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a place for a pointer.
    let rv = unsafe { library.C_GetFunctionList(&mut list) };
    // SAFETY: after CKR_OK the pointer leads to the module's list, which lives as long as the module is loaded.
    let real = unsafe { list.as_ref() }.filter(|_| rv == CKR_OK);
    let real = *demand(real.ok_or(rv), "the real module has no function list");
    // Never unloaded: the pointers must stay good.
    std::mem::forget(library);
    real
}

/// Makes a call, or what the test wants instead of it.
fn carry_out(function: &str, call: impl FnOnce() -> CK_RV) -> CK_RV {
    match control::judge(function) {
        Verdict::Forward => call(),
        Verdict::Fail(rv) => rv,
        Verdict::FailAfter(rv) => {
            call();
            rv
        }
        Verdict::Absent => match function {
            // The library goes on without a token.
            "C_Initialize" | "C_Finalize" | "C_GetInfo" | "C_CloseSession" | "C_CloseAllSessions" => call(),
            "C_GetSlotInfo" | "C_GetTokenInfo" | "C_GetMechanismList" | "C_OpenSession" => {
                CKR_TOKEN_NOT_PRESENT
            }
            _ => CKR_DEVICE_REMOVED,
        },
    }
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $kind:ty),*))*) => {
        $(
            unsafe extern "C" fn $name($($argument: $kind),*) -> CK_RV {
                carry_out(stringify!($name), || match REAL.get().and_then(|real| real.$name) {
                    // SAFETY: the real module's function of that name, with the caller's arguments as they are.
                    Some(function) => count(stringify!($name), unsafe { function($($argument),*) }),
                    None => CKR_FUNCTION_NOT_SUPPORTED,
                })
            }
        )*

        static LIST: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: CK_VERSION { major: 2, minor: 40 },
            C_GetFunctionList: Some(C_GetFunctionList),
            C_GetSlotList: Some(C_GetSlotList),
            C_GetMechanismList: Some(C_GetMechanismList),
            C_OpenSession: Some(C_OpenSession),
            C_GenerateKeyPair: Some(C_GenerateKeyPair),
            $($name: Some($name)),*
        };
    };
}

/// Keeps the count of sessions.
fn count(function: &str, rv: CK_RV) -> CK_RV {
    if rv == CKR_OK {
        match function {
            "C_CloseSession" => {
                OPEN.fetch_sub(1, Ordering::SeqCst);
            }
            "C_CloseAllSessions" | "C_Finalize" => OPEN.store(0, Ordering::SeqCst),
            _ => {}
        }
    }
    rv
}

unsafe extern "C" fn C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, len: *mut CK_ULONG) -> CK_RV {
    let Some(function) = REAL.get().and_then(|real| real.C_GetSlotList) else {
        return CKR_FUNCTION_NOT_SUPPORTED;
    };
    // SAFETY: the real module's function, with the caller's arguments as they are.
    let call = || unsafe { function(present, slots, len) };
    match control::judge("C_GetSlotList") {
        Verdict::Forward => call(),
        Verdict::Fail(rv) => rv,
        Verdict::FailAfter(rv) => {
            call();
            rv
        }
        Verdict::Absent if present == CK_FALSE => call(),
        Verdict::Absent if len.is_null() => CKR_ARGUMENTS_BAD,
        Verdict::Absent => {
            // SAFETY: not null, and valid by the caller's duty.
            unsafe { *len = 0 };
            CKR_OK
        }
    }
}

unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    len: *mut CK_ULONG,
) -> CK_RV {
    carry_out("C_GetMechanismList", || {
        let Some(function) = REAL.get().and_then(|real| real.C_GetMechanismList) else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        // SAFETY: the real module's function, with the caller's arguments as they are.
        let rv = unsafe { function(slot, list, len) };
        // Asked for the length alone, it says that of the whole list: a bound, which is all that the standard promises.
        if rv != CKR_OK || list.is_null() || len.is_null() {
            return rv;
        }
        // SAFETY: after CKR_OK `len` holds how many entries of `list` were written.
        let written = unsafe { std::slice::from_raw_parts_mut(list, usize::try_from(*len).unwrap_or(0)) };
        let mut kept = 0;
        for index in 0..written.len() {
            if !control::is_hidden(written[index]) {
                written[kept] = written[index];
                kept += 1;
            }
        }
        // SAFETY: as above.
        unsafe { *len = CK_ULONG::try_from(kept).unwrap_or(0) };
        CKR_OK
    })
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    carry_out("C_OpenSession", || {
        let Some(function) = REAL.get().and_then(|real| real.C_OpenSession) else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        if !control::has_room(OPEN.load(Ordering::SeqCst)) {
            return CKR_SESSION_COUNT;
        }
        // SAFETY: the real module's function, with the caller's arguments as they are.
        let rv = unsafe { function(slot, flags, application, notify, session) };
        if rv == CKR_OK {
            OPEN.fetch_add(1, Ordering::SeqCst);
        }
        rv
    })
}

unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_len: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_len: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    carry_out("C_GenerateKeyPair", || {
        let Some(function) = REAL.get().and_then(|real| real.C_GenerateKeyPair) else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        let Some(mut bits) = control::modulus_bits().filter(|_| !public.is_null()) else {
            // SAFETY: the real module's function, with the caller's arguments as they are.
            return unsafe {
                function(
                    session,
                    mechanism,
                    public,
                    public_len,
                    private,
                    private_len,
                    public_key,
                    private_key,
                )
            };
        };
        let len = usize::try_from(public_len).unwrap_or(0);
        // SAFETY: not null, and so many attributes by the caller's duty.
        let mut template = unsafe { std::slice::from_raw_parts(public, len) }.to_vec();
        for attribute in template.iter_mut().filter(|attribute| attribute.type_ == CKA_MODULUS_BITS) {
            attribute.pValue = (&raw mut bits).cast();
            attribute.ulValueLen = size_of::<CK_ULONG>() as CK_ULONG;
        }
        let public = template.as_mut_ptr();
        // SAFETY: as above; the copied template and what it points to live until the call has returned.
        unsafe {
            function(session, mechanism, public, public_len, private, private_len, public_key, private_key)
        }
    })
}

forward! {
    C_Initialize(a: *mut c_void)
    C_Finalize(a: *mut c_void)
    C_GetInfo(a: *mut CK_INFO)
    C_GetSlotInfo(a: CK_SLOT_ID, b: *mut CK_SLOT_INFO)
    C_GetTokenInfo(a: CK_SLOT_ID, b: *mut CK_TOKEN_INFO)
    C_GetMechanismInfo(a: CK_SLOT_ID, b: CK_MECHANISM_TYPE, c: *mut CK_MECHANISM_INFO)
    C_InitToken(a: CK_SLOT_ID, b: *mut CK_UTF8CHAR, c: CK_ULONG, d: *mut CK_UTF8CHAR)
    C_InitPIN(a: CK_SESSION_HANDLE, b: *mut CK_UTF8CHAR, c: CK_ULONG)
    C_SetPIN(a: CK_SESSION_HANDLE, b: *mut CK_UTF8CHAR, c: CK_ULONG, d: *mut CK_UTF8CHAR, e: CK_ULONG)
    C_CloseSession(a: CK_SESSION_HANDLE)
    C_CloseAllSessions(a: CK_SLOT_ID)
    C_GetSessionInfo(a: CK_SESSION_HANDLE, b: *mut CK_SESSION_INFO)
    C_GetOperationState(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG)
    C_SetOperationState(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: CK_OBJECT_HANDLE, e: CK_OBJECT_HANDLE)
    C_Login(a: CK_SESSION_HANDLE, b: CK_USER_TYPE, c: *mut CK_UTF8CHAR, d: CK_ULONG)
    C_Logout(a: CK_SESSION_HANDLE)
    C_CreateObject(a: CK_SESSION_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG, d: *mut CK_OBJECT_HANDLE)
    C_CopyObject(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG, e: *mut CK_OBJECT_HANDLE)
    C_DestroyObject(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE)
    C_GetObjectSize(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ULONG)
    C_GetAttributeValue(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG)
    C_SetAttributeValue(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG)
    C_FindObjectsInit(a: CK_SESSION_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG)
    C_FindObjects(a: CK_SESSION_HANDLE, b: *mut CK_OBJECT_HANDLE, c: CK_ULONG, d: *mut CK_ULONG)
    C_FindObjectsFinal(a: CK_SESSION_HANDLE)
    C_EncryptInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE)
    C_Encrypt(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_EncryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_EncryptFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG)
    C_DecryptInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE)
    C_Decrypt(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_DecryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_DecryptFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG)
    C_DigestInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM)
    C_Digest(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_DigestUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG)
    C_DigestKey(a: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE)
    C_DigestFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG)
    C_SignInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE)
    C_Sign(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_SignUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG)
    C_SignFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: *mut CK_ULONG)
    C_SignRecoverInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE)
    C_SignRecover(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_VerifyInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE)
    C_Verify(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: CK_ULONG)
    C_VerifyUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG)
    C_VerifyFinal(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG)
    C_VerifyRecoverInit(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE)
    C_VerifyRecover(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_DigestEncryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_DecryptDigestUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_SignEncryptUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_DecryptVerifyUpdate(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: *mut CK_ULONG)
    C_GenerateKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: *mut CK_ATTRIBUTE, d: CK_ULONG, e: *mut CK_OBJECT_HANDLE)
    C_WrapKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE, d: CK_OBJECT_HANDLE, e: *mut CK_BYTE, f: *mut CK_ULONG)
    C_UnwrapKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE, d: *mut CK_BYTE, e: CK_ULONG, f: *mut CK_ATTRIBUTE, g: CK_ULONG, h: *mut CK_OBJECT_HANDLE)
    C_DeriveKey(a: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE, d: *mut CK_ATTRIBUTE, e: CK_ULONG, f: *mut CK_OBJECT_HANDLE)
    C_SeedRandom(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG)
    C_GenerateRandom(a: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG)
    C_GetFunctionStatus(a: CK_SESSION_HANDLE)
    C_CancelFunction(a: CK_SESSION_HANDLE)
    C_WaitForSlotEvent(a: CK_FLAGS, b: *mut CK_SLOT_ID, c: *mut c_void)
}
