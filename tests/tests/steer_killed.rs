//! What a killed agent leaves of its steering: nothing, or clients that are refused until the next one.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use dbwarden::capture::steer::{GuardDown, SteerOptions, Steering, own_netns_cookie, remove_pins};
use dbwarden_tests::{
    Bpffs, Dial, Netns, await_until,
    greeter::{Greeter, answers, heard, is_refused, server_and_guard},
    in_own_network, need_root,
};

const CHILD: &str = "DBWARDEN_STEER_CHILD";

/// Not a test by itself: what [`Agent`] starts, in the network of the test that starts it.
#[test]
fn as_an_agent() -> Result<()> {
    let Ok(words) = std::env::var(CHILD) else { return Ok(()) };
    let words: Vec<&str> = words.split(' ').collect();
    let [whose, down, pins, server, guard] = words.as_slice() else { anyhow::bail!("{words:?}") };
    let down = if *down == "direct" { GuardDown::Direct } else { GuardDown::Refuse };
    let pins = (*pins != "-").then(|| PathBuf::from(pins));
    let mut steering = Steering::attach(&SteerOptions { pins, ..SteerOptions::default() })?;
    match *whose {
        "nobody" => {}
        "local" => {
            steering.steer(own_netns_cookie()?, server.parse()?, guard.parse()?, down)?;
        }
        _ => {
            let guard = Greeter::start("guard", guard.parse::<SocketAddr>()?)?;
            let place = File::open("/proc/self/ns/net")?;
            let listener = guard.listener.as_fd();
            steering.attach_network(place.as_fd(), server.parse()?, listener, down)?;
        }
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
    /// `whose` clients it steers: those of this host (`local`), of the `network` (then it is the guard, too),
    /// or `nobody`'s.
    fn start(whose: &str, down: &str, pins: Option<&Path>, pair: [SocketAddr; 2]) -> Result<Agent> {
        let pins = pins.map_or("-".to_owned(), |pins| pins.display().to_string());
        let [server, guard] = pair.map(|at| at.to_string());
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "as_an_agent", "--nocapture"])
            .env(CHILD, [whose, down, &pins, &server, &guard].join(" "))
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
        for (server, guard) in &server_and_guard()? {
            let agent = Agent::start("local", "direct", None, [server.at, guard.at])?;
            assert_eq!(answers(server.at)?, "guard");
            let early = Dial::Connect.dial(server.at)?;
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
        let [(server, guard), (server_six, guard_six)] = server_and_guard()?;
        let agent = Agent::start("local", "refuse", Some(&pins), [server.at, guard.at])?;
        let early = Dial::Connect.dial(server.at)?;
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
                    Agent::start("nobody", "refuse", Some(&pins), [server.at; 2])?.kill()?;
                }
                let next = Greeter::start("next", ([127, 0, 0, 1], 0))?;
                let agent = Agent::start("local", "refuse", Some(&pins), [server.at, next.at])?;
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
        let pair = [server_six.at, guard_six.at];
        let agent = Agent::start("local", "refuse", Some(&pins), pair)?;
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
fn clients_from_the_network_fare_no_worse() -> Result<()> {
    need_root!();
    let bpffs = Bpffs::mount()?;
    let network = Netns::create()?;
    let at: SocketAddr = (network.inside(), 5432).into();
    let _server = network.run(|| Greeter::start("server", at))?;
    let start = |down, pins: Option<&Path>| {
        network.run(|| Agent::start("network", down, pins, [at, (network.inside(), 0).into()]))
    };
    let agent = start("direct", None)?;
    assert_eq!(answers(at)?, "guard");
    agent.kill()?;
    await_until("a server without steering", || Ok((answers(at)? == "server").then_some(())))?;

    let pins = bpffs.folder();
    for _ in 0..2 {
        let agent = start("refuse", Some(&pins))?;
        assert_eq!(answers(at)?, "guard");
        agent.kill()?;
        ensure!(is_refused(at));
    }
    // Who steers nobody there any more lets go of it.
    network.run(|| Agent::start("nobody", "refuse", Some(&pins), [at; 2])?.stop())?;
    await_until("a server without steering", || {
        Ok(answers(at).ok().filter(|name| name == "server"))
    })?;
    let agent = start("refuse", Some(&pins))?;
    assert_eq!(answers(at)?, "guard");
    agent.stop()?;
    assert_eq!(answers(at)?, "server");
    assert_eq!(fs::read_dir(&pins)?.count(), 0);
    Ok(())
}

#[test]
fn what_an_earlier_start_wanted_is_let_go() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let bpffs = Bpffs::mount()?;
        let [(server, guard), (server_six, guard_six)] = server_and_guard()?;
        let pair = [server.at, guard.at];
        Agent::start("local", "refuse", Some(&bpffs.folder()), pair)?.kill()?;
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

/// A configuration that guards nothing any more.
#[test]
fn pins_of_before_can_be_removed_without_steering() -> Result<()> {
    need_root!();
    in_own_network(|| {
        let bpffs = Bpffs::mount()?;
        let [(server, guard), _] = server_and_guard()?;
        let pair = [server.at, guard.at];
        Agent::start("local", "refuse", Some(&bpffs.folder()), pair)?.kill()?;
        guard.stop();
        ensure!(is_refused(server.at));
        remove_pins(&bpffs.folder())?;
        await_until("a server without steering", || {
            Ok(answers(server.at).ok().filter(|name| name == "server"))
        })?;
        assert_eq!(fs::read_dir(bpffs.folder())?.count(), 0);
        Ok(remove_pins(&bpffs.folder().join("not there"))?)
    })
}
