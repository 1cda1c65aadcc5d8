//! Material from elsewhere (K6): offered a key to wrap it with, unwrapped by the token, checked, and removed again.

use super::{
    Service, ServiceError,
    audit::Trail,
    flight::{Flight, TURN, Work},
};
use crate::{
    domain::{
        Caller, KeyId, KeyRef, Operation, Refusal,
        import::{self, Arrival, OaepHash, PairId, RsaBits, TICKET_HOURS, Ticket},
        key::{KeyRecord, Phase, SharedKey},
        reconcile::ObjectId,
        registry::Change,
        time::{TrustedTime, WallTime},
    },
    hsm::HsmError,
};

/// Name of the operation that opens an offer.
const PARAMETERS: &str = "get-parameters-for-import";

/// What a caller wraps material with.
#[derive(Clone, Debug)]
pub struct ImportParameters {
    /// The key that the material is for.
    pub key: KeyId,
    /// To be given back with the material.
    pub token: Vec<u8>,
    /// Public half of an RSA pair, as SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
    /// Until when both are good.
    pub expires: WallTime,
}

impl Service {
    /// Makes an RSA pair in the token, for the material of a key that waits for it. An earlier offer for that key is closed.
    ///
    /// # Errors
    /// If a rule forbids it, or the token cannot do what is asked for.
    pub async fn import_parameters(
        &self,
        caller: &Caller,
        key: &KeyRef,
        hash: OaepHash,
        bits: RsaBits,
    ) -> Result<ImportParameters, ServiceError> {
        let (service, caller, key) = (self.clone(), caller.clone(), key.clone());
        self.to_the_end(async move {
            let mut trail = Trail::new(&caller, PARAMETERS).target(&key).note(hash.name());
            let made = service.open_offer(&mut trail, &caller, &key, hash, bits).await;
            service.record(trail, made).await
        })
        .await
    }

    async fn open_offer(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        key: &KeyRef,
        hash: OaepHash,
        bits: RsaBits,
    ) -> Result<ImportParameters, ServiceError> {
        let operation = Operation::ImportMaterial;
        let permit = self.asking(caller, key, operation)()?;
        let (id, name) = (permit.key().id, permit.key().name());
        // One offer of a key at a time: making its pair takes the token long.
        let flight = Flight::turn(self, id, Work::Material, TURN).await;
        let _flight = flight.map_err(|other| other.refusal(name))?;
        let key = &KeyRef::Id(id);
        let before = self.asking(caller, key, operation)()?.key().import.ticket.clone();
        let mut random = [0; PairId::LEN];
        getrandom::fill(&mut random)?;
        let pair = PairId::new(random);
        let clock = self.observe_clock();
        let expires = TrustedTime(clock.now().0.saturating_add(TICKET_HOURS * 3_600_000));
        self.save_clock().await?;
        let ticket = Ticket { pair, hash, expires };
        let decide = move |permit: &_| Ok(import::ticketed(permit, ticket.clone()));
        let next = self.decide_and_commit(trail, self.asking(caller, key, operation), decide).await?;
        if let Some(before) = before {
            self.drop_pair(before.pair).await;
        }
        let made = self.inner.pool.change(move |session| session.make_pair(pair, bits, hash)).await;
        let public_key = made.map_err(|error| match error {
            HsmError::OaepHash => Refusal::ParameterInvalid {
                name: "wrapping_algorithm",
                expected: "RSAES_OAEP_SHA_1: the token has no other",
            }
            .into(),
            other => ServiceError::from(other),
        })?;
        let token = pair.import_token();
        Ok(ImportParameters { key: next.id, token, public_key, expires: clock.wall_of(expires) })
    }

    /// Has the token unwrap material, and puts the key into service.
    ///
    /// # Errors
    /// If a rule forbids it, the offer is not the open one, the material does not unwrap to 32 bytes, or it is other material than before.
    pub async fn import_material(
        &self,
        caller: &Caller,
        key: &KeyRef,
        token: &[u8],
        wrapped: Vec<u8>,
        expires: Option<WallTime>,
    ) -> Result<KeyId, ServiceError> {
        let (service, caller, key, token) = (self.clone(), caller.clone(), key.clone(), token.to_vec());
        self.to_the_end(async move {
            let mut trail = Trail::of(&caller, Operation::ImportMaterial, &key);
            let done = service.take_material(&mut trail, &caller, &key, token, wrapped, expires).await;
            let done = service.record(trail, done).await;
            service.note_soon();
            done
        })
        .await
    }

    async fn take_material(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        key: &KeyRef,
        token: Vec<u8>,
        wrapped: Vec<u8>,
        expires: Option<WallTime>,
    ) -> Result<KeyId, ServiceError> {
        let operation = Operation::ImportMaterial;
        let permit = self.asking(caller, key, operation)()?;
        let (id, name) = (permit.key().id, permit.key().name());
        let clock = self.observe_clock();
        // On the trusted axis, so that a clock that leaps does not end it early.
        let expires = match expires {
            None => None,
            Some(at) if at > clock.wall() => {
                Some(TrustedTime(clock.now().0.saturating_add(at.0.saturating_sub(clock.wall().0))))
            }
            Some(_) => {
                let expected = "a time to come";
                return Err(Refusal::ParameterInvalid { name: "expiration_time", expected }.into());
            }
        };
        self.save_clock().await?;
        // Before the intent is seen: the scheduler clears away what nobody is at work on.
        let flight = Flight::turn(self, id, Work::Material, TURN).await;
        let _flight = flight.map_err(|other| other.refusal(name))?;
        let (trusted, now) = (clock.now(), clock.wall());
        let decide = move |permit: &_| import::importing(permit, &token, trusted, now);
        let permit = self.asking(caller, &KeyRef::Id(id), operation);
        let arriving = self.decide_and_commit(trail, permit, decide).await?;
        let done = self.unwrap_and_confirm(&arriving, wrapped, expires).await;
        if let Err(error) = &done {
            tracing::info!(key = %id, %error, "material is not taken");
            if let Err(error) = self.settle(&arriving).await {
                tracing::warn!(key = %id, %error, "material that was not taken cannot be cleared away yet");
            }
        }
        done.map(|()| id)
    }

    async fn unwrap_and_confirm(
        &self,
        arriving: &SharedKey,
        wrapped: Vec<u8>,
        expires: Option<TrustedTime>,
    ) -> Result<(), ServiceError> {
        let name = || arriving.name();
        let ticket = arriving.import.ticket.clone();
        let Ticket { pair, hash, .. } = ticket.ok_or_else(|| Refusal::ImportTokenInvalid { key: name() })?;
        let object = ObjectId { key: arriving.id, version: import::VERSION };
        let arrival = arriving.arrival();
        let unwrapped = self.inner.pool.change(move |session| {
            session.import(object, pair, hash, &wrapped, arrival)?;
            session.check_value(object)
        });
        let check = unwrapped.await.map_err(|error| match error {
            HsmError::DoesNotOpen => Refusal::MaterialInvalid { key: name() }.into(),
            HsmError::NoPair => Refusal::ImportTokenInvalid { key: name() }.into(),
            other => ServiceError::from(other),
        })?;
        let next = arriving.imported(check, expires)?;
        self.inner.writer.commit(Change::PutKey(next)).await?;
        // The pair has done its work. What is left of it if this fails goes at the next start.
        self.drop_pair(pair).await;
        Ok(())
    }

    /// Destroys imported material; the key waits for the same material again.
    ///
    /// # Errors
    /// If a rule forbids it, the key's material was made in the token, or the token fails.
    pub async fn delete_material(&self, caller: &Caller, key: &KeyRef) -> Result<KeyId, ServiceError> {
        let (service, caller, key) = (self.clone(), caller.clone(), key.clone());
        self.to_the_end(async move {
            let mut trail = Trail::of(&caller, Operation::DeleteMaterial, &key);
            let done = service.give_material_up(&mut trail, &caller, &key).await;
            let done = service.record(trail, done).await;
            service.note_soon();
            done
        })
        .await
    }

    async fn give_material_up(
        &self,
        trail: &mut Trail,
        caller: &Caller,
        key: &KeyRef,
    ) -> Result<KeyId, ServiceError> {
        let operation = Operation::DeleteMaterial;
        let permit = self.asking(caller, key, operation)()?;
        let (id, name) = (permit.key().id, permit.key().name());
        // Before the intent is seen: the scheduler finishes what nobody is at work on.
        let flight = Flight::turn(self, id, Work::Material, TURN).await;
        let _flight = flight.map_err(|other| other.refusal(name))?;
        let leaving = self
            .decide_and_commit(trail, self.asking(caller, &KeyRef::Id(id), operation), import::removing)
            .await?;
        self.settle(&leaving).await?;
        Ok(id)
    }

    /// What the scheduler does for a key of external origin: material whose day has come, what was cut short, offers that have ended.
    pub(super) async fn tend_material(&self, key: &SharedKey) -> Result<(), ServiceError> {
        let now = self.trusted_now();
        if key.is_unsettled() {
            return self.settle(key).await;
        }
        if key.is_material_due(now) {
            let mut trail =
                Trail::of(&Caller::SYSTEM, Operation::DeleteMaterial, &key.alias).note("it expired");
            trail.key(key.id, key.current());
            self.intend(&trail).await?;
            let leaving = key.leaving();
            let done = match self.inner.writer.commit(Change::PutKey(leaving.clone())).await {
                Ok(()) => self.settle(&leaving).await,
                Err(error) => Err(error.into()),
            };
            let done = self.record(trail, done).await;
            self.note_soon();
            return done;
        }
        if let Some(ticket) = key.import.ticket.as_ref().filter(|_| key.is_ticket_due(now)) {
            let pair = ticket.pair;
            self.inner.pool.change(move |session| session.drop_pair(pair)).await?;
            self.inner.writer.commit(Change::PutKey(key.without_ticket())).await?;
        }
        Ok(())
    }

    /// Has the token destroy what is on its way in or out, and records that it has. Of a key that was in service, what the token made beside the material
    /// stays: without it the same material would not open what it wrapped.
    async fn settle(&self, key: &KeyRecord) -> Result<(), ServiceError> {
        // A commit that failed may be in the store all the same. One that succeeds now shows that the material is in nobody's service.
        let key = key.changed(|_| ());
        self.inner.writer.commit(Change::PutKey(key.clone())).await?;
        let between = key.versions.iter().filter(|v| matches!(v.phase, Phase::Creating | Phase::Destroying));
        let objects: Vec<_> = between.map(|v| ObjectId { key: key.id, version: v.version }).collect();
        let arrival = key.arrival();
        let destroyed = self.inner.pool.change(move |session| {
            objects.iter().try_for_each(|object| match arrival {
                Arrival::First => session.destroy(*object),
                Arrival::Again => session.remove_material(*object),
            })
        });
        destroyed.await?;
        Ok(self.inner.writer.commit(Change::PutKey(key.settled())).await?)
    }

    /// A pair that is left behind does no harm: it is dropped at the next start.
    async fn drop_pair(&self, pair: PairId) {
        if let Err(error) = self.inner.pool.change(move |session| session.drop_pair(pair)).await {
            tracing::warn!(%error, "an RSA pair of an import cannot be cleared away yet");
        }
    }

    /// Drops the pairs of offers that are not open any more.
    pub(super) async fn drop_old_pairs(&self) -> Result<(), ServiceError> {
        let found = self.inner.pool.call(|session| session.pairs()).await?;
        let old: Vec<_> = {
            let registry = self.inner.writer.registry().read();
            let open = |pair: &PairId| {
                registry
                    .keys()
                    .any(|key| key.import.ticket.as_ref().is_some_and(|ticket| ticket.pair == *pair))
            };
            found.into_iter().filter(|pair| !open(pair)).collect()
        };
        for pair in old {
            self.inner.pool.change(move |session| session.drop_pair(pair)).await?;
        }
        Ok(())
    }
}
