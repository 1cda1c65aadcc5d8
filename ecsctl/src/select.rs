//! What a user's word means: a name, an ID, or the beginning of exactly one ID.

use crate::{
    error::Error,
    model::{Noun, suggest},
};

/// The shortest beginning of an ID that counts as one; shorter ones are slips more often than IDs.
const SHORTEST: usize = 4;

/// Finds the one ID that begins with `given`, among pairs of ID and name.
///
/// # Errors
/// [`Error::Ambiguous`], or [`Error::NotFound`] with the nearest name.
pub(crate) fn by_prefix<'a>(
    noun: Noun,
    given: &str,
    pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Result<&'a str, Error> {
    if given.len() >= SHORTEST {
        let lower = given.to_ascii_lowercase();
        let fitting: Vec<(&str, &str)> = pairs.clone().filter(|(id, _)| id.starts_with(&lower)).collect();
        match fitting.as_slice() {
            [] => {}
            [(id, _)] => return Ok(id),
            several => {
                return Err(Error::Ambiguous {
                    noun,
                    given: given.to_owned(),
                    names: several.iter().map(|(_, name)| (*name).to_owned()).collect(),
                });
            }
        }
    }
    Err(Error::NotFound {
        noun,
        given: given.to_owned(),
        near: suggest::nearest(given, pairs.map(|(_, name)| name)).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_means_an_id_only_if_it_is_long_enough_and_fits_one() {
        let pairs = [("abcd1234-0", "one"), ("abcd5678-0", "two"), ("ffff0000-0", "three")];
        let find = |given| by_prefix(Noun::Disk, given, pairs.iter().copied());
        assert_eq!(find("ffff").unwrap(), "ffff0000-0");
        assert_eq!(find("ABCD1").unwrap(), "abcd1234-0");
        assert!(matches!(find("abcd"), Err(Error::Ambiguous { names, .. }) if names == ["one", "two"]));
        assert!(matches!(find("fff"), Err(Error::NotFound { .. })));
        assert!(matches!(find("thre"), Err(Error::NotFound { near: Some(near), .. }) if near == "three"));
    }
}
