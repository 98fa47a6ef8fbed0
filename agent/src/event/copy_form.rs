//! How a `COPY … TO STDOUT` writes its rows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::origin::named;

/// As its options say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyForm {
    pub format: CopyFormat,
    pub delimiter: u8,
    /// What stands for NULL.
    pub null: Arc<[u8]>,
    /// Names of columns come first.
    pub has_header: bool,
    /// Of CSV.
    pub quote: u8,
    pub escape: u8,
}

named! {
    /// How rows of a COPY are written.
    CopyFormat { Text = "text", Csv = "csv", Binary = "binary" }
}

/// Without options.
impl Default for CopyForm {
    fn default() -> Self {
        Self {
            format: CopyFormat::Text,
            delimiter: b'\t',
            null: b"\\N".as_slice().into(),
            has_header: false,
            quote: b'"',
            escape: b'"',
        }
    }
}

impl CopyForm {
    /// Of CSV without other options.
    pub fn csv() -> Self {
        let (format, delimiter, null) = (CopyFormat::Csv, b',', b"".as_slice().into());
        Self { format, delimiter, null, ..Self::default() }
    }
}
