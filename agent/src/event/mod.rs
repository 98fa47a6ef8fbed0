//! The plain data that the stages hand to each other; no stage's logic lives here.

mod approval;
mod claims;
mod connection;
mod copy_form;
mod destination;
mod detector;
mod facts;
mod in_full;
mod inherited;
mod judgement;
mod mask;
mod origin;
mod principal;
mod process;
mod record;
mod server_socket;
mod session;
mod shown;
mod statement;
mod stream;
mod time;
mod uses;

pub use approval::{Approval, ApprovalAction};
pub use claims::{Claims, Tag as ClaimTag, Trace};
pub use connection::{Client, ConnectionId, Endpoint, SocketId};
pub use copy_form::{CopyForm, CopyFormat};
pub use destination::{Destination, Outbound, Remote};
pub use detector::Detector;
pub use facts::{
    Access, Analysis, COMPUTES, CONVERTS, Effect, Effects, Facts, KeyPredicate, KeyValue,
    TableAccess, Trait,
};
pub use in_full::in_full;
pub use inherited::{Ancestor, Heir};
pub use judgement::{Episode, EpisodeAction, Finding, Judgement, Severity, Verdict};
pub use mask::{Flow, MASKS, Mask, NoMask};
pub use origin::{Certainty, Engine, Lane, Origin, Transport};
pub use principal::{Evidence, Principal, PrincipalKind, Strength};
pub use process::{LoginStrength, Parent, Process, ProcessEvent, Program};
pub use record::{Entry, LOST_ROWS, Occurrence, OccurrenceKind, Record};
pub use server_socket::{ServerSocket, SocketName};
pub use session::{RequestPrint, RequestSum, SessionEvent, SyncLoss};
pub use shown::Shown;
pub use statement::{Outcome, Parameter, Statement, StatementKind, Tag, TransactionStatus};
pub use stream::{Chunk, Direction, Extent, Layer, Piece, Reach};
pub use time::{BootTime, Clock, WallTime};
pub use uses::{
    By, ByOutput, Change, Create, Cte, Form, Inner, Merge, Mix, Of, Output, Query, Reference, Rows,
    Sink, Source, Spot, Uses, Values, Write,
};
