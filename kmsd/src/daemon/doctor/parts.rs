//! Module, token, store, audit log, clock.

use std::path::Path;

use super::Finding;
use crate::{
    client::Client,
    clock::{Clock, SystemClock},
    daemon::{Config, DaemonError, offline},
    domain::{envelope::Mechanism, integrity::IntegrityKey, time::Reading},
    hsm::{
        HsmError, Token, TokenIdentity,
        pkcs11::{Pkcs11Settings, Select, survey},
    },
    service::store_purpose,
    store::{SqliteStore, Store, StoreError, sqlite},
    wire::control::Health,
};

/// 2025-01-01: a wall clock that is before it was never set.
const EARLIEST: i64 = 1_735_689_600_000;

const TOKEN_REMEDY: &str =
    "is it plugged in, is [token] in kmsd.toml right, and its environment, such as SOFTHSM2_CONF?";
const STORE_REMEDY: &str = "restore a backup (`kmsd restore`), and find out what happened";

pub(super) fn check_parts(
    home: &Path,
    config: &Config,
    serving: Option<&Health>,
    client: &Client,
    findings: &mut Vec<Finding>,
) {
    let facts = match sqlite::facts(&home.join(Config::STORE)) {
        Ok(facts) => facts,
        Err(error) => {
            findings.push(Finding::failed("store", error.to_string(), STORE_REMEDY));
            return;
        }
    };
    let is_there = check_module(home, config, &facts.token, findings);
    match serving {
        Some(health) => ask(health, client, findings),
        None if is_there => {
            if let Err(finding) = open(home, config, facts.token, findings) {
                findings.push(finding);
            }
        }
        None => {}
    }
    findings.push(clock(serving));
}

/// Module, token and mechanisms, without a login.
fn check_module(home: &Path, config: &Config, expected: &TokenIdentity, findings: &mut Vec<Finding>) -> bool {
    // A place for the PIN that does not exist has been reported; looking needs none.
    let Ok(pin) = config.pin(home) else { return false };
    let settings = Pkcs11Settings {
        module: config.token.module.clone(),
        select: Select::Label(config.token.label.clone()),
        expected: Some(expected.clone()),
        pin,
    };
    match survey(&settings) {
        Ok(found) => {
            findings.push(Finding::ok(
                "module",
                format!("{} ({})", config.token.module.display(), found.library),
            ));
            findings.push(match found.pin_trouble {
                None => Finding::ok("token", found.token.to_string()),
                Some(trouble) => Finding::warning(
                    "token",
                    format!("{}: {trouble}", found.token),
                    "see that the PIN file is right before kmsd is started again",
                ),
            });
            findings.push(mechanisms(found.sealing, found.imports, &found.mechanisms));
            true
        }
        Err(error @ HsmError::Module { .. }) => {
            findings.push(Finding::failed("module", error.to_string(), "install the module's package"));
            false
        }
        Err(error) => {
            findings.push(Finding::failed("token", error.to_string(), TOKEN_REMEDY));
            false
        }
    }
}

fn mechanisms(sealing: Result<Mechanism, HsmError>, imports: bool, found: &[String]) -> Finding {
    let list = found.join(" ");
    let external = if imports {
        "keys of external origin can be imported"
    } else {
        "keys of external origin cannot be imported, for want of RSA-OAEP that unwraps"
    };
    match sealing {
        Ok(Mechanism::AesGcm) => {
            Finding::ok("mechanisms", format!("it wraps by AES-GCM; {external}; it has {list}"))
        }
        Ok(Mechanism::AesCbcHmac) => Finding::ok(
            "mechanisms",
            format!("it wraps by AES-CBC and HMAC-SHA-256; {external}; it has {list}"),
        ),
        Err(error) => Finding::failed("mechanisms", format!("{error}; it has {list}"), "use another token"),
    }
}

/// While kmsd serves, it knows.
fn ask(health: &Health, client: &Client, findings: &mut Vec<Finding>) {
    findings.push(match &health.token {
        token if token.available => Finding::ok("login", format!("kmsd is logged in to {:?}", token.label)),
        token => Finding::failed(
            "login",
            token.reason.clone().unwrap_or_else(|| "the token is away".to_owned()),
            TOKEN_REMEDY,
        ),
    });
    findings.push(if health.store.available {
        Finding::ok("store", format!("{} keys", health.store.keys))
    } else {
        Finding::failed("store", "changes cannot be recorded", "look at kmsd's log, and at the disk's space")
    });
    findings.push(match client.audit_verify() {
        _ if !health.audit.writable => Finding::failed(
            "audit",
            "records cannot be written, so every operation is refused",
            "make room on the home's disk; after a failed sync, start kmsd again",
        ),
        Ok(verdict) => match verdict.fault {
            None => Finding::ok("audit", format!("{} records, intact", verdict.records)),
            Some(fault) => tampered(&fault),
        },
        Err(error) => Finding::warning("audit", error.to_string(), "ask as root or as kmsd's own user"),
    });
}

/// While it does not, everything is opened here as a start would.
fn open(
    home: &Path,
    config: &Config,
    expected: TokenIdentity,
    findings: &mut Vec<Finding>,
) -> Result<(), Finding> {
    let login = |error: DaemonError| Finding::failed("login", error.to_string(), "see `pin` and `token`");
    let token = offline::connect(home, config, expected).map_err(login)?;
    let mut session = token.open().map_err(|e| login(e.into()))?;
    let note = offline::remembered(session.as_mut()).map_err(login)?;
    findings.push(Finding::ok("login", "the token takes the PIN"));

    let failed = |error: StoreError| Finding::failed("store", error.to_string(), STORE_REMEDY);
    match SqliteStore::open(&home.join(Config::STORE)) {
        // Somebody serves, though not at this socket.
        Err(error @ StoreError::InUse { .. }) => {
            findings.push(Finding::warning("store", error.to_string(), "stop the other kmsd"));
        }
        Err(error) => return Err(failed(error)),
        Ok(mut store) => {
            let number = store.key_number().map_err(failed)?;
            match session.derive(&store_purpose(number), false) {
                Ok(key) => {
                    store.unlock(IntegrityKey::new(*key));
                    let contents = store.load().map_err(failed)?;
                    findings.push(if contents.epoch < note.epoch || number < note.store_key {
                        Finding::failed(
                            "store",
                            format!(
                                "it is an older copy (its newest change is {}, the token knows of {})",
                                contents.epoch, note.epoch
                            ),
                            "put the newer one back, or accept it once: `kmsd serve --accept-restored`",
                        )
                    } else {
                        Finding::ok(
                            "store",
                            format!("{} keys, every row as kmsd wrote it", contents.registry.living()),
                        )
                    });
                }
                // Before the first start there is nothing to guard.
                Err(HsmError::NoIntegrityKey) if note.epoch == 0 => {
                    findings.push(Finding::ok("store", "new: kmsd has not been started on it yet"));
                    return Ok(());
                }
                Err(error) => {
                    return Err(Finding::failed(
                        "store",
                        error.to_string(),
                        "restore the token from its backup",
                    ));
                }
            }
        }
    }
    let log = home.join(Config::AUDIT);
    if !log.exists() && note.audit.seq == 0 {
        return Ok(());
    }
    findings.push(match offline::check_audit(session.as_mut(), &[&log], note) {
        Ok(verdict) => match verdict.fault {
            None => Finding::ok("audit", format!("{} records, intact", verdict.records)),
            Some(fault) => tampered(&fault.to_string()),
        },
        Err(error) => {
            Finding::failed("audit", error.to_string(), "is the directory audit/ whole and readable?")
        }
    });
    Ok(())
}

fn tampered(fault: &str) -> Finding {
    Finding::failed(
        "audit",
        fault,
        "keep the log as it is, compare it with copies (`ecsctl audit verify --dir`), and find out who did it",
    )
}

fn clock(serving: Option<&Health>) -> Finding {
    let reading = match SystemClock::new() {
        Ok(clock) => clock.read(),
        Err(error) => {
            return Finding::failed(
                "clock",
                format!("/proc/sys/kernel/random/boot_id: {error}"),
                "let kmsd see /proc/sys (no ProcSubset=pid in its unit)",
            );
        }
    };
    let Reading { wall, .. } = reading;
    let shown =
        jiff::Timestamp::from_millisecond(wall.0).map_or_else(|_| wall.0.to_string(), |t| t.to_string());
    if wall.0 < EARLIEST {
        return Finding::warning("clock", format!("it is {shown}: never set"), "set the clock");
    }
    if serving.is_some_and(|health| health.scheduler.clock_distrusted) {
        return Finding::warning(
            "clock",
            format!("it is {shown}, which is ahead of the time that went by"),
            "set the clock; if it is right after a reboot, it is believed after a day, and due deletions wait until then",
        );
    }
    Finding::ok("clock", shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the adapter refuses is refused here in its words.
    #[test]
    fn a_token_that_cannot_seal_has_failed() {
        let lacks = HsmError::Lacks { feature: "something" };
        let finding = mechanisms(Err(lacks), true, &["CKM_AES_CBC_PAD".to_owned()]);
        assert_eq!(finding.health, super::super::Health::Failed);
        assert!(
            finding.found.contains("something") && finding.found.contains("CKM_AES_CBC_PAD"),
            "{}",
            finding.found
        );
        for (imports, said) in [(true, "can be imported"), (false, "cannot be imported")] {
            for sealing in [Mechanism::AesGcm, Mechanism::AesCbcHmac] {
                let finding = mechanisms(Ok(sealing), imports, &[]);
                assert_eq!(finding.health, super::super::Health::Ok);
                assert!(finding.found.contains(said), "{}", finding.found);
            }
        }
    }
}
