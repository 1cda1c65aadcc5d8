//! The `kmsd` program.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::RawFd, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use kmsd::{
    daemon::{self, Config, DaemonError, Finding, Health, InitOptions, process},
    hsm::pkcs11::Select,
    paths,
};

/// Key management service over a PKCS#11 token.
#[derive(Parser)]
#[command(name = "kmsd", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bind a new home directory to a token: writes kmsd.toml and an empty store
    Init(InitArgs),
    /// Serve until SIGTERM
    Serve(ServeArgs),
    /// Look at everything that kmsd stands on: what is wrong, and what to do
    Doctor(DoctorArgs),
    /// Copy store, audit log and configuration into a new directory; kmsd may be serving
    Backup(BackupArgs),
    /// Put a backup into a home; kmsd must not be serving
    Restore(RestoreArgs),
    /// Replace the key that guards the store, and make every row's MAC anew; kmsd must not be serving
    RekeyStore(HomeArgs),
    /// The audit log, with the token and without a running kmsd
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Certificates of the private authority that `kmsd init --listen` made
    #[command(subcommand)]
    Tls(TlsCommand),
}

#[derive(Args)]
struct InitArgs {
    /// PKCS#11 module, such as /usr/lib/softhsm/libsofthsm2.so
    #[arg(long, value_name = "PATH")]
    module: PathBuf,
    /// Label of the token
    #[arg(long, value_name = "LABEL", required_unless_present = "slot", conflicts_with = "slot")]
    token_label: Option<String>,
    /// Slot of the token
    #[arg(long, value_name = "NUMBER")]
    slot: Option<u64>,
    /// File with the token's user PIN on one line, mode 0600
    #[arg(long, value_name = "FILE")]
    pin_file: PathBuf,
    /// Home directory [default: $KMSD_HOME, /var/lib/kmsd, or $XDG_STATE_HOME/kmsd]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Unix socket [default: $KMSD_SOCKET, /run/kmsd/kmsd.sock, or $XDG_RUNTIME_DIR/kmsd.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Also listen on this address with TLS: makes a private CA and a server certificate under tls/
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Sessions on the token
    #[arg(long, value_name = "N", default_value_t = 4)]
    sessions: usize,
    /// Variable that the module reads, kept in kmsd.toml (SOFTHSM2_CONF is kept by itself when it is set)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
}

#[derive(Args)]
struct ServeArgs {
    /// Home directory [default: $KMSD_HOME, /var/lib/kmsd, or $XDG_STATE_HOME/kmsd]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Write the line "ready" to this inherited descriptor once requests are accepted
    #[arg(long, value_name = "N")]
    ready_fd: Option<RawFd>,
    /// Take on a store that is older than the token knows, or an audit log without its end: after a restore. Audited
    #[arg(long)]
    accept_restored: bool,
}

#[derive(Subcommand)]
enum TlsCommand {
    /// Make a new server certificate; a running kmsd takes it up at SIGHUP (`systemctl reload kmsd`)
    Renew(HomeArgs),
    /// Make a client certificate, and print the principal that it stands for
    Client(ClientArgs),
}

#[derive(Args)]
struct DoctorArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct BackupArgs {
    /// Directory to make; must not exist
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Args)]
struct RestoreArgs {
    /// Directory that `kmsd backup` made
    #[arg(value_name = "DIR")]
    from: PathBuf,
    #[command(flatten)]
    home: HomeArgs,
    /// Put the store that is there aside
    #[arg(long)]
    replace: bool,
}

#[derive(Subcommand)]
enum AuditCommand {
    /// Check every record with the token's key, up to the end that the token knows of
    Verify(AuditVerifyArgs),
    /// Move every record into an archive and begin the log anew; kmsd must not be serving
    Archive(HomeArgs),
}

#[derive(Args)]
struct AuditVerifyArgs {
    /// A copy of the log [default: the home's own]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// An archive of it (may be given again): then every record from the first on has to be there
    #[arg(long, value_name = "DIR")]
    archive: Vec<PathBuf>,
    #[command(flatten)]
    home: HomeArgs,
}

#[derive(Args)]
struct HomeArgs {
    /// Home directory [default: $KMSD_HOME, /var/lib/kmsd, or $XDG_STATE_HOME/kmsd]
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

#[derive(Args)]
struct ClientArgs {
    /// What the certificate calls the client
    name: String,
    /// File to write certificate and key to (mode 0600)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    home: HomeArgs,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Init(args) => init(args),
        Command::Serve(args) => serve(args),
        Command::Tls(command) => tls(command),
        Command::Doctor(args) => return doctor(args),
        Command::Backup(args) => backup(args),
        Command::Restore(args) => restore(args),
        Command::RekeyStore(args) => rekey_store(args),
        Command::Audit(AuditCommand::Verify(args)) => verify_audit(args),
        Command::Audit(AuditCommand::Archive(args)) => archive_audit(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kmsd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn init(args: InitArgs) -> Result<(), DaemonError> {
    let mut env: BTreeMap<_, _> = args.env.into_iter().collect();
    if let Ok(conf) = std::env::var("SOFTHSM2_CONF") {
        env.entry("SOFTHSM2_CONF".to_owned()).or_insert(conf);
    }
    process::set_module_environment(&env);
    log_to_stderr();
    let home = args.home.unwrap_or_else(paths::home);
    let select = match (args.token_label, args.slot) {
        (Some(label), _) => Select::Label(label),
        (None, slot) => Select::Slot(slot.unwrap_or_default()),
    };
    let identity = daemon::init(InitOptions {
        home: home.clone(),
        socket: args.socket.unwrap_or_else(paths::socket),
        listen: args.listen,
        module: args.module,
        select,
        pin_file: args.pin_file,
        sessions: args.sessions,
        env,
    })?;
    if args.listen.is_some() {
        eprintln!("kmsd: network clients trust {}", home.join("tls/ca.pem").display());
    }
    eprintln!("kmsd: {} is bound to the token {identity}; start it with `kmsd serve`", home.display());
    Ok(())
}

#[allow(clippy::print_stdout)] // the principal is this command's result
fn tls(command: TlsCommand) -> Result<(), DaemonError> {
    match command {
        TlsCommand::Renew(HomeArgs { home }) => daemon::renew_certificate(&home.unwrap_or_else(paths::home)),
        TlsCommand::Client(ClientArgs { name, out, home: HomeArgs { home } }) => {
            println!("{}", daemon::issue_client(&home.unwrap_or_else(paths::home), &name, &out)?);
            Ok(())
        }
    }
}

/// Exit code 0 if nothing has failed.
#[allow(clippy::print_stdout)] // the findings are this command's result
fn doctor(args: DoctorArgs) -> ExitCode {
    let home = args.home.home.unwrap_or_else(paths::home);
    // One that cannot be read is the first finding.
    if let Ok(config) = Config::load(&home) {
        process::set_module_environment(&config.token.env);
    }
    log_to_stderr();
    let findings = daemon::doctor(&home);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings).expect("findings serialise"));
    } else {
        for Finding { check, health, found, remedy } in &findings {
            let sign = match health {
                Health::Ok => "ok",
                Health::Warning => "warning",
                Health::Failed => "FAILED",
            };
            println!("{sign:<8} {check:<12} {found}");
            if let Some(remedy) = remedy {
                println!("{:21} -> {remedy}", "");
            }
        }
    }
    let has_failed = findings.iter().any(|finding| finding.health == Health::Failed);
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[allow(clippy::print_stdout)] // what was copied is this command's result
fn backup(args: BackupArgs) -> Result<(), DaemonError> {
    let manifest = daemon::backup(&args.home.home.unwrap_or_else(paths::home), &args.to)?;
    println!(
        "{}: {} files, the store at commit {}",
        args.to.display(),
        manifest.files.len(),
        manifest.commit
    );
    eprintln!("kmsd: the token is not in it; back it up by its own means");
    Ok(())
}

#[allow(clippy::print_stdout)] // what was restored is this command's result
fn restore(args: RestoreArgs) -> Result<(), DaemonError> {
    let home = args.home.home.unwrap_or_else(paths::home);
    let restored = daemon::restore(&args.from, &home, args.replace)?;
    println!("{}: the store at commit {}", home.display(), restored.manifest.commit);
    for kept in &restored.kept {
        eprintln!("kmsd: kept {}", home.join(kept).display());
    }
    for left_out in &restored.left_out {
        eprintln!("kmsd: left out {}: the home's log was archived since", left_out.display());
    }
    if let Some(aside) = &restored.put_aside {
        eprintln!("kmsd: the store that was there is {} now", aside.display());
    }
    eprintln!(
        "kmsd: start it with `kmsd serve`; if it finds the store older than the token knows, once with `kmsd serve --accept-restored`"
    );
    Ok(())
}

#[allow(clippy::print_stdout)] // the key's number is this command's result
fn rekey_store(HomeArgs { home }: HomeArgs) -> Result<(), DaemonError> {
    let home = home.unwrap_or_else(paths::home);
    let config = Config::load(&home)?;
    process::set_module_environment(&config.token.env);
    log_to_stderr();
    process::shield();
    println!("the store is guarded by integrity key {} now", daemon::rekey_store(&home, &config)?);
    Ok(())
}

#[allow(clippy::print_stdout)] // the verdict is this command's result
fn verify_audit(args: AuditVerifyArgs) -> Result<(), DaemonError> {
    let home = args.home.home.unwrap_or_else(paths::home);
    let config = Config::load(&home)?;
    process::set_module_environment(&config.token.env);
    log_to_stderr();
    process::shield();
    let verdict = daemon::verify_audit(&home, &config, args.dir.as_deref(), &args.archive)?;
    match verdict.fault {
        Some(fault) => Err(DaemonError::Tampered { fault, records: verdict.records }),
        None => {
            println!("{} records are intact", verdict.records);
            if verdict.archived.seq > 0 {
                println!("archived up to {}", verdict.archived);
            }
            println!("end {}", verdict.head);
            Ok(())
        }
    }
}

#[allow(clippy::print_stdout)] // what was archived is this command's result
fn archive_audit(HomeArgs { home }: HomeArgs) -> Result<(), DaemonError> {
    let home = home.unwrap_or_else(paths::home);
    let config = Config::load(&home)?;
    process::set_module_environment(&config.token.env);
    log_to_stderr();
    process::shield();
    let archived = daemon::archive_audit(&home, &config)?;
    println!("records {} to {} are in {}", archived.first, archived.last.seq, archived.directory.display());
    println!("archived up to {}\nend {}", archived.last, archived.end);
    Ok(())
}

fn serve(args: ServeArgs) -> Result<(), DaemonError> {
    let ready = args.ready_fd.map(process::ReadyFd::take).transpose()?;
    let home = args.home.unwrap_or_else(paths::home);
    let config = Config::load(&home)?;
    process::set_module_environment(&config.token.env);
    log_to_stderr();
    process::shield();
    daemon::run(&home, &config, ready, args.accept_restored)
}

/// Logs go to stderr, to the journal under systemd; `KMSD_LOG` sets what is logged, such as `debug`, and `KMSD_LOG_FORMAT=json` makes
/// each line a JSON object.
fn log_to_stderr() {
    use std::io::IsTerminal;
    use tracing_subscriber::{EnvFilter, fmt};
    // cryptoki calls each mechanism that it has no name for an error.
    let filter = EnvFilter::try_from_env("KMSD_LOG").unwrap_or_else(|_| EnvFilter::new("info,cryptoki=off"));
    let ansi = std::io::stderr().is_terminal();
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
    if std::env::var_os("KMSD_LOG_FORMAT").is_some_and(|format| format == "json") {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE"),
    }
}
