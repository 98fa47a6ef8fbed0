//! One thing that is told, the same whenever and to whomever it is told.

use std::{sync::Arc, time::Instant};

use sha2::{Digest, Sha256};

use crate::event::{Approval, Episode, WallTime};

/// Made once; an attempt more changes nothing in it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Without a dot: it is signed with dots around it.
    pub id: Arc<str>,
    pub content: Content,
    /// Of an episode: the same at both of its ends.
    pub episode: Arc<str>,
    pub since: Instant,
}

#[derive(Clone, Debug)]
pub enum Content {
    Finding(Arc<Episode>),
    Approval(Arc<Approval>),
    /// Somebody wants to know whether messages arrive.
    Test {
        host: Arc<str>,
        time: WallTime,
    },
}

/// Of a message beside its text: what identifies whoever sent the statement.
const WEIGHT: usize = 2_048;

impl Message {
    pub fn finding(episode: &Episode, since: Instant) -> Self {
        let id = episode_id(episode);
        Self {
            id: format!("{id}-{}", episode.action.name()).into(),
            content: Content::Finding(Arc::new(episode.clone())),
            episode: id.into(),
            since,
        }
    }

    pub fn approval(approval: &Approval, since: Instant) -> Self {
        let Approval { id, action, time, .. } = approval;
        Self {
            // Several may approve it.
            id: format!("{id}-{}-{}", action.name(), time.0).into(),
            content: Content::Approval(Arc::new(approval.clone())),
            episode: "".into(),
            since,
        }
    }

    pub fn test(host: &str, time: WallTime, since: Instant) -> Self {
        let id: u128 = rand::random();
        Self {
            id: format!("{id:032x}-test").into(),
            content: Content::Test { host: host.into(), time },
            episode: "".into(),
            since,
        }
    }

    /// Bytes that it holds, roughly.
    pub fn weight(&self) -> usize {
        let text = match &self.content {
            Content::Finding(episode) => episode.facts.as_ref().map_or(0, |facts| facts.text.len()),
            Content::Approval(approval) => {
                approval.facts.as_ref().map_or(0, |facts| facts.text.len())
            }
            Content::Test { .. } => 0,
        };
        WEIGHT + text
    }
}

/// One episode has one, wherever it is told of.
fn episode_id(episode: &Episode) -> String {
    let Episode { finding, origin, began, sequence, destination, .. } = episode;
    let connection = origin.connection.map_or(0, |connection| connection.0);
    let mut hash = Sha256::new();
    for text in [&origin.host, &finding.rule] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(began.0.to_le_bytes());
    hash.update(connection.to_le_bytes());
    hash.update(sequence.to_le_bytes());
    if let Some(destination) = destination {
        hash.update(format!("{destination} by {:?}", destination.program));
    }
    hex::encode(hash.finalize().get(..16).unwrap_or_default())
}
