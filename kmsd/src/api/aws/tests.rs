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

/// D4: what a reply with a data key was printed into is wiped once it is sent, in this protocol too.
#[tokio::test]
async fn d4_a_data_key_is_not_left_in_memory() {
    use crate::api::traces::{Masked, is_in_memory};
    let token = FakeToken::new();
    let store = MemoryStore::new(token.identity());
    let service = on_fakes(&token, &store).await;
    let ask = async |operation: &str, body: &str| {
        let target = format!("TrentService.{operation}");
        let within = Duration::from_secs(10);
        respond(&service, &Caller::SYSTEM, "r", &target, body.as_bytes(), within).await.into_body()
    };
    ask("CreateKey", "{}").await;
    let key = service.list_keys(&Caller::SYSTEM, None).await.unwrap()[0].key.id;
    let body = ask("GenerateDataKey", &format!(r#"{{"KeyId": "{key}", "KeySpec": "AES_256"}}"#)).await;
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    let start = bytes.windows(13).position(|part| part == br#""Plaintext":""#).unwrap() + 13;
    let masked = Masked::of(&bytes[start..start + 44]);
    assert!(is_in_memory(&masked), "the scan finds it where it has to be");
    drop(bytes);
    assert!(!is_in_memory(&masked), "a reply with a data key was left in memory");
}

/// K7: a constraint that is misspelt does not make a grant without one.
#[test]
fn k7_a_misspelt_constraint_is_refused() {
    let body = |more: &str| {
        let text = format!(r#"{{"KeyId": "k", "GranteePrincipal": "AK1", "Operations": []{more}}}"#);
        parse::<grants::CreateGrant>(text.as_bytes()).is_ok()
    };
    assert!(body("") && body(r#", "GrantTokens": ["x"], "Name": "n""#));
    assert!(body(r#", "Constraints": {"EncryptionContextSubset": {"a": "1"}}"#));
    assert!(!body(r#", "Constraint": {"EncryptionContextSubset": {"a": "1"}}"#));
    assert!(!body(r#", "Constraints": {"EncryptionContextSubSet": {"a": "1"}}"#));
}

/// A mistake in a body is answered without quoting it: it could be a secret.
#[test]
fn secrets_are_not_quoted_in_errors() {
    let error = parse::<serde_json::Map<String, serde_json::Value>>(br#"{"Plaintext": "c2VjcmV0" oops}"#)
        .unwrap_err();
    assert!(!error.message(None).contains("c2Vj") && !error.message(None).contains("oops"), "{error}");
}

/// Who deletes what is listed goes on though the item that the marker names is gone.
#[test]
fn a_page_of_a_sorted_list_goes_on_behind_what_is_gone() {
    let name = |item: &&str| (*item).to_owned();
    let mut left = vec!["a", "b", "c", "d", "e"];
    let (mut marker, mut seen) = (None, Vec::new());
    loop {
        let (page, next) = super::keys::paginate_sorted(&left, marker.as_deref(), 2, name);
        let page = page.to_vec();
        left.retain(|item| !page.contains(item));
        seen.extend(page);
        match next {
            Some(next) => marker = Some(next),
            None => break,
        }
    }
    assert_eq!((seen, left), (vec!["a", "b", "c", "d", "e"], Vec::<&str>::new()));
}
