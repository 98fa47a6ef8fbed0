//! Calls: of functions, of operators, and of what is written like a column.

use pg_query::{
    Node, NodeEnum,
    protobuf::{CoercionForm, FuncCall, TypeName, a_const::Val},
};

use super::{
    functions::{self, Known},
    grammar,
    names::{qualified, strings},
    session::{Session, Value},
    settings::{self, To},
    walk::{Mode, Walk, string_constant},
};
use crate::{
    event::{Access, Analysis, Effect, Trait},
    statement::template::Template,
};

/// SQL in a string of SQL in a string of SQL.
const MAX_TEXTS: usize = 3;

/// Which setting is changed can't be told.
const ANY_SETTING: &str = "*";

impl<'a> Walk<'a> {
    pub(super) fn call(&mut self, call: &FuncCall) {
        let names = strings(&call.funcname);
        let (schema, name) = match names.as_slice() {
            [name] => (None, *name),
            [.., schema, name] => (Some(*schema), *name),
            [] => return self.findings.unknown(Analysis::UnknownSyntax),
        };
        let is_written = call.funcformat() != CoercionForm::CoerceSqlSyntax;
        let shown = qualified(names.iter().copied().skip(usize::from(!is_written)));
        self.findings.function(shown.clone());
        match functions::known(schema, name) {
            _ if schema.is_none() && !self.session.built_in_first => self.code(&shown),
            Known::Harmless => {}
            Known::Does(effects) => {
                self.built_in(name, &shown, effects);
                if name == "set_config" {
                    self.set_config(&call.args);
                }
            }
            Known::Sequence => {
                self.effect(Effect::Update);
                self.named_by_literal(call, Access::Update);
            }
            Known::ReadsTable => {
                self.effect(Effect::Read);
                self.named_by_literal(call, Access::Read);
            }
            Known::RunsText(nth) if name != "ts_rewrite" || call.args.len() == 2 => {
                self.effect(Effect::Read);
                if matches!(self.mode, Mode::View | Mode::Kept) {
                    self.findings.call(&shown);
                }
                self.text(call.args.get(nth));
            }
            Known::RunsText(_) => {}
            Known::Opaque => self.code(&shown),
            Known::Unknown => {
                self.code(&shown);
                self.stands_out(Trait::OtherServer);
                if matches!(self.mode, Mode::Runs | Mode::Planned) {
                    self.findings.unknown(Analysis::CallsCode);
                }
            }
        }
    }

    /// What a function of PostgreSQL's own does beyond computing; a definition that calls it does that
    /// whenever it is used.
    fn built_in(&mut self, name: &str, shown: &str, effects: &[Effect]) {
        effects.iter().for_each(|effect| self.effect(*effect));
        if let Some(by) = functions::stands_out(name) {
            self.stands_out(by);
        }
        let is_kept = matches!(self.mode, Mode::View | Mode::Kept);
        if effects.contains(&Effect::Call) {
            self.code(shown);
        } else if is_kept && effects.iter().any(|effect| *effect != Effect::Read) {
            self.findings.call(shown);
        }
    }

    /// `a.f` where `a` has no column `f` calls `f(a)`.
    pub(super) fn attribute(&mut self, name: &str) {
        match functions::known(None, name) {
            Known::Does(effects) => {
                self.findings.function(qualified([name].into_iter()));
                self.built_in(name, name, effects);
            }
            Known::RunsText(_) | Known::Unknown => self.code(name),
            _ => self.findings.name(format!(".{name}").into()),
        }
    }

    /// What is set stands in a literal, and so does whether it matters; or a parameter says so.
    fn set_config(&mut self, arguments: &[Node]) {
        self.findings.is_literal_sensitive = true;
        let name = match arguments.first().map(|name| (name, self.value(name))) {
            Some((_, Value::Text(name))) => name.to_owned(),
            // The server refuses it.
            Some((_, Value::Null)) => return,
            Some((_, Value::Later)) => return self.findings.is_parameter_sensitive = true,
            Some((name, Value::Computed)) if is_column(name, "name") && self.named.is_some() => {
                self.named.clone().unwrap_or_default()
            }
            Some((_, Value::Computed)) | None => return self.any_setting(),
        };
        let value = arguments.get(1).map_or(Value::Computed, |value| self.value(value));
        let to = match value {
            Value::Text(text) => To::Text(text),
            Value::Null => To::Default,
            Value::Later | Value::Computed => To::Something,
        };
        let by = settings::stands_out(&name, &to);
        self.findings.setting(&name);
        // Not before it is known to what it is set.
        match by {
            Some(_) if value == Value::Later => self.findings.is_parameter_sensitive = true,
            Some(by) => self.stands_out(by),
            None => {}
        }
    }

    /// Which one can't be told.
    pub(super) fn any_setting(&mut self) {
        self.findings.setting(ANY_SETTING);
        self.stands_out(Trait::AuditSetting);
        self.stands_out(Trait::SafetySetting);
    }

    /// What an expression comes to, as far as it is a literal or a parameter.
    fn value<'b>(&self, node: &'b Node) -> Value<'b>
    where
        'a: 'b,
    {
        let session: &'a Session = self.session;
        match &node.node {
            Some(NodeEnum::ParamRef(_)) if self.is_preparing => Value::Later,
            Some(NodeEnum::ParamRef(parameter)) => session.parameter(parameter.number),
            Some(NodeEnum::TypeCast(cast)) if is_text(cast.type_name.as_ref()) => {
                cast.arg.as_deref().map_or(Value::Computed, |inner| self.value(inner))
            }
            Some(NodeEnum::AConst(constant)) => match &constant.val {
                Some(Val::Sval(text)) => Value::Text(&text.sval),
                None if constant.isnull => Value::Null,
                _ => Value::Computed,
            },
            _ => Value::Computed,
        }
    }

    /// Code by a name that isn't PostgreSQL's own.
    pub(super) fn code(&mut self, name: &str) {
        self.findings.call(name);
        self.opaque();
    }

    /// Code runs whose text isn't here. Planning runs it too where it calls itself immutable.
    pub(super) fn opaque(&mut self) {
        if matches!(self.mode, Mode::Runs | Mode::Planned) {
            self.findings.effects.insert(Effect::Call);
            self.findings.worsen(Analysis::CallsCode);
        }
    }

    /// The relation that the first argument names, as `nextval('a.b')` does.
    fn named_by_literal(&mut self, call: &FuncCall, access: Access) {
        self.findings.is_literal_sensitive = true;
        match call.args.first().and_then(string_constant) {
            Some(text) => {
                let parts: Vec<String> = text
                    .split('.')
                    .map(|part| match part.strip_prefix('"') {
                        Some(part) => part.trim_end_matches('"').to_owned(),
                        None => part.trim().to_lowercase(),
                    })
                    .collect();
                let name = qualified(parts.iter().map(String::as_str));
                self.access(&name, access);
                self.findings.refer(&name);
            }
            None => self.opaque(),
        }
    }

    /// SQL that stands in a string.
    fn text(&mut self, argument: Option<&Node>) {
        self.findings.is_literal_sensitive = true;
        if self.mode != Mode::Runs {
            return;
        }
        let value = argument.map_or(Value::Computed, |argument| self.value(argument));
        self.findings.is_parameter_sensitive |= value == Value::Later;
        let (Value::Text(text), true) = (value, self.n_texts < MAX_TEXTS) else {
            self.code("?");
            return self.findings.unknown(Analysis::CallsCode);
        };
        let lexing = self.session.lexing;
        let mut template = Template::default();
        template.fill(text, lexing);
        let mut inner = Walk::new(&template, self.session);
        inner.n_texts = self.n_texts + 1;
        match grammar::parse(text, lexing) {
            Ok(tree) => {
                tree.stmts
                    .iter()
                    .filter_map(|raw| raw.stmt.as_deref())
                    .for_each(|s| inner.statement(s));
                self.findings.absorb(inner.findings);
            }
            Err(_) => self.findings.unknown(Analysis::CallsCode),
        }
    }

    /// An operator of PostgreSQL's own that the grammar writes otherwise, unless a database has another by its name.
    pub(super) fn implied(&mut self, name: &str) {
        match self.session.built_in_first {
            true => self.findings.name(name.into()),
            false => self.code(name),
        }
    }

    pub(super) fn operator(&mut self, names: &[Node]) {
        let names = strings(names);
        let known = match names.as_slice() {
            [name] => {
                self.findings.name((*name).into());
                functions::is_known_operator(None, name) && self.session.built_in_first
            }
            [schema, name] => functions::is_known_operator(Some(schema), name),
            _ => false,
        };
        if !known {
            self.code(&qualified(names.into_iter()));
        }
    }
}

/// Whether a cast leaves a text as it is.
fn is_text(name: Option<&TypeName>) -> bool {
    let name = name.filter(|name| name.typmods.is_empty() && name.array_bounds.is_empty());
    let names = name.map(|name| strings(&name.names)).unwrap_or_default();
    matches!(names.as_slice(), ["text"] | ["pg_catalog", "text" | "varchar"] | ["varchar"])
}

/// Whether it is a column by this name.
fn is_column(node: &Node, name: &str) -> bool {
    match &node.node {
        Some(NodeEnum::ColumnRef(column)) => strings(&column.fields).last() == Some(&name),
        _ => false,
    }
}
