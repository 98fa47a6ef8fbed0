//! The `dbwarden` binary: parse, call, exit code.

fn main() {}
