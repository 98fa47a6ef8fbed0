//! What the tests with real servers share, and `cargo xtask demo` with them.

pub mod place;
