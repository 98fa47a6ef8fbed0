//! Records as the kernel side wrote them → plain data.
//!
//! Every length is checked: a record that doesn't fit its type is an error to count, never a panic.

use std::{
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bytemuck::AnyBitPattern;
use dbwarden_common as abi;

use crate::event::{
    BootTime, Chunk, Direction, Endpoint, Extent, Layer, ProcessEvent, Reach, SocketId,
};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("a {what} record has {got} bytes, its type {want}")]
    TooShort { what: &'static str, got: usize, want: usize },
    #[error("a control record is of unknown kind {0}")]
    UnknownKind(u32),
}

/// One record of the data ring.
#[derive(Clone, Copy, Debug)]
pub struct DataRecord<'a> {
    pub socket: SocketId,
    pub pid: u32,
    pub server: u32,
    pub chunk: Chunk<'a>,
}

/// One record of the control ring.
#[derive(Clone, Debug)]
pub enum Control<'a> {
    Process(ProcessEvent<'a>),
    Opened(Box<Opened>),
    Closed {
        time: BootTime,
        socket: SocketId,
        server: u32,
        /// False: the client will send no more, but the socket lives.
        gone: bool,
        extent: Extent,
    },
    Connected(Connected),
    /// The server's process has verified its client's certificate.
    Certificate {
        time: BootTime,
        pid: u32,
        /// `None` where it doesn't fit into a record.
        common_name: Option<&'a [u8]>,
    },
    /// A process listens on a port now.
    Listening {
        time: BootTime,
        pid: u32,
        port: u16,
    },
}

/// Both ends of an IP connection, as the reporting socket has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    pub local: (IpAddr, u16),
    pub remote: (IpAddr, u16),
}

impl Ends {
    /// The same connection seen from the other side.
    pub fn mirrored(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }
}

/// A process of this host finished a TCP connect to a database's port.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    pub time: BootTime,
    pub pid: u32,
    /// See [`ProcessEvent`].
    pub key: u64,
    pub uid: u32,
    pub netns: u32,
    /// As the client's socket has them.
    pub ends: Ends,
}

/// A connection of a database's process was seen for the first time.
#[derive(Clone, Debug)]
pub struct Opened {
    pub time: BootTime,
    pub socket: SocketId,
    pub server: u32,
    /// The server's process.
    pub pid: u32,
    /// A client came in; else a process of the server reaches out.
    pub inbound: bool,
    /// The server's own process; else a program that it has started.
    pub by_server: bool,
    pub netns: u32,
    /// IP connections only.
    pub ends: Option<Ends>,
    pub local: Endpoint,
    /// Unix sockets: the process at the other end when they connected, its `struct pid` and its uid.
    pub peer: Option<(u32, u64, u32)>,
    /// The cookie of that end; 0 where nobody has asked for it.
    pub peer_cookie: u64,
}

/// Decodes a record of the data ring.
pub fn data(bytes: &[u8]) -> Result<DataRecord<'_>, RecordError> {
    let header: abi::DataHeader = read("data", bytes)?;
    let from = size_of::<abi::DataHeader>();
    let want = from + header.captured as usize;
    let payload = bytes.get(from..want).ok_or(RecordError::TooShort {
        what: "data",
        got: bytes.len(),
        want,
    })?;
    Ok(DataRecord {
        socket: SocketId { sock: header.sock, cookie: header.cookie },
        pid: header.tgid,
        server: header.server,
        chunk: Chunk {
            time: BootTime(header.time),
            direction: if header.direction == abi::REQUEST {
                Direction::Request
            } else {
                Direction::Response
            },
            layer: if header.layer == abi::SOCKET_LAYER { Layer::Socket } else { Layer::Tls },
            position: header.position,
            bytes: payload,
            call_len: header.call_len,
            call_offset: header.call_offset,
            dropped_total: header.dropped,
        },
    })
}

/// Decodes a record of the control ring. `scratch` holds what has to be put together from parts.
pub fn control<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Control<'a>, RecordError> {
    let header: abi::ControlHeader = read("control", bytes)?;
    let time = BootTime(header.time);
    Ok(match header.kind {
        abi::FORK => {
            let fork: abi::Fork = read("fork", bytes)?;
            Control::Process(ProcessEvent::Fork {
                time,
                parent: header.tgid,
                child: fork.child,
                start: BootTime(fork.child_start),
                key: fork.child_key,
            })
        }
        abi::EXEC => Control::Process(exec(time, bytes, scratch)?),
        abi::EXIT => {
            let exit: abi::Exit = read("exit", bytes)?;
            Control::Process(ProcessEvent::Exit { time, pid: header.tgid, key: exit.key })
        }
        abi::OPEN => Control::Opened(Box::new(opened(&read("open", bytes)?))),
        abi::CLOSE => {
            let close: abi::Close = read("close", bytes)?;
            Control::Closed {
                time,
                socket: SocketId { sock: close.sock, cookie: close.cookie },
                server: close.server,
                gone: close.reason != abi::END_OF_STREAM,
                extent: extent(close.position, close.dropped),
            }
        }
        abi::CLIENT => {
            let client: abi::Client = read("client", bytes)?;
            Control::Connected(Connected {
                time,
                pid: header.tgid,
                key: client.key,
                uid: client.uid,
                netns: client.tuple.netns,
                ends: ends(&client.tuple),
            })
        }
        abi::CERTIFICATE => {
            let want = size_of::<abi::ControlHeader>();
            let _: abi::Certificate = read("certificate", bytes)?;
            let name = until_nul(bytes.get(want..).unwrap_or_default());
            let is_whole = name.len() < abi::COMMON_NAME_LEN - 1;
            let common_name = is_whole.then_some(name);
            Control::Certificate { time, pid: header.tgid, common_name }
        }
        abi::LISTEN => {
            let listen: abi::Listen = read("listen", bytes)?;
            Control::Listening { time, pid: header.tgid, port: listen.tuple.local_port }
        }
        kind => return Err(RecordError::UnknownKind(kind)),
    })
}

/// From the kernel side's arrays, which are by direction, then by layer.
pub(super) fn extent(position: [[u64; 2]; 2], dropped: [[u64; 2]; 2]) -> Extent {
    let reach = |direction: usize, layer: usize| Reach {
        position: position[direction][layer],
        dropped: dropped[direction][layer],
    };
    [[reach(0, 0), reach(0, 1)], [reach(1, 0), reach(1, 1)]]
}

fn read<T: AnyBitPattern>(what: &'static str, bytes: &[u8]) -> Result<T, RecordError> {
    let want = size_of::<T>();
    bytes.get(..want).map(bytemuck::pod_read_unaligned).ok_or(RecordError::TooShort {
        what,
        got: bytes.len(),
        want,
    })
}

fn exec<'a>(
    time: BootTime,
    bytes: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> Result<ProcessEvent<'a>, RecordError> {
    let want = size_of::<abi::Exec>();
    let short = RecordError::TooShort { what: "exec", got: bytes.len(), want };
    // Borrowed in place: it is large, and most execs are never looked at again.
    let bytes = bytes.get(..want).ok_or(short)?;
    let Ok(exec) = bytemuck::try_from_bytes::<abi::Exec>(bytes) else {
        return Err(RecordError::TooShort { what: "aligned exec", got: bytes.len(), want });
    };
    let args = exec.args.get(..exec.args_len as usize).unwrap_or(&exec.args);
    Ok(ProcessEvent::Exec {
        time,
        pid: exec.header.tgid,
        parent: exec.parent,
        start: BootTime(exec.start),
        key: exec.key,
        uid: exec.uid,
        gid: exec.gid,
        login_uid: (exec.login_uid != u32::MAX).then_some(exec.login_uid),
        session: (exec.session != u32::MAX).then_some(exec.session),
        comm: until_nul(&exec.comm),
        filename: until_nul(&exec.filename),
        args,
        tty: until_nul(&exec.tty),
        cgroup: cgroup(&exec.cgroup, scratch),
        cgroup_id: exec.cgroup_id,
    })
}

/// The names stand leaf first, up to the first empty one.
fn cgroup<'a>(names: &[[u8; abi::CGROUP_NAME_LEN]], path: &'a mut Vec<u8>) -> &'a [u8] {
    path.clear();
    let filled = names.iter().position(|name| until_nul(name).is_empty()).unwrap_or(names.len());
    for name in names.iter().take(filled).rev() {
        path.push(b'/');
        path.extend_from_slice(until_nul(name));
    }
    path
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn opened(open: &abi::Open) -> Opened {
    const AF_UNIX: u32 = 1;
    let unix = open.tuple.family == AF_UNIX;
    let path = open.path.get(..open.path_len as usize).unwrap_or(&open.path);
    Opened {
        time: BootTime(open.header.time),
        socket: SocketId { sock: open.sock, cookie: open.cookie },
        server: open.server,
        pid: open.header.tgid,
        inbound: open.role == abi::INBOUND,
        by_server: open.program == 0,
        netns: open.tuple.netns,
        ends: (!unix).then(|| ends(&open.tuple)),
        local: if unix {
            Endpoint::Unix { path: unix_name(path) }
        } else {
            let (address, port) = ends(&open.tuple).local;
            Endpoint::Ip { address, port }
        },
        peer: (open.peer != 0).then_some((open.peer, open.peer_key, open.peer_uid)),
        peer_cookie: open.peer_cookie,
    }
}

/// A path ends at its NUL; an abstract name begins with one, which is shown as `@`.
fn unix_name(name: &[u8]) -> Option<Arc<str>> {
    let shown = match name.split_first() {
        None => return None,
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        Some(_) => String::from_utf8_lossy(until_nul(name)).into_owned(),
    };
    Some(shown.into())
}

fn ends(tuple: &abi::Tuple) -> Ends {
    const AF_INET6: u32 = 10;
    let address = |bytes: &[u8; 16]| -> IpAddr {
        if tuple.family == AF_INET6 {
            // A v4-mapped address is the IPv4 address that it stands for.
            Ipv6Addr::from(*bytes).to_canonical()
        } else {
            let [a, b, c, d, ..] = *bytes;
            Ipv4Addr::new(a, b, c, d).into()
        }
    };
    Ends {
        local: (address(&tuple.local), tuple.local_port),
        remote: (address(&tuple.remote), tuple.remote_port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_unknown_records_are_errors() {
        let mut scratch = Vec::new();
        let header = abi::ControlHeader { time: 1, kind: 77, tgid: 2 };
        let bytes = bytemuck::bytes_of(&header);
        for cut in 0..bytes.len() {
            assert!(matches!(
                control(&bytes[..cut], &mut Vec::new()),
                Err(RecordError::TooShort { .. })
            ));
        }
        assert_eq!(control(bytes, &mut Vec::new()).unwrap_err(), RecordError::UnknownKind(77));
        for kind in [abi::FORK, abi::EXEC, abi::EXIT, abi::OPEN, abi::CLOSE, abi::CLIENT] {
            let header = abi::ControlHeader { time: 1, kind, tgid: 2 };
            let error = control(bytemuck::bytes_of(&header), &mut scratch).unwrap_err();
            assert!(matches!(error, RecordError::TooShort { .. }), "{kind}: {error}");
        }
    }

    #[test]
    fn a_data_record_that_claims_more_than_it_has_is_an_error() {
        let mut header: abi::DataHeader = bytemuck::Zeroable::zeroed();
        header.captured = 9;
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.extend_from_slice(b"12345678");
        assert!(matches!(data(&bytes), Err(RecordError::TooShort { what: "data", .. })));
        bytes.push(b'9');
        assert_eq!(data(&bytes).unwrap().chunk.bytes, b"123456789");
    }

    #[test]
    fn unix_names() {
        let check = |name: &[u8], expected: Option<&str>| {
            assert_eq!(unix_name(name).as_deref(), expected, "{name:?}");
        };
        check(b"", None);
        check(b"/run/postgresql/.s.PGSQL.5432\0junk", Some("/run/postgresql/.s.PGSQL.5432"));
        check(b"\0abstract", Some("@abstract"));
    }

    #[test]
    fn cgroup_names_come_leaf_first() {
        let mut names = [[0u8; abi::CGROUP_NAME_LEN]; abi::CGROUP_LEVELS];
        names[0][..9].copy_from_slice(b"a.service");
        names[1][..12].copy_from_slice(b"system.slice");
        let path = &mut Vec::new();
        assert_eq!(cgroup(&names, path), b"/system.slice/a.service");
        assert_eq!(cgroup(&[[0u8; abi::CGROUP_NAME_LEN]; 8], path), b"");
    }
}
