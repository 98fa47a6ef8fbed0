//! Exactness apart from any database: what the kernel side reports equals what a server moved, byte for
//! byte, or the difference is what it counted as lost.

mod calls;
mod connection;
mod mover;
mod peers;
mod sockets;
mod tls;
mod watched;
