//! Statements that wait for people: held, ticketed, approved by somebody else, and never used for anything else.

mod holds;
mod misuse;
mod office;
mod restarts;
mod tickets;
