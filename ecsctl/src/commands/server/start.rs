//! `ecsctl server start`

use std::path::PathBuf;

use clap::Args;

use crate::{
    app::App,
    commands::stdout,
    engine::machines::Hardware,
    error::Error,
    machines::{Kernel, accel::Acceleration},
    model::size::Size,
};

/// Run the virtual machine of a server by QEMU, on the plain views of its disks: the system disk is the one that it boots
/// from. It runs on when this command has ended. What it writes to its first serial port is in the file that
/// `ecsctl server show` names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ecsctl server start web1
  ecsctl server start web1 --memory 4G --cpus 2
  ecsctl server start web1 --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 root=/dev/vda1'")]
pub(crate) struct Start {
    /// The server: name, ID, or beginning of the ID
    server: String,
    /// Its memory: bytes, or with K, M or G (powers of 1024); at least 16M
    #[arg(long, value_name = "SIZE", default_value = "1G", allow_hyphen_values = true)]
    memory: String,
    /// Its processors
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// What runs its instructions [default: from ecs.toml, or KVM where it was seen to work]
    #[arg(long, value_enum)]
    accel: Option<Acceleration>,
    /// A kernel of this host's to be started instead of what the system disk holds
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The first file system of that kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The command line of that kernel
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true, default_value = "")]
    append: String,
}

impl Start {
    pub(super) fn run(self, app: &mut App) -> Result<(), Error> {
        let hardware = Hardware {
            memory: memory(&self.memory)?,
            cpus: self.cpus,
            acceleration: self.accel.unwrap_or(app.installation.machines.acceleration),
            kernel: self.kernel.map(|kernel| Kernel {
                kernel: absolute(kernel),
                initrd: self.initrd.map(absolute),
                append: self.append,
            }),
        };
        let (server, acceleration) = app.start_server(&self.server, hardware)?;
        let console = app.installation.machine_place(server.id).console;
        let sentence = format!(
            "server {} started ({}); its console: {}",
            server.name,
            acceleration.as_str(),
            console.display()
        );
        app.out.done(&app.shown_server(server)?, &sentence).map_err(stdout)
    }
}

/// MiB that firmware and the smallest kernels need.
const LEAST_MEMORY: u64 = 16;

/// MiB of memory from a text like `2G`.
fn memory(given: &str) -> Result<u64, Error> {
    let size: Size = given.parse().map_err(|source| Error::Memory { given: given.to_owned(), source })?;
    let memory = size.bytes().div_ceil(1 << 20);
    if memory < LEAST_MEMORY {
        return Err(Error::LittleMemory { given: given.to_owned(), least: LEAST_MEMORY });
    }
    Ok(memory)
}

/// QEMU changes its directory when it goes to the background.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_mib_and_a_number_that_was_meant_so_is_told_apart() {
        assert_eq!(
            (memory("2G").unwrap(), memory("16M").unwrap(), memory("33558528").unwrap()),
            (2048, 16, 33)
        );
        for (given, hint) in [("4096", "--memory 4096M, if these are MiB"), ("8M", "--memory 16M, or more")] {
            let refused = memory(given).unwrap_err();
            assert!(matches!(refused, Error::LittleMemory { .. }), "{refused}");
            assert_eq!(refused.report().hint, hint);
        }
    }
}
