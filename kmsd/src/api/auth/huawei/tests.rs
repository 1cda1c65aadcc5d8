use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::*;

const SECRET: &str = "MFyfvK41ba2giqM7Wa5pZxNlL0gKpownRZlmVmHc";
const ID: &str = "QTWAOYTTINDUT2QVKYUC";
const DATE: &str = "20240321T070809Z";
const NOW: &str = "2024-03-21T07:10:00Z";

#[derive(Clone)]
struct Case {
    method: &'static str,
    target: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: &'static str,
    signed: &'static str,
    signature: &'static str,
}

/// Requests as signed by `huaweicloudsdkcore` 3.1.219.
fn by_the_sdk() -> Vec<Case> {
    vec![
        Case {
            method: "POST",
            target: "/v1.0/0123456789abcdef/kms/create-key",
            headers: vec![("content-type", "application/json"), ("x-project-id", "0123456789abcdef")],
            body: r#"{"key_alias":"db-key"}"#,
            signed: "content-type;host;x-project-id;x-sdk-date",
            signature: "41945dfc48a46dfccf5619afbbb98ad1981a8a5029141b811a00540cd76cd3fa",
        },
        Case {
            method: "GET",
            target: "/v1.0/p/kms/user-quotas",
            headers: vec![],
            body: "",
            signed: "host;x-sdk-date",
            signature: "a5918aecdab9400be6f04be81b80af7d93cbba57a44c5b2552e1d407505f4021",
        },
        Case {
            method: "GET",
            target: "/v1.0/a%20b/kms/tags?all=true&key_state=2&limit=10&offset=0&tags=a%20b&tags=z",
            headers: vec![("user-agent", "some agent")],
            body: "",
            signed: "host;user-agent;x-sdk-date",
            signature: "28c3f52ff0fdb4a365e7984f223e6db20e316eb3762de1c1ea8d29952a5b0284",
        },
    ]
}

impl Case {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in [("host", "kms.example.com"), ("x-sdk-date", DATE)].iter().chain(&self.headers)
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn verify_with(&self, headers: &HeaderMap, secret: &str, now: &str) -> Result<Verified, SignatureError> {
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        let request = RequestParts { method: self.method, path, query, headers, body: self.body.as_bytes() };
        let fields = format!("Access={ID}, SignedHeaders={}, Signature={}", self.signed, self.signature);
        Claim::parse(&fields, &request)?.verify(&request, &AccessSecret::new(secret), now.parse().unwrap())
    }

    fn verify(&self) -> Result<Verified, SignatureError> {
        self.verify_with(&self.headers(), SECRET, NOW)
    }
}

#[test]
fn what_the_public_sdk_signs_verifies() {
    for case in by_the_sdk() {
        assert_eq!(case.verify().unwrap().access_key().as_str(), ID, "{}", case.target);
    }
}

#[test]
fn another_secret_or_a_changed_request_does_not() {
    for case in by_the_sdk() {
        let mismatch = Err(SignatureError::Mismatch);
        assert_eq!(case.verify_with(&case.headers(), "another", NOW), mismatch);
        assert_eq!(Case { method: "PUT", ..case.clone() }.verify(), mismatch);
        assert_eq!(Case { target: "/v1.0/p/kms/other", ..case.clone() }.verify(), mismatch);
        assert_eq!(Case { body: r#"{"key_alias":"db-kez"}"#, ..case.clone() }.verify(), mismatch);
        let mut headers = case.headers();
        headers.insert("host", HeaderValue::from_static("kms.example.org"));
        assert_eq!(case.verify_with(&headers, SECRET, NOW), mismatch);
        let mut headers = case.headers();
        headers.insert("x-sdk-date", HeaderValue::from_static("20240321T070810Z"));
        assert_eq!(case.verify_with(&headers, SECRET, NOW), mismatch);
    }
}

#[test]
fn old_and_future_dates_are_refused_before_anything_else() {
    for case in by_the_sdk() {
        for (now, secret) in [("2024-03-21T07:23:10Z", SECRET), ("2025-03-21T07:08:09Z", "another")] {
            let refused = case.verify_with(&case.headers(), secret, now);
            assert!(matches!(refused, Err(SignatureError::Expired { .. })), "{refused:?}");
        }
        let refused = case.verify_with(&case.headers(), SECRET, "2024-03-21T06:53:08Z");
        assert!(matches!(refused, Err(SignatureError::NotYetValid { .. })), "{refused:?}");
    }
}

#[test]
fn host_and_date_have_to_be_signed_and_the_body_too() {
    let case = by_the_sdk().remove(0);
    let lacks = |signed, header: &str| {
        let refused = Case { signed, ..case.clone() }.verify();
        assert_eq!(refused, Err(SignatureError::HeaderNotSigned { header: header.to_owned() }));
    };
    lacks("content-type;x-project-id;x-sdk-date", "host");
    lacks("content-type;host;x-project-id", "x-sdk-date");
    let absent = Case { signed: "host;x-absent;x-sdk-date", ..case.clone() }.verify();
    assert_eq!(absent, Err(SignatureError::SignedHeaderMissing { header: "x-absent".to_owned() }));
    let mut headers = case.headers();
    headers.insert("x-sdk-content-sha256", HeaderValue::from_static("UNSIGNED-PAYLOAD"));
    assert_eq!(case.verify_with(&headers, SECRET, NOW), Err(SignatureError::UnsignedBody));
    let mut headers = case.headers();
    headers.append("x-sdk-date", HeaderValue::from_static(DATE));
    let twice = case.verify_with(&headers, SECRET, NOW);
    assert_eq!(twice, Err(SignatureError::HeaderRepeated { header: "x-sdk-date" }));
}

/// Which protocol a request is of is nobody's to choose but the signer's.
#[test]
fn the_header_that_names_the_protocol_has_to_be_signed() {
    for case in by_the_sdk() {
        let mut headers = case.headers();
        headers.insert("x-amz-target", HeaderValue::from_static("TrentService.ListKeys"));
        let refused = case.verify_with(&headers, SECRET, NOW);
        assert_eq!(refused, Err(SignatureError::HeaderNotSigned { header: "x-amz-target".to_owned() }));
    }
}

#[test]
fn malformed_headers_are_named() {
    let headers = by_the_sdk()[1].headers();
    let request = RequestParts { method: "GET", path: "/", query: "", headers: &headers, body: b"" };
    let zeros = "0".repeat(64);
    let fields = |access: &str, signed: &str, signature: &str| {
        let fields = format!("Access={access}, SignedHeaders={signed}, Signature={signature}");
        Claim::parse(&fields, &request).err()
    };
    let malformed = |part| Some(SignatureError::Malformed { part });
    assert_eq!(fields(ID, "host;x-sdk-date", &zeros), None);
    assert_eq!(fields("a b", "host;x-sdk-date", &zeros), malformed("Access"));
    assert_eq!(fields(ID, "x-sdk-date;host", &zeros), malformed("SignedHeaders"));
    for signature in ["", "00", &zeros[2..], &format!("{zeros}00"), &"z".repeat(64)] {
        assert_eq!(fields(ID, "host;x-sdk-date", signature), malformed("Signature"));
    }
    for text in ["", "Access", "Access=A", "Access=A, Access=A, SignedHeaders=host, Signature=0", "Accesss=A"]
    {
        assert_eq!(Claim::parse(text, &request).err(), malformed("Authorization"), "{text}");
    }
}
