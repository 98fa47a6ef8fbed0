//! A database's record of what came through a pooler: said to be of whoever is behind it.

use std::{rc::Rc, sync::Arc};

use super::{MAX_SENDERS, Profile, Sender};
use crate::{
    event::{Certainty, Claims, Origin},
    pooler::Behind,
    principal::{Rules, Subject},
};

impl Profile {
    /// The half of a record of a statement that came through a pooler, from one of those `behind` it.
    pub fn origin_through(
        &mut self,
        host: &Origin,
        rules: &Rules,
        claims: Option<&Claims>,
        pooler: &Arc<str>,
        behind: &Behind<Rc<Sender>>,
    ) -> Arc<Origin> {
        let senders = match behind {
            Behind::One(sender) => std::slice::from_ref(sender),
            Behind::Several(senders) => senders,
            Behind::Nobody => &[],
        };
        let origin = match senders.iter().all(|sender| sender.is_known()) {
            true => self.origin_of(host, rules, claims, pooler, senders),
            false => None,
        };
        if let Some(origin) = origin {
            return origin;
        }
        let plain = self.origin_claiming(host, rules, claims);
        if let Some((of, origin)) = &self.unsent
            && Arc::ptr_eq(of, &plain)
        {
            return origin.clone();
        }
        let origin = Arc::new(Origin {
            pooler: Some(pooler.clone()),
            client_certainty: Some(Certainty::Unknown),
            // The pooler's connection is others' too.
            socket: None,
            ..Origin::clone(&plain)
        });
        self.unsent = Some((plain, origin.clone()));
        origin
    }

    /// What can be said of all of these, if they are one principal.
    fn origin_of(
        &mut self,
        host: &Origin,
        rules: &Rules,
        claims: Option<&Claims>,
        pooler: &Arc<str>,
        senders: &[Rc<Sender>],
    ) -> Option<Arc<Origin>> {
        let (first, others) = senders.split_first()?;
        let origin = self.origin_sent_by(host, rules, claims, pooler, first);
        if others.is_empty() {
            return Some(origin);
        }
        let mut all = Origin::clone(&origin);
        for other in others {
            let other = self.origin_sent_by(host, rules, claims, pooler, other);
            if (&all.principal, all.principal_kind) != (&other.principal, other.principal_kind) {
                return None;
            }
            all = common(all, &other);
        }
        if !others.iter().all(|other| other.is_same_process(first)) {
            all.client_certainty = Some(Certainty::Shared);
        }
        Some(Arc::new(all))
    }

    fn origin_sent_by(
        &mut self,
        host: &Origin,
        rules: &Rules,
        claims: Option<&Claims>,
        pooler: &Arc<str>,
        sender: &Rc<Sender>,
    ) -> Arc<Origin> {
        let telling = claims.map(|claims| rules.telling(claims)).unwrap_or_default();
        let known =
            self.senders.iter().find(|(of, tags, _)| Rc::ptr_eq(of, sender) && *tags == telling);
        if let Some((.., origin)) = known {
            return origin.clone();
        }
        let of_application = self.claims(None);
        let principal = rules.decide(&Subject {
            client: &sender.client,
            db_user: self.db_user.as_deref(),
            db_user_proven: sender.proven_user.is_some() && sender.proven_user == self.db_user,
            application: self.application.as_deref(),
            certificate: None,
            claims: claims.or(of_application.as_ref()),
        });
        let origin = Arc::new(Origin {
            pooler: Some(pooler.clone()),
            client_certainty: Some(Certainty::Exact),
            socket: sender.socket(),
            ..self.make_origin(host, &principal, &sender.client, &sender.remote)
        });
        if self.senders.len() >= MAX_SENDERS {
            self.senders.pop_front();
        }
        self.senders.push_back((sender.clone(), telling, origin.clone()));
        origin
    }
}

/// What two origins agree on, and what both leave open.
fn common(mut one: Origin, other: &Origin) -> Origin {
    macro_rules! agree {
        ($($field:ident),+ $(,)?) => {
            $(if one.$field != other.$field { one.$field = Default::default(); })+
        };
    }
    agree!(
        client_address,
        client_port,
        principal_rule,
        initiator,
        groups,
        socket,
        pid,
        process_start,
        exe,
        command,
        uid,
        os_user,
        login_uid,
        login_user,
        login_strength,
        session,
        tty,
        parents,
        cgroup,
        unit,
        container,
        pod,
    );
    one
}
