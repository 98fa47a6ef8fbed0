//! Where servers and their databases are, where that is not where the host is.

use std::sync::Arc;

use crate::{config, event::Origin, principal::Pattern};

/// Of a server, with those of its databases that are elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Places {
    server: Place,
    /// The first that fits counts.
    databases: Vec<(Pattern, Place)>,
}

#[derive(Clone, Debug, Default)]
struct Place {
    environment: Option<Arc<str>>,
    region: Option<Arc<str>>,
}

impl Places {
    pub fn new(server: &config::Server) -> Self {
        let databases = server.databases.iter().map(|database| {
            let place = Place::new(&database.environment, &database.region);
            (Pattern::text(&database.name), place)
        });
        Self {
            server: Place::new(&server.environment, &server.region),
            databases: databases.collect(),
        }
    }

    /// Environment and region: the database's, else the server's, else the host's.
    pub fn of(
        &self,
        database: Option<&str>,
        host: &Origin,
    ) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let nowhere = Place::default();
        let place = database
            .and_then(|name| self.databases.iter().find(|(pattern, _)| pattern.matches(name)))
            .map_or(&nowhere, |(_, place)| place);
        let first = |all: [&Option<Arc<str>>; 3]| all.into_iter().flatten().next().cloned();
        (
            first([&place.environment, &self.server.environment, &host.environment]),
            first([&place.region, &self.server.region, &host.region]),
        )
    }
}

impl Place {
    fn new(environment: &Option<String>, region: &Option<String>) -> Self {
        let known = |text: &Option<String>| text.as_deref().map(Into::into);
        Self { environment: known(environment), region: known(region) }
    }
}

#[cfg(test)]
mod tests {
    use super::Places;
    use crate::{
        config::{DatabaseOf, Server},
        event::Origin,
    };

    #[test]
    fn the_narrowest_place_counts() {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let database = |name: &str, environment, region| DatabaseOf {
            name: name.into(),
            environment: known(environment),
            region: known(region),
        };
        let server = Server {
            name: None,
            engine: None,
            port: None,
            data_directory: None,
            executable: None,
            socket: None,
            environment: Some("staging".into()),
            region: None,
            exclude: false,
            lane: Default::default(),
            on_guard_down: Default::default(),
            on_ledger_down: Default::default(),
            guard_socket: None,
            tls_certificate: None,
            tls_key: None,
            client_ca_certificate: None,
            client_ca_key: None,
            catalog: None,
            databases: vec![
                database("app", "production", ""),
                database("app*", "test", "us"),
                database("*_eu", "", "eu"),
            ],
        };
        let host = Origin {
            environment: Some("development".into()),
            region: Some("home".into()),
            ..Origin::default()
        };
        let (server, none) = (Places::new(&server), Places::default());
        for (places, database, environment, region) in [
            (&server, None, "staging", "home"),
            (&server, Some("postgres"), "staging", "home"),
            (&server, Some("app"), "production", "home"),
            (&server, Some("APP"), "staging", "home"),
            (&server, Some("app_eu"), "test", "us"),
            (&server, Some("shop_eu"), "staging", "eu"),
            (&none, Some("app"), "development", "home"),
        ] {
            let (got, at) = places.of(database, &host);
            let got = (got.as_deref(), at.as_deref());
            assert_eq!(got, (Some(environment), Some(region)), "{database:?}");
        }
        assert_eq!(none.of(Some("app"), &Origin::default()), (None, None));
    }
}
