//! Writes the seed corpus, made of the transcripts, to the folder that is its argument.

use std::{env, fs, io, path::PathBuf};

use dbwarden_tests::{drive, transcript};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| "corpus".into()));
    fs::create_dir_all(&folder)?;
    for transcript in transcript::all("postgresql-").map_err(io::Error::other)? {
        let steps =
            transcript.calls.iter().map(|call| drive::Step::Bytes(call.direction, &call.bytes));
        fs::write(folder.join(&transcript.name), drive::script(steps))?;
    }
    Ok(())
}
