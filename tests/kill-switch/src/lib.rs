//! Ends a program by SIGKILL before one of the calls by which it changes files, whichever thread makes it. For tests: `LD_PRELOAD` it.
//!
//! strace can kill at a call by its number too, but counts for each thread and each name by itself: the tenth call of a program with several threads cannot be
//! named there.
//!
//! `KILL_SWITCH` names the control file. While it is not there, nothing is counted. Its first word is the number of the call, from 1; the others are the calls that
//! are counted, of `fsync`, `fdatasync`, `rename`, `unlink`, `rmdir` and `ftruncate` (also what does the same by another name). Each call that is counted is a
//! line of `$KILL_SWITCH.calls`. It is read once.
//!
//! It is not part of any program and is never installed.

mod calls;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// What the control file says.
struct Orders {
    at: u64,
    calls: Vec<String>,
    log: File,
}

#[derive(Default)]
struct State {
    orders: Option<Orders>,
    count: u64,
}

static STATE: Mutex<State> = Mutex::new(State { orders: None, count: 0 });

/// Counts a call that is about to be made. When its number has come, this does not return, nor does any other thread's next call.
pub(crate) fn before(call: &str) {
    let Some(path) = std::env::var_os("KILL_SWITCH").map(PathBuf::from) else { return };
    let mut state = STATE.lock();
    if state.orders.is_none() {
        state.orders = Orders::read(&path);
    }
    let State { orders: Some(orders), count } = &mut *state else { return };
    if !orders.calls.iter().any(|counted| counted == call) {
        return;
    }
    *count += 1;
    demand(writeln!(orders.log, "{call}"), "the calls cannot be written down");
    if *count == orders.at {
        calls::die();
    }
}

impl Orders {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        let at = demand(words.next().unwrap_or_default().parse(), "the control file has no number");
        let calls = words.map(str::to_owned).collect();
        let mut name = path.as_os_str().to_owned();
        name.push(".calls");
        let log = File::options().create(true).append(true).open(name);
        Some(Self { at, calls, log: demand(log, "the calls cannot be written down") })
    }
}

/// A test whose orders cannot be followed must not go on as if there were none.
#[allow(clippy::print_stderr)]
fn demand<T, E: std::fmt::Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("kill-switch: {what}: {error:?}");
        std::process::abort()
    })
}
