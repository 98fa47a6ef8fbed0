//! What the client asks in parts: `Parse`, `Bind`, `Describe`, `Execute`, `Close`.

use std::sync::Arc;

use super::{
    super::{
        deframer::Message,
        frontend::{Bind, Execute, Parse, Target},
        print,
        reader::Reader,
        tables::{Portal, Prepared},
        value,
    },
    Exchange, decode,
    in_flight::{Kind, Request},
    statements::describe,
};
use crate::{
    event::{Outcome, RequestPrint, StatementKind},
    protocol::Sink,
};

impl Exchange {
    pub(super) fn parse(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.statements.count_parse(message);
        let (at, bytes) = (message.started, message.wire_len());
        let Some(parse) = Parse::read(message) else {
            if self.failure.skipping {
                return self.failure.prepared.clear();
            }
            // Any name may have got another meaning.
            self.prepared.clear();
            let kind = Kind::Parse { prepared: None, previous: None, bytes };
            return self.enqueue(Request::new(at, kind), sink);
        };
        let prepared = self.prepared_by(&parse, message);
        let table =
            if self.failure.skipping { &mut self.failure.prepared } else { &mut self.prepared };
        let previous = table.define(parse.name, prepared.clone(), &self.limits, &mut self.stats);
        if self.failure.skipping {
            return;
        }
        let kind = Kind::Parse { prepared: Some(prepared), previous, bytes };
        self.enqueue(Request::new(at, kind), sink);
    }

    /// What a `Parse` defines. Clients that prepare the same text again and again share one.
    fn prepared_by(&self, parse: &Parse<'_>, message: &Message<'_>) -> Arc<Prepared> {
        let standard_conforming_strings = self.standard_conforming_strings();
        let types = parse.types.chunks_exact(4).filter_map(|oid| Reader::new(oid).u32());
        let table = if self.failure.skipping { &self.failure.prepared } else { &self.prepared };
        let repeated = table.find(parse.name).filter(|known| {
            parse.name.is_empty()
                && parse.whole
                && known.text.as_bytes() == parse.text
                && known.standard_conforming_strings == standard_conforming_strings
                && (parse.types.is_empty() || known.types.iter().copied().eq(types.clone()))
                && known.truncated + known.lost == 0
        });
        if let Some(known) = repeated {
            return known.clone();
        }
        Arc::new(Prepared {
            name: match parse.name {
                [] => self.unnamed.clone(),
                name => decode(name, true),
            },
            text: decode(parse.text, parse.whole),
            standard_conforming_strings,
            types: types.collect(),
            truncated: if parse.whole { 0 } else { message.truncated() },
            lost: if parse.whole { 0 } else { message.lost },
        })
    }

    pub(super) fn bind(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.statements.count(message);
        let bind = Bind::read(message);
        if self.failure.skipping {
            if let Some(bind) = bind {
                self.bind_ignored(&bind, message);
            }
            return;
        }
        let Some(bind) = bind else {
            // Not even the names were captured: what runs next can't be known.
            self.drop_portals(u64::MAX, None, sink);
            let kind = Kind::Bind { serial: 0, prepared: None, bytes: message.wire_len() };
            return self.enqueue(Request::new(message.started, kind), sink);
        };
        let prepared = self.prepared.find(bind.statement).cloned();
        let replaced = self.portals.remove(bind.portal);
        self.end_portal(replaced, None, sink);
        let portal = self.portal(&bind, message, prepared.clone());
        let serial = portal.serial;
        let evicted = self.portals.add(portal, &self.limits, &mut self.stats);
        self.end_portal(evicted, None, sink);
        let kind = Kind::Bind { serial, prepared, bytes: message.wire_len() };
        self.enqueue(Request::new(message.started, kind), sink);
    }

    /// A `Bind` that the server ignores.
    fn bind_ignored(&mut self, bind: &Bind<'_>, message: &Message<'_>) {
        let known = self.failure.prepared.find(bind.statement);
        let prepared = known.or_else(|| self.prepared.find(bind.statement)).cloned();
        let portal = self.portal(bind, message, prepared);
        self.failure.portals.remove(bind.portal);
        self.failure.portals.add(portal, &self.limits, &mut self.stats);
    }

    /// A new portal.
    fn portal(
        &mut self,
        bind: &Bind<'_>,
        message: &Message<'_>,
        prepared: Option<Arc<Prepared>>,
    ) -> Portal {
        let print = match self.tells_requests {
            true => print::of_bind(bind, message, prepared.as_deref()),
            false => RequestPrint::Unknown,
        };
        let types = prepared.as_ref().map(|prepared| &*prepared.types).unwrap_or_default();
        let parameters = value::parameters(self.statements.parameters(), bind.arguments, types);
        self.serial += 1;
        Portal {
            name: bind.portal.into(),
            serial: self.serial,
            segment: self.segment,
            prepared,
            print,
            parameters,
            limited: false,
            suspended: None,
        }
    }

    pub(super) fn describe(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        self.statements.count(message);
        if self.failure.skipping {
            return;
        }
        let statement = match Target::read(message) {
            Some(Target::Statement(name)) => self.prepared.find(name).cloned(),
            _ => None,
        };
        self.enqueue(Request::new(message.started, Kind::Describe { statement }), sink);
    }

    pub(super) fn close_target(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        if self.failure.skipping {
            return;
        }
        let mut statement = None;
        match Target::read(message) {
            Some(Target::Statement(name)) => statement = self.prepared.remove(name),
            Some(Target::Portal(name)) => {
                let portal = self.portals.remove(name);
                self.end_portal(portal, None, sink);
            }
            None => {
                // Any name may mean nothing now.
                self.prepared.clear();
                self.drop_portals(u64::MAX, Some(Outcome::Unknown), sink);
            }
        }
        self.enqueue(Request::new(message.started, Kind::Close { statement }), sink);
    }

    pub(super) fn execute(&mut self, message: &Message<'_>, sink: &mut Sink<'_>) {
        let execute = Execute::read(message);
        if execute.is_none() {
            // Any portal may have gone on unseen.
            self.drop_portals(u64::MAX, Some(Outcome::Unknown), sink);
        }
        let max_rows = execute.as_ref().map_or(0, |execute| execute.max_rows);
        let portal = execute.and_then(|execute| {
            let ignored = if self.failure.skipping {
                self.failure.portals.find(execute.portal)
            } else {
                None
            };
            ignored.or_else(|| self.portals.find(execute.portal))
        });
        let Some(portal) = portal else {
            let statement = self.statements.begin(StatementKind::Extended, message);
            self.tell_asked(RequestPrint::Unknown, sink);
            if self.failure.skipping {
                return self.statements.skip(statement, message.at, sink);
            }
            let kind = Kind::Execute { serial: 0, prepared: None, max_rows };
            return self.enqueue(Request::running(message.started, kind, statement), sink);
        };
        let (serial, print) = (portal.serial, portal.print);
        let prepared = portal.prepared.clone();
        let mut begins = false;
        let continues = portal.limited || portal.suspended.is_some();
        let mut statement = portal.suspended.take();
        portal.limited |= max_rows > 0;
        match &mut statement {
            Some(statement) => self.statements.go_on(statement, message),
            None if continues => {}
            None => {
                let mut new = self.statements.begin(StatementKind::Extended, message);
                new.parameters = std::mem::take(&mut portal.parameters);
                describe(&mut new, prepared.as_deref());
                statement = Some(new);
                begins = true;
            }
        }
        if begins {
            self.tell_asked(print, sink);
        }
        if self.failure.skipping {
            let broken = self.failure.take_for(serial, prepared.as_ref());
            return match (statement, broken) {
                (Some(statement), Some(broken)) => self.end_broken(statement, broken, sink),
                (Some(statement), None) => self.statements.skip(statement, message.at, sink),
                (None, _) => {}
            };
        }
        let kind = Kind::Execute { serial, prepared, max_rows };
        self.enqueue(Request { at: message.started, kind, statement }, sink);
    }
}
