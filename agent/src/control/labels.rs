//! Columns that have inherited labels, asked and taken back over the control socket; only root takes them back.

use serde::{Deserialize, Serialize};

use super::access::Peer;
use crate::inheritance::{Inheritance, InheritanceError, Inherited};

/// Of a request.
pub(super) const REQUEST_BYTES: usize = 4 << 10;

/// What somebody wants changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelChange {
    Forget { number: u64 },
}

/// Why it stays as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unchanged {
    #[error("only root may take back what has inherited a label")]
    NotRoot,
    #[error("can't be understood: {0}")]
    Request(#[from] serde_json::Error),
    #[error(transparent)]
    Inheritance(#[from] InheritanceError),
}

/// The column that has no inherited label any more.
pub(super) fn change(
    inheritance: &Inheritance,
    peer: &Peer,
    request: &[u8],
) -> Result<Inherited, Unchanged> {
    if peer.uid != 0 {
        return Err(Unchanged::NotRoot);
    }
    let LabelChange::Forget { number } = serde_json::from_slice(request)?;
    Ok(inheritance.forget(number, &format!("uid {}", peer.uid))?)
}
