//! `kmsd serve`.

use std::{path::Path, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_rustls::rustls::ServerConfig;

use super::{Config, DaemonError, ListenConfig, init::check_home, offline, process::ReadyFd};
use crate::{
    api::{gateway::Gateway, net, unix},
    domain::Principal,
    service::Service,
    store::SqliteStore,
};

/// How often something is done unasked.
#[derive(Clone, Copy)]
struct Rhythm {
    /// A sign of life.
    sign: Duration,
    /// A look for due work.
    tick: Duration,
    /// A note to the token.
    note: Duration,
    /// A record of the clock.
    clock: Duration,
}

const RHYTHM: Rhythm = Rhythm {
    sign: Duration::from_secs(1),
    tick: Duration::from_secs(1),
    note: Duration::from_secs(10),
    clock: Duration::from_secs(600),
};

/// How long what still runs at the end is waited for.
const STOP: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// If anything that is needed is missing; nothing is changed then.
pub fn run(
    home: &Path,
    config: &Config,
    ready: Option<ReadyFd>,
    accept_restored: bool,
) -> Result<(), DaemonError> {
    check_home(home)?;
    // The store first: its lock keeps a second daemon from the token.
    let store = SqliteStore::open(&home.join(Config::STORE))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("api").build()?;
    runtime.block_on(async {
        let service = offline::start(home, config, store, accept_restored).await?;
        serve(home, config, service, ready).await
    })?;
    // Ends the threads of store and pool: what was taken on is written, the token is logged out of. A check of a long audit log is not waited for to its end.
    runtime.shutdown_timeout(STOP);
    tracing::info!("stopped");
    Ok(())
}

async fn serve(
    home: &Path,
    config: &Config,
    service: Service,
    ready: Option<ReadyFd>,
) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listener = unix::open(&config.socket, config.socket_mode()?)?;
    let (stop, stopped) = watch::channel(false);

    let mut admins = config.access.admins.clone();
    admins.extend([Principal::Uid(0), Principal::Uid(rustix::process::geteuid().as_raw())]);
    let limits = net::Limits {
        connections: config.limits.connections,
        request: Duration::from_secs(config.limits.request_seconds),
        ..net::Limits::default()
    };
    let tcp = match &config.listen {
        Some(listen) => Some(open_tcp(home, listen).await?),
        None => None,
    };
    let access = unix::Access { admins: admins.clone(), limits };
    let serving = tokio::spawn(unix::serve(listener, service.clone(), access, stopped.clone()));
    let mut tasks = vec![serving];
    let mut certificates = None;
    if let Some((listener, tls)) = tcp {
        let address = listener.local_addr()?;
        let gateway = Gateway::new(service.clone(), admins, limits);
        let (renewed, used) = watch::channel(tls);
        certificates = Some(renewed);
        tasks.push(tokio::spawn(net::serve(listener, used, limits, gateway, stopped.clone())));
        tracing::info!(%address, "listening with TLS");
    }
    tasks.extend(work(&service, &stopped, RHYTHM, || notify(&[NotifyState::Watchdog])));

    tracing::info!(socket = %config.socket.display(), token = config.token.label, "ready");
    if let Some(ready) = ready
        && let Err(error) = ready.ready()
    {
        tracing::warn!(%error, "nobody listens on the ready descriptor");
    }
    notify(&[NotifyState::Ready]);

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if let (Some(listen), Some(certificates)) = (&config.listen, &certificates) {
                    reload(home, listen, certificates);
                }
            }
        }
    }
    tracing::info!("stopping");
    notify(&[NotifyState::Stopping]);
    // Nobody is left to receive it only if all tasks have ended, which the joins below show.
    let _ = stop.send(true);
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task failed");
        }
    }
    if let Err(error) = std::fs::remove_file(&config.socket) {
        tracing::warn!(%error, "cannot remove the socket");
    }
    service.record_strangers().await;
    if let Err(error) = service.save_clock().await {
        tracing::warn!(%error, "cannot record the clock");
    }
    if let Err(error) = service.save_note().await {
        tracing::warn!(%error, "the token cannot be told where store and audit log stand");
    }
    Ok(())
}

/// Takes up new certificates; if they cannot be used, the old ones serve on.
fn reload(home: &Path, listen: &ListenConfig, certificates: &watch::Sender<Arc<ServerConfig>>) {
    match tls_config(home, listen) {
        Ok(renewed) => {
            certificates.send_replace(Arc::new(renewed));
            tracing::info!("new connections are shown the certificates as they are now");
        }
        Err(error) => tracing::error!(%error, "the certificates cannot be used; the old ones serve on"),
    }
}

fn tls_config(home: &Path, listen: &ListenConfig) -> Result<ServerConfig, net::TlsConfigError> {
    let client_ca = listen.client_ca.as_ref().map(|path| home.join(path));
    net::server_config(&home.join(&listen.certificate), &home.join(&listen.key), client_ca.as_deref())
}

/// Everything that could be wrong with it is found before anybody is told that the service is ready.
async fn open_tcp(
    home: &Path,
    listen: &ListenConfig,
) -> Result<(TcpListener, Arc<ServerConfig>), DaemonError> {
    let tls = tls_config(home, listen)?;
    let address = listen.address;
    let listener =
        TcpListener::bind(address).await.map_err(|source| DaemonError::Listen { address, source })?;
    Ok((listener, Arc::new(tls)))
}

/// What is done unasked. The watchdog hears of the runtime's life, by `sign`: it barks when that hangs, and not because the token takes long for what it
/// was asked before.
fn work(
    service: &Service,
    stopped: &watch::Receiver<bool>,
    rhythm: Rhythm,
    sign: impl Fn() + Send + 'static,
) -> [JoinHandle<()>; 4] {
    let alive = service.clone();
    let signs = every(rhythm.sign, stopped, move || {
        alive.at_work();
        sign();
        std::future::ready(())
    });
    let ticking = service.clone();
    let ticks = every(rhythm.tick, stopped, move || {
        let service = ticking.clone();
        async move { service.tick().await }
    });
    let noting = service.clone();
    let notes = every(rhythm.note, stopped, move || {
        let service = noting.clone();
        async move {
            if let Err(error) = service.save_note().await {
                tracing::debug!(%error, "the token cannot be told yet");
            }
        }
    });
    let recording = service.clone();
    let clock = every(rhythm.clock, stopped, move || {
        let service = recording.clone();
        async move {
            if let Err(error) = service.save_clock().await {
                tracing::warn!(%error, "cannot record the clock");
            }
        }
    });
    [signs, ticks, notes, clock]
}

/// Does it again and again, one at a time.
fn every<F: Future<Output = ()> + Send + 'static>(
    period: Duration,
    stopped: &watch::Receiver<bool>,
    job: impl Fn() -> F + Send + 'static,
) -> JoinHandle<()> {
    let mut stopped = stopped.clone();
    tokio::spawn(async move {
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            job().await;
        }
    })
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell, which is no error.
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        domain::{
            Caller, KeyRef,
            import::{OaepHash, RsaBits},
            state::Origin,
        },
        hsm::{Token, fake::FakeToken},
        service::{NewKey, tests::on_fakes},
        store::memory::MemoryStore,
    };

    /// However long the token makes somebody's key, and notes and due work wait for that: the watchdog hears of kmsd.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_key_that_takes_long_keeps_no_sign_of_life_back() {
        let token = FakeToken::new();
        let service = on_fakes(&token, &MemoryStore::new(token.identity())).await;
        let new = NewKey { origin: Origin::External, ..NewKey::named("a") };
        let key = KeyRef::Id(service.create_key(&Caller::SYSTEM, new).await.unwrap().key.id);
        token.slow("make pair", Duration::from_secs(2));
        let offering = {
            let service = service.clone();
            tokio::spawn(async move {
                let hash = OaepHash::Sha256;
                service.import_parameters(&Caller::SYSTEM, &key, hash, RsaBits::Rsa2048).await.unwrap();
            })
        };
        while token.slow_at_once() == 0 {
            tokio::task::yield_now().await;
        }
        let often = Duration::from_millis(1);
        let rhythm = Rhythm { sign: often, tick: often, note: often, clock: often };
        let (stop, stopped) = watch::channel(false);
        let (sign, mut signs) = mpsc::unbounded_channel();
        let tasks = work(&service, &stopped, rhythm, move || sign.send(()).unwrap_or_default());
        for _ in 0..100 {
            signs.recv().await.unwrap();
        }
        assert!(!offering.is_finished(), "the signs waited for it");
        stop.send(true).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        offering.await.unwrap();
    }
}
