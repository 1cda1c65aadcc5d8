//! `ecsctl completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{cli::Cli, commands::stdout, error::Error, output::Output};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl completions bash > /etc/bash_completion.d/ecsctl
  ecsctl completions zsh > ~/.zfunc/_ecsctl
  ecsctl completions fish > ~/.config/fish/completions/ecsctl.fish")]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// # Errors
    /// When stdout cannot be written.
    pub(crate) fn run(self, out: Output) -> Result<(), Error> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ecsctl", &mut script);
        out.text(&String::from_utf8_lossy(&script)).map_err(stdout)
    }
}
