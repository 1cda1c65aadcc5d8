//! `kmsd doctor`: what is wrong with an installation, and what to do. It looks, and changes no key and no record.
//!
//! While kmsd serves, it is asked about what it holds: token, store, audit log. While it does not, they are opened here as a start opens them: with a
//! login, and with the schema brought up to date.

mod files;
mod parts;

use std::path::Path;

use serde::Serialize;

use self::{files::check_files, parts::check_parts};
use super::{Config, DaemonError, init::check_home};
use crate::client::Client;

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Ok,
    /// It works, but should be seen to.
    Warning,
    /// kmsd does not start with it, or does not do all that it should.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word.
    pub check: &'static str,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do, if anything is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, health: Health::Ok, found: found.into(), remedy: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, health: Health::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn failed(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, health: Health::Failed, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything, in the order in which a start of kmsd needs it. The module's environment has been set.
#[must_use]
pub fn doctor(home: &Path) -> Vec<Finding> {
    // Before anything that is configured there is looked at, and the module loaded.
    if let Err(error @ DaemonError::HomeForeign { .. }) = check_home(home) {
        return vec![Finding::failed("home", error.to_string(), "run `kmsd doctor` as kmsd's own user")];
    }
    let config = match Config::load(home) {
        Ok(config) => config,
        Err(error) => {
            let remedy = "make an installation with `kmsd init`, or set KMSD_HOME to one; mend kmsd.toml";
            return vec![Finding::failed("config", error.to_string(), remedy)];
        }
    };
    let mut findings = vec![Finding::ok("config", home.join(Config::FILE).display().to_string())];
    check_files(home, &config, &mut findings);
    let client = Client::new(&config.socket);
    let serving = client.health();
    findings.push(match &serving {
        Ok(health) if health.status == "ok" => {
            Finding::ok("service", format!("kmsd {} serves at {}", health.version, config.socket.display()))
        }
        Ok(health) => Finding::failed(
            "service",
            format!("kmsd {} serves, but is {}", health.version, health.status),
            "see what follows, and kmsd's log",
        ),
        Err(error) if config.socket.exists() => Finding::warning(
            "service",
            error.to_string(),
            "start it (`systemctl start kmsd`), or look why it does not answer (`journalctl -u kmsd`)",
        ),
        Err(_) => Finding::warning("service", "kmsd does not run", "start it: `systemctl start kmsd`"),
    });
    check_parts(home, &config, serving.ok().as_ref(), &client, &mut findings);
    findings
}
