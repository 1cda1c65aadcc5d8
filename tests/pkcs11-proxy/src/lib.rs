//! A PKCS#11 module for tests: it loads the real one and forwards every call, unless it is told otherwise.
//!
//! ```text
//! kmsd ── C_… ──> this ── C_… ──> the module that PKCS11_PROXY_MODULE names
//!                  │
//!                  ├── reads  PKCS11_PROXY_CONTROL, when that file is another one than before
//!                  └── writes PKCS11_PROXY_CONTROL.trace: one line for each call
//! ```
//!
//! The control file has one order on each line; numbers are decimal, or hexadecimal after `0x`. Calls are counted from 0, anew for each control file.
//!
//! | order | what happens |
//! |---|---|
//! | `fail N RV` | call N is not made, and answers RV |
//! | `fail-after N RV` | call N is made, and answers RV all the same |
//! | `delay FUNCTION MICROSECONDS` | each call of that function takes so much longer |
//! | `refuse FUNCTION RV` | no call of that function is made, and each answers RV |
//! | `hide MECHANISM` | the token does not list that mechanism |
//! | `modulus-bits N` | RSA pairs have so many bits, whatever was asked for: generating them takes less time |
//! | `sessions N` | no more than N sessions can be open |
//! | `absent` | the token is not in its slot |
//! | `trace` | calls are written down |
//!
//! It is not part of any program and is never installed.

mod control;
mod forward;
