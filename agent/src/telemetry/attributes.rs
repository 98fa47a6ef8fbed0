//! Attributes, as OTLP has them: what isn't known is left out.

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value,
};

/// Values longer than this are cut, and say so by their last character.
pub const TEXT_BYTES: usize = 16 << 10;

#[derive(Clone, Debug, Default)]
pub struct Attributes(pub Vec<KeyValue>);

impl Attributes {
    pub fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.put(key, Value::StringValue(cut(value)));
        }
    }

    pub fn int(&mut self, key: &str, value: Option<impl TryInto<i64>>) {
        if let Some(value) = value {
            self.put(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
        }
    }

    /// Only what is so is said.
    pub fn flag(&mut self, key: &str, value: bool) {
        if value {
            self.put(key, Value::BoolValue(true));
        }
    }

    pub fn list<T: Into<String>>(&mut self, key: &str, values: impl Iterator<Item = T>) {
        let values: Vec<AnyValue> = values.map(text_value).collect();
        if !values.is_empty() {
            self.put(key, Value::ArrayValue(ArrayValue { values }));
        }
    }

    fn put(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
    }
}

pub fn text_value(text: impl Into<String>) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.into())) }
}

/// Who made it.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "dbwarden".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

pub fn cut(text: &str) -> String {
    crate::delivery::cut(text, TEXT_BYTES).into_owned()
}
