//! What attributes say of a connection: one table from the record's fields to OpenTelemetry's names.
//!
//! What has a name there goes by it; the rest keeps the name that it has in a record, after `dbwarden.`.

use super::attributes::Attributes;
use crate::event::{Engine, LoginStrength, Origin, PrincipalKind, Transport};

/// `db.system.name` as the conventions have it.
pub fn system(engine: Option<Engine>) -> Option<&'static str> {
    engine.map(|engine| match engine {
        Engine::Postgresql => "postgresql",
    })
}

pub fn describe(attributes: &mut Attributes, origin: &Origin) {
    let a = attributes;
    a.text("db.system.name", system(origin.engine));
    a.text("db.namespace", origin.database.as_deref());
    a.text("server.address", origin.server_address.as_deref());
    a.int("server.port", origin.server_port);
    if origin.server_port.is_some() {
        a.text("network.peer.address", origin.server_address.as_deref());
        a.int("network.peer.port", origin.server_port);
    }
    a.text(
        "network.transport",
        origin.transport.map(|transport| match transport {
            Transport::Tcp | Transport::Tls => "tcp",
            Transport::Unix | Transport::UnixTls => "unix",
        }),
    );
    a.text("client.address", origin.client_address.as_deref());
    a.int("client.port", origin.client_port);

    a.int("process.pid", origin.pid);
    a.text("process.creation.time", origin.process_start.map(|at| at.to_string()).as_deref());
    a.text("process.executable.path", origin.exe.as_deref());
    a.text("process.command_line", origin.command.as_deref());
    a.int("process.parent_pid", origin.parents.first().map(|parent| parent.pid));
    a.int("process.user.id", origin.uid);
    a.text("process.user.name", origin.os_user.as_deref());
    a.text("process.linux.cgroup", origin.cgroup.as_deref());
    // Anybody may set a login uid where none is set: alone it proves nothing.
    if origin.login_strength == Some(LoginStrength::Strong) {
        a.text("user.id", origin.login_uid.map(|uid| uid.to_string()).as_deref());
        a.text("user.name", origin.login_user.as_deref());
    } else {
        a.int("dbwarden.login_uid", origin.login_uid);
        a.text("dbwarden.login_user", origin.login_user.as_deref());
    }
    a.text("container.id", origin.container.as_deref());
    a.text("k8s.pod.uid", origin.pod.as_deref());

    a.text("dbwarden.principal", origin.principal.as_deref());
    a.text("dbwarden.principal.kind", origin.principal_kind.map(PrincipalKind::name));
    a.text("dbwarden.principal.rule", origin.principal_rule.as_deref());
    a.text("dbwarden.initiator", origin.initiator.as_deref());
    a.text("dbwarden.pooler", origin.pooler.as_deref());
    a.text("dbwarden.client_certainty", origin.client_certainty.map(|certainty| certainty.name()));
    a.text("dbwarden.server", origin.server.as_deref());
    a.text("dbwarden.lane", origin.lane.map(|lane| lane.name()));
    a.text("dbwarden.transport", origin.transport.map(Transport::name));
    a.text("dbwarden.connection", origin.connection.map(|id| id.to_string()).as_deref());
    a.text("dbwarden.db_user", origin.db_user.as_deref());
    a.text("dbwarden.application", origin.application.as_deref());
    a.text("dbwarden.tty", origin.tty.as_deref());
    a.text("dbwarden.unit", origin.unit.as_deref());
    a.list("dbwarden.parents", origin.parents.iter().map(|parent| &*parent.comm));
}
