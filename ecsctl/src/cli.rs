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

Exit status: 0 done, 1 failed, 2 wrong command line, 3 refused by a rule, a state or a key, 4 kmsd or its token
cannot be reached, 5 a volume or an image is damaged, 6 nothing is called that, 7 what was cut short is not settled.";

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
    /// Where catalogue and volumes lie [default: $ECS_HOME, else /var/lib/ecs or the XDG state directory]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) home: Option<PathBuf>,
    /// kmsd's socket [default: $KMSD_SOCKET, else from ecs.toml, or /run/kmsd/kmsd.sock]
    #[arg(long, value_name = "PATH", global = true)]
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
    /// Snapshots: states of disks, kept at once and whatever their size
    #[command(subcommand)]
    Snapshot(commands::snapshot::Snapshot),
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
    /// Access keys: what network clients of kmsd sign their requests with
    #[command(subcommand)]
    AccessKey(commands::access_key::AccessKey),
    /// kmsd's audit log: every operation on keys, allowed or refused
    #[command(subcommand)]
    Audit(commands::audit::Audit),
    /// Show how the installation is, and settle what was cut short
    Status(commands::status::Status),
    /// Examine the installation and say what to do about what is wrong
    Doctor(commands::doctor::Doctor),
    /// Write a manual page for each command
    ManPages(commands::man_pages::ManPages),
    /// Print a completion script for a shell
    Completions(commands::completions::Completions),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Every command without subcommands, with the words that lead to it.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_subcommands().next().is_none() {
            found.push((path, command.clone()));
        } else {
            command.get_subcommands().for_each(|sub| leaves(sub, &path, found));
        }
    }

    /// The command lines among the examples: up to a remark (two spaces), a pipe, or what the shell would add.
    fn examples(help: &str) -> Vec<Vec<String>> {
        let lines = help.lines().filter_map(|line| Some(&line[line.find("ecsctl ")?..]));
        lines
            .map(|line| {
                let end = ["  ", " | ", " > ", " && ", ")"].iter().filter_map(|stop| line.find(stop)).min();
                let words = line[..end.unwrap_or(line.len())].replace('"', "");
                // A quoted description is one word.
                match words.split_once('\'') {
                    Some((before, quoted)) => {
                        let quoted = quoted.trim_end_matches('\'').to_owned();
                        before.split_whitespace().map(str::to_owned).chain([quoted]).collect()
                    }
                    None => words.split_whitespace().map(str::to_owned).collect(),
                }
            })
            .collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_examples_that_parse() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        assert!(found.len() > 35, "{}", found.len());
        let mut tried = 0;
        for (path, command) in found {
            let help =
                command.get_after_help().unwrap_or_else(|| panic!("{path} has no examples")).to_string();
            let own = path.trim_start();
            let lines = examples(&help);
            assert!(
                lines.iter().any(|line| line.join(" ").starts_with(own)),
                "{path} shows no example of itself"
            );
            for line in lines {
                tried += 1;
                if let Err(error) = Cli::try_parse_from(&line) {
                    panic!("{path}: {line:?}: {error}");
                }
            }
        }
        for line in examples(EXAMPLES) {
            Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        }
        assert!(tried > 60, "{tried}");
    }

    #[test]
    fn both_ways_of_asking_for_json_work_before_and_after_the_verb() {
        for line in [
            "ecsctl --json disk list",
            "ecsctl disk list --json",
            "ecsctl -o json disk list",
            "ecsctl disk list -o json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.format(), Format::Json, "{line}");
        }
    }
}
