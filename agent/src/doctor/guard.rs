//! What this host allows where a server is guarded; capture needs none of it.

use super::{Check, Host};

pub(super) fn checks(host: &Host) -> [Check; 4] {
    let local = "clients on this host can be led to a guard, TCP only";
    let network = "clients from the network can be led to a guard and keep their own address";
    [
        guardable("guard: local", &host.leads_local, local, host.root),
        guardable("guard: network", &host.leads_network, network, host.root),
        unix(host),
        pins(host),
    ]
}

fn guardable(name: &'static str, led: &Result<(), String>, fine: &str, root: bool) -> Check {
    match led {
        Ok(()) => Check::fine(name, fine),
        // Who only asks need not have the service's rights.
        Err(why) if !root => Check::unknown(name, format!("not tried: {why}")),
        Err(why) => Check::notable(name, format!("not guardable: {why}"))
            .costs("where a server is guarded these clients go straight to it, and are observed")
            .todo("nothing, unless a server is guarded"),
    }
}

fn unix(host: &Host) -> Check {
    let name = "guard: unix sockets";
    match &host.leads_unix {
        Err(why) if host.root => Check::notable(name, format!("not guardable where they are: {why}"))
            .costs("where a server is guarded its clients by unix socket go straight to it, and are observed")
            .todo(
                "nothing, unless a server is guarded; then: move its socket by unix_socket_directories, and let \
                 the guard listen in its place (`guard_socket` in its [[server]])",
            ),
        led => guardable(name, led, "clients of unix sockets can be led to a guard", host.root),
    }
}

fn pins(host: &Host) -> Check {
    let name = "guard: pins";
    match host.bpffs {
        true => Check::fine(name, "/sys/fs/bpf is a BPF file system"),
        false => Check::notable(name, "no BPF file system is mounted at /sys/fs/bpf")
            .costs("on_guard_down = \"refuse\" can't outlive the service: such servers are not guardable")
            .todo("nothing, unless a server is guarded; then: mount -t bpf bpf /sys/fs/bpf"),
    }
}
