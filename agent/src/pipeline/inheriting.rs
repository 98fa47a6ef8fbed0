//! Rows of the labels that columns inherit, and of those that are taken back.

use std::sync::Arc;

use crate::{
    event::{Entry, Occurrence, OccurrenceKind, Origin, WallTime},
    inheritance::{Change, Inheritance, Inherited},
};

/// Columns that one row names.
const MAX_NAMED: usize = 50;

/// What has changed since the last time.
pub fn tick(inheritance: &Inheritance, host: &Arc<Origin>, now: WallTime, told: &mut Vec<Entry>) {
    for change in inheritance.changes() {
        let (action, columns, message) = match &change {
            Change::Inherited { statement, columns, .. } => {
                let message = format!("by statement {statement}: {}", named(columns));
                ("label_inherited", columns.as_slice(), message)
            }
            Change::Forgotten { column, by } => {
                let columns = std::slice::from_ref(column);
                let message = format!("taken back by {by}: {}", named(columns));
                ("label_forgotten", columns, message)
            }
            Change::Gone { columns } => {
                ("label_gone", columns.as_slice(), format!("dropped: {}", named(columns)))
            }
        };
        let Some(first) = columns.first() else { continue };
        let origin = match change {
            Change::Inherited { ref origin, .. } => origin,
            _ => host,
        };
        let place = |name: &str| Some(Arc::from(name));
        let origin = Origin {
            host: host.host.clone(),
            server: origin.server.clone().or_else(|| place(&first.server)),
            database: origin.database.clone().or_else(|| place(&first.database)),
            ..Origin::clone(origin)
        };
        tracing::info!(server = first.server, database = first.database, "{action}: {message}");
        let mut counts = vec![("columns".into(), columns.len() as u64)];
        if let [only] = columns {
            counts.push(("label".into(), only.number));
        }
        told.push(Entry::Occurrence(Occurrence {
            time: now,
            kind: OccurrenceKind::Configuration,
            action,
            origin: Arc::new(origin),
            message: Some(message),
            counts,
        }));
    }
}

fn named(columns: &[Inherited]) -> String {
    let each = columns.iter().take(MAX_NAMED);
    let each = each.map(|one| format!("{} from {}", one.column, one.origins()));
    let mut named = each.collect::<Vec<_>>().join("; ");
    if columns.len() > MAX_NAMED {
        named += &format!("; and {} more", columns.len() - MAX_NAMED);
    }
    named
}
