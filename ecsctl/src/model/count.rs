//! Numbers of things in sentences.

/// "1 disk", "2 disks".
pub(crate) fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|n| counted(n, "disk")), ["0 disks", "1 disk", "2 disks"]);
    }
}
