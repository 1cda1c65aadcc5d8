//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{commands, output::Format};

const EXAMPLES: &str = "\
Examples:
  An encrypted disk for a server, with a key of its own:
    ecsctl key create --alias db-key
    ecsctl server create web1
    ecsctl disk create data1 --size 10G --encrypted --key db-key
    ecsctl disk attach data1 web1          prints the path of the plain raw disk

  Use it:
    mkfs.ext4 $(ecsctl disk show data1 --json | jq -r .path)

  A server from an encrypted image:
    ecsctl image create debian --from-file debian.qcow2 --encrypted
    ecsctl server create web2 --image debian --data-disk size=5G,encrypted,key=db-key

  After a reboot of the host:
    ecsctl server recover --all

Exit status: 0 done, 1 failed, 2 wrong command line, 3 refused by a rule, a state or a key, or not found,
4 kmsd or its token cannot be reached, 5 a volume or an image is damaged.";

/// Keys, disks and servers with the semantics of a cloud, on this machine.
///
/// Master keys live in a PKCS#11 token that only kmsd talks to. Each encrypted disk has a data key of its own, which
/// a master key wraps; it is unwrapped when the disk is attached and erased when it is detached.
#[derive(Debug, Parser)]
#[command(name = "ecsctl", version, after_help = EXAMPLES, max_term_width = 110, propagate_version = true)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// The noun.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// How results and errors are printed
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", global = true)]
    pub(crate) output: Format,
    /// Short for `--output json`
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only IDs (or the path, where the command is about one)
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Do not ask before something is destroyed
    #[arg(short, long, global = true)]
    pub(crate) yes: bool,
    /// Where catalogue and volumes lie [default: /var/lib/ecs, or the XDG state directory]
    #[arg(long, env = "ECS_HOME", hide_env_values = true, value_name = "DIR", global = true)]
    pub(crate) home: Option<PathBuf>,
    /// kmsd's socket [default: from ecs.toml, or /run/kmsd/kmsd.sock]
    #[arg(long, env = "KMSD_SOCKET", hide_env_values = true, value_name = "PATH", global = true)]
    pub(crate) kmsd_socket: Option<PathBuf>,
}

impl Global {
    /// The form of results, from either option.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Master keys: in the token, never outside it
    #[command(subcommand)]
    Key(commands::key::Key),
    /// Disks: encrypted or plain, attached to at most one server
    #[command(subcommand)]
    Disk(commands::disk::Disk),
    /// Servers: what disks are attached to
    #[command(subcommand)]
    Server(commands::server::Server),
    /// Images: what the system disks of servers are made from
    #[command(subcommand)]
    Image(commands::image::Image),
    /// Backups: full, independent copies of disks
    #[command(subcommand)]
    Backup(commands::backup::Backup),
    /// Auto scaling configurations: what the servers of a group are made from
    #[command(subcommand)]
    AsConfig(commands::as_config::AsConfig),
    /// Auto scaling groups: servers made and removed by number
    #[command(subcommand)]
    AsGroup(commands::as_group::AsGroup),
    /// Show how the installation is, and settle what was cut short
    Status(commands::status::Status),
    /// Print a completion script for a shell
    Completions(commands::completions::Completions),
}
