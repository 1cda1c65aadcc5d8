use axum::http::{HeaderMap, HeaderValue};

use super::*;

fn parse(values: &[&'static str]) -> Option<SignatureError> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
    }
    let request = RequestParts { method: "POST", path: "/", query: "", headers: &headers, body: b"" };
    Claim::parse(&request).err()
}

#[test]
fn the_algorithm_selects_the_scheme() {
    assert_eq!(parse(&[]), Some(SignatureError::Missing));
    for unknown in [
        "",
        "Basic YTpi",
        "Bearer x",
        "SDK-HMAC-SM3 Access=A",
        "aws4-hmac-sha256 Credential=A",
        "AWS4-HMAC-SHA256-PAYLOAD x",
    ] {
        assert_eq!(parse(&[unknown]), Some(SignatureError::UnknownAlgorithm), "{unknown}");
    }
    for known in ["SDK-HMAC-SHA256", "AWS4-HMAC-SHA256 "] {
        assert_eq!(parse(&[known]), Some(SignatureError::Malformed { part: "Authorization" }), "{known}");
    }
    let twice = parse(&["SDK-HMAC-SHA256 Access=A", "SDK-HMAC-SHA256 Access=B"]);
    assert_eq!(twice, Some(SignatureError::HeaderRepeated { header: "Authorization" }));
}
