//! The `kmsd` program: `kmsd init` and `kmsd serve`.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::RawFd, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use kmsd::{
    daemon::{self, Config, DaemonError, InitOptions, process},
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
    /// Make a new server certificate; takes effect when kmsd is started again
    Renew(HomeArgs),
    /// Make a client certificate, and print the principal that it stands for
    Client(ClientArgs),
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

fn serve(args: ServeArgs) -> Result<(), DaemonError> {
    let ready = args.ready_fd.map(process::ReadyFd::take).transpose()?;
    let home = args.home.unwrap_or_else(paths::home);
    let config = Config::load(&home)?;
    process::set_module_environment(&config.token.env);
    log_to_stderr();
    process::shield();
    daemon::run(&home, &config, ready, args.accept_restored)
}

/// Logs go to stderr, to the journal under systemd; `KMSD_LOG` sets what is logged, such as `debug`.
fn log_to_stderr() {
    use std::io::IsTerminal;
    use tracing_subscriber::{EnvFilter, fmt};
    // cryptoki calls each mechanism that it has no name for an error.
    let filter = EnvFilter::try_from_env("KMSD_LOG").unwrap_or_else(|_| EnvFilter::new("info,cryptoki=off"));
    let ansi = std::io::stderr().is_terminal();
    fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).with_target(false).init();
}

fn variable(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE"),
    }
}
