//! ecsctl binary
fn main() {}
