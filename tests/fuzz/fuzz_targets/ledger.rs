//! Notes, checkpoints, entries and trails of a ledger that somebody else has written.

#![no_main]

use dbwarden::ledger::{
    checkpoint::Checkpoint,
    entry::History,
    note::{Note, PublicKey},
    trail::Trail,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(trail) = Trail::decode(bytes) {
        assert_eq!(trail.encode(), bytes);
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(note) = text.parse::<Note>() {
        assert_eq!(note.to_string(), text);
        let _ = Checkpoint::unverified(&note);
    }
    if let Some((note, rest)) = Note::first_of(text) {
        assert_eq!(format!("{note}{rest}"), text);
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string(), text);
    }
    let mut history = History::default();
    let _ = text.lines().try_for_each(|line| history.push(line));
});
