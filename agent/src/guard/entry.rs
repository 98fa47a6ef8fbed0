//! A client's first bytes: encryption, then what it wants.
//!
//! The server hears of none of it before that is known.

use std::io;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    stream::{Socket, Stream},
    tls::Tls,
    wire::Wants,
};
use crate::protocol::postgres::startup::{self, Packet};

/// Packets before the one that says what the client wants: `SSLRequest` and `GSSENCRequest`.
const MAX_REQUESTS: usize = 4;
/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

pub(super) struct Arrival {
    pub stream: Stream,
    pub wants: Wants,
    /// The packet that says so, as it came.
    pub packet: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Unwelcome {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("invalid length of startup packet")]
    BadLength,
    #[error("invalid startup packet layout")]
    Malformed,
    #[error("unsupported frontend protocol {}.{}", code >> 16, code & 0xffff)]
    Unsupported { code: u32 },
    #[error("too many requests for encryption")]
    TooMany,
    #[error("the server has no certificate for TLS")]
    NoTls,
}

/// Reads up to the `StartupMessage` or `CancelRequest`.
pub(super) async fn greet(socket: Socket, tls: Option<&Tls>) -> Result<Arrival, Failed> {
    let mut stream = Stream::Plain(socket);
    for _ in 0..MAX_REQUESTS {
        if let Stream::Plain(socket) = &stream
            && matches!(socket.first_byte().await, Ok(HANDSHAKE))
        {
            stream = encrypt(stream, tls).await?;
        }
        let packet = match packet(&mut stream).await {
            Ok(packet) => packet,
            Err(why) => return Err(Failed { stream: Some(stream), why }),
        };
        let encrypted = matches!(stream, Stream::Tls(_));
        let wants = match startup::read(packet.get(4..).unwrap_or_default()) {
            Some(Packet::SslRequest) if !encrypted && tls.is_some() => {
                // Read exactly: whatever was sent along in the clear is taken for a handshake, and fails.
                answer(&mut stream, b'S').await?;
                stream = encrypt(stream, tls).await?;
                continue;
            }
            Some(Packet::SslRequest | Packet::GssEncRequest) => {
                answer(&mut stream, b'N').await?;
                continue;
            }
            Some(Packet::CancelRequest { .. }) => Wants::Cancel,
            Some(Packet::StartupMessage(message)) => Wants::Session {
                user: message.user.into_owned(),
                database: message.database.into_owned(),
                application: message.application.into_owned(),
                encrypted,
            },
            Some(Packet::Unsupported { code }) => {
                return Err(Failed { stream: Some(stream), why: Unwelcome::Unsupported { code } });
            }
            None => return Err(Failed { stream: Some(stream), why: Unwelcome::Malformed }),
        };
        return Ok(Arrival { stream, wants, packet });
    }
    Err(Failed { stream: Some(stream), why: Unwelcome::TooMany })
}

/// With the stream, where the client can still be told why.
pub(super) struct Failed {
    pub stream: Option<Stream>,
    pub why: Unwelcome,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { stream: None, why: error.into() }
    }
}

async fn answer(stream: &mut Stream, byte: u8) -> io::Result<()> {
    stream.write_all(&[byte]).await?;
    stream.flush().await
}

async fn encrypt(stream: Stream, tls: Option<&Tls>) -> Result<Stream, Failed> {
    match (stream, tls) {
        (Stream::Plain(socket), Some(tls)) => Ok(Stream::Tls(tls.accept(socket).await?)),
        (_, None) => Err(Failed { stream: None, why: Unwelcome::NoTls }),
        (stream @ Stream::Tls(_), Some(_)) => {
            Err(Failed { stream: Some(stream), why: Unwelcome::Malformed })
        }
    }
}

/// A packet of the start-up phase with its length.
async fn packet(stream: &mut Stream) -> Result<Vec<u8>, Unwelcome> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let len = u32::from_be_bytes(header);
    if !startup::LENGTHS.contains(&len) {
        return Err(Unwelcome::BadLength);
    }
    let mut packet = vec![0; len as usize];
    let (start, body) = packet.split_at_mut(header.len());
    start.copy_from_slice(&header);
    stream.read_exact(body).await?;
    Ok(packet)
}

/// Asks the server for TLS, if the client speaks it (and has shown a certificate, perhaps), and says what the client
/// said.
pub(super) async fn introduce(
    server: Socket,
    tls: Option<(&Tls, Option<CertificateDer<'_>>)>,
    packet: &[u8],
) -> io::Result<Stream> {
    let mut stream = secure(server, tls).await?;
    stream.write_all(packet).await?;
    stream.flush().await?;
    Ok(stream)
}

/// Asks the server for TLS, where there is any to be had.
pub(super) async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    mut server: S,
    tls: Option<(&Tls, Option<CertificateDer<'_>>)>,
) -> io::Result<Stream<S>> {
    let Some((tls, shown)) = tls else { return Ok(Stream::Plain(server)) };
    server.write_all(SSL_REQUEST).await?;
    match server.read_u8().await? {
        b'S' => Ok(Stream::Tls(tls.connect(server, shown.as_ref()).await?)),
        _ => Err(io::Error::other("the server declines TLS")),
    }
}

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
