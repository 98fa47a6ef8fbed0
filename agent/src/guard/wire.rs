//! What the service and the guard say to each other, and the sockets that they hand over.
//!
//! Frames of JSON behind their length on a stream socket; a frame's descriptor comes with its first byte. Either
//! side is trusted to write no nonsense, not to be alive.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{catalog::Inheriting, court::Denial, masking::TextPrint};
use crate::{
    approval::{Answer, Ask, Over},
    event::{Client, ConnectionId, Endpoint, Heir, RequestSum},
};

/// A text that was denied fits, and a set of policies.
const MAX_FRAME_BYTES: u32 = 64 << 20;

/// Numbers a client's connection to the guard; never used again by one guard.
pub type Number = u64;

/// What the service says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Before anything else, and whenever something of it changes.
    Rules(Box<Rules>),
    /// With the client's socket.
    Client {
        number: Number,
        server: usize,
    },
    /// It may go on to the server; with a socket that leads there.
    Admitted {
        number: Number,
        admission: Box<Admission>,
    },
    Refused {
        number: Number,
        refusal: Refusal,
    },
    /// Why nothing can be recorded, or that it can be again.
    Ledger {
        down: Option<String>,
    },
    /// What becomes of a statement that needs an approval.
    Approval {
        number: Number,
        answer: Answer,
    },
    /// Who has inherited from labelled columns, as far as the service knows: before any client.
    Inherited(Vec<Inherited>),
    /// Somebody has taken that back of these columns.
    Disinherited {
        server: usize,
        database: String,
        columns: Vec<(u32, i16)>,
    },
    /// A text that has run past the guard, and may have put something of labelled columns elsewhere.
    Ran {
        server: usize,
        database: String,
        connection: ConnectionId,
        text: Arc<str>,
    },
    /// A socket to a server for the guard's own questions, or why there is none.
    CatalogSocket {
        ticket: Ticket,
        refused: Option<String>,
    },
}

/// In one database.
#[derive(Debug, Serialize, Deserialize)]
pub struct Inherited {
    pub server: usize,
    pub database: String,
    pub heirs: Vec<Heir>,
}

/// Numbers a wish for a socket.
pub type Ticket = u64;

/// What the guard judges by.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rules {
    /// The service's settings, as TOML.
    pub settings: String,
    /// Names and texts of the policies.
    pub policies: Vec<(Arc<str>, Arc<str>)>,
    /// Those that dbwarden brings along apply too.
    pub starter_pack: bool,
    /// By the place of the server in the settings.
    pub certificates: Vec<Option<Arc<Certificate>>>,
    /// Likewise: who asks the server itself, or why nobody can.
    pub accounts: Vec<Option<Result<Account, String>>>,
    /// What masks are made with.
    pub mask_key: MaskKey,
}

/// Never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskKey(pub [u8; 32]);

impl std::fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MaskKey")
    }
}

/// Of a server. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub user: String,
    pub password: Option<String>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How it goes with the questions to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogState {
    Fine(CatalogRights),
    Lacking(String),
}

/// What its role may, as far as estimates want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogRights {
    /// `pg_read_all_data`
    pub reads: bool,
    /// `pg_write_all_data`
    pub writes: bool,
    pub is_superuser: bool,
}

/// PEM, as in the files. Never shown.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub chain: String,
    pub key: String,
    /// Where clients' certificates are to survive the guard.
    pub clients: Option<Clients>,
}

/// How a server knows its clients by their certificates, and how the guard stands in for them; PEM.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// Whom the server believes.
    pub authorities: String,
    /// What it believes no more.
    pub revoked: Option<String>,
    /// One of the authorities, with which the guard can be anybody.
    pub ca_certificate: String,
    pub ca_key: String,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate { .. }")
    }
}

/// Who the client is, as far as the host knows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Admission {
    pub connection: ConnectionId,
    /// As the server's rows call it.
    pub server_name: Arc<str>,
    pub local: Endpoint,
    pub remote: Endpoint,
    pub client: Client,
    /// Else everything passes as it comes.
    pub is_judged: bool,
}

/// What a client is told that doesn't get to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// What the guard says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// Whether it judges by the newest rules now, and what is wrong with them.
    Ready {
        taken: bool,
        problem: Option<String>,
        /// Servers by their places in the settings that speak TLS and can't be stood in for; why.
        unusable: Vec<(usize, String)>,
    },
    /// A client has said what it wants.
    Arrived {
        number: Number,
        wants: Wants,
    },
    /// Told before anything of it is sent.
    Denied(Box<Denied>),
    /// A statement needs an approval.
    Approval(Box<Ask>),
    /// It doesn't wait for one any more.
    ApprovalOver {
        number: Number,
        why: Over,
    },
    /// Values are masked for this client; told before anything is sent of which some are.
    Veiled(ConnectionId),
    Masked(Box<Masked>),
    Nulled(Box<Nulled>),
    /// What servers are asked, to be held against what they were seen to get.
    Summed(Vec<Summed>),
    Ended {
        number: Number,
        passed: u64,
        sent: Sent,
        broken: Option<String>,
    },
    /// It has a question of its own, and wants a socket for it.
    CatalogSocket {
        ticket: Ticket,
        server: usize,
    },
    Catalog {
        server: usize,
        state: CatalogState,
    },
    /// Columns have inherited from labelled ones by what a session does; told before that is sent, or as soon as they
    /// are there.
    Inherited {
        server: usize,
        database: String,
        connection: ConnectionId,
        /// Its fingerprint.
        statement: Arc<str>,
        heirs: Vec<Heir>,
    },
    /// Relations that had inherited something are not there any more.
    Gone {
        server: usize,
        database: String,
        relations: Vec<u32>,
    },
    /// What is wrong with labels and masks in a database.
    Lacks {
        server: usize,
        database: String,
        lacks: Vec<String>,
    },
}

impl Word {
    pub(super) fn inherited(server: usize, database: &str, inheriting: Inheriting) -> Self {
        let Inheriting { session: connection, statement, heirs } = inheriting;
        Self::Inherited { server, database: database.to_owned(), connection, statement, heirs }
    }
}

/// What a server is asked in a stretch of a session's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summed {
    pub connection: ConnectionId,
    /// The stretch isn't over: it is so far when so many bytes have been sent.
    pub bytes: Option<u64>,
    pub sum: RequestSum,
}

/// What a session has sent to its server in all, to be held against what the server was seen to get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// From the `StartupMessage` on, before encryption.
    pub bytes: u64,
    /// All of it has arrived where nothing broke off.
    pub is_whole: bool,
    /// Of the last stretch.
    pub sum: RequestSum,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wants {
    Session {
        user: String,
        database: String,
        application: String,
        encrypted: bool,
    },
    /// To cancel what another session runs.
    Cancel,
}

impl Wants {
    pub fn is_session(&self) -> bool {
        matches!(self, Self::Session { .. })
    }
}

/// A statement that did not go to the server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Denied {
    pub connection: ConnectionId,
    /// What the server got instead begins with this.
    pub token: String,
    /// `None` where it was too long to be kept.
    pub text: Option<String>,
    pub denial: Denial,
}

/// What was masked in the answer to a text.
#[derive(Debug, Serialize, Deserialize)]
pub struct Masked {
    pub connection: ConnectionId,
    pub text: TextPrint,
    /// Each as `schema.table.column:mask`; none where nothing of it was.
    pub columns: Arc<[Arc<str>]>,
}

/// What a client has said, where the server gets another text for it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Nulled {
    pub connection: ConnectionId,
    /// Of what the server gets.
    pub text: TextPrint,
    pub said: String,
    /// What is NULL in it, each as `schema.table.column:null-flow`.
    pub columns: Arc<[Arc<str>]>,
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    writing: Mutex<()>,
}

impl Channel {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, writing: Mutex::new(()) }
    }

    /// The guard's word to the service. Without that, which has started it, there is nobody to tell, and its end is near.
    pub(super) fn tell(&self, word: &Word) {
        if let Err(error) = self.send(word, None) {
            tracing::error!(%error, "the service can't be told");
        }
    }

    /// Waits while the other side is slow.
    pub fn send<T: Serialize>(
        &self,
        what: &T,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let body = serde_json::to_vec(what)?;
        let len = u32::try_from(body.len()).ok().filter(|len| *len <= MAX_FRAME_BYTES);
        let len = len.ok_or_else(|| io::Error::other("a frame of the guard's is too long"))?;
        let header = len.to_be_bytes();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptors: Vec<_> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let parts = [IoSlice::new(&header)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = loop {
            match sendmsg::<()>(self.stream.as_raw_fd(), &parts, rights, flags, None) {
                Err(nix::errno::Errno::EINTR) => {}
                outcome => break outcome?,
            }
        };
        let mut stream = &self.stream;
        stream.write_all(header.get(sent..).unwrap_or_default())?;
        stream.write_all(&body)
    }

    /// The next frame; `None` at the end. For one thread only.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut header = [0; 4];
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(&mut header)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let (bytes, descriptor) = loop {
            match recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(message) => {
                    let mut descriptor = None;
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(given) = part {
                            // SAFETY: the kernel has just made them for us.
                            let mut given =
                                given.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                            descriptor = given.next();
                        }
                    }
                    break (message.bytes, descriptor);
                }
            }
        };
        if bytes == 0 {
            return Ok(None);
        }
        let mut stream = &self.stream;
        stream.read_exact(header.get_mut(bytes..).unwrap_or_default())?;
        let len = u32::from_be_bytes(header);
        if len > MAX_FRAME_BYTES {
            return Err(io::Error::other("a frame of the guard's is too long"));
        }
        let mut body = vec![0; len as usize];
        stream.read_exact(&mut body)?;
        Ok(Some((serde_json::from_slice(&body)?, descriptor)))
    }

    /// Ends it for both sides.
    pub fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::{Channel, Order, Refusal};

    #[test]
    fn a_frame_comes_with_its_descriptor() {
        let (here, there) = UnixStream::pair().unwrap();
        let (here, there) = (Channel::new(here), Channel::new(there));
        let (mut mine, theirs) = UnixStream::pair().unwrap();
        let refusal = Refusal {
            code: "28000".into(),
            message: "no".into(),
            detail: None,
            hint: Some("x".repeat(10_000)),
        };
        here.send(&Order::Refused { number: 7, refusal: refusal.clone() }, None).unwrap();
        here.send(&Order::Client { number: 8, server: 0 }, Some(theirs.as_fd())).unwrap();
        here.send(&Order::Client { number: 9, server: 1 }, None).unwrap();
        here.close();

        let (order, none) = there.receive().unwrap().unwrap();
        assert!(matches!(order, Order::Refused { number: 7, refusal: told } if told == refusal));
        assert!(none.is_none());
        let (order, given) = there.receive().unwrap().unwrap();
        assert!(matches!(order, Order::Client { number: 8, server: 0 }));
        drop(theirs);
        UnixStream::from(given.unwrap()).write_all(b"hello").unwrap();
        let mut heard = String::new();
        mine.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
        let (order, none) = there.receive().unwrap().unwrap();
        assert!(matches!(order, Order::Client { number: 9, server: 1 }) && none.is_none());
        assert!(there.receive::<Order>().unwrap().is_none());
    }
}
