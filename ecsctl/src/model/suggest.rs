//! "Did you mean": the known name that is nearest to what was typed.

/// The candidate nearest to `given`, if it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if given.is_empty() {
        return None;
    }
    let limit = (given.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&given.to_lowercase(), &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let known = ["data1", "data2", "web1", "db-key"];
        assert_eq!(nearest("dtaa1", known), Some("data1"));
        assert_eq!(nearest("DB-key", known), Some("db-key"));
        assert_eq!(nearest("wbe1", known), Some("web1"));
        assert_eq!(nearest("zebra", known), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(nearest("", ["x"]), None);
    }
}
