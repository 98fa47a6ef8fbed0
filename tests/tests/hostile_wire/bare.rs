//! A guard's process of its own, with the test in the service's place.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
};

use anyhow::{Context, Result, bail, ensure};
use dbwarden::{
    event::{Client, ConnectionId, Endpoint},
    guard::wire::{Admission, Channel, Number, Order, Rules, Word},
};
use dbwarden_tests::{Running, place};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};

use crate::PATIENCE;

/// A guard's process, started as the service starts it.
pub struct Bare {
    guard: Running,
    channel: Arc<Channel>,
    words: Receiver<Word>,
    next: Number,
    listener: TcpListener,
}

impl Bare {
    pub fn start() -> Result<Bare> {
        Self::judging_by("")
    }

    pub fn judging_by(policy: &str) -> Result<Bare> {
        // For either end of many connections.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(place::profile_dir()?.join("dbwarden"));
        command.arg("guard").stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let guard = Running::start("the guard", &mut command, Signal::SIGTERM)?;
        drop(command);
        let channel = Arc::new(Channel::new(ours));
        let (sender, words) = mpsc::channel();
        let hears = channel.clone();
        std::thread::spawn(move || {
            while let Ok(Some((word, _))) = hears.receive::<Word>() {
                if sender.send(word).is_err() {
                    return;
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let bare = Bare { guard, channel, words, next: 0, listener };
        let policies = vec![("own.cedar".into(), policy.into())];
        let rules = Rules { policies, ..Rules::default() };
        bare.channel.send(&Order::Rules(Box::new(rules)), None)?;
        match bare.words.recv_timeout(PATIENCE)? {
            Word::Ready { taken: true, problem: None, .. } => Ok(bare),
            other => bail!("{other:?}"),
        }
    }

    /// Two ends of a TCP connection.
    fn pair(&self) -> Result<(TcpStream, TcpStream)> {
        let ours = TcpStream::connect(self.listener.local_addr()?)?;
        let (theirs, _) = self.listener.accept()?;
        for one in [&ours, &theirs] {
            one.set_read_timeout(Some(PATIENCE))?;
            one.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((ours, theirs))
    }

    /// Somebody comes in.
    pub fn client(&mut self) -> Result<(Number, TcpStream)> {
        let (ours, theirs) = self.pair()?;
        let number = self.next;
        self.next += 1;
        self.channel.send(&Order::Client { number, server: 0 }, Some(theirs.as_fd()))?;
        Ok((number, ours))
    }

    /// It gets to a server, whose end this is.
    fn admit(&self, number: Number) -> Result<TcpStream> {
        let (server, theirs) = self.pair()?;
        let end = || Endpoint::Ip { address: [127, 0, 0, 1].into(), port: 1 };
        let admission = Admission {
            connection: ConnectionId(number),
            server_name: "main".into(),
            local: end(),
            remote: end(),
            client: Client::LocalUnknown,
            is_judged: true,
        };
        let admitted = Order::Admitted { number, admission: Box::new(admission) };
        self.channel.send(&admitted, Some(theirs.as_fd()))?;
        Ok(server)
    }

    /// A session that has begun: its client and its server.
    pub fn session(&mut self) -> Result<(Number, TcpStream, TcpStream)> {
        let (number, mut client) = self.client()?;
        client.write_all(&start())?;
        self.word(|word| matches!(word, Word::Arrived { number: n, .. } if *n == number))?;
        let mut server = self.admit(number)?;
        let mut said = vec![0; start().len()];
        server.read_exact(&mut said)?;
        ensure!(said == start(), "the start-up was not passed on");
        let welcome = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
        server.write_all(&welcome)?;
        let mut heard = vec![0; welcome.len()];
        client.read_exact(&mut heard)?;
        ensure!(heard == welcome, "the welcome was not passed on");
        Ok((number, client, server))
    }

    pub fn word(&self, wanted: impl Fn(&Word) -> bool) -> Result<Word> {
        loop {
            let word = self.words.recv_timeout(PATIENCE).context("the guard says nothing")?;
            if wanted(&word) {
                return Ok(word);
            }
        }
    }

    /// How a session has ended.
    pub fn end(&self, number: Number) -> Result<Option<String>> {
        let ended = |word: &Word| matches!(word, Word::Ended { number: n, .. } if *n == number);
        match self.word(ended)? {
            Word::Ended { broken, .. } => Ok(broken),
            other => bail!("{other:?}"),
        }
    }

    pub fn rss_kib(&self) -> Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.guard.pid()))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub fn start() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0u\0database\0d\0\0";
    [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}
