//! Connections from the network are led to a guard's listener, and this host's own are not touched.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use anyhow::{Result, ensure};
use dbwarden::capture::steer::{GuardDown, SteerOptions, Steering, local_prefixes, netns_cookie};
use dbwarden_tests::{
    Dial, Netns,
    greeter::{Greeter, answers, heard, is_refused},
    need_root,
};
use nix::sys::socket::{SockaddrIn, bind};

const PORT: u16 = 5432;

/// A host with a server and a guard, each on all addresses.
struct Host {
    network: Netns,
    _server: Greeter,
    guard: Greeter,
}

impl Host {
    fn start() -> Result<Host> {
        let network = Netns::create()?;
        let (server, guard) = network.run(|| {
            let any = [0_u16; 8];
            Ok((Greeter::start("server", (any, PORT))?, Greeter::start("guard", (any, 0))?))
        })?;
        Ok(Host { network, _server: server, guard })
    }

    /// As its network knows it: address of the host, address of the client.
    fn ways(&self) -> [(SocketAddr, IpAddr); 2] {
        let network = &self.network;
        [
            ((network.inside(), PORT).into(), network.outside().into()),
            ((network.inside6(), PORT).into(), network.outside6().into()),
        ]
    }

    /// Both forms of a server that listens on all addresses.
    fn lead(&self, steering: &mut Steering, down: GuardDown) -> Result<()> {
        let place = self.network.place()?;
        for original in [([0; 4], PORT).into(), ([0_u16; 8], PORT).into()] {
            steering.attach_network(place.as_fd(), original, self.guard.listener.as_fd(), down)?;
        }
        Ok(())
    }
}

fn attached() -> Result<Steering> {
    Ok(Steering::attach(&SteerOptions::default())?)
}

#[test]
fn clients_from_the_network_are_led_and_local_ones_are_not() -> Result<()> {
    need_root!();
    let (host, other) = (Host::start()?, Host::start()?);
    let mut steering = attached()?;
    let [(four, _), (six, _)] = host.ways();
    let early = Dial::Connect.dial(four)?;
    assert_eq!(heard(&early)?.0, "server");
    host.lead(&mut steering, GuardDown::Refuse)?;
    for (to, from) in host.ways() {
        for how in Dial::ALL {
            let stream = how.dial(to)?;
            assert_eq!(heard(&stream)?, ("guard".to_owned(), from), "{how:?} {to}");
            let peer = stream.peer_addr()?;
            assert_eq!((peer.ip().to_canonical(), peer.port()), (to.ip(), PORT), "{how:?}");
        }
    }
    assert_eq!(steering.counts().steered, 2 * Dial::ALL.len() as u64);
    let netns = netns_cookie(host.network.place()?.as_fd())?;
    host.network.run(|| {
        let localhost: SocketAddr = "127.0.0.1:5432".parse()?;
        for to in [localhost, "[::1]:5432".parse()?, four, six] {
            assert_eq!(answers(to)?, "server", "{to}");
        }
        // From one of its addresses to another; the kernel says that this comes by eth0.
        steering.set_local(netns, &local_prefixes(Path::new("/proc/thread-self/net"))?)?;
        let socket = Dial::Connect.socket(four)?;
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
        let stream = Dial::Connect.open(socket, four, b"?")?;
        assert_eq!(heard(&stream)?, ("server".to_owned(), localhost.ip()));
        Ok(())
    })?;
    let [(to, _), _] = other.ways();
    assert_eq!(answers(to)?, "server", "another namespace");
    (&early).write_all(b"?")?;
    assert_eq!(heard(&early)?.0, "server", "a connection of before");

    let late = Dial::Connect.dial(six)?;
    steering.release_network(netns, ([0; 4], PORT).into())?;
    assert_eq!((answers(four)?, answers(six)?), ("server".to_owned(), "guard".to_owned()));
    steering.stop()?;
    assert_eq!(answers(six)?, "server");
    assert_eq!(heard(&late)?.0, "guard");
    Ok(())
}

/// The guard's socket tells which server a client meant.
#[test]
fn one_address_can_be_led_alone() -> Result<()> {
    need_root!();
    let host = Host::start()?;
    let mut steering = attached()?;
    let [(four, _), (six, _)] = host.ways();
    let (place, listener) = (host.network.place()?, host.guard.listener.as_fd());
    steering.attach_network(place.as_fd(), four, listener, GuardDown::Refuse)?;
    assert_eq!((answers(four)?, answers(six)?), ("guard".to_owned(), "server".to_owned()));
    // Again, to another listener.
    let next = host.network.run(|| Greeter::start("next", ([0; 4], 0)))?;
    steering.attach_network(place.as_fd(), four, next.listener.as_fd(), GuardDown::Refuse)?;
    assert_eq!((answers(four)?, answers(six)?), ("next".to_owned(), "server".to_owned()));
    Ok(())
}

#[test]
fn where_no_guard_listens_clients_go_straight_on_or_are_refused() -> Result<()> {
    need_root!();
    for down in [GuardDown::Direct, GuardDown::Refuse] {
        let host = Host::start()?;
        let mut steering = attached()?;
        host.lead(&mut steering, down)?;
        for (to, _) in host.ways() {
            assert_eq!(answers(to)?, "guard", "{down:?} {to}");
        }
        let ways = host.ways();
        let Host { network, _server, guard } = host;
        guard.stop();
        for (to, _) in ways {
            match down {
                GuardDown::Direct => assert_eq!(answers(to)?, "server", "{to}"),
                GuardDown::Refuse => ensure!(is_refused(to), "{to}"),
            }
        }
        let counts = steering.counts();
        assert_eq!(counts.direct + counts.refused, 2, "{counts:?}");
        drop(network);
    }
    Ok(())
}
