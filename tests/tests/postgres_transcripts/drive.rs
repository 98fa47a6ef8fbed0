//! Drives the stream and the protocol sessions: what tests and fuzz targets share.

use dbwarden::{
    event::{
        BootTime, Chunk, Direction, Engine, Layer, Outcome, Parameter, Piece, SessionEvent,
        Statement,
    },
    protocol::{self, Session},
    stream::{self, Assembler},
};

/// What happens to a connection next.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    Bytes(Direction, &'a [u8]),
    Gap(Direction, u64),
}

/// Something that a session said, kept.
#[derive(Clone, Debug)]
pub enum Said {
    Statement(Box<Statement>),
    /// Anything else, as `Debug` shows it.
    Event(String),
}

/// Runs a session over `steps`, a millisecond apart, to the end of its connection.
pub fn run<'a>(steps: impl IntoIterator<Item = Step<'a>>) -> Vec<Said> {
    let mut said = Vec::new();
    let mut session = Session::new(Engine::Postgresql, protocol::Limits::default());
    let mut at = BootTime(0);
    let mut sink = |event: SessionEvent<'_>| {
        said.push(match event {
            SessionEvent::Statement(statement) => Said::Statement(Box::new(statement.clone())),
            other => Said::Event(format!("{other:?}")),
        });
    };
    for step in steps {
        at.0 += 1_000_000;
        match step {
            Step::Bytes(direction, bytes) => session.bytes(direction, at, bytes, &mut sink),
            Step::Gap(direction, len) => session.gap(direction, at, len, len, &mut sink),
        }
    }
    session.close(at, &mut sink);
    said
}

/// One line for people and for files of expected events; times and byte counts only `with_bytes`.
pub fn line(said: &Said, with_bytes: bool) -> String {
    let statement = match said {
        Said::Event(event) => return event.clone(),
        Said::Statement(statement) => statement,
    };
    let Statement { kind, sequence, text, prepared, bytes_in, bytes_out, .. } = &**statement;
    let mut line = format!("#{sequence} {kind:?}");
    match text {
        Some(text) if text.len() > 200 => {
            line += &format!(" {:?}… ({} bytes)", text.get(..40).unwrap_or_default(), text.len());
        }
        Some(text) => line += &format!(" {text:?}"),
        None => line += " ?",
    }
    if let Some(prepared) = prepared {
        line += &format!(" prepared {prepared:?}");
    }
    if !statement.parameters.is_empty() {
        let parameters: Vec<String> = statement.parameters.iter().map(parameter).collect();
        line += &format!(" ({})", parameters.join(", "));
    }
    line += &match &statement.outcome {
        Outcome::Done { tag, rows: Some(rows) } => format!(" → {tag} {rows}"),
        Outcome::Done { tag, rows: None } => format!(" → {tag}"),
        Outcome::Suspended { rows: Some(rows) } => format!(" → suspended {rows}"),
        Outcome::Failed { code, message } => format!(" → failed {code} {message:?}"),
        other => format!(" → {other:?}"),
    };
    if let Some(transaction) = statement.transaction {
        line += &format!(" {transaction:?}");
    }
    if with_bytes {
        line += &format!(" in {bytes_in} out {bytes_out}");
    }
    for (what, bytes) in [("truncated", statement.truncated_bytes), ("lost", statement.lost_bytes)]
    {
        if bytes > 0 {
            line += &format!(" {what} {bytes}");
        }
    }
    line
}

fn parameter(parameter: &Parameter) -> String {
    match parameter {
        Parameter::Null => "NULL".to_owned(),
        Parameter::Text(text) => format!("{text:?}"),
        Parameter::Binary { type_oid, len, .. } => format!("binary {type_oid} of {len}"),
        Parameter::Unknown => "?".to_owned(),
    }
}

/// Reads `data` as a script of bytes and gaps for a session: a control byte (bit 0 direction, bit 1
/// gap, the rest a length), then the bytes. Nothing may panic, and memory stays bounded.
pub fn fuzz_postgres(data: &[u8]) {
    let mut steps = Vec::new();
    let mut rest = data;
    while let Some((&control, after)) = rest.split_first() {
        let direction = if control & 1 == 0 { Direction::Request } else { Direction::Response };
        let len = usize::from(control >> 2) * 4;
        if control & 2 != 0 {
            steps.push(Step::Gap(direction, len as u64));
            rest = after;
            continue;
        }
        let (bytes, after) = after.split_at(len.min(after.len()));
        steps.push(Step::Bytes(direction, bytes));
        rest = after;
    }
    run(steps);
}

/// The script that plays `steps` to `fuzz_postgres`, as near as it can say them.
pub fn script<'a>(steps: impl IntoIterator<Item = Step<'a>>) -> Vec<u8> {
    let mut script = Vec::new();
    for step in steps {
        match step {
            Step::Bytes(direction, bytes) => {
                for part in bytes.chunks(63 * 4) {
                    let whole = part.len() - part.len() % 4;
                    let (fours, rest) = part.split_at(whole);
                    script.push(((whole / 4) as u8) << 2 | direction as u8);
                    script.extend_from_slice(fours);
                    // Lengths count in fours: the remainder is padded with what `Flush` is.
                    if !rest.is_empty() {
                        script.push(1 << 2 | direction as u8);
                        script.extend_from_slice(rest);
                        script.resize(script.len() + 4 - rest.len(), b'H');
                    }
                }
            }
            Step::Gap(direction, len) => {
                script.push((len.div_ceil(4).min(63) as u8) << 2 | 2 | direction as u8);
            }
        }
    }
    script
}

/// Reads `data` as chunks with arbitrary positions for an assembler, and checks what it promises:
/// pieces never overlap, and every byte stands at its place.
pub fn fuzz_stream(data: &[u8]) {
    let mut assembler =
        Assembler::new(stream::Limits { held_bytes: 64, held_chunks: 4, hold_ns: 10 });
    let pattern: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let mut handed_on = [0_u64; 4];
    let mut check = |direction: Direction, layer: Layer, _: BootTime, piece: Piece<'_>| {
        let flow = direction as usize * 2 + layer as usize;
        let Some(position) = handed_on.get_mut(flow) else { return };
        match piece {
            Piece::Bytes(bytes) => {
                assert!(!bytes.is_empty(), "an empty piece");
                for byte in bytes {
                    assert_eq!(*byte, *position as u8, "a byte that is not in its place");
                    *position += 1;
                }
            }
            Piece::Gap { len, lost } => {
                assert!(len > 0 && lost <= len, "a gap of {len} with {lost} lost");
                *position += len;
            }
        }
    };
    for (n, record) in data.chunks_exact(7).enumerate() {
        let &[flags, high, low, len, call_len, call_offset, dropped] = record else { continue };
        let position = u64::from(u16::from_be_bytes([high, low])) % 2048;
        let at = BootTime(n as u64);
        let start = position as usize;
        let bytes = pattern.get(start..start + usize::from(len)).unwrap_or_default();
        let chunk = Chunk {
            time: at,
            direction: if flags & 1 == 0 { Direction::Request } else { Direction::Response },
            layer: if flags & 2 == 0 { Layer::Socket } else { Layer::Tls },
            position,
            bytes,
            call_len: u32::from(call_len),
            call_offset: u32::from(call_offset),
            dropped_total: u64::from(dropped),
        };
        assembler.push(chunk, &mut check);
        if flags & 4 != 0 {
            assembler.poll(at, &mut check);
        }
    }
    assembler.flush(BootTime(u64::MAX), &mut check);
}
