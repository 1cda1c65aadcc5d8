//! How keys are named: ids, aliases with their prefix, and ARNs of both.

use super::Fault;
use crate::domain::{Alias, KeyId, KeyRef};

/// The account in ARNs: there is one here, this installation.
pub(super) const ACCOUNT: &str = "000000000000";
const ALIAS: &str = "alias/";
const KEY: &str = "key/";

/// Names as one client sees them: ARNs carry the region that it asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    region: &'a str,
}

impl<'a> Names<'a> {
    pub(super) const fn new(region: &'a str) -> Self {
        Self { region }
    }

    /// `arn:aws:kms:<region>:<account>:key/<id>`
    pub(super) fn key(&self, id: KeyId) -> String {
        format!("arn:aws:kms:{}:{ACCOUNT}:{KEY}{id}", self.region)
    }

    /// `arn:aws:kms:<region>:<account>:alias/<name>`
    pub(super) fn alias(&self, alias: &Alias) -> String {
        format!("arn:aws:kms:{}:{ACCOUNT}:{ALIAS}{alias}", self.region)
    }
}

/// A key as a request names it: id, ARN, `alias/<name>`, or an alias' ARN.
pub(super) fn key_ref(text: &str) -> Result<KeyRef, Fault> {
    let name = match text.strip_prefix("arn:") {
        Some(_) => resource(text)?,
        None => text,
    };
    let unknown = || Fault::NoSuchKey { key: text.to_owned() };
    if name.starts_with(ALIAS) {
        return name.parse::<Alias>().map(KeyRef::Alias).map_err(|_| unknown());
    }
    let id = match name.strip_prefix(KEY) {
        // Only in an ARN does the prefix belong.
        Some(id) if text.starts_with("arn:") => id,
        Some(_) => return Err(unknown()),
        None => name,
    };
    id.parse::<KeyId>().map(KeyRef::Id).map_err(|_| unknown())
}

/// The last part of `arn:<partition>:kms:<region>:<account>:<resource>`.
fn resource(arn: &str) -> Result<&str, Fault> {
    let mut parts = arn.splitn(6, ':').skip(2);
    let (service, _region, _account, resource) = (parts.next(), parts.next(), parts.next(), parts.next());
    match (service, resource) {
        (Some("kms"), Some(resource)) if resource.starts_with(KEY) || resource.starts_with(ALIAS) => {
            Ok(resource)
        }
        _ => Err(Fault::InvalidArn { arn: arn.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_in_four_ways() {
        let id: KeyId = "0d0466b0-e727-4d9c-b35d-f84bb474a37f".parse().unwrap();
        let arn = Names::new("eu-de").key(id);
        assert_eq!(arn, "arn:aws:kms:eu-de:000000000000:key/0d0466b0-e727-4d9c-b35d-f84bb474a37f");
        for text in [arn.as_str(), &id.to_string()] {
            assert_eq!(key_ref(text).ok(), Some(KeyRef::Id(id)), "{text}");
        }
        for text in ["alias/evs/default", "arn:aws-cn:kms:x:1:alias/evs/default"] {
            assert_eq!(key_ref(text).ok(), Some(KeyRef::Alias("evs/default".parse().unwrap())), "{text}");
        }
        for text in
            ["db-key", "", "alias/", "key/0d0466b0-e727-4d9c-b35d-f84bb474a37f", "arn:aws:kms:r:1:key/x"]
        {
            assert!(matches!(key_ref(text), Err(Fault::NoSuchKey { .. })), "{text}");
        }
        for text in ["arn:", "arn:aws:s3:::bucket", "arn:aws:kms:r:1", "arn:aws:kms:r:1:x"] {
            assert!(matches!(key_ref(text), Err(Fault::InvalidArn { .. })), "{text}");
        }
    }
}
