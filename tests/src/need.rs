//! What a test needs of the host, and how it says that it was skipped.

/// Whether BPF programs can be loaded and users be changed at all.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Ends a test (of type `anyhow::Result<()>`) that needs root where there is none. The line it
/// prints is what `cargo xtask test` collects.
#[macro_export]
macro_rules! need_root {
    () => {
        if !$crate::is_root() {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            println!("skipped: {} {test} because it needs root", module_path!());
            return Ok(());
        }
    };
}
