use serde_json::json;

use super::scripted::Scripted;
use super::*;

const VOLUME: Uuid = Uuid::from_u128(0x1234);

fn refusing(code: &'static str, status: u16) -> KeyError {
    let peer = Scripted::new(move |_, _| {
        let error =
            json!({"error_code": code, "error_msg": "the key k (id) is so and so", "error_hint": "do this"});
        (status, json!({"error": error}))
    });
    match peer.service().create("k", VOLUME, VolumeKind::Disk) {
        Ok(_) => panic!("{code} was taken for a key"),
        Err(error) => error,
    }
}

#[test]
fn d2_each_refusal_has_its_kind_and_tells_key_and_remedy() {
    for (code, status, kind) in [
        ("KMS.0209", 400, KeyErrorKind::Disabled),
        ("KMS.0210", 400, KeyErrorKind::PendingDeletion),
        ("KMS.0308", 400, KeyErrorKind::NoMaterial),
        ("KMS.0207", 404, KeyErrorKind::NotFound),
        ("KMS.0307", 403, KeyErrorKind::AccessDenied),
        ("KMS.2201", 400, KeyErrorKind::WrongKey),
        ("KMSD.0001", 409, KeyErrorKind::Superseded),
        ("KMSD.0013", 409, KeyErrorKind::HeldElsewhere),
        ("KMSD.0014", 409, KeyErrorKind::Superseded),
        ("KMSD.0015", 409, KeyErrorKind::HeldByEarlierBoot),
        ("KMSD.0016", 409, KeyErrorKind::MayBeHeld),
        ("KMS.0401", 503, KeyErrorKind::Unreachable),
        ("KMS.9999", 400, KeyErrorKind::Other),
    ] {
        let error = refusing(code, status);
        assert_eq!(error.kind(), kind, "{code}");
        assert_eq!(error.hint(), Some("do this"));
        let text = error.to_string();
        assert!(text.contains("the key k (id) is so and so") && text.contains(&VOLUME.to_string()), "{text}");
    }
}

#[test]
fn a_service_that_is_not_there_is_unreachable() {
    let service = KeyService { client: Client::new("/nonexistent/kmsd.sock") };
    let error = service.anchor(VOLUME).unwrap_err();
    assert_eq!((error.kind(), error.hint()), (KeyErrorKind::Unreachable, None));
}

#[test]
fn k2_a_new_key_is_bound_to_volume_and_kind() {
    let peer = Scripted::new(|path, body| {
        assert!(path.ends_with("/create-datakey"), "{path}");
        assert_eq!(body["key_id"], "ims/default");
        let context = json!({"evs:volume": VOLUME, "evs:kind": "image"});
        assert_eq!(body["encryption_context"], context);
        let id = "0d0466b0-e727-4d9c-b35d-f84bb474a37f";
        (200, json!({"key_id": id, "plain_text": "22".repeat(32), "cipher_text": "0badc0de"}))
    });
    let new = peer.service().create("ims/default", VOLUME, VolumeKind::Image).unwrap();
    assert!(new.dek.expose() == &[0x22; 32]);
    assert_eq!(new.wrapped.as_bytes(), [0x0b, 0xad, 0xc0, 0xde]);
    assert_eq!(new.key_id, "0d0466b0-e727-4d9c-b35d-f84bb474a37f");
}
