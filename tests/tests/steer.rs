//! Connections of this host's clients are led to a guard's listener, however they are made: with a stand-in
//! for the guard.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Result, anyhow, ensure};
use dbwarden::capture::steer::{
    GuardDown, SteerOptions, Steering, local_prefixes, netns_cookie, own_netns_cookie,
};
use dbwarden_tests::{
    Dial, Netns,
    greeter::{Greeter, answers, heard, is_refused, server_and_guard},
    in_own_network, need_root, socket_cookie,
};

fn any(port: u16) -> [SocketAddr; 2] {
    [([0; 4], port).into(), ([0_u16; 8], port).into()]
}

fn attached() -> Result<Steering> {
    Ok(Steering::attach(&SteerOptions::default())?)
}

#[test]
fn every_way_to_connect_is_led() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let pairs = server_and_guard()?;
        let mut steering = attached()?;
        let netns = own_netns_cookie()?;
        let ways: Vec<(Dial, &(Greeter, Greeter))> =
            pairs.iter().flat_map(|pair| Dial::ALL.map(|how| (how, pair))).collect();
        for (how, (server, _)) in &ways {
            let stream = how.dial(server.at)?;
            assert_eq!(heard(&stream)?.0, "server", "{how:?} {}", server.at);
        }
        for (server, guard) in &pairs {
            steering.steer(netns, server.at, guard.at, GuardDown::Refuse)?;
        }
        for (how, (server, guard)) in &ways {
            let stream = how.dial(server.at)?;
            let case = format!("{how:?} {}", server.at);
            assert_eq!(heard(&stream)?, ("guard".to_owned(), server.at.ip()), "{case}");
            let peer = stream.peer_addr()?;
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            assert_eq!(peer, server.at, "{case}: getpeername");
            let own = stream.local_addr()?;
            ensure!(own.ip().to_canonical() == server.at.ip(), "{case}: getsockname {own}");
            // Who asks for the guard itself has it.
            let stream = how.dial(guard.at)?;
            assert_eq!(heard(&stream)?.0, "guard", "{case}: the guard's port");
            assert_eq!(stream.peer_addr()?.port(), guard.at.port(), "{case}: the guard's port");
        }
        let counts = steering.counts();
        assert_eq!((counts.steered, counts.untold), (ways.len() as u64, 0), "{counts:?}");
        // A datagram socket on the same port is none of a database's.
        let datagrams = UdpSocket::bind("127.0.0.1:0")?;
        datagrams.connect(pairs[0].0.at)?;
        assert_eq!(datagrams.peer_addr()?, pairs[0].0.at);
        assert_eq!(steering.counts(), counts);
        for (server, _) in &pairs {
            steering.release(netns, server.at)?;
            assert_eq!(answers(server.at)?, "server");
        }
        Ok(())
    })
}

/// `connect` to no address at all reaches the socket's own, or this host's.
#[test]
fn a_client_that_names_no_address_is_led() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let [four, six] = server_and_guard()?;
        let mut steering = attached()?;
        let netns = own_netns_cookie()?;
        for (server, guard) in [&four, &six] {
            steering.steer(netns, server.at, guard.at, GuardDown::Refuse)?;
        }
        let [any_four, any_six] = any(5432);
        for (how, to, peer) in [
            (Dial::Connect, any_four, four.0.at),
            (Dial::Mapped, any_four, four.0.at),
            (Dial::Connect, any_six, six.0.at),
            (Dial::Mptcp, any_six, six.0.at),
        ] {
            let stream = how.dial(to)?;
            assert_eq!(heard(&stream)?.0, "guard", "{how:?} {to}");
            let named = stream.peer_addr()?;
            assert_eq!(SocketAddr::new(named.ip().to_canonical(), named.port()), peer);
        }
        // Bound to a device, it would reach that device's address, whichever that is.
        let socket = Dial::Connect.socket(any_four)?;
        bind_to_device(&socket, "lo")?;
        let refused = Dial::Connect.open(socket, any_four, b"?");
        ensure!(refused.is_err_and(|error| error.to_string().contains("not permitted")));
        assert_eq!(steering.counts().refused, 1);
        Ok(())
    })
}

fn bind_to_device(socket: &OwnedFd, device: &str) -> Result<()> {
    nix::sys::socket::setsockopt(
        socket,
        nix::sys::socket::sockopt::BindToDevice,
        &device.to_owned().into(),
    )?;
    Ok(())
}

#[test]
fn a_server_on_all_addresses_is_led_from_each_of_them_and_no_other_host() -> Result<()> {
    need_root!();
    let cable = Netns::create()?;
    let remote = cable.run(|| Greeter::start("remote", ([0; 4], 0)))?;
    let port = remote.at.port();
    let [any_four, any_six] = any(port);
    let guard = Greeter::start("guard", ([0_u16; 8], 0))?;
    let [guard_four, guard_six] = any(guard.at.port());
    let _server = Greeter::start("server", any_six)?;
    let mut steering = attached()?;
    let netns = own_netns_cookie()?;
    steering.set_local(netns, &local_prefixes(Path::new("/proc/self/net"))?)?;
    steering.steer(netns, any_four, guard_four, GuardDown::Refuse)?;
    steering.steer(netns, any_six, guard_six, GuardDown::Refuse)?;
    let own = IpAddr::V4(cable.outside());
    for to in ["127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::", &own.to_string()] {
        let to = SocketAddr::new(to.parse()?, port);
        for how in [Dial::Connect, Dial::Mapped, Dial::IoUring, Dial::Mptcp] {
            let stream = how.dial(to)?;
            let (name, from) = heard(&stream)?;
            assert_eq!(name, "guard", "{how:?} {to}");
            // Only the port is another one, so the client's address is what it would have been.
            if to.ip() == own {
                assert_eq!(from, own, "{how:?} {to}");
            }
            assert_eq!(stream.peer_addr()?.port(), port, "{how:?} {to}");
        }
    }
    assert_eq!(answers(SocketAddr::new(cable.inside().into(), port))?, "remote");

    // An address that the namespace has lost.
    steering.set_local(netns, &[("127.0.0.0".parse()?, 8)])?;
    assert_eq!(answers(SocketAddr::new(own, port))?, "server");
    assert_eq!(answers(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?, "guard");
    Ok(())
}

#[test]
fn another_namespace_has_its_own_localhost() -> Result<()> {
    need_root!();
    let (there, other) = (Netns::create()?, Netns::create()?);
    let localhost: SocketAddr = "127.0.0.1:5432".parse()?;
    let guard: SocketAddr = "127.0.0.1:6543".parse()?;
    let mut kept = Vec::new();
    for network in [&there, &other] {
        kept.push(network.run(|| Greeter::start("server", localhost))?);
        kept.push(network.run(|| Greeter::start("guard", guard))?);
    }
    let mut steering = attached()?;
    let cookie = netns_cookie(there.place()?.as_fd())?;
    assert_eq!(cookie, there.run(|| Ok(own_netns_cookie()?))?);
    steering.steer(cookie, localhost, guard, GuardDown::Refuse)?;
    assert_eq!(there.run(|| answers(localhost))?, "guard");
    assert_eq!(other.run(|| answers(localhost))?, "server");
    steering.steer(other.run(|| Ok(own_netns_cookie()?))?, localhost, guard, GuardDown::Refuse)?;
    assert_eq!(other.run(|| answers(localhost))?, "guard");
    Ok(())
}

#[test]
fn the_guards_own_sockets_are_left_alone() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let [(server, guard), _] = server_and_guard()?;
        let mut steering = attached()?;
        steering.steer(own_netns_cookie()?, server.at, guard.at, GuardDown::Refuse)?;
        let socket = Dial::Connect.socket(server.at)?;
        let cookie = socket_cookie(&socket)?;
        steering.exempt(cookie)?;
        let stream = Dial::Connect.open(socket, server.at, b"?")?;
        assert_eq!(heard(&stream)?.0, "server");
        assert_eq!(stream.peer_addr()?, server.at);
        // Nobody else's, not even this process's.
        assert_eq!(answers(server.at)?, "guard");
        let counts = steering.counts();
        assert_eq!((counts.exempt, counts.steered), (1, 1));
        steering.forget(cookie)?;
        Ok(steering.forget(cookie)?)
    })
}

/// Steering comes and goes while clients come and go.
#[test]
fn no_connection_is_lost_or_touched_by_a_change() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let [(server, guard), _] = server_and_guard()?;
        let netns = own_netns_cookie()?;
        let early = Dial::Connect.dial(server.at)?;
        assert_eq!(heard(&early)?.0, "server");
        let (stop, n_server, n_guard) =
            (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        while !stop.load(Ordering::Relaxed) {
                            match &*answers(server.at)? {
                                "guard" => n_guard.fetch_add(1, Ordering::Relaxed),
                                _ => n_server.fetch_add(1, Ordering::Relaxed),
                            };
                        }
                        Ok(())
                    })
                })
                .collect();
            let changes = (0..30).try_for_each(|_| -> Result<()> {
                let mut steering = attached()?;
                for _ in 0..5 {
                    steering.steer(netns, server.at, guard.at, GuardDown::Direct)?;
                    assert_eq!(answers(server.at)?, "guard");
                    steering.release(netns, server.at)?;
                    assert_eq!(answers(server.at)?, "server");
                }
                steering.steer(netns, server.at, guard.at, GuardDown::Direct)?;
                let late = Dial::Connect.dial(server.at)?;
                assert_eq!(heard(&late)?.0, "guard");
                steering.stop()?;
                // What was led goes on.
                (&late).write_all(b"?")?;
                assert_eq!(heard(&late)?.0, "guard");
                assert_eq!(answers(server.at)?, "server");
                Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            for client in clients {
                client.join().map_err(|_| anyhow!("a client panicked"))??;
            }
            changes
        })?;
        ensure!(n_guard.into_inner() > 0 && n_server.into_inner() > 0);
        (&early).write_all(b"?")?;
        assert_eq!(heard(&early)?.0, "server");
        Ok(())
    })
}

#[test]
fn where_no_guard_listens_clients_go_straight_on_or_are_refused() -> Result<()> {
    need_root!();
    in_own_network(|| {
        for (server, guard) in server_and_guard()? {
            let netns = own_netns_cookie()?;
            let mut steering = attached()?;
            steering.steer(netns, server.at, guard.at, GuardDown::Direct)?;
            assert_eq!(answers(server.at)?, "guard", "{}", server.at);
            let guard_at = guard.at;
            guard.stop();
            assert_eq!(answers(server.at)?, "server", "{}", server.at);
            assert_eq!(steering.counts().direct, 1);
            steering.steer(netns, server.at, guard_at, GuardDown::Refuse)?;
            ensure!(is_refused(server.at), "{}", server.at);
        }
        Ok(())
    })
}
