//! A network namespace with a cable to the host: somebody on the network, without a network.

use std::{
    fs::File,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::Command,
    sync::atomic::AtomicU8,
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use crate::said;

/// Removed with its cable when dropped.
pub struct Netns {
    name: String,
    number: u8,
}

impl Netns {
    /// A new namespace, joined to the host by a veth pair with a private IPv4 /30 and IPv6 /64.
    /// Needs root.
    pub fn create() -> Result<Netns> {
        static CREATED: AtomicU8 = AtomicU8::new(0);
        let number = CREATED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("dbw{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        // From here on Drop cleans up.
        let namespace = Netns { name, number };
        let (outside, inside) = (namespace.outside(), namespace.inside());
        let cable = namespace.cable();
        let name = namespace.name.as_str();
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        ip(&["address", "add", &format!("{outside}/30"), "dev", &cable])?;
        ip(&["-n", name, "address", "add", &format!("{inside}/30"), "dev", "eth0"])?;
        let (outside, inside) = (namespace.outside6(), namespace.inside6());
        // `nodad`: usable at once.
        ip(&["address", "add", &format!("{outside}/64"), "dev", &cable, "nodad"])?;
        ip(&["link", "set", &cable, "up"])?;
        ip(&["-n", name, "address", "add", &format!("{inside}/64"), "dev", "eth0", "nodad"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address, as seen from inside.
    pub fn outside(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address of who is inside, as the host sees it.
    pub fn inside(&self) -> Ipv4Addr {
        self.address(2)
    }

    pub fn outside6(&self) -> Ipv6Addr {
        self.address6(1)
    }

    pub fn inside6(&self) -> Ipv6Addr {
        self.address6(2)
    }

    /// The namespace itself.
    pub fn place(&self) -> Result<File> {
        let path = Path::new("/run/netns").join(&self.name);
        File::open(&path).with_context(|| format!("opening {}", path.display()))
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let place = self.place()?;
        on_a_thread(|| {
            setns(place, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// `command`, run inside.
    pub fn command(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name]).arg(command.get_program());
        inside.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(key, value),
                None => inside.env_remove(key),
            };
        }
        inside
    }

    fn address(&self, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 64 + program(), self.number, end)
    }

    fn address6(&self, end: u16) -> Ipv6Addr {
        let network = u16::from(program()) << 8 | u16::from(self.number);
        Ipv6Addr::new(0xfd64, 0x6277, 0, network, 0, 0, 0, end)
    }

    /// Interface names have 15 bytes at most.
    fn cable(&self) -> String {
        format!("dbw{}v{}", std::process::id(), self.number)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The end outside goes with the one inside.
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

/// Programs that test at the same time have networks of their own, most likely.
fn program() -> u8 {
    u8::try_from(std::process::id() % 128).unwrap_or_default()
}

/// Runs a test on a thread with a network of its own, of `lo` alone: every port is free, and nobody else
/// is there.
pub fn in_own_network<T: Send>(test: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ip(&["link", "set", "lo", "up"])?;
        test()
    })
}

/// A namespace is a thread's.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().map_err(|_| anyhow!("the thread panicked"))?)
}

fn ip(arguments: &[&str]) -> Result<String> {
    said(Command::new("ip").args(arguments))
}
