//! Writes the fuzzers' seeds to the folder that is its argument: a folder a target, made of the transcripts,
//! of the statements that the analysis is tested with, and of the starter pack's policies.

#[path = "../tests/postgres_transcripts/drive.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod drive;
#[path = "../tests/postgres_transcripts/transcript.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod transcript;

use std::{env, fs, io, path::PathBuf};

use dbwarden::policy::{GUARDED_PACK, STARTER_PACK};

/// A text in each odd line, what it does in each even one.
const STATEMENTS: &str = include_str!("../../agent/src/statement/analysis/tests/statements.txt");

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| "corpus".into()));
    let (postgres, guard) = (folder.join("postgres"), folder.join("guard"));
    fs::create_dir_all(&postgres)?;
    fs::create_dir_all(&guard)?;
    for transcript in transcript::all("postgresql-").map_err(io::Error::other)? {
        let steps =
            transcript.calls.iter().map(|call| drive::Step::Bytes(call.direction, &call.bytes));
        fs::write(postgres.join(&transcript.name), drive::script(steps))?;
        // A session of the guard begins behind the start-up.
        let mut script = Vec::new();
        for call in transcript.calls.iter().skip(1) {
            for part in call.bytes.chunks(127) {
                script.push((part.len() as u8) << 1 | call.direction as u8);
                script.extend_from_slice(part);
            }
        }
        fs::write(guard.join(&transcript.name), script)?;
    }
    // Any bytes are a conversation of a masked client.
    let veil = folder.join("veil");
    fs::create_dir_all(&veil)?;
    let mut random = 0x5eed_u64;
    for n in 0..200 {
        let byte = |_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        };
        fs::write(veil.join(n.to_string()), (0..20 + n).map(byte).collect::<Vec<u8>>())?;
    }
    let lines = STATEMENTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for target in ["lexer", "statement"] {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        for (n, text) in lines.clone().step_by(2).enumerate() {
            // The first byte says whether strings conform to the standard.
            fs::write(folder.join(n.to_string()), format!("\u{1}{text}"))?;
        }
    }
    let policy = folder.join("policy");
    fs::create_dir_all(&policy)?;
    for (n, text) in [STARTER_PACK, GUARDED_PACK].join("\n\n").split("\n\n").enumerate() {
        fs::write(policy.join(n.to_string()), text)?;
    }
    Ok(())
}
