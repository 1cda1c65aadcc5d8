//! What the end-to-end suites stand on: real parts, each test with its own.
//!
//! ```text
//! Installation   a private SoftHSM token, a kmsd, an ECS_HOME: everything in one directory
//!   ├─ Token     softhsm-config/make-token.sh, or tests/opencryptoki.sh; read back with pkcs11-tool
//!   ├─ Proxy     tests/pkcs11-proxy before it, when a test wants calls to fail
//!   ├─ Kmsd      started with --ready-fd; stop, kill, restart
//!   ├─ KillSwitch tests/kill-switch in it, when a test wants it to die at a certain call
//!   └─ ecsctl(), evsfs(), api()   run the programs, call the API; an Outcome is what came out
//! at_once        real processes released at one moment   whole    catalogue, files, mounts and processes agree
//! LoopDevice, Filesystem          guards over the raw view of an attached disk
//! Guest          a cloud kernel and busybox, made into disks that boot
//! tree           trees of files to copy and compare          process    facts from /proc
//! ```
//!
//! Nothing here waits for a length of time: a daemon says that it is ready, a process that ends is waited for by
//! its pidfd. Guards clean up when they are dropped, also in a panic; what a killed test leaves behind is found by
//! `run.sh` under the run directory `$ECS_TEST_RUN_DIR` and taken away.
//!
//! The programs under test are those in `$ECS_TEST_BIN`, else those beside the test executable (`target/debug`), which
//! `cargo build -p kmsd`, `-p evsfs` and `-p ecsctl` put there.

mod agreement;
mod api;
mod block;
mod crowd;
mod daemon;
mod guest;
mod installation;
mod kill_switch;
mod outcome;
pub mod process;
mod program;
mod proxy;
mod token;
pub mod tree;

pub use agreement::whole;
pub use api::Reply;
pub use block::{Filesystem, LoopDevice};
pub use crowd::at_once;
pub use daemon::Kmsd;
pub use guest::Guest;
pub use installation::{Attached, Installation, Options};
pub use kill_switch::KillSwitch;
pub use outcome::Outcome;
pub use program::{program, repository, run, run_patiently, scratch_dir};
pub use proxy::Proxy;
pub use token::{Provider, SecretKey, Token};
