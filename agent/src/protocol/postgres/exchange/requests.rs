//! What the client asks: simple queries, function calls, and the ends of stretches.

use super::{
    super::{deframer::Message, frontend, value},
    Exchange, decode,
    in_flight::{Kind, Request},
};
use crate::{
    event::{SessionEvent, StatementKind},
    protocol::Sink,
};

impl Exchange {
    /// A message of the client.
    pub fn request(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        match message.tag {
            frontend::QUERY => self.query(message, sink),
            frontend::PARSE => self.parse(message, sink),
            frontend::BIND => self.bind(message, sink),
            frontend::DESCRIBE => self.describe(message, sink),
            frontend::EXECUTE => self.execute(message, sink),
            frontend::CLOSE => self.close_target(message, sink),
            frontend::SYNC => self.sync(message, sink),
            frontend::FUNCTION_CALL => self.function_call(message, sink),
            frontend::COPY_DATA => self.copy_data(message),
            frontend::COPY_DONE | frontend::COPY_FAIL => self.end_copy_in(message, sink),
            frontend::FLUSH => self.statements.count(message),
            frontend::TERMINATE => sink(SessionEvent::Terminated),
            _ => {}
        }
    }

    fn query(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let mut statement = self.statements.begin(StatementKind::Simple, message);
        self.tell_message(message, sink);
        let text = match message.body.split_last() {
            Some((0, text)) if message.is_whole() => text,
            _ => message.body,
        };
        // A message that a gap broke off may not have had its text's end where the length says.
        if !text.is_empty() || message.is_whole() {
            let repeated = self.newest_text.as_ref().filter(|newest| newest.as_bytes() == text);
            let text = match repeated {
                Some(newest) => newest.clone(),
                None => decode(text, message.is_whole()),
            };
            statement.text = Some(text.clone());
            statement.standard_conforming_strings = self.standard_conforming_strings();
            self.newest_text = Some(text);
        }
        if self.failure.skipping {
            return self.statements.skip(statement, message.at, sink);
        }
        // A Query drops the unnamed statement and portal.
        self.prepared.remove(b"");
        let portal = self.portals.remove(b"");
        self.end_portal(portal, None, sink);
        let kind = Kind::Query { segment: self.next_segment() };
        self.enqueue(Request::running(message.started, kind, statement), sink);
    }

    fn function_call(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let mut statement = self.statements.begin(StatementKind::FunctionCall, message);
        self.tell_message(message, sink);
        if let Some(arguments) = frontend::function_arguments(message) {
            statement.parameters = value::parameters(self.statements.parameters(), arguments, &[]);
        }
        if self.failure.skipping {
            return self.statements.skip(statement, message.started, sink);
        }
        let kind = Kind::FunctionCall { segment: self.next_segment() };
        self.enqueue(Request::running(message.started, kind, statement), sink);
    }

    fn sync(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.statements.forget_request();
        if self.copy_in {
            return;
        }
        if self.failure.skipping {
            self.failure.skipping = false;
            self.finish_broken(sink);
        }
        let kind = Kind::Sync { segment: self.next_segment() };
        self.enqueue(Request::new(message.started, kind), sink);
    }

    fn next_segment(&mut self) -> u64 {
        self.segment += 1;
        self.segment - 1
    }
}
