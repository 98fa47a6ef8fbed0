//! Which statements a watcher wants: read from the query of `/v1/watch`, applied in the service.

use std::time::Duration;

use crate::event::{Origin, PrincipalKind, Record};

/// All that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Database user.
    pub user: Option<String>,
    pub database: Option<String>,
    pub server: Option<String>,
    /// Part of who is verified to have sent it: principal, initiator, user, login user, executable, unit, container, pod
    /// or address, in any case.
    pub who: Option<String>,
    /// `human`, `service`, `ai` or `unknown`.
    pub kind: Option<PrincipalKind>,
    pub min_duration: Option<Duration>,
    /// Only statements that failed.
    pub errors: bool,
    /// Not a filter of statements but of what is shown of them: their literals too. Root's alone.
    pub literals: bool,
}

impl Filter {
    pub(super) fn of_query(query: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match key.as_ref() {
                "user" => filter.user = Some(value),
                "database" => filter.database = Some(value),
                "server" => filter.server = Some(value),
                "who" => filter.who = Some(value),
                "kind" => {
                    let kind = PrincipalKind::ALL.iter().find(|kind| kind.name() == value);
                    let words = || format!("kind={value}: human, service, ai or unknown is wanted");
                    filter.kind = Some(*kind.ok_or_else(words)?);
                }
                "min_duration_us" => {
                    let micros = value.parse().map_err(|_| {
                        format!("min_duration_us={value}: a whole number of microseconds is wanted")
                    })?;
                    filter.min_duration = Some(Duration::from_micros(micros));
                }
                "errors" => filter.errors = truth(&key, &value)?,
                "literals" => filter.literals = truth(&key, &value)?,
                other => {
                    return Err(format!(
                        "unknown filter {other}: there are user, database, server, who, \
                         kind, min_duration_us, errors and literals"
                    ));
                }
            }
        }
        Ok(filter)
    }

    pub(super) fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let words = [
            ("user", &self.user),
            ("database", &self.database),
            ("server", &self.server),
            ("who", &self.who),
        ];
        for (key, value) in words {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        if let Some(kind) = self.kind {
            query.append_pair("kind", kind.name());
        }
        if let Some(duration) = self.min_duration {
            query.append_pair("min_duration_us", &duration.as_micros().to_string());
        }
        if self.errors {
            query.append_pair("errors", "true");
        }
        if self.literals {
            query.append_pair("literals", "true");
        }
        query.finish()
    }

    pub(super) fn lets_through(&self, record: &Record) -> bool {
        let same = |wanted: &Option<String>, given: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| given == Some(wanted))
        };
        let long_enough = self.min_duration.is_none_or(|least| {
            record.duration_us.is_some_and(|micros| Duration::from_micros(micros) >= least)
        });
        let origin = &record.origin;
        same(&self.user, origin.db_user.as_deref())
            && same(&self.database, origin.database.as_deref())
            && same(&self.server, origin.server.as_deref())
            && self.kind.is_none_or(|kind| origin.principal_kind == Some(kind))
            && long_enough
            && (!self.errors || record.error_code.is_some())
            && self.who.as_deref().is_none_or(|who| is_sent_by(origin, &who.to_lowercase()))
    }
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{key}={value}: true or false is wanted")),
    }
}

fn is_sent_by(origin: &Origin, who: &str) -> bool {
    let verified = [
        &origin.principal,
        &origin.initiator,
        &origin.os_user,
        &origin.login_user,
        &origin.exe,
        &origin.unit,
        &origin.container,
        &origin.pod,
        &origin.client_address,
    ];
    verified.into_iter().flatten().any(|word| word.to_lowercase().contains(who))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Filter;
    use crate::{control::tests::record, event::PrincipalKind};

    #[test]
    fn a_filter_survives_its_query() {
        let filter = Filter {
            user: Some("a&b=c".into()),
            database: Some("münchen".into()),
            server: Some("main".into()),
            who: Some("php fpm".into()),
            kind: Some(PrincipalKind::Ai),
            min_duration: Some(Duration::from_millis(15)),
            errors: true,
            literals: true,
        };
        assert_eq!(Filter::of_query(&filter.to_query()), Ok(filter));
        assert_eq!(Filter::of_query(""), Ok(Filter::default()));
    }

    #[test]
    fn a_bad_query_is_refused_in_words() {
        for (query, expected) in [
            (
                "usr=a",
                "unknown filter usr: there are user, database, server, who, kind, min_duration_us, errors and literals",
            ),
            (
                "min_duration_us=1ms",
                "min_duration_us=1ms: a whole number of microseconds is wanted",
            ),
            ("kind=robot", "kind=robot: human, service, ai or unknown is wanted"),
            ("errors=1", "errors=1: true or false is wanted"),
        ] {
            assert_eq!(Filter::of_query(query), Err(expected.to_owned()));
        }
    }

    #[test]
    fn filters_let_through_what_they_name() {
        for (query, expected) in [
            ("", true),
            ("user=shop", true),
            ("user=sho", false),
            ("database=orders&user=shop", true),
            ("database=orders&user=other", false),
            ("server=main", true),
            ("server=other", false),
            ("who=ALICE", true),
            ("who=bin/psql", true),
            ("who=shop", false),
            ("who=claude", true),
            ("who=carol", true),
            ("kind=ai", true),
            ("kind=human", false),
            ("min_duration_us=1500", true),
            ("min_duration_us=1501", false),
            ("errors=true", false),
        ] {
            assert_eq!(
                Filter::of_query(query).unwrap().lets_through(&record()),
                expected,
                "{query}"
            );
        }
    }
}
