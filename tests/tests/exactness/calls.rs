//! Every system call that moves bytes, with every size that has an edge.

use anyhow::{Context, Result};
use dbwarden::{
    capture::CaptureSettings,
    config::HookChoice,
    event::{Direction, Layer},
};
use dbwarden_common::Drop as Reason;
use dbwarden_tests::{
    await_until, need_root,
    pattern::{self, Numbers},
};

use crate::{
    connection::{Connection, READ, READS, WRITE, WRITES, call},
    mover::{Mover, Service},
    watched::{BOTH, Watched, everything, newest},
};

fn seed() -> Result<Numbers> {
    use nix::time::{ClockId, clock_gettime};
    let seed = match std::env::var("DBWARDEN_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_nsec() as u64,
    };
    println!("DBWARDEN_TEST_SEED={seed}");
    Ok(Numbers(seed))
}

/// From 1 byte to 1 MiB, each order of magnitude as likely as the others.
fn some_len(numbers: &mut Numbers) -> u64 {
    let most = 1 << numbers.below(21);
    1 + numbers.below(most)
}

#[test]
fn every_call_on_every_socket() -> Result<()> {
    need_root!();
    let mut numbers = seed()?;
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut lost = 0;
        for kind in ["tcp", "tcp6", "unix"] {
            let service = &mut Service::start(&mut watched, kind)?;
            let mut connection = service.connect()?;
            let mover = &mut service.mover;
            for round in 0..6 {
                for (read, write) in READS.iter().zip(&WRITES) {
                    let n_vectors = match numbers.below(8) {
                        0 => 200 + numbers.below(824),
                        _ => 1 + numbers.below(64),
                    };
                    connection.request(mover, read, some_len(&mut numbers), n_vectors)?;
                    connection.respond(mover, write, some_len(&mut numbers), n_vectors)?;
                    watched.look()?;
                }
                if round == 3 {
                    mover.ask(&format!("nonblocking {}", connection.fd))?;
                    let empty = mover.ask(&format!("move {} read 0 0 10 1 0", connection.fd))?;
                    assert_eq!(empty, "operation would block");
                }
            }
            mover.ask(&format!("dup2 {} 900", connection.fd))?;
            mover.ask(&format!("close {}", connection.fd))?;
            connection.fd = 900;
            // Looked at, but not taken; asked for nothing; thrown away.
            connection.offer(connection.requests.total, 5000)?;
            let (fd, peek) = (connection.fd, libc::MSG_PEEK);
            for look in ["recv", "recvmsg", "recvfrom", "recvmmsg"] {
                await_until("bytes to look at", || {
                    let said = mover.ask(&format!("move {fd} {look} 0 0 900 3 {peek}"))?;
                    Ok(said.parse::<u64>().ok().filter(|&n| n > 0))
                })?;
                assert_eq!(mover.number(&format!("move {fd} read 0 0 0 1 0"))?, 0);
            }
            let discard = call("recv", libc::MSG_TRUNC, false);
            connection.take(mover, &discard, 1000, 1)?;
            connection.take(mover, &READ, 4000, 1)?;
            await_the_end(&mut connection, mover)?;
            let opened = newest(&mut watched)?;
            connection
                .check(&mut watched, &opened)
                .with_context(|| format!("{hooks:?}, {kind}"))?;
            assert_eq!(opened.ends.map_or(0, |ends| ends.remote.1), connection.port);
            lost += connection.requests.lost() + connection.responses.lost();
        }
        assert_eq!(watched.lost(Reason::UnsupportedCall).bytes, lost, "{hooks:?}");
        for (reason, count) in watched.capture.drops() {
            assert!(
                reason == Reason::UnsupportedCall || count.events == 0,
                "{reason:?}: {count:?}"
            );
        }
    }
    Ok(())
}

/// Of a non-blocking socket: its client may take a moment to close.
fn await_the_end(connection: &mut Connection, mover: &mut Mover) -> Result<()> {
    connection.to_write = None;
    await_until("the end of the stream", || {
        let said = mover.ask(&format!("move {} read 0 0 100 1 0", connection.fd))?;
        Ok((said == "0").then_some(()))
    })?;
    connection.finish(mover)
}

#[test]
fn sizes_around_every_boundary() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "unix")?;
        let mut connection = service.connect()?;
        for n in [256, 2048, 8192, 16384, 65536] {
            for len in [n - 1, n, n + 1, 2 * n] {
                connection.request(
                    &mut service.mover,
                    &call("recv", libc::MSG_WAITALL, true),
                    len,
                    1,
                )?;
                connection.respond(&mut service.mover, &WRITE, len, 1)?;
            }
        }
        connection.finish(&mut service.mover)?;
        let opened = newest(&mut watched)?;
        connection.check(&mut watched, &opened).with_context(|| format!("{hooks:?}"))?;
        assert!(service.folder.path().is_dir());
    }
    Ok(())
}

#[test]
fn small_budgets_keep_the_head_and_the_tail() -> Result<()> {
    need_root!();
    let mut numbers = seed()?;
    for hooks in BOTH {
        let budgets = CaptureSettings {
            request_bytes: 3000,
            response_head_bytes: 500,
            response_tail_bytes: 100,
            ..everything(hooks)
        };
        let mut watched = Watched::start(budgets)?;
        let mut service = Service::start(&mut watched, "tcp")?;
        let mut connection = service.connect()?;
        let sizes = [499, 500, 501, 599, 600, 601, 2999, 3000, 3001, 70_000];
        let random: Vec<u64> = (0..60).map(|_| some_len(&mut numbers)).collect();
        for len in sizes.into_iter().chain(random) {
            let n_vectors = 1 + numbers.below(64);
            let reads = call("recvmsg", libc::MSG_WAITALL, true);
            connection.request(&mut service.mover, &reads, len, n_vectors)?;
            connection.respond(&mut service.mover, &call("writev", 0, true), len, n_vectors)?;
        }
        connection.finish(&mut service.mover)?;
        let opened = newest(&mut watched)?;
        connection.check(&mut watched, &opened).with_context(|| format!("{hooks:?}"))?;
        assert!(watched.capture.drops().iter().all(|(_, count)| count.events == 0));
    }
    Ok(())
}

#[test]
fn a_full_ring_is_counted_to_the_byte() -> Result<()> {
    need_root!();
    let mut numbers = seed()?;
    for hooks in BOTH {
        let mut watched =
            Watched::start(CaptureSettings { ring_bytes: 64 << 10, ..everything(hooks) })?;
        let mut service = Service::start(&mut watched, "tcp")?;
        let mut lost = 0;
        for _ in 0..3 {
            let mut connection = service.connect()?;
            for _ in 0..40 {
                connection.request(&mut service.mover, &READ, some_len(&mut numbers), 1)?;
                connection.respond(&mut service.mover, &WRITE, some_len(&mut numbers), 1)?;
                if numbers.below(4) == 0 {
                    watched.look()?;
                }
            }
            connection.finish(&mut service.mover)?;
            let socket = newest(&mut watched)?.socket;
            let mut delivered = 0;
            for (direction, stream) in [(Direction::Request, 0), (Direction::Response, 1)] {
                for (start, run) in watched.seen.runs(socket, direction, Layer::Socket)? {
                    let right = pattern::bytes(connection.stream + stream, start, run.len());
                    assert!(run == right, "{direction:?} at {start}");
                    delivered += run.len() as u64;
                }
            }
            let dropped = watched.seen.closed.iter().filter(|(of, gone, _)| *of == socket && *gone);
            let dropped: Vec<u64> = dropped.map(|(_, _, dropped)| *dropped).collect();
            let moved = connection.requests.total + connection.responses.total;
            assert_eq!(dropped, [moved - delivered], "{hooks:?}");
            lost += moved - delivered;
        }
        assert!(lost > 0);
        assert_eq!(watched.lost(Reason::RingFull).bytes, lost);
    }
    Ok(())
}

#[test]
fn io_uring_is_counted_and_confuses_nobody() -> Result<()> {
    need_root!();
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    if disabled.is_ok_and(|value| value.trim() != "0") {
        println!("skipped: io_uring is disabled on this host");
        return Ok(());
    }
    // The fallback doesn't see io_uring at all.
    let mut watched = Watched::start(everything(HookChoice::TpBtf))?;
    let mut service = Service::start(&mut watched, "tcp")?;
    let mut connection = service.connect()?;
    let (send, receive) = (call("uring_send", 0, false), call("uring_recv", 0, false));
    for len in [1, 300, 9000, 40_000] {
        connection.request(&mut service.mover, &READ, len, 1)?;
        connection.request(&mut service.mover, &receive, len, 1)?;
        connection.respond(&mut service.mover, &send, len, 1)?;
        connection.respond(&mut service.mover, &WRITE, len, 1)?;
    }
    connection.finish(&mut service.mover)?;
    let opened = newest(&mut watched)?;
    connection.check(&mut watched, &opened)?;
    let lost = connection.requests.lost() + connection.responses.lost();
    assert_eq!(watched.lost(Reason::UnsupportedCall).bytes, lost);
    Ok(())
}
