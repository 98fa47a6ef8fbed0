//! What the file and the `OTEL_*` variables say, and what becomes of both together.

use std::{path::Path, time::Duration};

use super::{Compression, Otlp, Protocol, Span, Telemetry};
use crate::config::{HostFacts, parse};

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Telemetry, String> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let host = HostFacts {
        name: "db1".into(),
        page_bytes: 4_096,
        environment: variables.iter().map(owned).collect(),
    };
    let settings = parse(Path::new("c.toml"), text, &host).map_err(|error| error.to_string())?;
    // What `--print-config` shows can be used as a file.
    let shown = toml::to_string(&settings).unwrap();
    let nothing = HostFacts { environment: Default::default(), ..host };
    let mut again = parse(Path::new("again.toml"), &shown, &nothing).unwrap().telemetry;
    let mut telemetry = settings.telemetry;
    for otlp in [&mut again.traces.otlp, &mut again.metrics.otlp, &mut again.logs.otlp] {
        otlp.iter_mut().for_each(|otlp| otlp.secret_headers = Default::default());
    }
    let secrets = telemetry.traces.otlp.as_ref().map(|otlp| otlp.secret_headers.clone());
    for otlp in [&mut telemetry.traces.otlp, &mut telemetry.metrics.otlp, &mut telemetry.logs.otlp]
    {
        otlp.iter_mut().for_each(|otlp| otlp.secret_headers = Default::default());
    }
    assert_eq!(again, telemetry, "{shown}");
    if let (Some(otlp), Some(secrets)) = (&mut telemetry.traces.otlp, secrets) {
        otlp.secret_headers = secrets;
    }
    Ok(telemetry)
}

fn endpoints(telemetry: &Telemetry) -> [Option<&str>; 3] {
    [&telemetry.traces.otlp, &telemetry.metrics.otlp, &telemetry.logs.otlp]
        .map(|otlp| otlp.as_ref().map(|otlp| otlp.endpoint.as_str()))
}

#[test]
fn nothing_is_sent_where_nobody_says_where_to() {
    for variables in [&[][..], &[("OTEL_SERVICE_NAME", "db")], &[("OTEL_TRACES_EXPORTER", "otlp")]]
    {
        let telemetry = read("", variables).unwrap();
        assert!(!telemetry.is_wanted(), "{variables:?}");
    }
    let off = "[telemetry]\nenabled = false\nprometheus = \"127.0.0.1:9464\"\n\
               otlp.endpoint = \"http://a:4317\"";
    assert!(!read(off, &[]).unwrap().is_wanted());
    let on = "[telemetry]\nprometheus = \"127.0.0.1:9464\"\notlp.endpoint = \"http://a:4317\"";
    assert!(read(on, &[]).unwrap().is_wanted());
    assert!(!read(on, &[("OTEL_SDK_DISABLED", "true")]).unwrap().is_wanted());
}

#[test]
fn each_signal_finds_its_place() {
    let all = |url: &str| {
        [Some(format!("{url}/traces")), Some(format!("{url}/metrics")), Some(format!("{url}/logs"))]
    };
    for (text, variables, expected) in [
        ("otlp.endpoint = \"http://a:4318/\"", &[][..], all("http://a:4318/v1")),
        ("otlp.endpoint = \"https://a/otlp\"", &[], all("https://a/otlp/v1")),
        ("otlp.endpoint = \"http://a:4317\"", &[], [(); 3].map(|()| Some("http://a:4317".into()))),
        ("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318")], all("http://a:4318/v1")),
        (
            "",
            &[
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://a/in"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "b:4317"),
                ("OTEL_EXPORTER_OTLP_INSECURE", "true"),
                ("OTEL_LOGS_EXPORTER", "none"),
            ],
            [Some("https://a/in".into()), Some("http://b:4317".into()), None],
        ),
        (
            // The file counts more.
            "otlp.endpoint = \"http://a:4318\"\ntraces.enabled = false\nlogs.otlp.endpoint = \"http://c/\"",
            &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://d/")],
            [None, Some("http://a:4318/v1/metrics".into()), Some("http://c/".into())],
        ),
    ] {
        let telemetry = read(&format!("[telemetry]\n{text}"), variables).unwrap();
        assert_eq!(endpoints(&telemetry).map(|url| url.map(str::to_owned)), expected, "{text}");
    }
}

#[test]
fn the_standard_variables_arrive() {
    let telemetry = read(
        "",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20hush, x-org=dba"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/ca.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/etc/c.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/etc/c.key"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=dba,note=a%2Cb"),
            ("OTEL_SERVICE_NAME", "orders"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", ""),
        ],
    )
    .unwrap();
    let Otlp { protocol, compression, timeout, secret_headers, .. } =
        telemetry.traces.otlp.clone().unwrap();
    assert_eq!((protocol, compression), (Protocol::Grpc, Compression::Gzip));
    assert_eq!(timeout, Span(Duration::from_millis(2_500)));
    let headers: Vec<_> = secret_headers.0.into_iter().collect();
    let owned = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(headers, [owned("authorization", "Bearer hush"), owned("x-org", "dba")]);
    assert_eq!((telemetry.traces.ratio, telemetry.traces.follow_parent), (0.25, false));
    assert_eq!(telemetry.metrics.interval, Span(Duration::from_secs(5)));
    assert_eq!(telemetry.prometheus.unwrap().to_string(), "127.0.0.1:9464");
    let resource: Vec<_> = telemetry.resource.into_iter().collect();
    assert_eq!(
        resource,
        [owned("note", "a,b"), owned("service.name", "orders"), owned("team", "dba")]
    );
}

#[test]
fn a_mistake_says_which_variable_or_line_and_what_is_allowed() {
    for (text, variables, expected) in [
        (
            "",
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")][..],
            "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/json\" is not allowed (allowed: grpc or http/protobuf)",
        ),
        (
            "",
            &[("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")],
            "OTEL_EXPORTER_OTLP_TIMEOUT: \"10s\" is not allowed (allowed: milliseconds, from 100ms to 5m)",
        ),
        (
            "",
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://a")],
            "OTEL_EXPORTER_OTLP_ENDPOINT: \"ftp://a\" is no place to send to: http://HOST:4317",
        ),
        (
            "",
            &[("OTEL_TRACES_EXPORTER", "zipkin")],
            "OTEL_TRACES_EXPORTER: \"zipkin\" is not allowed",
        ),
        (
            "",
            &[("OTEL_TRACES_SAMPLER", "jaeger_remote")],
            "OTEL_TRACES_SAMPLER: \"jaeger_remote\" is not allowed",
        ),
        ("", &[("OTEL_RESOURCE_ATTRIBUTES", "hush")], "OTEL_RESOURCE_ATTRIBUTES: "),
        (
            "otlp.endpoint = \"http://a:4317/v1\"",
            &[],
            "c.toml:2: `endpoint`: http://a:4317/v1: gRPC has no paths",
        ),
        (
            "otlp = { endpoint = \"http://a\", certificate = \"/ca\" }",
            &[],
            "is not encrypted, so certificates have no use",
        ),
        (
            "otlp = { endpoint = \"https://a\", client_key = \"/key\" }",
            &[],
            "a client's certificate and its key go together",
        ),
        (
            "otlp.certificate = \"ca.pem\"",
            &[],
            "c.toml:2: `certificate`: \"ca.pem\" must be an absolute path",
        ),
        ("otlp.headers = { te = \"a\" }", &[], "c.toml:2: the header \"te\" is the protocol's own"),
        ("traces.ratio = 1.5", &[], "c.toml:2: `ratio`: from 0 to 1; 1.5 is not"),
        ("metrics.interval = \"10ms\"", &[], "c.toml:2: `interval`: from 1s to 1h; 10ms is not"),
        ("otpl = 1", &[], "c.toml:2: unknown key `otpl` in [telemetry]; did you mean `otlp`?"),
        (
            "otlp.protocol = \"http/json\"",
            &[],
            "`otlp.protocol`: \"http/json\" is not allowed in [telemetry] (allowed: \"grpc\", \"http/protobuf\")",
        ),
        ("prometheus = \"localhost\"", &[], "c.toml:2: `prometheus`: "),
        (
            "resource = { \"a b\" = \"c\" }",
            &[],
            "c.toml:2: [telemetry.resource] \"a b\": names are of letters",
        ),
    ] {
        let error = read(&format!("[telemetry]\n{text}"), variables).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_may_log_in_is_refused_in_the_file_and_repeated_nowhere() {
    for (text, variables) in [
        ("otlp.endpoint = \"https://u:hush@a\"", &[][..]),
        ("otlp.endpoint = \"https://a?key=hush\"", &[]),
        ("otlp.headers = { authorization = \"Bearer hush\" }", &[]),
        ("otlp.headers = { \"x-api-key\" = \"hush\" }", &[]),
        ("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:hush@a")]),
        ("", &[("OTEL_EXPORTER_OTLP_HEADERS", "hush")]),
        ("", &[("OTEL_EXPORTER_OTLP_HEADERS", "host=hush")]),
    ] {
        let error = read(&format!("[telemetry]\n{text}"), variables).unwrap_err();
        assert!(!error.contains("hush"), "{error}");
    }
    let telemetry = read(
        "",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hush"),
        ],
    );
    let telemetry = telemetry.unwrap();
    assert!(!format!("{telemetry:?}{}", toml::to_string(&telemetry).unwrap()).contains("hush"));
}
