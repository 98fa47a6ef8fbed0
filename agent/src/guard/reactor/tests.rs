//! Bytes, ends and wake-ups get through, whatever the others do.

use std::{
    cell::{Cell, RefCell},
    future::{pending, poll_fn},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    rc::Rc,
    task::Poll,
    thread,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
};

use super::Reactor;
use crate::guard::stream::Socket;

fn tcp() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0.into(), one)
}

fn unix() -> (OwnedFd, UnixStream) {
    let (one, other) = UnixStream::pair().unwrap();
    (one.into(), other)
}

/// More than any buffer holds: either side waits for the other, many times.
#[test]
fn all_comes_through_in_its_order() {
    fn check(fd: OwnedFd, other: impl std::io::Read + std::io::Write + Send + 'static) {
        const LEN: usize = 20 << 20;
        let byte = |n: usize| (n % 251) as u8;
        let other = thread::spawn(move || {
            let mut other = other;
            let mut all: Vec<u8> = Vec::new();
            let mut chunk = vec![0; 100_000];
            while all.len() < LEN {
                let n = other.read(&mut chunk).unwrap();
                assert_ne!(n, 0);
                all.extend(&chunk[..n]);
                other.write_all(&chunk[..n]).unwrap();
            }
            assert!(all.iter().enumerate().all(|(n, it)| *it == byte(n)));
        });
        let reactor = Reactor::new().unwrap();
        let socket = Socket::given(fd, &reactor).unwrap();
        let heard = reactor.run(async move {
            let (mut reads, mut writes) = tokio::io::split(socket);
            let all: Vec<u8> = (0..LEN).map(byte).collect();
            let mut heard = vec![0; LEN];
            let write = async {
                for part in all.chunks(300_001) {
                    writes.write_all(part).await.unwrap();
                }
            };
            let (_, n) = tokio::join!(write, reads.read_exact(&mut heard));
            assert_eq!(n.unwrap(), LEN);
            assert_eq!(reads.read(&mut [0; 10]).await.unwrap(), 0);
            heard
        });
        other.join().unwrap();
        assert!(heard.unwrap().iter().enumerate().all(|(n, it)| *it == byte(n)));
    }
    let (fd, other) = tcp();
    check(fd, other);
    let (fd, other) = unix();
    check(fd, other);
}

/// The last bytes and the end may be told of at once, and the end never again.
#[test]
fn an_end_that_comes_with_the_last_bytes_is_heard() {
    for fd in [
        {
            let (fd, mut other) = tcp();
            other.write_all(b"last").unwrap();
            fd
        },
        {
            let (fd, mut other) = unix();
            other.write_all(b"last").unwrap();
            fd
        },
    ] {
        let reactor = Reactor::new().unwrap();
        let mut socket = Socket::given(fd, &reactor).unwrap();
        let heard = reactor.run(async move {
            let mut heard = Vec::new();
            socket.read_to_end(&mut heard).await.unwrap();
            heard
        });
        assert_eq!(heard.unwrap(), b"last");
    }
}

#[test]
fn other_threads_wake_what_waits_for_them() {
    let reactor = Reactor::new().unwrap();
    let (there, mut inbox) = mpsc::unbounded_channel();
    let (answers, from_there) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        for n in 0..10_000u32 {
            let (sender, receiver) = oneshot::channel();
            there.send((n, sender)).unwrap();
            // It is asleep by now, or about to be.
            answers.send(receiver.blocking_recv().unwrap()).unwrap();
        }
    });
    let within = reactor.clone();
    let total = reactor.run(async move {
        let total = Rc::new(Cell::new(0u64));
        while let Some((n, sender)) = inbox.recv().await {
            let total = total.clone();
            within.spawn(async move {
                total.set(total.get() + u64::from(n));
                sender.send(n + 1).unwrap();
            });
        }
        total.get()
    });
    other.join().unwrap();
    assert_eq!(total.unwrap(), (0..10_000).sum::<u64>());
    assert_eq!(from_there.iter().collect::<Vec<_>>(), (1..=10_000).collect::<Vec<_>>());
}

/// One that always has something to do leaves room for others; one that panics ends alone.
#[test]
fn tasks_leave_each_other_alone() {
    let reactor = Reactor::new().unwrap();
    let (fd, mut other) = unix();
    let mut socket = Socket::given(fd, &reactor).unwrap();
    let turns = Rc::new(Cell::new(0));
    let own = turns.clone();
    reactor.spawn(poll_fn(move |cx| {
        own.set(own.get() + 1);
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    let dropped = Rc::new(RefCell::new(()));
    let held = dropped.clone();
    reactor.spawn(async move {
        let _held = held.borrow_mut();
        panic!("one client's misfortune");
    });
    let heard = reactor.run(async move {
        let mut byte = [0];
        socket.write_all(b"?").await.unwrap();
        other.read_exact(&mut byte).unwrap();
        other.write_all(b"!").unwrap();
        socket.read_exact(&mut byte).await.unwrap();
        byte
    });
    assert_eq!(heard.unwrap(), *b"!");
    assert!(turns.get() > 1);
    assert!(dropped.try_borrow().is_ok());
}

/// Of a socket that another process holds too, nothing is heard any more, and its place is another's.
#[test]
fn a_socket_leaves_its_place() {
    let reactor = Reactor::new().unwrap();
    let (fd, mut other) = unix();
    let held = fd.try_clone().unwrap();
    drop(Socket::given(fd, &reactor).unwrap());
    other.write_all(b"for nobody").unwrap();
    let (fd, mut speaker) = unix();
    let mut socket = Socket::given(fd, &reactor).unwrap();
    assert_eq!(reactor.0.sources.borrow().len(), 1);
    let within = reactor.clone();
    let heard = reactor.run(async move {
        let woken = Rc::new(Cell::new(0));
        let own = woken.clone();
        within.spawn(async move {
            let mut byte = [0];
            poll_fn(|cx| {
                own.set(own.get() + 1);
                let mut buffer = tokio::io::ReadBuf::new(&mut byte);
                tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut socket), cx, &mut buffer)
            })
            .await
            .unwrap();
            pending::<()>().await;
        });
        let (clock, done) = oneshot::channel();
        thread::spawn(move || {
            speaker.write_all(b"!").unwrap();
            clock.send(()).unwrap();
            speaker
        });
        done.await.unwrap();
        woken
    });
    assert!(heard.unwrap().get() <= 2);
    assert_eq!(reactor.0.sources.borrow().len(), 0);
    drop(held);
}
