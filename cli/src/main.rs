//! The `snapc` command.
fn main() {}
