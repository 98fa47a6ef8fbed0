//! What a rule can be about: the effects of statements, and connections.

use crate::event::Effect;

/// An action of the schema that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A statement does it.
    Effect(Effect),
    /// A process of a database opens a connection.
    ConnectOut,
    /// A client connects to a server.
    Connect,
}

impl Action {
    /// All of them, each at its [`index`](Self::index).
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Effect::ALL.iter().copied().map(Self::Effect).chain([Self::ConnectOut, Self::Connect])
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Effect(effect) => effect as usize,
            Self::ConnectOut => Effect::ALL.len(),
            Self::Connect => Effect::ALL.len() + 1,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Effect(effect) => effect.name(),
            Self::ConnectOut => "connect-out",
            Self::Connect => "connect",
        }
    }

    /// Actions of the schema that it is one of.
    pub(super) fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Effect(
                Effect::Insert
                | Effect::Update
                | Effect::Delete
                | Effect::Truncate
                | Effect::CopyIn,
            ) => &["write", STATEMENT],
            Self::Effect(Effect::Define | Effect::Drop | Effect::Grant | Effect::Configure) => {
                &["administer", STATEMENT]
            }
            Self::Effect(_) => &[STATEMENT],
            Self::ConnectOut | Self::Connect => &[],
        }
    }
}

/// The group of all effects.
pub(super) const STATEMENT: &str = "statement";
