//! Metrics as Prometheus scrapes them: its text format, with names as OpenTelemetry maps them.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use super::{Data, Label, Labels, Metric};

/// `resource` becomes `target_info`, by which the rest can be joined.
pub fn encode(metrics: &[Metric], resource: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    head(&mut out, "target_info", "gauge", "What the metrics are of.");
    let shown = resource.iter().map(|(name, value)| (&**name, Cow::Borrowed(&**value)));
    sample(&mut out, "target_info", shown, 1.0);
    for metric in metrics.iter().filter(|metric| !metric.is_empty()) {
        let mut name = name(metric);
        let sort = match metric.data {
            Data::Counter(_) => {
                name += "_total";
                "counter"
            }
            Data::Level(_) | Data::Gauge(_) => "gauge",
            Data::Histogram(_) => "histogram",
        };
        head(&mut out, &name, sort, metric.description);
        match &metric.data {
            Data::Counter(points) | Data::Level(points) | Data::Gauge(points) => {
                for point in points {
                    sample(&mut out, &name, shown_labels(&point.labels), point.value);
                }
            }
            Data::Histogram(points) => {
                for point in points {
                    let bounds = point.value.bounds.iter().map(|bound| number(*bound));
                    let bounds = bounds.chain(["+Inf".to_owned()]);
                    let mut n = 0;
                    for (bound, count) in bounds.zip(&point.value.counts) {
                        n += count;
                        let le = ("le", Cow::Owned(bound));
                        let labels = shown_labels(&point.labels).chain([le]);
                        sample(&mut out, &format!("{name}_bucket"), labels, n as f64);
                    }
                    let labels = || shown_labels(&point.labels);
                    sample(&mut out, &format!("{name}_sum"), labels(), point.value.sum);
                    sample(&mut out, &format!("{name}_count"), labels(), point.value.count as f64);
                }
            }
        }
    }
    out
}

fn name(metric: &Metric) -> String {
    let name = plain(metric.name);
    let unit = match metric.unit {
        "s" => "seconds",
        "By" => "bytes",
        // Things that are counted are no unit there.
        _ => "",
    };
    match unit.is_empty() || name.ends_with(unit) {
        true => name,
        false => format!("{name}_{unit}"),
    }
}

fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

fn head(out: &mut String, name: &str, sort: &str, description: &str) {
    let _ = writeln!(out, "# HELP {name} {description}\n# TYPE {name} {sort}");
}

fn shown_labels(labels: &Labels) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    labels.iter().map(|(name, label)| {
        let value = match label {
            Label::Text(text) => Cow::Borrowed(&**text),
            Label::Shared(text) => Cow::Borrowed(&**text),
            Label::Int(n) => Cow::Owned(n.to_string()),
            Label::Bool(is) => Cow::Owned(is.to_string()),
        };
        (*name, value)
    })
}

fn sample<'a>(
    out: &mut String,
    name: &str,
    labels: impl Iterator<Item = (&'a str, Cow<'a, str>)>,
    value: f64,
) {
    out.push_str(name);
    let mut opened = false;
    for (label, text) in labels {
        out.push(if opened { ',' } else { '{' });
        opened = true;
        let _ = write!(out, "{}=\"", plain(label));
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if opened {
        out.push('}');
    }
    let _ = writeln!(out, " {}", number(value));
}

/// Rust's shortest form that is read back the same; Prometheus reads it too.
fn number(value: f64) -> String {
    value.to_string()
}
