//! The service on fakes: rules, races, crashes.

mod access;
mod anchors;
mod audit;
mod clock;
mod crash;
mod doubtful;
mod import;
mod keys;
mod leases;
mod restored;
mod rotation;
mod schedule;
mod token;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{DatakeyRequest, Limits, NewDatakey, NewKey, Parts, Service, ServiceError, StartError};
use crate::{
    clock::manual::ManualClock,
    domain::{
        Caller, EncryptionContext, Operation, Principal, Refusal, key::Phase, reconcile::ObjectId,
        time::DAY_MS,
    },
    hsm::{
        Pool, PoolSettings, Token,
        fake::{FakeToken, Power},
    },
    store::memory::MemoryStore,
};

/// What survives the process.
struct World {
    token: FakeToken,
    store: MemoryStore,
    clock: Arc<ManualClock>,
    audit: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::on(FakeToken::new())
    }

    /// As if the token had no GCM: each key has two halves.
    fn with_halves() -> Self {
        Self::on(FakeToken::with_halves())
    }

    fn on(token: FakeToken) -> Self {
        let store = MemoryStore::new(token.identity());
        Self { token, store, clock: Arc::new(ManualClock::new()), audit: tempfile::tempdir().unwrap() }
    }

    async fn try_start(&self) -> Result<Service, StartError> {
        self.start_with(false).await
    }

    async fn start_with(&self, accept_restored: bool) -> Result<Service, StartError> {
        let settings =
            PoolSettings { sessions: 2, probe_every: Duration::from_millis(2), ..PoolSettings::default() };
        let pool = Pool::start(Arc::new(self.token.clone()), settings).unwrap();
        let limits = Limits {
            max_keys: 100,
            max_keys_each: 60,
            max_grants: 160,
            max_grants_each: 120,
            max_anchors: 8,
            max_anchors_each: 3,
            lease_seconds: 45,
        };
        Service::start(Parts {
            store: Box::new(self.store.clone()),
            audit: self.audit.path().join("audit"),
            pool,
            clock: Arc::clone(&self.clock) as _,
            limits,
            accept_restored,
        })
        .await
    }

    async fn start(&self) -> Service {
        self.try_start().await.unwrap()
    }

    /// Sees a deletion of the first user's key through, and stops. Gives the objects that are left.
    async fn destroy(&self, service: Service, key: &str) -> BTreeMap<ObjectId, usize> {
        service.schedule_deletion(&uid(1), &key.parse().unwrap(), "7").await.unwrap();
        self.clock.pass(7 * DAY_MS);
        service.tick().await;
        service.save_note().await.unwrap();
        drop(service);
        self.token.objects()
    }

    /// Puts a copy of the store back that knows a deletion of key "a" which was cancelled since, a day after it would have come.
    async fn put_back_a_cancelled_deletion(&self) {
        let service = self.start().await;
        let key = "a".parse().unwrap();
        service.create_key(&uid(1), NewKey::named("a")).await.unwrap();
        service.schedule_deletion(&uid(1), &key, "7").await.unwrap();
        let older = self.store.copy();
        service.cancel_deletion(&uid(1), &key).await.unwrap();
        service.save_note().await.unwrap();
        drop(service);
        self.clock.pass(8 * DAY_MS);
        self.store.put_back(&older);
    }

    fn set_power(&self, power: &Power) {
        self.token.set_power(power.clone());
        self.store.set_power(power.clone());
    }

    /// Token and records tell the same story: each version in service has exactly one object, and nothing else has any. What stands beside an object
    /// stands there for as long as its key lives, also while imported material is away.
    fn check_consistent(&self, service: &Service) {
        let registry = service.inner.writer.registry().read();
        let (mut expected, mut halves) = (BTreeMap::new(), std::collections::BTreeSet::new());
        for key in registry.keys() {
            assert!(matches!(key.phase, Phase::Live | Phase::Destroyed), "{key:?}");
            for version in &key.versions {
                assert!(matches!(version.phase, Phase::Live | Phase::Destroyed), "{key:?}");
                let object = ObjectId { key: key.id, version: version.version };
                if version.phase == Phase::Live {
                    expected.insert(object, 1);
                }
                if key.phase == Phase::Live {
                    halves.insert(object);
                }
            }
        }
        assert_eq!(self.token.objects(), expected);
        assert!(!self.token.has_halves() || self.token.halves() == halves, "{halves:?}");
    }
}

/// A service on a token and a store; its audit log is nobody else's.
pub(crate) async fn on_fakes(token: &FakeToken, store: &MemoryStore) -> Service {
    let audit = tempfile::tempdir().unwrap();
    let parts = Parts {
        store: Box::new(store.clone()),
        audit: audit.path().to_owned(),
        pool: Pool::start(Arc::new(token.clone()), PoolSettings::default()).unwrap(),
        clock: Arc::new(ManualClock::new()),
        limits: Limits::default(),
        // The token may know of the audit log of a service before.
        accept_restored: true,
    };
    Service::start(parts).await.unwrap()
}

fn uid(uid: u32) -> Caller {
    Caller { principal: Principal::Uid(uid), is_admin: false }
}

fn admin() -> Caller {
    Caller { principal: Principal::Uid(0), is_admin: true }
}

fn context(value: &str) -> EncryptionContext {
    [("c", value)].into_iter().collect()
}

async fn datakey(
    service: &Service,
    caller: &Caller,
    key: &str,
    value: &str,
) -> Result<NewDatakey, ServiceError> {
    let request = DatakeyRequest { key: key.parse().unwrap(), context: context(value), len: 32 };
    service.create_datakey(caller, request, Operation::CreateDatakey).await
}

async fn open(
    service: &Service,
    caller: &Caller,
    wrapped: &[u8],
    value: &str,
) -> Result<Zeroizing<Vec<u8>>, ServiceError> {
    service.decrypt_datakey(caller, None, wrapped, &context(value)).await
}

/// Until nothing is on its way to the token that was not asked for.
async fn quiet(service: &Service) {
    service.save_note().await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[track_caller]
fn refusal<T>(result: Result<T, ServiceError>) -> Refusal {
    match result {
        Err(ServiceError::Refused(refusal)) => refusal,
        Err(other) => panic!("not a refusal: {other}"),
        Ok(_) => panic!("not refused"),
    }
}
