//! Connections are led to a guard's listener, whoever makes them and however: with a stand-in for the guard.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use dbwarden::capture::steer::{
    GuardDown, SteerError, SteerOptions, Steering, local_prefixes, netns_cookie, own_netns_cookie,
};
use dbwarden_tests::{Dial, Netns, await_until, need_root, said, socket_cookie};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

/// Runs a test on a thread with a network of its own: nobody else is steered, and every port is free.
fn in_own_network<T: Send>(test: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        said(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        test()
    })
}

/// Runs it in a network that has a name.
fn inside<T: Send>(network: &Netns, test: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let place = File::open(Path::new("/run/netns").join(network.name()))?;
    on_a_thread(|| {
        setns(place, CloneFlags::CLONE_NEWNET)?;
        test()
    })
}

fn on_a_thread<T: Send>(test: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(test).join().map_err(|_| anyhow!("the test panicked"))?)
}

/// Answers each byte with its name and the client's address, until the client leaves. Ends with the test.
struct Greeter {
    at: SocketAddr,
    listener: TcpListener,
}

impl Greeter {
    fn start(name: &'static str, at: impl Into<SocketAddr>) -> Result<Greeter> {
        let listener = TcpListener::bind(at.into())?;
        let at = listener.local_addr()?;
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((mut client, from)) = accepting.accept() {
                thread::spawn(move || {
                    let mut byte = [0];
                    while client.read_exact(&mut byte).is_ok() {
                        let _ = writeln!(client, "{name} {}", from.ip());
                    }
                });
            }
        });
        Ok(Greeter { at, listener })
    }

    /// Nobody listens any more.
    fn stop(self) {
        // Wakes its thread as well.
        // SAFETY: no pointers; a socket of ours.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

/// Who answers, and the client's address that they see.
fn heard(stream: &TcpStream) -> Result<(String, IpAddr)> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let (name, from) = line.trim().split_once(' ').with_context(|| format!("heard {line:?}"))?;
    Ok((name.to_owned(), from.parse::<IpAddr>()?.to_canonical()))
}

fn dialled(how: Dial, to: SocketAddr) -> Result<TcpStream> {
    how.open(how.socket(to)?, to, b"?").with_context(|| format!("{how:?} to {to}"))
}

fn answers(to: SocketAddr) -> Result<String> {
    Ok(heard(&dialled(Dial::Connect, to)?)?.0)
}

fn any(port: u16) -> [SocketAddr; 2] {
    [([0; 4], port).into(), ([0_u16; 8], port).into()]
}

fn attached() -> Result<Steering> {
    Ok(Steering::attach(&SteerOptions::default())?)
}

const LOCALHOST: [&str; 2] = ["127.0.0.1", "::1"];

/// A server and a guard on both loopback addresses.
fn pairs() -> Result<[(Greeter, Greeter); 2]> {
    let [four, six] = LOCALHOST.map(|ip| -> Result<_> {
        let ip: IpAddr = ip.parse()?;
        Ok((Greeter::start("server", (ip, 5432))?, Greeter::start("guard", (ip, 6543))?))
    });
    Ok([four?, six?])
}

#[test]
fn every_way_to_connect_is_led() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let pairs = pairs()?;
        let mut steering = attached()?;
        let netns = own_netns_cookie()?;
        let ways: Vec<(Dial, &(Greeter, Greeter))> =
            pairs.iter().flat_map(|pair| Dial::ALL.map(|how| (how, pair))).collect();
        for (how, (server, _)) in &ways {
            let stream = dialled(*how, server.at)?;
            assert_eq!(heard(&stream)?.0, "server", "{how:?} {}", server.at);
        }
        for (server, guard) in &pairs {
            steering.steer(netns, server.at, guard.at, GuardDown::Refuse)?;
        }
        for (how, (server, guard)) in &ways {
            let stream = dialled(*how, server.at)?;
            let case = format!("{how:?} {}", server.at);
            assert_eq!(heard(&stream)?, ("guard".to_owned(), server.at.ip()), "{case}");
            let peer = stream.peer_addr()?;
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            assert_eq!(peer, server.at, "{case}: getpeername");
            let own = stream.local_addr()?;
            ensure!(own.ip().to_canonical() == server.at.ip(), "{case}: getsockname {own}");
            // Who asks for the guard itself has it.
            let stream = dialled(*how, guard.at)?;
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
        let [four, six] = pairs()?;
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
            let stream = dialled(how, to)?;
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
    let remote = inside(&cable, || Greeter::start("remote", ([0; 4], 0)))?;
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
            let stream = dialled(how, to)?;
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
        kept.push(inside(network, || Greeter::start("server", localhost))?);
        kept.push(inside(network, || Greeter::start("guard", guard))?);
    }
    let mut steering = attached()?;
    let place = File::open(Path::new("/run/netns").join(there.name()))?;
    let cookie = netns_cookie(place.as_fd())?;
    assert_eq!(cookie, inside(&there, || Ok(own_netns_cookie()?))?);
    steering.steer(cookie, localhost, guard, GuardDown::Refuse)?;
    assert_eq!(inside(&there, || answers(localhost))?, "guard");
    assert_eq!(inside(&other, || answers(localhost))?, "server");
    steering.steer(
        inside(&other, || Ok(own_netns_cookie()?))?,
        localhost,
        guard,
        GuardDown::Refuse,
    )?;
    assert_eq!(inside(&other, || answers(localhost))?, "guard");
    Ok(())
}

#[test]
fn the_guards_own_sockets_are_left_alone() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let [(server, guard), _] = pairs()?;
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

#[test]
fn a_server_and_its_guard_are_of_one_family() -> Result<()> {
    need_root!();
    let mut steering = attached()?;
    let refused = steering.steer(1, "127.0.0.1:1".parse()?, "[::1]:2".parse()?, GuardDown::Direct);
    ensure!(matches!(refused, Err(SteerError::Mismatch { .. })));
    Ok(())
}

/// Steering comes and goes while clients come and go.
#[test]
fn no_connection_is_lost_or_touched_by_a_change() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let [(server, guard), _] = pairs()?;
        let netns = own_netns_cookie()?;
        let early = dialled(Dial::Connect, server.at)?;
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
                let late = dialled(Dial::Connect, server.at)?;
                assert_eq!(heard(&late)?.0, "guard");
                drop(steering);
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
        for ((server, guard), others) in pairs()?.into_iter().zip(LOCALHOST) {
            let netns = own_netns_cookie()?;
            let mut steering = attached()?;
            steering.steer(netns, server.at, guard.at, GuardDown::Direct)?;
            assert_eq!(answers(server.at)?, "guard", "{others}");
            let guard_at = guard.at;
            guard.stop();
            assert_eq!(answers(server.at)?, "server", "{others}");
            assert_eq!(steering.counts().direct, 1);
            steering.steer(netns, server.at, guard_at, GuardDown::Refuse)?;
            ensure!(is_refused(server.at), "{others}");
        }
        Ok(())
    })
}

fn is_refused(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, Duration::from_secs(10))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A BPF file system of the test's own.
struct Bpffs(TempDir);

impl Bpffs {
    fn mount() -> Result<Bpffs> {
        let folder = tempfile::Builder::new().prefix("dbwarden-bpffs-").tempdir()?;
        said(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()))?;
        Ok(Bpffs(folder))
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("dbwarden")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = said(Command::new("umount").arg(self.0.path())) {
            eprintln!("{error:#}");
        }
    }
}

const CHILD: &str = "DBWARDEN_STEER_CHILD";

/// Not a test by itself: what [`Agent`] starts, in the network of the test that starts it.
#[test]
fn as_an_agent() -> Result<()> {
    let Ok(words) = std::env::var(CHILD) else { return Ok(()) };
    let words: Vec<&str> = words.split(' ').collect();
    let [down, pins, server, guard] = words.as_slice() else { anyhow::bail!("{words:?}") };
    let down = if *down == "direct" { GuardDown::Direct } else { GuardDown::Refuse };
    let pins = (*pins != "-").then(|| PathBuf::from(pins));
    let mut steering = Steering::attach(&SteerOptions { pins, ..SteerOptions::default() })?;
    if *server != "-" {
        steering.steer(own_netns_cookie()?, server.parse()?, guard.parse()?, down)?;
    }
    // The harness has captured what is printed.
    writeln!(std::io::stderr(), "steering")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    steering.settle()?;
    Ok(steering.stop()?)
}

/// A process that steers, to be killed.
struct Agent(Child);

impl Agent {
    fn start(
        down: &str,
        pins: Option<&Path>,
        pair: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Agent> {
        let pins = pins.map_or("-".to_owned(), |pins| pins.display().to_string());
        let (server, guard) = pair.map_or(("-".to_owned(), "-".to_owned()), |(server, guard)| {
            (server.to_string(), guard.to_string())
        });
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "as_an_agent", "--nocapture"])
            .env(CHILD, [down, &pins, &server, &guard].join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let said = child.stderr.take().context("no standard error")?;
        let mut lines = Vec::new();
        for line in BufReader::new(said).lines() {
            lines.push(line?);
            if lines.last().is_some_and(|line| line == "steering") {
                return Ok(Agent(child));
            }
        }
        Err(anyhow!("the agent ended: {lines:?}"))
    }

    /// As `kill -9` does.
    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        ensure!(self.0.wait()?.success());
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_agent_leaves_clients_with_the_server() -> Result<()> {
    need_root!();
    in_own_network(|| {
        for (server, guard) in &pairs()? {
            let agent = Agent::start("direct", None, Some((server.at, guard.at)))?;
            assert_eq!(answers(server.at)?, "guard");
            let early = dialled(Dial::Connect, server.at)?;
            assert_eq!(heard(&early)?.0, "guard");
            agent.kill()?;
            // The kernel takes it off after the process has ended.
            await_until("a server without steering", || {
                Ok((answers(server.at)? == "server").then_some(()))
            })?;
            (&early).write_all(b"?")?;
            assert_eq!(heard(&early)?.0, "guard");
        }
        Ok(())
    })
}

#[test]
fn a_killed_agent_leaves_clients_refused_until_the_next_one() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let bpffs = Bpffs::mount()?;
        let pins = bpffs.folder();
        let [(server, guard), (server_six, guard_six)] = pairs()?;
        let agent = Agent::start("refuse", Some(&pins), Some((server.at, guard.at)))?;
        let early = dialled(Dial::Connect, server.at)?;
        assert_eq!(heard(&early)?.0, "guard");
        agent.kill()?;
        assert_eq!(answers(server.at)?, "guard", "the guard is another process");
        assert_eq!(early.peer_addr()?, server.at);
        guard.stop();
        ensure!(is_refused(server.at));

        // The next start: never is there a moment at which the server itself can be reached.
        let stop = AtomicBool::new(false);
        let reached = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if answers(server.at).is_ok_and(|name| name == "server") {
                        reached.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let taking_over = || -> Result<()> {
                for _ in 0..3 {
                    Agent::start("refuse", Some(&pins), None)?.kill()?;
                }
                let next = Greeter::start("next", ([127, 0, 0, 1], 0))?;
                let agent = Agent::start("refuse", Some(&pins), Some((server.at, next.at)))?;
                assert_eq!(answers(server.at)?, "next");
                agent.kill()?;
                assert_eq!(early.peer_addr()?, server.at);
                Ok(())
            };
            let outcome = taking_over();
            stop.store(true, Ordering::Relaxed);
            outcome
        })?;
        assert_eq!(reached.into_inner(), 0);

        // One that wants another server lets go of this one, and leaves nothing when it stops.
        let pair = (server_six.at, guard_six.at);
        let agent = Agent::start("refuse", Some(&pins), Some(pair))?;
        assert_eq!(answers(server_six.at)?, "guard");
        agent.stop()?;
        for server in [server.at, server_six.at] {
            assert_eq!(answers(server)?, "server");
        }
        assert_eq!(fs::read_dir(&pins)?.count(), 0);
        Ok(())
    })
}

#[test]
fn what_an_earlier_start_wanted_is_let_go() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let bpffs = Bpffs::mount()?;
        let [(server, guard), (server_six, guard_six)] = pairs()?;
        Agent::start("refuse", Some(&bpffs.folder()), Some((server.at, guard.at)))?.kill()?;
        // As an incompatible version would have left it.
        fs::create_dir_all(bpffs.folder().join("steer-0/network-1"))?;
        let options = SteerOptions { pins: Some(bpffs.folder()), ..SteerOptions::default() };
        let mut steering = Steering::attach(&options)?;
        steering.steer(own_netns_cookie()?, server_six.at, guard_six.at, GuardDown::Refuse)?;
        assert_eq!(answers(server.at)?, "guard");
        steering.settle()?;
        assert_eq!(answers(server.at)?, "server");
        assert_eq!(answers(server_six.at)?, "guard");
        ensure!(!bpffs.folder().join("steer-0").exists());
        steering.stop()?;
        assert_eq!(answers(server_six.at)?, "server");
        Ok(())
    })
}

#[test]
fn pins_need_a_bpf_file_system() -> Result<()> {
    need_root!();
    let folder = tempfile::tempdir()?;
    let options = SteerOptions { pins: Some(folder.path().join("a/b")), ..SteerOptions::default() };
    let refused = Steering::attach(&options).err().context("it is attached")?;
    ensure!(refused.to_string().contains("is not on a BPF file system"), "{refused}");
    let options = SteerOptions { cgroup: Some(folder.path().into()), ..SteerOptions::default() };
    let refused = Steering::attach(&options).err().context("it is attached")?;
    ensure!(matches!(refused, SteerError::Cgroup { .. }), "{refused}");
    Ok(())
}
