//! `ecsctl image`

mod copy;
mod create;
mod delete;
mod export;
mod list;
mod show;

use clap::Subcommand;

use crate::{app::App, error::Error};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Make an image from a file, or from the system disk of a server
    Create(create::Create),
    /// List images
    List(list::List),
    /// Show one image
    Show(show::ShowImage),
    /// Copy an image, with another key or from plain to encrypted
    Copy(copy::Copy),
    /// Write an image to a file, in the open
    Export(export::Export),
    /// Destroy an image
    Delete(delete::Delete),
}

/// # Errors
/// The verb's.
pub(super) fn run(command: Image, app: &mut App, yes: bool) -> Result<(), Error> {
    match command {
        Image::Create(verb) => verb.run(app),
        Image::List(verb) => verb.run(app),
        Image::Show(verb) => verb.run(app),
        Image::Copy(verb) => verb.run(app, yes),
        Image::Export(verb) => verb.run(app, yes),
        Image::Delete(verb) => verb.run(app, yes),
    }
}
