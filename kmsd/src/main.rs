//! kmsd binary
fn main() {}
