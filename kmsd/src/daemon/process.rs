//! What the process gets from its parent, and how it shields itself.
//!
//! The two calls that need `unsafe` are here, and both are made first thing in `main`, while there is one thread and no
//! descriptor but the inherited ones.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// A descriptor that the parent wants to hear from.
#[derive(Debug)]
pub struct ReadyFd(File);

/// Not a descriptor that the parent passed.
#[derive(Debug, thiserror::Error)]
#[error("--ready-fd {fd} is not an open descriptor above 2: the starting process must pass it on")]
pub struct NotInherited {
    /// Its number.
    pub fd: RawFd,
}

impl ReadyFd {
    /// Takes the descriptor over.
    ///
    /// # Errors
    /// If there is none with that number.
    pub fn take(fd: RawFd) -> Result<Self, NotInherited> {
        // Looked up by name rather than by a call on the number, which could be closed.
        if fd <= 2 || std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            return Err(NotInherited { fd });
        }
        // SAFETY: the descriptor is open (just looked up) and above the standard ones. This runs before the process
        // has opened any descriptor that it keeps, so nothing else in it owns this one: it was inherited for this purpose.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(fd.into()))
    }

    /// Says that requests are accepted, and closes the descriptor.
    ///
    /// # Errors
    /// If the parent has closed its end.
    pub fn ready(mut self) -> std::io::Result<()> {
        self.0.write_all(b"ready\n")
    }
}

/// Sets variables that a PKCS#11 module reads when it is initialised.
///
/// To be called first thing in `main`: no thread may run yet.
pub fn set_module_environment(variables: &BTreeMap<String, String>) {
    for (name, value) in variables {
        // SAFETY: setting a variable races only with other threads that read the environment. `main` calls this before it
        // starts the runtime, the pool or any other thread, and loads no library before.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Keeps the process' memory out of core dumps, of other processes' sight and, where allowed, of swap.
pub fn shield() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps cannot be turned off");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process cannot be made undumpable");
    }
    if let Err(error) = crate::memory::lock() {
        tracing::warn!(%error, "memory is not locked (LimitMEMLOCK=infinity lets it be); use encrypted swap or none");
    }
}
