//! What the test wants, and the count of the calls.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use cryptoki_sys::{CK_MECHANISM_TYPE, CK_RV, CK_ULONG};
use parking_lot::Mutex;

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is made.
    Forward,
    /// It is not made and answers this.
    Fail(CK_RV),
    /// It is made and answers this.
    FailAfter(CK_RV),
    /// The token is not there.
    Absent,
}

/// The control file's content.
#[derive(Default)]
struct Orders {
    fail: HashMap<u64, CK_RV>,
    fail_after: HashMap<u64, CK_RV>,
    delays: HashMap<String, Duration>,
    hidden: HashSet<CK_MECHANISM_TYPE>,
    refused: HashMap<String, CK_RV>,
    modulus_bits: Option<CK_ULONG>,
    sessions: Option<usize>,
    is_absent: bool,
    trace: Option<File>,
}

#[derive(Default)]
struct State {
    /// Tells one control file from the next: it is replaced, never written to.
    seen: Option<(u64, i64, i64)>,
    orders: Orders,
    calls: u64,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Counts a call, delays it, and says what becomes of it.
pub(crate) fn judge(function: &str) -> Verdict {
    let (verdict, delay) = with_state(|state| {
        let index = state.calls;
        state.calls += 1;
        let orders = &mut state.orders;
        let verdict = if orders.is_absent {
            Verdict::Absent
        } else if let Some(rv) = orders.fail.get(&index).or(orders.refused.get(function)) {
            Verdict::Fail(*rv)
        } else if let Some(rv) = orders.fail_after.get(&index) {
            Verdict::FailAfter(*rv)
        } else {
            Verdict::Forward
        };
        if let Some(trace) = &mut orders.trace {
            let mark = match verdict {
                Verdict::Fail(_) | Verdict::FailAfter(_) => " struck",
                Verdict::Forward | Verdict::Absent => "",
            };
            demand(writeln!(trace, "{function}{mark}"), "the trace cannot be written");
        }
        (verdict, orders.delays.get(function).copied())
    });
    if let Some(delay) = delay {
        std::thread::sleep(delay);
    }
    verdict
}

/// Whether the token is to list a mechanism.
pub(crate) fn is_hidden(mechanism: CK_MECHANISM_TYPE) -> bool {
    with_state(|state| state.orders.hidden.contains(&mechanism))
}

/// Bits of the RSA pairs that are made, unless it is as many as are asked for.
pub(crate) fn modulus_bits() -> Option<CK_ULONG> {
    with_state(|state| state.orders.modulus_bits)
}

/// Whether one more session may be opened beside `open`.
pub(crate) fn has_room(open: usize) -> bool {
    with_state(|state| state.orders.sessions.is_none_or(|most| open < most))
}

fn with_state<T>(work: impl FnOnce(&mut State) -> T) -> T {
    let mut state = STATE.lock();
    let state = state.get_or_insert_default();
    if let Some(path) = std::env::var_os("PKCS11_PROXY_CONTROL") {
        state.refresh(&PathBuf::from(path));
    }
    work(state)
}

impl State {
    fn refresh(&mut self, path: &Path) {
        let metadata = demand(fs::metadata(path), "the control file is not there");
        let found = Some((metadata.ino(), metadata.ctime(), metadata.ctime_nsec()));
        if self.seen == found {
            return;
        }
        let text = demand(fs::read_to_string(path), "the control file cannot be read");
        let orders = demand(Orders::parse(&text, path).ok_or(text), "the control file is not understood");
        *self = Self { seen: found, orders, calls: 0 };
    }
}

impl Orders {
    fn parse(text: &str, path: &Path) -> Option<Self> {
        let mut orders = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["fail", index, rv] => {
                    orders.fail.insert(number(index)?, number(rv)?);
                }
                ["fail-after", index, rv] => {
                    orders.fail_after.insert(number(index)?, number(rv)?);
                }
                ["delay", function, micros] => {
                    orders.delays.insert((*function).to_owned(), Duration::from_micros(number(micros)?));
                }
                ["refuse", function, rv] => {
                    orders.refused.insert((*function).to_owned(), number(rv)?);
                }
                ["hide", mechanism] => {
                    orders.hidden.insert(number(mechanism)?);
                }
                ["modulus-bits", bits] => orders.modulus_bits = Some(number(bits)?),
                ["sessions", most] => orders.sessions = Some(usize::try_from(number(most)?).ok()?),
                ["absent"] => orders.is_absent = true,
                ["trace"] => {
                    let file = File::create(path.with_extension("trace"));
                    orders.trace = Some(demand(file, "the trace cannot be made"));
                }
                _ => return None,
            }
        }
        Some(orders)
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A test whose orders cannot be followed must not go on as if there were none.
#[allow(clippy::print_stderr)]
pub(crate) fn demand<T, E: std::fmt::Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| {
        eprintln!("pkcs11-proxy: {what}: {error:?}");
        std::process::abort()
    })
}
