//! Writes the fuzzers' seed corpus, made of the transcripts, to the folder that is its argument.

#[path = "../tests/postgres_transcripts/drive.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod drive;
#[path = "../tests/postgres_transcripts/transcript.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod transcript;

use std::{env, fs, io, path::PathBuf};

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
