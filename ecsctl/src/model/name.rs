//! Names that users give to disks and servers. A name is also a component of a path
//! (`servers/<server>/<disk>`), so its alphabet is narrow.

use std::{fmt, str::FromStr};

use thiserror::Error;
use uuid::Uuid;

/// The longest name, in bytes.
pub(crate) const MAX_NAME: usize = 64;

/// A name that was checked: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first of them a letter or digit, and not
/// the form of an ID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

/// Why a text cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("a name has at most {MAX_NAME} characters, this one has {0}")]
    TooLong(usize),
    /// The first character would make it look like an option or a hidden file.
    #[error("a name begins with a letter or a digit, not with {0:?}")]
    BadStart(char),
    /// A character that is not in the alphabet.
    #[error("a name has only letters, digits, '.', '_' and '-', not {0:?}")]
    BadCharacter(char),
    /// It would hide a real ID.
    #[error("a name cannot have the form of an ID")]
    LooksLikeId,
}

impl Name {
    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = text.chars().next().ok_or(NameError::Empty)?;
        if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
        {
            return Err(NameError::BadCharacter(bad));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::BadStart(first));
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text.len()));
        }
        if Uuid::try_parse(text).is_ok() {
            return Err(NameError::LooksLikeId);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The beginning of an ID that tables show; commands take it too.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// The name of something that lost its own, or cannot have it.
pub(crate) fn recovered(id: Uuid) -> String {
    format!("recovered-{}", short(&id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "data1", "web-1.prod_x", "0", &"x".repeat(64)] {
            assert_eq!(name.parse::<Name>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn bad_names_are_told_why() {
        use NameError::*;
        let long = "x".repeat(65);
        let cases: [(&str, NameError); 13] = [
            ("", Empty),
            (&long, TooLong(65)),
            ("-rf", BadStart('-')),
            (".", BadStart('.')),
            ("..", BadStart('.')),
            (".hidden", BadStart('.')),
            ("_x", BadStart('_')),
            ("a/b", BadCharacter('/')),
            ("a\nb", BadCharacter('\n')),
            ("a\0b", BadCharacter('\0')),
            ("a b", BadCharacter(' ')),
            ("naïve", BadCharacter('ï')),
            ("6f1e2f1c-7f0e-4a52-9d0a-1c2d3e4f5a6b", LooksLikeId),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Name>(), Err(why), "{text:?}");
        }
    }
}
