//! How a text is named where it is told what was masked in its answer.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Stands in the texts in which the guard has made something NULL: for whoever reads the server's log, and the observer.
pub const NULLED: &str = "/* dbwarden: hidden columns are NULL here */ ";

/// The same for the same text, and for no two that anybody can find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TextPrint([u8; 16]);

impl TextPrint {
    pub fn of(text: &str) -> Self {
        let digest = Sha256::digest(text);
        Self(digest.first_chunk().copied().unwrap_or_default())
    }
}
