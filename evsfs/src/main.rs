//! evsfs binary
fn main() {}
