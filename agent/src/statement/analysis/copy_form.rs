//! How a `COPY … TO` writes its rows, as far as its options are known here.

use pg_query::{
    NodeEnum,
    protobuf::{CopyStmt, DefElem, a_const::Val},
};

use super::{carriers::is_on, restrict};
use crate::event::{CopyForm, CopyFormat};

/// `None` where an option isn't known, or says something of which nothing is known.
pub(super) fn copy_form(copy: &CopyStmt) -> Option<CopyForm> {
    let options = || {
        copy.options.iter().map(|option| match &option.node {
            Some(NodeEnum::DefElem(option)) => Some(&**option),
            _ => None,
        })
    };
    let mut form = CopyForm::default();
    for option in options() {
        let option = option?;
        if option.defname == "format" {
            form = match text(option)?.to_ascii_lowercase().as_str() {
                "text" => CopyForm::default(),
                "csv" => CopyForm::csv(),
                "binary" => CopyForm { format: CopyFormat::Binary, ..CopyForm::default() },
                _ => return None,
            };
        }
    }
    let mut escape = None;
    for option in options() {
        let option = option?;
        match option.defname.as_str() {
            "format" | "force_quote" | "freeze" => {}
            "delimiter" => form.delimiter = character(option)?,
            "quote" => form.quote = character(option)?,
            "escape" => escape = Some(character(option)?),
            "null" => form.null = text(option).filter(|it| it.is_ascii())?.as_bytes().into(),
            "header" => {
                if text(option).is_some_and(|text| text.eq_ignore_ascii_case("match")) {
                    return None;
                }
                form.has_header = is_on(option);
            }
            "encoding" => {
                let name = text(option)?.to_ascii_lowercase();
                if !["utf8", "utf-8", "unicode"].contains(&name.as_str()) {
                    return None;
                }
            }
            _ => return None,
        }
    }
    form.escape = escape.unwrap_or(form.quote);
    Some(form)
}

fn text(option: &DefElem) -> Option<&str> {
    let argument = option.arg.as_deref()?;
    match &argument.node {
        Some(NodeEnum::String(text)) => Some(&text.sval),
        _ => match restrict::constant(argument)?.val.as_ref()? {
            Val::Sval(text) => Some(&text.sval),
            _ => None,
        },
    }
}

/// One of ASCII.
fn character(option: &DefElem) -> Option<u8> {
    match text(option)?.as_bytes() {
        [byte] if byte.is_ascii() => Some(*byte),
        _ => None,
    }
}
