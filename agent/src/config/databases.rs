//! Databases of a server that are not where the server is.

use std::collections::HashSet;

use serde::Serialize;
use toml::Spanned;

use super::{error::Complaint, file};

/// Environment and region of some of a server's databases, as it is written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatabaseOf {
    /// `*` stands for anything.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

pub(super) fn databases(
    written: Vec<Spanned<file::Database>>,
) -> Result<Vec<DatabaseOf>, Complaint> {
    let mut names = HashSet::new();
    let mut databases = Vec::with_capacity(written.len());
    for entry in written {
        let span = entry.span();
        let file::Database { name, environment, region } = entry.into_inner();
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            let words =
                "[[server.database]] needs a `name`: the database, as in \"app\" or \"test_*\"";
            return Err(Complaint::at(span, words));
        };
        if environment.is_none() && region.is_none() {
            let words = "[[server.database]] must say what is different there: `environment` or \
                         `region`";
            return Err(Complaint::at(span, words));
        }
        if !names.insert(name.clone()) {
            let words = format!(
                "`name`: two [[server.database]] of one server are called {name:?}; the second \
                 would never count"
            );
            return Err(Complaint::at(span, words));
        }
        databases.push(DatabaseOf { name, environment, region });
    }
    Ok(databases)
}
