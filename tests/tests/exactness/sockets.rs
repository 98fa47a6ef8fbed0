//! Sockets that are passed on, shared, reset, and gone at once.

use std::{io::Write, net::TcpStream};

use anyhow::{Context, Result};
use dbwarden::event::{Direction, Layer};
use dbwarden_tests::{await_until, need_root, pattern};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::{
    connection::{Moved, READ, WRITE, call},
    mover::Service,
    watched::{BOTH, Life, Seen, Watched, await_life, everything, newest},
};

#[test]
fn a_socket_is_the_same_in_whatever_hands() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        for kind in ["tcp", "unix"] {
            let mut service = Service::start(&mut watched, kind)?;
            let mut connection = service.connect()?;
            let mover = &mut service.mover;
            // The heir existed before it was tracked; the child of a fork needs no telling.
            let original = connection.fd;
            connection.request(mover, &READ, 100, 1)?;
            connection.fd = mover.number(&format!("dup {original}"))?;
            connection.request(mover, &call("recvmsg", 0, true), 20_000, 3)?;
            let child: u32 = mover.ask("fork")?.parse()?;
            connection.respond(mover, &WRITE, 40_000, 1)?;
            connection.request(mover, &READ, 3000, 1)?;
            mover.ask("end")?;
            let heir: u32 = mover.ask(&format!("pass {original}"))?.parse()?;
            watched.track(heir)?;
            let ours = std::mem::replace(&mut connection.fd, mover.number("passed")?);
            connection.request(mover, &call("recv", 0, true), 70_000, 1)?;
            connection.respond(mover, &call("sendmsg", 0, true), 70_000, 9)?;
            mover.ask(&format!("close {}", connection.fd))?;
            mover.ask("end")?;
            mover.ask(&format!("close {original}"))?;
            connection.fd = ours;
            connection.request(mover, &READ, 10, 1)?;
            connection.finish(mover)?;
            let opened = newest(&mut watched)?;
            connection
                .check(&mut watched, &opened)
                .with_context(|| format!("{hooks:?}, {kind}"))?;
            let parent = mover.pid();
            assert!(watched.seen.lives.contains(&Life::Fork { parent, child }));
            await_life(&mut watched, &Life::Exit { pid: child })?;
        }
    }
    Ok(())
}

#[test]
fn threads_on_one_socket() -> Result<()> {
    need_root!();
    const LEN: u64 = 8 << 20;
    const N_CALLS: u64 = 2000;
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "unix")?;
        // A thread for each direction.
        let mut connection = service.connect()?;
        connection.offer(0, LEN)?;
        let (fd, stream) = (connection.fd, connection.stream);
        service.mover.number(&format!("duplex {fd} {stream} {LEN}"))?;
        connection.requests = Moved { calls: vec![(LEN, true)], total: LEN };
        connection.responses = Moved { calls: vec![(LEN, true)], total: LEN };
        watched.settings.request_bytes = u32::MAX;
        watched.settings.response_head_bytes = u32::MAX;
        connection.finish(&mut service.mover)?;
        let opened = newest(&mut watched)?;
        connection.check(&mut watched, &opened).with_context(|| format!("{hooks:?}"))?;

        // Two threads for one direction: which came first nobody can say, but nothing is lost or mixed.
        let mut connection = service.connect()?;
        let (fd, stream) = (connection.fd, connection.stream);
        service.mover.number(&format!("writers {fd} {stream} {N_CALLS}"))?;
        connection.finish(&mut service.mover)?;
        let socket = newest(&mut watched)?.socket;
        let runs = watched.seen.runs(socket, Direction::Response, Layer::Socket)?;
        let [(0, bytes)] = runs.as_slice() else { anyhow::bail!("{} runs", runs.len()) };
        let mut found: Vec<&[u8]> = bytes.chunks(pattern::MESSAGE_LEN).collect();
        found.sort_unstable();
        let mut sent: Vec<Vec<u8>> =
            (0..2 * N_CALLS).map(|n| pattern::message(stream + n / N_CALLS, n % N_CALLS)).collect();
        sent.sort_unstable();
        assert!(found == sent, "{hooks:?}: {} messages of {}", found.len(), sent.len());
    }
    Ok(())
}

#[test]
fn short_connections_never_mix() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        for kind in ["tcp", "unix"] {
            let mut service = Service::start(&mut watched, kind)?;
            let mut checked = Vec::new();
            for n in 0..150 {
                let mut connection = service.connect()?;
                // Some end without an answer, some by a reset with bytes still on their way.
                connection.request(&mut service.mover, &READ, 1 + 7 * n, 1)?;
                if n % 3 > 0 {
                    connection.respond(&mut service.mover, &WRITE, 1 + 11 * n, 1)?;
                }
                connection.finish(&mut service.mover)?;
                checked.push((connection, newest(&mut watched)?));
            }
            assert_eq!(watched.seen.opened.len(), checked.len());
            for (connection, opened) in &checked {
                connection
                    .check(&mut watched, opened)
                    .with_context(|| format!("{hooks:?}, {kind}"))?;
            }
            watched.seen = Seen::default();
        }
    }
    Ok(())
}

#[test]
fn what_a_reset_left_behind_is_read() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "tcp")?;
        for read_before in [true, false] {
            let mut client = TcpStream::connect(("127.0.0.1", service.port))?;
            let fd = service.mover.number(&format!("accept {}", service.listener))?;
            let mover = &mut service.mover;
            let mut expected = pattern::bytes(1, 0, 500);
            client.write_all(&expected)?;
            if read_before {
                assert_eq!(
                    mover.number(&format!("move {fd} recv 0 0 500 1 {}", libc::MSG_WAITALL))?,
                    500
                );
                client.write_all(&expected)?;
                expected.extend_from_within(..);
            }
            // No bytes linger: the close is a reset.
            linger_zero(&client)?;
            drop(client);
            await_until("the reset", || {
                let state = std::fs::read_to_string("/proc/net/tcp")?;
                let local = format!(":{:04X} ", service.port);
                let here = |line: &&str| {
                    let mut words = line.split_whitespace().skip(1);
                    words.next().is_some_and(|word| format!("{word} ").ends_with(&local))
                        && words.nth(1) == Some("01")
                };
                Ok((!state.lines().any(|line| here(&line))).then_some(()))
            })?;
            assert_eq!(mover.number(&format!("move {fd} read 0 0 900 1 0"))?, 500);
            mover.ask(&format!("close {fd}"))?;
            let socket = newest(&mut watched)?.socket;
            let runs = watched.seen.runs(socket, Direction::Request, Layer::Socket)?;
            assert!(runs == [(0, expected)], "{hooks:?}, read before: {read_before}");
            assert!(watched.seen.closed.contains(&(socket, true, 0)), "{hooks:?}");
        }
    }
    Ok(())
}

fn linger_zero(stream: &TcpStream) -> Result<()> {
    Ok(setsockopt(stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}
