//! Progress of long work, on a terminal only: bytes, rate, and the time that is left.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::{
    model::size::human,
    output::{Format, Output},
};

/// How often a line is drawn.
const EVERY: Duration = Duration::from_millis(100);

/// A line that is drawn over and over.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    what: String,
    total: u64,
    began: Instant,
    drawn: Instant,
}

impl Progress {
    /// Begins; `total` is in bytes.
    pub(crate) fn new(out: Output, doing: &str, name: &str, total: u64) -> Self {
        let now = Instant::now();
        let shown = out.format == Format::Table && !out.quiet && io::stderr().is_terminal();
        Self { shown, what: format!("{doing} {name}"), total, began: now, drawn: now }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown
    }

    /// So many bytes of so many are done, where only who does it knows how many they are.
    pub(crate) fn reach_of(&mut self, done: u64, total: u64) {
        self.total = total;
        self.reach(done);
    }

    /// So many bytes are done.
    pub(crate) fn reach(&mut self, done: u64) {
        if self.shown && self.drawn.elapsed() >= EVERY {
            self.drawn = Instant::now();
            // Only a terminal is written to; when it is gone there is nobody to tell.
            let _ =
                write!(io::stderr(), "\r\x1b[K{}", line(&self.what, done, self.total, self.began.elapsed()));
        }
    }

    /// Takes the line away.
    pub(crate) fn finish(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    /// Work that failed leaves no line before its error.
    fn drop(&mut self) {
        self.finish();
    }
}

fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / millis;
    let percent = done.saturating_mul(100) / total.max(1);
    let left =
        total.saturating_sub(done).checked_div(rate).map_or_else(|| "-".to_owned(), |s| format!("{s} s"));
    format!("{what}: {percent}%  {} of {}  {}/s  {left} left", human(done), human(total), human(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_bytes_rate_and_time_left() {
        let text = line("importing debian", 1 << 30, 4 << 30, Duration::from_secs(2));
        assert_eq!(text, "importing debian: 25%  1G of 4G  512M/s  6 s left");
        assert_eq!(line("x", 0, 0, Duration::ZERO), "x: 0%  0B of 0B  0B/s  - left");
    }
}
