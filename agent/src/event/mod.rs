//! The plain data that the stages hand to each other; no stage's logic lives here.

mod connection;
mod process;
mod record;
mod session;
mod statement;
mod stream;
mod time;

pub use connection::{Client, ConnectionId, Endpoint, SocketId};
pub use process::{LoginStrength, Parent, Process, ProcessEvent};
pub use record::{Effect, Engine, Lane, Record, Transport};
pub use session::{SessionEvent, SyncLoss};
pub use statement::{Outcome, Parameter, Statement, StatementKind, Tag, TransactionStatus};
pub use stream::{Chunk, Direction, Layer, Piece};
pub use time::{BootTime, Clock, WallTime};
