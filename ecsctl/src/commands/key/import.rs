//! `ecsctl key import`

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use crate::{app::App, commands::stdout, error::Error, keys::material::Material};

/// Import the material of a key that was made for it: 32 bytes, wrapped on this machine for the token, which alone unwraps them.
#[derive(Debug, Args)]
#[command(after_help = "\
The key takes this material and no other from then on; keep the file, or a copy of it, in a safe place: when imported material
expires, only the same material brings the key back.

Examples:
  ecsctl key create --alias db-key --origin external
  ecsctl key import db-key --from-file db-key.bin
  ecsctl key import db-key --from-file db-key.bin --expires 2030-01-01T00:00:00Z
  ecsctl key import db-key --from-file -          reads the bytes from standard input")]
pub(crate) struct Import {
    /// Its alias, its ID, or the beginning of its ID
    key: String,
    /// The file with the material: exactly 32 bytes, as `head -c 32 /dev/random` makes them; - is standard input
    #[arg(long, value_name = "FILE")]
    from_file: PathBuf,
    /// When the material is destroyed again, in RFC 3339; without it, it does not expire
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
}

impl Import {
    pub(super) fn run(self, app: &App) -> Result<(), Error> {
        let key = app.find_key(&self.key)?;
        let material = Material::read(&self.from_file)?;
        app.keys.import(&key.key_id, &material, self.expires)?;
        let key = app.keys.describe(&key.key_id)?;
        app.out
            .done(&key, &format!("key {} imported; it is {}", key.alias, key.state.as_str()))
            .map_err(stdout)
    }
}
