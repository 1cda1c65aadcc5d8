//! Results on stdout, as a table for people or as JSON for programs; errors on stderr, in the same two ways.

pub(crate) mod progress;
mod table;
mod visible;

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use crate::{
    engine::Warning,
    error::{Error, Report},
};

/// The form of results and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// One JSON value.
    Json,
}

/// Where results go, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// The form.
    pub(crate) format: Format,
    /// Only IDs (or paths, where a command is about one).
    pub(crate) quiet: bool,
}

/// Something that a command shows.
pub(crate) trait Show {
    /// Every field, for programs.
    fn json(&self) -> Value;
    /// The headings of a list.
    fn headings() -> &'static [&'static str];
    /// A row of a list.
    fn row(&self) -> Vec<String>;
    /// Every field, for people.
    fn fields(&self) -> Vec<(&'static str, String)>;
    /// What `--quiet` prints.
    fn handle(&self) -> String;
}

impl Output {
    /// A list.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn list<T: Show>(self, items: &[T]) -> io::Result<()> {
        match self.format {
            Format::Json => self.value(&Value::Array(items.iter().map(Show::json).collect())),
            Format::Table if self.quiet => {
                self.text(&items.iter().map(|item| item.handle() + "\n").collect::<String>())
            }
            Format::Table => self.text(&table::list(T::headings(), items.iter().map(Show::row))),
        }
    }

    /// One thing with all its fields.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn one<T: Show>(self, item: &T) -> io::Result<()> {
        match self.format {
            Format::Json => self.value(&item.json()),
            Format::Table if self.quiet => self.text(&format!("{}\n", item.handle())),
            Format::Table => self.text(&table::fields(&item.fields())),
        }
    }

    /// The result of a change: the thing in JSON, else a sentence, or the handle when quiet.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn done<T: Show>(self, item: &T, sentence: &str) -> io::Result<()> {
        match self.format {
            Format::Json => self.value(&item.json()),
            Format::Table if self.quiet => self.text(&format!("{}\n", item.handle())),
            Format::Table => self.text(&format!("{}\n", visible::line(sentence))),
        }
    }

    /// Fields, one a line.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn fields(self, fields: &[(&'static str, String)]) -> io::Result<()> {
        self.text(&table::fields(fields))
    }

    /// A JSON value on a line of its own.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn value(self, value: &Value) -> io::Result<()> {
        self.text(&visible::json(&format!("{value:#}\n")))
    }

    /// Values, one a line.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn lines(self, values: &[String]) -> io::Result<()> {
        self.text(&values.iter().map(|value| visible::line(value) + "\n").collect::<String>())
    }

    /// Text as it is.
    ///
    /// # Errors
    /// When stdout cannot be written; a reader that went away is no error.
    pub(crate) fn text(self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// An error on stderr, with what else the command could not do.
    pub(crate) fn error(self, error: &Error, report: &Report, warnings: &[Warning]) {
        let mut details: Vec<(&str, Value)> = error.details().into_iter().collect();
        if self.format == Format::Json {
            if !warnings.is_empty() {
                details.push(("warnings", listed(warnings)));
            }
        } else {
            self.warnings(warnings);
        }
        self.failure(report.code, &error.to_string(), &report.hint, details);
    }

    /// What a command that is done could not do beside it, on stderr. It is told also when only IDs are wanted: nobody else tells it.
    pub(crate) fn warnings(self, warnings: &[Warning]) {
        if warnings.is_empty() {
            return;
        }
        let text = match self.format {
            Format::Json => {
                visible::json(&format!("{}\n", json!({ "warnings": listed(warnings) }))).into_owned()
            }
            Format::Table => {
                let told = |Warning { message, hint }: &Warning| {
                    format!("warning: {}\n  hint: {}\n", visible::line(message), visible::line(hint))
                };
                warnings.iter().map(told).collect()
            }
        };
        // Nobody is left to be told of a failure here.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// An error from its parts.
    pub(crate) fn failure(self, code: &str, message: &str, hint: &str, details: Vec<(&str, Value)>) {
        let text = match self.format {
            Format::Json => {
                let mut body = json!({ "error": { "code": code, "message": message, "hint": hint } });
                for (name, value) in details {
                    body["error"][name] = value;
                }
                visible::json(&format!("{body}\n")).into_owned()
            }
            Format::Table => {
                format!("error: {}\nhint: {}\n", visible::line(message), visible::line(hint))
            }
        };
        // Nobody is left to be told of a failure here.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// A remark on stderr, for people only.
    pub(crate) fn note(self, text: &str) {
        if self.format == Format::Table && !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{}", visible::lines(text));
        }
    }
}

/// Warnings for programs.
fn listed(warnings: &[Warning]) -> Value {
    warnings.iter().map(|Warning { message, hint }| json!({ "message": message, "hint": hint })).collect()
}

/// Asks before something is destroyed.
///
/// # Errors
/// [`Error::Unconfirmed`] without a terminal, [`Error::Declined`] when the answer is not yes.
pub(crate) fn confirm(yes: bool, question: &str) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Error::Unconfirmed { question: question.to_owned() });
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{} [y/N] ", visible::line(question))
        .and_then(|()| io::stdin().read_line(&mut answer));
    match (asked, answer.trim().to_ascii_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(Error::Declined),
    }
}
