//! The child's side: reads texts, answers facts, and can do nothing else.

use std::{io, os::unix::net::UnixStream, thread};

use super::{
    confine,
    wire::{self, Request},
};
use crate::{
    event::{Analysis, Uses},
    statement::{self, Analysed, STACK_BYTES},
};

/// Answers on standard input, which is a socket, until the service closes it.
///
/// # Errors
///
/// The process can't be confined, or the stream broke.
pub fn serve() -> io::Result<()> {
    confine::give_up_rights()?;
    let stream = crate::confine::standard_input()?;
    let answering = thread::Builder::new().name("parser".to_owned()).stack_size(STACK_BYTES);
    let answering = answering.spawn(move || {
        // The last thing that needs a system call beyond these is the thread's own start.
        confine::allow_only_parsing()?;
        answer_all(stream)
    })?;
    answering.join().unwrap_or_else(|_| Err(io::Error::other("the parser's thread panicked")))
}

fn answer_all(mut stream: UnixStream) -> io::Result<()> {
    while let Some(request) = wire::read_request(&mut stream)? {
        confine::limit_time()?;
        let json = answer(&request)?;
        wire::write_answer(&mut stream, &json)?;
    }
    Ok(())
}

fn answer(request: &Request) -> io::Result<Vec<u8>> {
    let Request { text, session, is_behind, is_of_uses } = request;
    if *is_of_uses {
        let json = serde_json::to_vec(&statement::uses(text, session.lexing))?;
        return match json.len() <= wire::MAX_ANSWER_BYTES {
            true => Ok(json),
            false => Ok(serde_json::to_vec(&[Uses::unknown()])?),
        };
    }
    let mut analysed = match is_behind {
        true => statement::analyse_behind(text),
        false => statement::analyse_in(text, session),
    };
    if analysed.statements.len() == 1 {
        // It is the whole.
        analysed.statements.clear();
    }
    let json = serde_json::to_vec(&analysed)?;
    if json.len() <= wire::MAX_ANSWER_BYTES {
        return Ok(json);
    }
    // Thousands of statements in one text, whose facts are far longer than they are.
    let mut short = Analysed::unparsed(text, session.lexing, Analysis::TooLong);
    short.statements.clear();
    Ok(serde_json::to_vec(&short)?)
}
