//! Builds, tests, shows and measures dbwarden.

fn main() {}
