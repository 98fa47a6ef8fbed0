//! What PostgreSQL logs and counts of its clients against what dbwarden reports of them.

mod agreement;
mod clients;
mod conversations;
mod counted;
mod logged;
