//! What a database's own code does once it runs: the body of a function, the actions of a rule, the condition of a
//! trigger, the query of a view.

use pg_query::{
    Node, NodeEnum,
    protobuf::{CreateFunctionStmt, ParseResult},
};
use serde_json::Value;

use super::{
    Analysed, grammar,
    names::strings,
    own_facts,
    session::Session,
    walk::{Walk, visit},
};
use crate::{
    event::Analysis,
    statement::{
        lexer::{Lexer, Lexing, TokenKind},
        template::Template,
    },
};

/// Statements and expressions of one function.
const MAX_PARTS: usize = 2_000;

/// `parseMode` of what is a statement as it stands; of an expression; from here on, of an assignment.
const STATEMENT: i64 = 0;
const EXPRESSION: i64 = 2;

/// What stands in a definition, as PostgreSQL itself writes it out, happens when that is used: the facts of that.
/// A query is what it is. What can't be read is an unknown effect.
///
/// Never fails and never panics; wants [`super::STACK_BYTES`] of stack.
pub fn analyse_behind(text: &str) -> Analysed {
    let lexing = Lexing::default();
    let tree = match grammar::parse(text, lexing) {
        Ok(tree) => tree,
        Err(reason) => return Analysed::unparsed(text, lexing, reason),
    };
    let mut template = Template::default();
    template.fill(text, lexing);
    let session = Session::default();
    let mut walk = Walk::new(&template, &session);
    match only(&tree) {
        Some(statement) => walk.behind(statement, text),
        None => walk.findings.unknown(Analysis::UnknownSyntax),
    }
    Analysed::of(own_facts(walk.findings, text, lexing).into())
}

fn only(tree: &ParseResult) -> Option<&Node> {
    match tree.stmts.as_slice() {
        [only] => only.stmt.as_deref(),
        _ => None,
    }
}

impl Walk<'_> {
    fn behind(&mut self, statement: &Node, text: &str) {
        match &statement.node {
            Some(NodeEnum::CreateFunctionStmt(it)) => self.runs_function(it, text),
            Some(NodeEnum::RuleStmt(it)) => {
                visit(self, &it.where_clause);
                it.actions.iter().for_each(|action| self.statement(action));
            }
            Some(NodeEnum::CreateTrigStmt(it)) => visit(self, &it.when_clause),
            _ => self.statement(statement),
        }
    }

    fn runs_function(&mut self, create: &CreateFunctionStmt, text: &str) {
        self.sets_when_called(&create.options);
        // What a caller leaves out is computed.
        visit(self, &create.parameters);
        if let Some(body) = &create.sql_body {
            return self.body(body);
        }
        let option = |name: &str| {
            create.options.iter().find_map(|option| match &option.node {
                Some(NodeEnum::DefElem(option)) if option.defname == name => option.arg.as_deref(),
                _ => None,
            })
        };
        let language = match option("language").and_then(|language| language.node.as_ref()) {
            Some(NodeEnum::String(name)) => name.sval.to_ascii_lowercase(),
            _ => String::new(),
        };
        match (language.as_str(), option("as").and_then(|body| body.node.as_ref())) {
            ("sql", Some(NodeEnum::List(list))) => match strings(&list.items).as_slice() {
                [body] => self.part(body),
                _ => self.findings.unknown(Analysis::UnknownSyntax),
            },
            ("plpgsql", Some(_)) => self.runs_plpgsql(text),
            _ => self.findings.unknown(Analysis::CallsCode),
        }
    }

    fn runs_plpgsql(&mut self, text: &str) {
        let tree = match grammar::parse_plpgsql(text) {
            Ok(tree) => tree,
            Err(reason) => return self.findings.unknown(reason),
        };
        let mut found = Found::default();
        found.look(&tree);
        // It computes what it executes.
        if found.is_dynamic || found.parts.len() > MAX_PARTS {
            self.findings.unknown(Analysis::CallsCode);
        }
        for (query, mode) in found.parts.into_iter().take(MAX_PARTS) {
            match mode {
                STATEMENT => self.part(query),
                EXPRESSION => self.part(&format!("SELECT {query}")),
                _ => self.assignment(query),
            }
        }
    }

    /// `target := expression`, or with `=`.
    fn assignment(&mut self, text: &str) {
        let sign = Lexer::new(text, Lexing::default()).find(|token| {
            matches!(token.kind, TokenKind::Punctuation | TokenKind::Operator)
                && matches!(token.text(text), ":=" | "=")
        });
        let parts = sign.and_then(|sign| Some((text.get(..sign.start)?, text.get(sign.end..)?)));
        let Some((target, value)) = parts else {
            return self.findings.unknown(Analysis::UnknownSyntax);
        };
        self.part(&format!("SELECT {value}"));
        if target.contains('[') {
            self.part(&format!("SELECT {target}"));
        }
    }

    /// SQL that this code consists of.
    fn part(&mut self, text: &str) {
        let lexing = self.session.lexing;
        match grammar::parse(text, lexing) {
            Ok(tree) => {
                let mut template = Template::default();
                template.fill(text, lexing);
                let mut inner = Walk::new(&template, self.session);
                let statements = tree.stmts.iter().filter_map(|raw| raw.stmt.as_deref());
                statements.for_each(|statement| inner.statement(statement));
                self.findings.absorb(inner.findings);
            }
            Err(reason) => self.findings.unknown(reason),
        }
    }
}

/// What PL/pgSQL's own parser has found in a function.
#[derive(Default)]
struct Found<'a> {
    parts: Vec<(&'a str, i64)>,
    is_dynamic: bool,
}

impl<'a> Found<'a> {
    /// As deep as `serde_json` has read it.
    fn look(&mut self, tree: &'a Value) {
        match tree {
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.is_dynamic |= matches!(
                        name.as_str(),
                        "PLpgSQL_stmt_dynexecute" | "PLpgSQL_stmt_dynfors" | "dynquery"
                    );
                    if name == "PLpgSQL_expr"
                        && let Some(query) = value.get("query").and_then(Value::as_str)
                    {
                        let mode = value.get("parseMode").and_then(Value::as_i64);
                        self.parts.push((query, mode.unwrap_or(STATEMENT)));
                    } else {
                        self.look(value);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.look(item)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::analyse_behind;
    use crate::{event::Analysis, statement::STACK_BYTES};

    /// Effects but for reading, tables, calls, and whether it could be read.
    fn check(text: &str, effects: &str, tables: &str, calls: &str, is_readable: bool) {
        let owned = text.to_owned();
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let facts = thread.spawn(move || analyse_behind(&owned).whole).unwrap().join().unwrap();
        let joined = |names: Vec<&str>| names.join(" ");
        let shown = facts.effects.iter().map(|e| e.name()).filter(|name| *name != "read");
        assert_eq!(joined(shown.collect()), effects, "{text}");
        let named = facts.tables.iter().map(|t| format!("{}:{}", t.access.name(), t.name));
        assert_eq!(named.collect::<Vec<_>>().join(" "), tables, "{text}");
        assert_eq!(joined(facts.calls.iter().map(|c| &**c).collect()), calls, "{text}");
        let is_read = matches!(facts.analysis, Analysis::Complete | Analysis::CallsCode);
        let is_unknown = facts.effects.iter().any(|e| e.name() == "unknown");
        assert_eq!(is_read && !is_unknown, is_readable, "{text}: {:?}", facts.analysis);
    }

    #[test]
    fn code_does_what_stands_in_it() {
        let plpgsql = |body: &str| {
            format!(
                "CREATE OR REPLACE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS \
                 $function${body}$function$"
            )
        };
        let touch = plpgsql("BEGIN NEW.updated_at = now(); NEW.n := OLD.n + 1; RETURN NEW; END");
        check(&touch, "", "", "", true);
        let audit = plpgsql(
            "DECLARE who text := current_user; n int; BEGIN IF TG_OP = 'DELETE' THEN INSERT INTO audit \
             VALUES (OLD.id, who); RETURN OLD; END IF; SELECT count(*) INTO n FROM audit; \
             PERFORM pg_notify('x', n::text); RETURN NEW; END",
        );
        check(&audit, "insert session", "read:audit insert:audit", "", true);
        let wipe = plpgsql("BEGIN DELETE FROM victims; RETURN NEW; END");
        check(&wipe, "delete", "delete:victims", "", true);
        let hidden = plpgsql("DECLARE n int := wipe(); BEGIN RETURN NEW; END");
        check(&hidden, "call", "", "wipe", true);
        let condition = plpgsql("BEGIN IF wipe() THEN NULL; END IF; RETURN NEW; END");
        check(&condition, "call", "", "wipe", true);
        let dynamic = plpgsql("BEGIN EXECUTE 'DELETE FROM ' || TG_ARGV[0]; RETURN NEW; END");
        check(&dynamic, "unknown", "", "", false);
        let looped = plpgsql(
            "DECLARE r record; BEGIN FOR r IN SELECT * FROM a LOOP UPDATE b SET x = 1 WHERE id = r.id; \
             END LOOP; RETURN NULL; END",
        );
        check(&looped, "update", "read:a update:b", "", true);
        check(&plpgsql("BEGIN nonsense"), "unknown", "", "", false);

        let sql = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1; DELETE FROM a'";
        check(sql, "delete", "delete:a", "", true);
        let atomic = "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC DELETE FROM a; END";
        check(atomic, "delete", "delete:a", "", true);
        let python = "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS 'import os'";
        check(python, "unknown", "", "", false);

        let rule = "CREATE RULE r AS ON INSERT TO public.orders WHERE f(new.id) DO (DELETE FROM a; \
                    INSERT INTO b VALUES (new.id))";
        check(rule, "insert delete call", "delete:a insert:b", "f", true);
        check("CREATE RULE r AS ON DELETE TO a DO INSTEAD NOTHING", "", "", "", true);
        let trigger = "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW WHEN ((new.x > public.f(1))) \
                       EXECUTE FUNCTION public.g()";
        check(trigger, "call", "", "public.f", true);
        check("SELECT wipe() FROM a", "call", "read:a", "wipe", true);
    }

    #[test]
    fn settings_of_functions_hold_while_they_run() {
        let text = "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET session_replication_role TO \
                    'replica' AS 'SELECT 1'";
        assert!(!analyse_behind(text).whole.traits.is_empty());
    }
}
