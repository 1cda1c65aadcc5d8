use super::*;
use crate::{
    hsm::{Token, fake::FakeToken},
    service::tests::on_fakes,
    store::memory::MemoryStore,
};

/// Every operation of the page is answered, and every operation that is answered is on the page.
#[tokio::test]
async fn the_page_names_what_is_answered() {
    let page = include_str!("../../../../docs/kms-api.md");
    let table = page.split("\n## AWS KMS").nth(1).unwrap().split("| operation | remarks |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let documented: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split(['`', ',', ' ']))
        .filter(|name| !name.is_empty())
        .collect();
    let source = include_str!("../aws.rs").split("#[cfg(test)]").next().unwrap();
    let mut answered = source.matches("\" => ").count();
    assert_eq!(documented.len(), answered, "{documented:?}");

    let token = FakeToken::new();
    let store = MemoryStore::new(token.identity());
    let service = on_fakes(&token, &store).await;
    for name in documented {
        let outcome = answer(&service, &Caller::SYSTEM, "r", &format!("TrentService.{name}"), b"[1]").await;
        assert!(matches!(outcome, Err(Fault::Serialization { .. })), "{name}");
        answered -= 1;
    }
    assert_eq!(answered, 0);
    for unknown in ["TrentService.Sign", "CreateKey", "", "TrentService.createKey"] {
        let outcome = answer(&service, &Caller::SYSTEM, "r", unknown, b"{}").await;
        assert!(matches!(outcome, Err(Fault::UnknownOperation)), "{unknown}");
    }
}

/// A mistake in a body is answered without quoting it: it could be a secret.
#[test]
fn secrets_are_not_quoted_in_errors() {
    let error = parse::<serde_json::Map<String, serde_json::Value>>(br#"{"Plaintext": "c2VjcmV0" oops}"#)
        .unwrap_err();
    assert!(!error.message(None).contains("c2Vj") && !error.message(None).contains("oops"), "{error}");
}
