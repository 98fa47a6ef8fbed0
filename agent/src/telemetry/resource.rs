//! The resource that all signals come from: this host, by OpenTelemetry's names.

use std::{collections::BTreeMap, fs};

use opentelemetry_proto::tonic::resource::v1::Resource;

use super::attributes::Attributes;
use crate::event::Origin;

/// The conventions that attributes and metrics are named by.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// By name; what the configuration or `OTEL_RESOURCE_ATTRIBUTES` says counts more.
pub fn facts(host: &Origin, configured: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let machine = fs::read_to_string("/etc/machine-id").ok();
    let machine = machine.as_deref().map(str::trim).filter(|id| !id.is_empty());
    let known = [
        ("service.name", Some("dbwarden")),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("service.instance.id", machine),
        ("host.name", Some(&*host.host)),
        ("host.id", machine),
        ("host.arch", Some(architecture())),
        ("os.type", Some("linux")),
        ("deployment.environment.name", host.environment.as_deref()),
        ("cloud.region", host.region.as_deref()),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let known = known.map(|(name, value)| (name.to_owned(), value.to_owned()));
    known.chain(configured.clone()).collect()
}

pub fn resource(facts: &BTreeMap<String, String>) -> Resource {
    let mut attributes = Attributes::default();
    for (name, value) in facts {
        attributes.text(name, Some(value));
    }
    Resource { attributes: attributes.0, ..Resource::default() }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
