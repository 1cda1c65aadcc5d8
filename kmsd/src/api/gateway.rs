//! Requests from the network: who asks, in which dialect, and on to the adapter that answers.
//!
//! ```text
//!   Authorization header?  --yes-->  access key --> secret --> signature over the whole request --> its caller
//!            | no
//!   client certificate?    --yes-->  the certificate's key is the caller
//!            | no
//!          refused
//! ```
//!
//! A signature that does not verify is never passed over for a certificate that would do.

use std::sync::Arc;

use hyper::{Method, Request, StatusCode, body::Incoming, http::request::Parts};
use jiff::Timestamp;
use uuid::Uuid;

use super::{
    answer::{self, Reply},
    auth::{Claim, RequestParts, SignatureError, Verified},
    aws,
    dispatch::dispatch,
    net::{BodyFault, Handler, Limits, Peer, discard_body, read_body},
};
use crate::{
    domain::{Caller, Principal, Refusal},
    service::{Credential, OpenConnection, Service, ServiceError, Stranger, Way},
};

/// Answers what comes over TLS.
pub(crate) struct Gateway {
    service: Service,
    /// Principals that may do everything.
    admins: Vec<Principal>,
    limits: Limits,
}

/// Why a request is not let in.
#[derive(Debug)]
enum Closed {
    Body(BodyFault),
    Signature(SignatureError),
    UnknownAccessKey,
    Service(ServiceError),
}

/// In whose shape errors are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Aws,
    Huawei,
}

impl Dialect {
    fn of(head: &Parts) -> Self {
        // Only requests of that protocol go to the root.
        let is_aws =
            head.headers.contains_key(aws::TARGET) || (head.method == Method::POST && head.uri.path() == "/");
        if is_aws { Self::Aws } else { Self::Huawei }
    }
}

/// A request whose sender is known.
struct Admitted {
    caller: Caller,
    region: String,
    body: hyper::body::Bytes,
}

impl Gateway {
    pub(crate) fn new(service: Service, admins: Vec<Principal>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { service, admins, limits })
    }

    async fn admit(&self, peer: &Peer, head: &Parts, body: Incoming) -> Result<Admitted, Closed> {
        let parts = |body| RequestParts {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            headers: &head.headers,
            body,
        };
        // Before the body is looked at: what strangers send is thrown away.
        let claim = match (Claim::parse(&parts(&[])), peer.certificate) {
            (Ok(claim), _) => claim,
            (Err(SignatureError::Missing), Some(digest)) => {
                let body = read_body(body, &self.limits).await.map_err(Closed::Body)?;
                let principal = Principal::Certificate(digest);
                let caller = Caller { is_admin: self.admins.contains(&principal), principal };
                return Ok(Admitted { caller, region: aws::DEFAULT_REGION.to_owned(), body });
            }
            (Err(error), _) => {
                discard_body(body, &self.limits).await;
                return Err(Closed::Signature(error));
            }
        };
        let known = match self.service.credential(claim.access_key()).await {
            Ok(known) => known.ok_or(Closed::UnknownAccessKey),
            Err(error) => Err(Closed::Service(error)),
        };
        let credential = match known {
            Ok(credential) => credential,
            Err(closed) => {
                discard_body(body, &self.limits).await;
                return Err(closed);
            }
        };
        let region = claim.region().unwrap_or(aws::DEFAULT_REGION).to_owned();
        let body = read_body(body, &self.limits).await.map_err(Closed::Body)?;
        let verified = claim.verify(&parts(&body), &credential.secret, Timestamp::now());
        let verified = verified.map_err(Closed::Signature)?;
        let caller = self.caller(&verified, &credential);
        peer.prove(&caller.principal);
        Ok(Admitted { caller, region, body })
    }

    fn caller(&self, verified: &Verified, credential: &Credential) -> Caller {
        let principal = Principal::AccessKey(verified.access_key().to_string());
        Caller { is_admin: credential.is_admin || self.admins.contains(&principal), principal }
    }

    async fn answer(&self, peer: &Peer, head: &Parts, body: Incoming) -> Reply {
        let dialect = Dialect::of(head);
        let Admitted { caller, region, body } = match self.admit(peer, head, body).await {
            Ok(admitted) => admitted,
            Err(closed) => {
                self.service.count_not_admitted();
                if let Some(stranger) = closed.stranger() {
                    self.service.record_stranger(stranger, &peer.address.to_string()).await;
                }
                tracing::info!(address = %peer.address, path = head.uri.path(), reason = %closed.reason(), "not let in");
                return closed.answer(dialect);
            }
        };
        let within = self.limits.request;
        if dialect == Dialect::Huawei {
            return dispatch(&self.service, &caller, &head.method, &head.uri, body, within).await;
        }
        let target =
            head.headers.get(aws::TARGET).and_then(|target| target.to_str().ok()).unwrap_or_default();
        aws::respond(&self.service, &caller, &region, target, &body, within).await
    }
}

impl Handler for Gateway {
    type Open = OpenConnection;

    fn opened(&self) -> OpenConnection {
        self.service.count_connection(Way::Network)
    }

    async fn handle(&self, peer: &Peer, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let mut reply = self.answer(peer, &head, body).await;
        self.service.count_response(Way::Network, reply.status().as_u16());
        // Both clouds' clients show it in their errors.
        let id = Uuid::new_v4().to_string().parse().expect("hexadecimal digits and hyphens");
        reply.headers_mut().insert("x-request-id", hyper::http::HeaderValue::clone(&id));
        reply.headers_mut().insert("x-amzn-requestid", id);
        reply
    }
}

impl Closed {
    fn reason(&self) -> String {
        match self {
            Self::Body(fault) => fault.to_string(),
            Self::Signature(error) => error.to_string(),
            Self::UnknownAccessKey => "unknown access key".to_owned(),
            Self::Service(error) => error.to_string(),
        }
    }

    /// Who sends a body that is too long has shown nothing either, but may be anybody.
    const fn stranger(&self) -> Option<Stranger> {
        match self {
            Self::Signature(_) => Some(Stranger::Signature),
            Self::UnknownAccessKey => Some(Stranger::AccessKey),
            Self::Body(_) | Self::Service(_) => None,
        }
    }

    fn answer(self, dialect: Dialect) -> Reply {
        if dialect == Dialect::Aws {
            return aws::refuse(
                None,
                &match self {
                    Self::Body(fault) => fault.into(),
                    Self::Signature(error) => error.into(),
                    Self::UnknownAccessKey => aws::Fault::UnknownAccessKey,
                    Self::Service(error) => error.into(),
                },
            );
        }
        match self {
            Self::Body(BodyFault::TooLong { limit }) => {
                answer::error(&NOBODY, &Refusal::BodyTooLong { limit }.into())
            }
            Self::Body(BodyFault::TooSlow | BodyFault::Broken) => answer::error(
                &NOBODY,
                &Refusal::BodyInvalid { category: "it ends too early", line: 0, column: 0 }.into(),
            ),
            Self::Service(error) => answer::error(&NOBODY, &error),
            Self::UnknownAccessKey => unauthorised("the access key does not exist"),
            Self::Signature(error) => unauthorised(&format!("verify aksk signature fail: {error}")),
        }
    }
}

/// Somebody who has shown nothing, and is told nothing that only administrators should read.
static NOBODY: Caller = Caller { principal: Principal::AccessKey(String::new()), is_admin: false };

/// As the published service's gateway says it.
fn unauthorised(why: &str) -> Reply {
    answer::refused_with(
        StatusCode::UNAUTHORIZED,
        "APIGW.0301",
        format!("Incorrect IAM authentication information: {why}"),
    )
}
