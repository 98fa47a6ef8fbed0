//! A network namespace with a cable to the host: somebody on the network, without a network.

use std::{net::Ipv4Addr, process::Command, sync::atomic::AtomicU8};

use anyhow::Result;

use crate::said;

/// Removed with its cable when dropped.
pub struct Netns {
    name: String,
    number: u8,
}

impl Netns {
    /// A new namespace, joined to the host by a veth pair with a private IPv4 /30. Needs root.
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
        ip(&["link", "set", &cable, "up"])?;
        ip(&["-n", name, "address", "add", &format!("{inside}/30"), "dev", "eth0"])?;
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

    /// Programs that test at the same time have networks of their own, most likely.
    fn address(&self, end: u8) -> Ipv4Addr {
        let program = u8::try_from(std::process::id() % 128).unwrap_or_default();
        Ipv4Addr::new(10, 64 + program, self.number, end)
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

fn ip(arguments: &[&str]) -> Result<String> {
    said(Command::new("ip").args(arguments))
}
