//! Text of others on a terminal: what it would obey instead of showing it is written out, so that nobody's note or description forges a line,
//! hides one, or turns it round.

use std::borrow::Cow;

/// Control characters (ECMA-48), line and paragraph separators, and those that change the direction of text (UAX #9), as `\n` or `\u{1b}`.
pub(super) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_unseen, |unseen| unseen.escape_default().to_string())
}

/// The same for text in lines of its own.
pub(super) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |char| char != '\n' && is_unseen(char), |unseen| unseen.escape_default().to_string())
}

/// The same for JSON, where they can stand in strings only: as RFC 8259 writes them, so that the value stays what it is.
pub(super) fn json(text: &str) -> Cow<'_, str> {
    // Those of ASCII are escaped already, or are the white space between the parts.
    escaped(text, |char| char > '\u{7e}' && is_unseen(char), |unseen| format!("\\u{:04x}", u32::from(unseen)))
}

fn escaped(text: &str, is_meant: impl Fn(char) -> bool, write: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is_meant) {
        return Cow::Borrowed(text);
    }
    let seen = |char: char| if is_meant(char) { write(char) } else { char.to_string() };
    Cow::Owned(text.chars().map(seen).collect())
}

fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out_and_everything_else_stays() {
        let text = "a\n\x1b[31m\u{9b}2J\u{202e}\u{2066}é漢\t";
        assert_eq!(line(text), r"a\n\u{1b}[31m\u{9b}2J\u{202e}\u{2066}é漢\t");
        assert_eq!(lines(text), "a\n\\u{1b}[31m\\u{9b}2J\\u{202e}\\u{2066}é漢\\t");
        assert!(matches!(line("disk data1 – é漢\u{200d}"), Cow::Borrowed(_)));
        let value = serde_json::json!({ "note": text, "del": "\u{7f}" });
        let written = json(&format!("{value:#}")).into_owned();
        assert!(!written.chars().any(|char| char != '\n' && is_unseen(char)), "{written}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
    }
}
