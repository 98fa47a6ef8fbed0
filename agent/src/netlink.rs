//! Questions to the kernel over netlink: one request, its acknowledgement or its list.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

pub const REQUEST: u16 = 1;
pub const ACK: u16 = 4;
pub const DUMP: u16 = 0x300;
pub const EXCL: u16 = 0x200;
pub const CREATE: u16 = 0x400;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// A part of a list is not longer.
const PART_BYTES: usize = 32 << 10;
/// The kernel answers at once; a thread that waits for ever would do nothing more.
const PATIENCE: Duration = Duration::from_secs(2);

/// The network namespace's own, of the thread that opened it.
pub struct Netlink(OwnedFd);

/// One of a list: its kind and what stands behind its header.
pub type Message = (u16, Vec<u8>);

impl Netlink {
    /// By default of the protocol for routes.
    ///
    /// # Errors
    /// The kernel knows no such protocol, or no descriptors are left.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Has something done.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        send(&self.0, &request(kind, REQUEST | ACK | flags, body), SendFlags::empty())?;
        let mut answer = [0; 256];
        let (_, len) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        match code(answer.get(..len).unwrap_or_default()) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Err(unreadable()),
        }
    }

    /// # Errors
    /// What the kernel answers.
    pub fn list(&self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        send(&self.0, &request(kind, REQUEST | DUMP, body), SendFlags::empty())?;
        let mut messages = Vec::new();
        let mut part = vec![0; PART_BYTES];
        loop {
            let (_, len) = recv(&self.0, part.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = part.get(..len).unwrap_or_default();
            while !rest.is_empty() {
                let (kind, body, behind) = message(rest).ok_or_else(unreadable)?;
                match kind {
                    NLMSG_DONE => return Ok(messages),
                    NLMSG_ERROR => {
                        let code = code(rest).ok_or_else(unreadable)?;
                        return Err(io::Error::from_raw_os_error(code));
                    }
                    _ => messages.push((kind, body.to_vec())),
                }
                rest = behind;
            }
        }
    }
}

fn unreadable() -> io::Error {
    io::Error::other("the kernel's answer can't be read")
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes()); // sequence
    bytes.extend(0_u32.to_ne_bytes()); // to the kernel
    bytes.extend(body);
    bytes
}

/// The first one: its kind, its body, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER_BYTES..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// Of an acknowledgement: 0, or an errno.
fn code(answer: &[u8]) -> Option<i32> {
    let (kind, body, _) = message(answer)?;
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(code.checked_neg()?)
}

/// An attribute, padded as the next one needs it.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len();
    let mut bytes = Vec::with_capacity(len.next_multiple_of(4));
    bytes.extend((len as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}

/// Kinds and values; ends early where the bytes make no sense.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::{attribute, attributes, code, message, request};

    #[test]
    fn answers() {
        let answer = |kind: u16, code: i32| request(kind, 0, &code.to_ne_bytes());
        assert_eq!(code(&answer(2, 0)), Some(0));
        assert_eq!(code(&answer(2, -2)), Some(2));
        assert_eq!(code(&answer(3, 0)), None);
        assert_eq!(code(&answer(2, i32::MIN)), None);
        assert_eq!(code(&answer(2, 0)[..19]), None);
    }

    #[test]
    fn messages_and_attributes_stand_in_a_row() {
        let (first, second) = (request(32, 0, &[1; 5]), request(3, 0, &[]));
        let both = [first.clone(), vec![0; 3], second].concat();
        let (kind, body, rest) = message(&both).unwrap();
        assert_eq!((kind, body), (32, &[1_u8; 5][..]));
        assert_eq!(message(rest).unwrap(), (3, &[][..], &[][..]));
        for cut in 0..first.len() {
            assert_eq!(message(&first[..cut]), None, "{cut}");
        }

        let bytes = [attribute(3, b"lo\0"), attribute(22, &[6])].concat();
        assert_eq!(bytes, [7, 0, 3, 0, b'l', b'o', 0, 0, 5, 0, 22, 0, 6, 0, 0, 0]);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(3, &b"lo\0"[..]), (22, &[6][..])]);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&bytes[..6]).count(), 0);
    }
}
