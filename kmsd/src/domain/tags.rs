//! Tags of a key: names and values that people sort keys by. They decide nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// The tags of one key, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Most tags of a key.
    pub const MAX: usize = 50;
    /// Longest name, in characters.
    pub const MAX_NAME: usize = 128;
    /// Longest value, in characters.
    pub const MAX_VALUE: usize = 256;

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// With more tags; a name that is there gets the new value.
    ///
    /// # Errors
    /// If a name or value is not one, or there would be too many.
    pub fn with(&self, more: &[(String, String)]) -> Result<Self, Refusal> {
        let mut next = self.clone();
        for (name, value) in more {
            let is_text = |text: &str| !text.chars().any(char::is_control);
            let name_fits = (1..=Self::MAX_NAME).contains(&name.chars().count()) && is_text(name);
            if !name_fits || value.chars().count() > Self::MAX_VALUE || !is_text(value) {
                return Err(Refusal::TagInvalid);
            }
            next.0.insert(name.clone(), value.clone());
        }
        if next.0.len() > Self::MAX {
            return Err(Refusal::TooManyTags { limit: Self::MAX });
        }
        Ok(next)
    }

    /// Without some; one that is not there is no error.
    #[must_use]
    pub fn without(&self, names: &[String]) -> Self {
        let mut next = self.clone();
        next.0.retain(|name, _| !names.contains(name));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn tags_are_added_replaced_and_removed() {
        let tags = Tags::default().with(&[tag("team", "a"), tag("env", "prod")]).unwrap();
        let tags = tags.with(&[tag("team", "b")]).unwrap();
        assert_eq!(tags.iter().collect::<Vec<_>>(), [("env", "prod"), ("team", "b")]);
        let tags = tags.without(&["env".to_owned(), "absent".to_owned()]);
        assert_eq!(tags.iter().collect::<Vec<_>>(), [("team", "b")]);
    }

    #[test]
    fn names_values_and_their_number_are_bounded() {
        let none = Tags::default();
        for (name, value) in
            [("", "x"), ("a\n", "x"), ("a", "\0"), (&*"x".repeat(129), ""), ("a", &*"x".repeat(257))]
        {
            assert_eq!(none.with(&[tag(name, value)]), Err(Refusal::TagInvalid), "{name:?}");
        }
        assert!(none.with(&[tag(&"ü".repeat(128), &"ü".repeat(256))]).is_ok());
        let many: Vec<_> = (0..=Tags::MAX).map(|n| tag(&n.to_string(), "")).collect();
        let full = none.with(&many[1..]).unwrap();
        assert_eq!(full.len(), Tags::MAX);
        assert_eq!(full.with(&many[..1]), Err(Refusal::TooManyTags { limit: Tags::MAX }));
        assert!(full.with(&many[1..2]).is_ok());
    }
}
