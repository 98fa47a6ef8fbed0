//! What several tests need: transcripts of real conversations, and driving the pure stages with them.

pub mod drive;
pub mod transcript;
