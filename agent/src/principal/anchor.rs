//! What a condition proves by itself: the measure of what a rule may say.

use super::{condition::Condition, network::Network, pattern::Pattern, subject::owner};

/// In ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anchor {
    /// Whoever wants to can meet it.
    Nothing,
    /// Who meets it is of some kind: a person in a login session, a service.
    Kind,
    /// Nobody else can meet it.
    Identity,
}

impl Anchor {
    pub fn of(condition: &Condition) -> Self {
        match condition {
            Condition::OsUser(words) | Condition::DbUser(words) | Condition::Certificate(words) => {
                least(words, |word| named(word, Self::Nothing))
            }
            Condition::LoginUser(words) => least(words, |word| named(word, Self::Kind)),
            Condition::Container(words) | Condition::Pod(words) => {
                least(words, |word| if word.begins_openly() { Self::Kind } else { Self::Identity })
            }
            Condition::Unit(words) => least(words, unit),
            Condition::Uid(_) | Condition::LoginUid(_) => Self::Identity,
            Condition::ClientAddress(networks) => least(networks, |network: &Network| {
                if network.is_everything() { Self::Nothing } else { Self::Identity }
            }),
            // What a client runs and what it calls itself it chooses. Any user may run any program,
            // and in a mount namespace of his own any program has any path.
            Condition::Exe(_)
            | Condition::Command(_)
            | Condition::Program(_)
            | Condition::Parents(_)
            | Condition::Application(_)
            | Condition::Claim(..) => Self::Nothing,
        }
    }
}

fn least<T>(alternatives: &[T], of: impl Fn(&T) -> Anchor) -> Anchor {
    alternatives.iter().map(of).min().unwrap_or(Anchor::Nothing)
}

fn named(word: &Pattern, otherwise: Anchor) -> Anchor {
    if word.is_open() { otherwise } else { Anchor::Identity }
}

/// Any user can log in, and names the units of his own manager.
fn unit(word: &Pattern) -> Anchor {
    if word.as_written().starts_with("user@") {
        return if owner(word.as_written()).is_some() { Anchor::Identity } else { Anchor::Nothing };
    }
    match (word.matches("session-4242.scope"), word.begins_openly()) {
        (true, _) => Anchor::Nothing,
        (false, true) => Anchor::Kind,
        (false, false) => Anchor::Identity,
    }
}
