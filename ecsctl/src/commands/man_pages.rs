//! `ecsctl man-pages`

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::{cli::Cli, commands::stdout, error::Error, output::Output};

/// Write a manual page for each command into a directory.
///
/// They are made from the same text as --help, so they say what this program does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl man-pages /usr/local/share/man/man1
  ecsctl man-pages /tmp/man
  man /tmp/man/ecsctl-disk-create.1")]
pub(crate) struct ManPages {
    /// The directory; made if it does not exist
    directory: PathBuf,
}

impl ManPages {
    /// # Errors
    /// When a page cannot be written.
    pub(crate) fn run(self, out: Output) -> Result<(), Error> {
        let failed =
            |source| Error::Io { doing: "write manual pages to", path: self.directory.clone(), source };
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        clap_mangen::generate_to(Cli::command(), &self.directory).map_err(failed)?;
        out.text(&format!("Manual pages are in {}.\n", self.directory.display())).map_err(stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    #[test]
    fn each_command_has_a_page_with_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("man");
        ManPages { directory: directory.clone() }.run(Output { format: Format::Table, quiet: true }).unwrap();
        let page = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        assert!(page("ecsctl.1").contains("kmsd"));
        assert!(page("ecsctl-disk-create.1").contains("ecsctl disk create data1"));
        let pages = std::fs::read_dir(&directory).unwrap().count();
        assert!(pages > 45, "{pages} pages");
    }
}
