use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const DATE: &str = "20150830T123600Z";

struct Case {
    method: &'static str,
    target: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: &'static str,
    signed: &'static str,
    signature: &'static str,
}

impl Case {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in
            [("host", "example.amazonaws.com"), ("x-amz-date", DATE)].iter().chain(&self.headers)
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn verify(&self, headers: &HeaderMap, body: &str, secret: &str) -> Result<Verified, SignatureError> {
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        let request = RequestParts { method: self.method, path, query, headers, body: body.as_bytes() };
        let fields = format!(
            "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={}, Signature={}",
            self.signed, self.signature
        );
        let claim = Claim::parse_any_service(&fields, &request)?;
        claim.verify(&request, &AccessSecret::new(secret), "2015-08-30T12:40:00Z".parse().unwrap())
    }
}

const fn get(target: &'static str, signature: &'static str) -> Case {
    Case { method: "GET", target, headers: Vec::new(), body: "", signed: "host;x-amz-date", signature }
}

/// The published Signature Version 4 test suite (the cases of its header form that do not concern session tokens).
fn published() -> Vec<Case> {
    let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
    vec![
        get("/", vanilla),
        get("/example1/example2/../..", vanilla),
        get("//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
        get(
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        get("/?\u{1234}=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
        get("/\u{1234}", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        get("/example space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
        get(
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        Case {
            headers: vec![("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
            signed: "host;my-header1;my-header2;x-amz-date",
            ..get("/", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736")
        },
        Case {
            method: "POST",
            ..get("/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b")
        },
        Case {
            method: "POST",
            headers: vec![("my-header1", "value1")],
            signed: "host;my-header1;x-amz-date",
            ..get("/", "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c")
        },
        form(),
    ]
}

fn form() -> Case {
    Case {
        method: "POST",
        headers: vec![("content-type", "application/x-www-form-urlencoded")],
        body: "Param1=value1",
        signed: "content-type;host;x-amz-date",
        ..get("/", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a")
    }
}

#[test]
fn the_published_test_suite_verifies() {
    for case in published() {
        let verified = case.verify(&case.headers(), case.body, SECRET);
        assert_eq!(verified.unwrap().access_key().as_str(), "AKIDEXAMPLE", "{} {}", case.method, case.target);
    }
}

#[test]
fn another_secret_or_a_changed_request_does_not() {
    for case in published() {
        let headers = case.headers();
        assert_eq!(case.verify(&headers, case.body, "wJalrXUtnFEMI"), Err(SignatureError::Mismatch));
        assert_eq!(case.verify(&headers, "Param1=value2", SECRET), Err(SignatureError::Mismatch));
        let moved = Case { method: "PUT", ..get(case.target, case.signature) };
        assert_eq!(moved.verify(&moved.headers(), "", SECRET), Err(SignatureError::Mismatch));
        let mut other_host = headers.clone();
        other_host.insert("host", HeaderValue::from_static("example.amazonaws.net"));
        assert_eq!(case.verify(&other_host, case.body, SECRET), Err(SignatureError::Mismatch));
    }
}

#[test]
fn headers_that_matter_have_to_be_signed() {
    let case = form();
    let mut headers = case.headers();
    headers.insert("x-amz-target", HeaderValue::from_static("TrentService.DisableKey"));
    let not_signed = |header: &str| Err(SignatureError::HeaderNotSigned { header: header.to_owned() });
    assert_eq!(case.verify(&headers, case.body, SECRET), not_signed("x-amz-target"));
    let no_host = Case { signed: "x-amz-date", ..form() };
    assert_eq!(no_host.verify(&case.headers(), case.body, SECRET), not_signed("host"));
    let mut token = case.headers();
    token.insert("x-amz-security-token", HeaderValue::from_static("x"));
    assert_eq!(case.verify(&token, case.body, SECRET), Err(SignatureError::SessionToken));
}

#[test]
fn a_header_that_says_the_body_is_unsigned_is_not_believed() {
    let case = Case { signed: "content-type;host;x-amz-content-sha256;x-amz-date", ..form() };
    let mut headers = case.headers();
    headers.insert("x-amz-content-sha256", HeaderValue::from_static("UNSIGNED-PAYLOAD"));
    assert_eq!(case.verify(&headers, case.body, SECRET), Err(SignatureError::Mismatch));
}

#[test]
fn the_scope_has_to_fit() {
    let headers = form().headers();
    let request = RequestParts { method: "POST", path: "/", query: "", headers: &headers, body: b"" };
    let parse = |credential: &str| {
        let fields =
            format!("Credential={credential}, SignedHeaders=host;x-amz-date, Signature={}", "0".repeat(64));
        Claim::parse(&fields, &request).err()
    };
    assert_eq!(parse("AKID/20150830/eu-de/kms/aws4_request"), None);
    for (credential, part) in [
        ("AKID/20150830/eu-de/s3/aws4_request", "service"),
        ("AKID/20150829/eu-de/kms/aws4_request", "date"),
        ("AKID/20150830/eu-de/kms/aws4", "end"),
    ] {
        assert!(
            matches!(parse(credential), Some(SignatureError::Scope { part: p, .. }) if p == part),
            "{credential}"
        );
    }
    for bad in [
        "AKID",
        "",
        "AKID/20150830/eu-de/kms/aws4_request/x",
        "AKID/20150830//kms/aws4_request",
        "A;B/1/2/kms/4",
    ] {
        assert_eq!(parse(bad), Some(SignatureError::Malformed { part: "Credential" }), "{bad}");
    }
}

#[test]
fn old_and_future_dates_are_refused() {
    let case = form();
    let headers = case.headers();
    let request =
        RequestParts { method: "POST", path: "/", query: "", headers: &headers, body: b"Param1=value1" };
    let fields = format!(
        "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={}, Signature={}",
        case.signed, case.signature
    );
    let at = |now: &str| {
        let claim = Claim::parse_any_service(&fields, &request).unwrap();
        claim.verify(&request, &AccessSecret::new(SECRET), now.parse().unwrap())
    };
    assert!(at("2015-08-30T12:51:00Z").is_ok());
    assert!(matches!(at("2015-08-30T12:51:01Z"), Err(SignatureError::Expired { .. })));
    assert!(matches!(at("2015-08-30T12:20:59Z"), Err(SignatureError::NotYetValid { .. })));
}
