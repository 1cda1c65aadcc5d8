//! `evsfs flatten`: a thin volume takes over what it reads from its base.

use super::background::{Task, progress};
use super::output::Output;
use crate::cli;
use crate::control::Request;
use crate::failure::Failure;
use crate::flatten;

const FLATTEN: Task = Task {
    field: "flatten",
    describe: flatten::describe,
    stopped: "flatten_stopped",
    name: "flatten",
    remedy: "mend what is damaged: overwrite it on the disk, or put the base back; then run this again",
};

pub(super) fn run(arguments: &cli::Flatten, output: Output) -> Result<(), Failure> {
    let file = arguments.file.display();
    let request = Request::Flatten { rate: arguments.rate.map(|rate| rate.0) };
    let value = FLATTEN.run(&arguments.file, &request, arguments.wait, progress(arguments.progress))?;
    let text = if value["flatten"].is_null() {
        format!("{file} is flattened: it needs no base any more")
    } else {
        format!("{file} is being flattened; `evsfs info` shows how far it is")
    };
    output.result(&value, &text)
}
