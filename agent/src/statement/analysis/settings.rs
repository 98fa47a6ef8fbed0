//! Settings that matter to others than the session that sets them, by name and by what they are set to.

use pg_query::{
    Node, NodeEnum,
    protobuf::{VariableSetKind, VariableSetStmt, a_const::Val},
};

use super::restrict;
use crate::event::{Analysis, Effect, Effects, Facts, Trait};

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To<'a> {
    Text(&'a str),
    /// Names, as `SET search_path = a, b` has them.
    List(Vec<&'a str>),
    /// What it was when the session began.
    Default,
    /// Nobody knows yet.
    Something,
}

/// What stands out in setting this to that.
pub(super) fn stands_out(name: &str, to: &To<'_>) -> Option<Trait> {
    let name = name.to_ascii_lowercase();
    let name = name.as_str();
    let unless = |is_fine: bool, by: Trait| (!is_fine).then_some(by);
    let is_default = *to == To::Default;
    match name {
        // Both have `none` and `default` for who connected.
        "role" | "session_authorization" => {
            unless(is_default || to.is_one_of(&["none"]), Trait::RoleSwitch)
        }
        "search_path" => unless(is_default || to.keeps_built_in_first(), Trait::SearchPath),
        "standard_conforming_strings" => unless(is_default || to.is(true), Trait::ReadingSetting),
        "transform_null_equals" => unless(is_default || to.is(false), Trait::ReadingSetting),
        "client_encoding" | "names" => {
            unless(is_default || to.is_plain_encoding(), Trait::ReadingSetting)
        }
        "transaction_read_only" => unless(to.is(true), Trait::ReadWrite),
        "default_transaction_read_only" => unless(is_default || to.is(true), Trait::ReadWrite),
        "session_replication_role" => {
            unless(is_default || to.is_one_of(&["origin", "local"]), Trait::SafetySetting)
        }
        "event_triggers" => unless(is_default || to.is(true), Trait::SafetySetting),
        "restrict_nonsystem_relation_kind" => {
            unless(is_default || to.is_one_of(&[PG_DUMPS_KINDS]), Trait::SafetySetting)
        }
        "allow_system_table_mods"
        | "allow_in_place_tablespaces"
        | "zero_damaged_pages"
        | "ignore_checksum_failure"
        | "ignore_invalid_pages"
        | "ignore_system_indexes"
        | "lo_compat_privileges" => unless(is_default || to.is(false), Trait::SafetySetting),
        "password_encryption" => {
            unless(is_default || to.is_one_of(&["scram-sha-256"]), Trait::SafetySetting)
        }
        // Code that the server loads or runs.
        "dynamic_library_path"
        | "extension_control_path"
        | "jit_provider"
        | "local_preload_libraries"
        | "session_preload_libraries"
        | "shared_preload_libraries"
        | "plperl.on_init"
        | "plperl.on_plperl_init"
        | "plperl.on_plperlu_init"
        | "pltcl.start_proc"
        | "pltclu.start_proc" => unless(is_default, Trait::SafetySetting),
        "logging_collector" | "track_activities" => {
            unless(is_default || to.is(true), Trait::AuditSetting)
        }
        _ if ["log_", "pgaudit.", "pg_stat_statements."]
            .iter()
            .any(|family| name.starts_with(family)) =>
        {
            unless(is_default, Trait::AuditSetting)
        }
        _ => None,
    }
}

/// What `pg_dump` sets for its own safety.
const PG_DUMPS_KINDS: &str = "view, foreign-table";

/// Encodings whose characters have a byte below 128 only where that is the ASCII one; and what may be set
/// without making the server convert.
const PLAIN_ENCODINGS: &[&str] = &[
    "utf8",
    "unicode",
    "sqlascii",
    "euccn",
    "eucjp",
    "eucjis2004",
    "euckr",
    "euctw",
    "iso88595",
    "iso88596",
    "iso88597",
    "iso88598",
    "koi8",
    "koi8r",
    "koi8u",
    "abc",
    "tcvn",
    "tcvn5712",
    "vscii",
    "alt",
    "win",
];

impl To<'_> {
    fn is(&self, wanted: bool) -> bool {
        let To::Text(text) = self else { return false };
        // As `parse_bool` has it: any beginning that is no other's.
        let text = text.trim().to_ascii_lowercase();
        let begins =
            |word: &str, shortest: usize| text.len() >= shortest && word.starts_with(&text);
        match wanted {
            true => begins("true", 1) || begins("yes", 1) || text == "on" || text == "1",
            false => begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0",
        }
    }

    fn is_one_of(&self, words: &[&str]) -> bool {
        match self {
            To::Text(text) => words.iter().any(|word| word.eq_ignore_ascii_case(text.trim())),
            _ => false,
        }
    }

    fn is_plain_encoding(&self) -> bool {
        let To::Text(text) = self else { return false };
        // PostgreSQL compares letters and digits alone.
        let name: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        let name = name.to_ascii_lowercase();
        PLAIN_ENCODINGS.contains(&name.as_str())
            || ["latin", "iso8859", "win", "windows"].iter().any(|family| {
                let rest = name.strip_prefix(family);
                rest.is_some_and(|rest| {
                    // 932, 936, 949 and 950 are SJIS, GBK, UHC and BIG5.
                    rest.chars().all(|c| c.is_ascii_digit())
                        && !["932", "936", "949", "950"].contains(&rest)
                })
            })
    }

    fn keeps_built_in_first(&self) -> bool {
        match self {
            To::Text(text) => path_is_usual(&split(text)),
            To::List(names) => {
                path_is_usual(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            }
            To::Default | To::Something => false,
        }
    }
}

/// `pg_catalog` is searched first unless it is named elsewhere.
fn path_is_usual(names: &[String]) -> bool {
    let place = names.iter().position(|name| name == "pg_catalog");
    let is_temporary = |name: &String| name.starts_with("pg_temp");
    place.is_none_or(|place| place == 0) && !names.first().is_some_and(is_temporary)
}

/// A list as it stands in a string: names between commas, some quoted.
fn split(text: &str) -> Vec<String> {
    let each = |name: &str| match name.trim().strip_prefix('"') {
        Some(quoted) => quoted.trim_end_matches('"').to_owned(),
        None => name.trim().to_ascii_lowercase(),
    };
    text.split(',').map(each).collect()
}

/// What a `SET` sets its one setting to.
pub(super) fn to(set: &VariableSetStmt) -> To<'_> {
    match set.kind() {
        VariableSetKind::VarSetValue => {}
        VariableSetKind::VarSetDefault | VariableSetKind::VarReset => return To::Default,
        _ => return To::Something,
    }
    let values: Option<Vec<&str>> = set.args.iter().map(word).collect();
    match values {
        Some(values) => match values.as_slice() {
            // One name, whatever is in it.
            [only] if set.name != "search_path" => To::Text(only),
            _ => To::List(values),
        },
        None => To::Something,
    }
}

fn word(node: &Node) -> Option<&str> {
    match restrict::constant(node)?.val.as_ref()? {
        Val::Sval(text) => Some(&text.sval),
        Val::Fval(number) => Some(&number.fval),
        Val::Boolval(value) => Some(if value.boolval { "on" } else { "off" }),
        Val::Ival(number) => Some(match number.ival {
            0 => "0",
            1 => "1",
            _ => "",
        }),
        Val::Bsval(_) => None,
    }
}

/// Whether the options of a transaction open it, or what it is in, for writing.
pub(super) fn opens_for_writing(options: &[Node]) -> bool {
    options.iter().any(|option| match &option.node {
        Some(NodeEnum::DefElem(option)) if option.defname == "transaction_read_only" => {
            option.arg.as_deref().and_then(word) != Some("1")
        }
        _ => false,
    })
}

/// Facts of the parameters with which a session starts: settings that hold in all of it.
pub fn startup<'a>(parameters: impl IntoIterator<Item = (&'a str, &'a str)>) -> Facts {
    let mut facts = super::unknown_facts(String::new(), 0, None, Analysis::Complete);
    facts.effects = Effects::from_iter([Effect::Session]);
    for (name, value) in parameters {
        match name.to_ascii_lowercase().as_str() {
            // No settings, but who asks for what.
            "user" | "database" => {}
            "replication" if To::Text(value).is(false) => {}
            "replication" => facts.effects.insert(Effect::Replicate),
            "options" => options(value).into_iter().for_each(|(name, value)| {
                add(&mut facts, &name, &value);
            }),
            _ => add(&mut facts, name, value),
        }
    }
    facts.settings.sort_unstable();
    facts.settings.dedup();
    facts.traits.sort_unstable();
    facts.traits.dedup();
    facts
}

fn add(facts: &mut Facts, name: &str, value: &str) {
    facts.settings.push(name.to_lowercase().into());
    facts.traits.extend(stands_out(name, &To::Text(value)));
}

/// `-c name=value` and `--name=value`; single letters of others can't weaken anything but by these.
fn options(text: &str) -> Vec<(String, String)> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            space if space.is_ascii_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => setting.to_owned(),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(setting)) => setting.to_owned(),
            // `-O` allows changes to system tables, `-P` ignores system indexes.
            (None, None) if word.starts_with('-') && word.contains('O') => {
                "allow_system_table_mods=on".to_owned()
            }
            (None, None) if word.starts_with('-') && word.contains('P') => {
                "ignore_system_indexes=on".to_owned()
            }
            (None, None) => continue,
        };
        let (name, value) = setting.split_once('=').unwrap_or((&setting, ""));
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::{To, stands_out, startup};
    use crate::event::Trait;

    #[test]
    fn what_is_set_to_what_decides() {
        use Trait as T;
        for (name, value, expected) in [
            ("statement_timeout", "0", None),
            ("row_security", "off", None),
            ("Standard_Conforming_Strings", "ON", None),
            ("standard_conforming_strings", "of", Some(T::ReadingSetting)),
            ("standard_conforming_strings", "", Some(T::ReadingSetting)),
            ("client_encoding", "UTF-8", None),
            ("client_encoding", "iso_8859_1", None),
            ("client_encoding", "WIN1252", None),
            ("client_encoding", "SJIS", Some(T::ReadingSetting)),
            ("client_encoding", "windows_936", Some(T::ReadingSetting)),
            ("client_encoding", "gbk", Some(T::ReadingSetting)),
            ("search_path", "", None),
            ("search_path", "\"$user\", public", None),
            ("search_path", "PG_catalog, public", None),
            ("search_path", "public, PG_Catalog", Some(T::SearchPath)),
            ("search_path", "public,\"pg_catalog\"", Some(T::SearchPath)),
            ("search_path", "pg_temp, public", Some(T::SearchPath)),
            ("search_path", "public, pg_temp", None),
            ("session_replication_role", "replica", Some(T::SafetySetting)),
            ("session_replication_role", "origin", None),
            ("transaction_read_only", "off", Some(T::ReadWrite)),
            ("transaction_read_only", "on", None),
            ("log_statement", "all", Some(T::AuditSetting)),
            ("pgaudit.log", "", Some(T::AuditSetting)),
            ("role", "none", None),
            ("role", "postgres", Some(T::RoleSwitch)),
        ] {
            assert_eq!(stands_out(name, &To::Text(value)), expected, "{name} = {value}");
        }
        let list = |names: &[&'static str]| To::List(names.to_vec());
        assert_eq!(stands_out("search_path", &list(&["a", "pg_catalog"])), Some(T::SearchPath));
        assert_eq!(stands_out("search_path", &list(&["pg_catalog", "a"])), None);
        assert_eq!(stands_out("search_path", &To::Something), Some(T::SearchPath));
        assert_eq!(stands_out("transaction_read_only", &To::Default), Some(T::ReadWrite));
        assert_eq!(stands_out("log_statement", &To::Default), None);
    }

    #[test]
    fn sessions_start_with_settings() {
        let check = |options: &str, settings: &str, traits: &[Trait]| {
            let facts = startup([("user", "bob"), ("options", options)]);
            assert_eq!((facts.settings.join(" ").as_str(), &*facts.traits), (settings, traits));
        };
        check("", "", &[]);
        check("-c geqo=off -cwork_mem=1MB --search-path=a", "geqo search_path work_mem", &[]);
        check("-c log_statement=none", "log_statement", &[Trait::AuditSetting]);
        check("-c search_path=a,\\ pg_catalog", "search_path", &[Trait::SearchPath]);
        check(
            "--session_replication_role=replica",
            "session_replication_role",
            &[Trait::SafetySetting],
        );
        check("-O", "allow_system_table_mods", &[Trait::SafetySetting]);
        let facts = startup([("user", "bob"), ("role", "postgres")]);
        assert_eq!(facts.traits, [Trait::RoleSwitch]);
    }
}
