//! What the public API has no words for (`/kmsd/v1/...`): health and volume anchors.

use hyper::Method;
use uuid::Uuid;

use super::{
    answer::{self, Reply},
    dispatch::parse,
};
use crate::{
    domain::{Caller, Refusal, anchor::Anchor},
    service::{Service, ServiceError},
    wire::control::{AcceptRollbackRequest, AnchorBody, AnchorReply},
};

/// Answers a path below `/kmsd/v1/`.
pub(super) async fn answer(
    service: &Service,
    caller: &Caller,
    method: &Method,
    path: &[&str],
    body: &[u8],
) -> Result<Reply, ServiceError> {
    match (method, path) {
        (&Method::GET, ["health"]) => {
            let mut health = service.health();
            if !caller.is_admin {
                // The reason may name paths.
                health.token.reason = health.token.reason.map(|_| "see kmsd's log".to_owned());
            }
            Ok(answer::ok(&health))
        }
        (&Method::GET, ["anchors", volume]) => {
            let anchor = service.anchor(caller, uuid(volume)?)?;
            Ok(answer::ok(&AnchorReply { anchor: anchor.map(print) }))
        }
        (&Method::POST, ["anchors", volume]) => {
            let offered = read(&parse(body)?)?;
            let anchor = service.advance_anchor(caller, uuid(volume)?, offered).await?;
            Ok(answer::ok(&print(anchor)))
        }
        (&Method::POST, ["anchors", volume, "accept-rollback"]) => {
            let request: AcceptRollbackRequest = parse(body)?;
            let accepted = read(&request.anchor)?;
            let anchor = service.accept_rollback(caller, uuid(volume)?, accepted, &request.reason).await?;
            Ok(answer::ok(&print(anchor)))
        }
        _ => Err(Refusal::NoSuchVerb.into()),
    }
}

fn uuid(text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text).map_err(|_| Refusal::ParameterInvalid { name: "volume", expected: "a UUID" })
}

fn read(body: &AnchorBody) -> Result<Anchor, Refusal> {
    let mut chain_mac = [0; 32];
    hex::decode_to_slice(&body.chain_mac, &mut chain_mac)
        .map_err(|_| Refusal::ParameterInvalid { name: "chain_mac", expected: "64 hexadecimal digits" })?;
    Ok(Anchor { generation: body.generation, chain_mac })
}

fn print(anchor: Anchor) -> AnchorBody {
    AnchorBody { generation: anchor.generation, chain_mac: hex::encode(anchor.chain_mac) }
}
