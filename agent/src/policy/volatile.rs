//! What a verdict depends on besides who and what: rows, time and claims, as far as rules speak of them.

use std::collections::BTreeSet;

use serde_json::Value;

/// What of the circumstances makes a difference, so that verdicts can be remembered for the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volatile {
    /// Numbers that `context.rows` is compared with.
    pub rows: Numbers,
    /// The same for `context.estimated_rows` and `context.estimated_percent`.
    pub estimated_rows: Numbers,
    pub estimated_percent: Numbers,
    pub time: bool,
    pub claims: bool,
}

/// With which a count is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(BTreeSet<i64>);

impl Numbers {
    /// Which side of each number this count stands on.
    pub fn bucket(&self, count: Option<u64>) -> u32 {
        let Some(count) = count else { return u32::MAX };
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let below = self.0.range(..count).count() as u32;
        below * 2 + u32::from(self.0.contains(&count))
    }
}

/// Why verdicts of a rule can't be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unbounded {
    /// `context.rows`, or another count by this name, in anything but a comparison with a number.
    Count(&'static str),
    /// `context` as a whole.
    Context,
}

const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

impl Volatile {
    /// Adds what one rule depends on; `policy` is its form in JSON.
    pub fn add(&mut self, policy: &Value) -> Result<(), Unbounded> {
        let conditions = policy.get("conditions").and_then(Value::as_array);
        // Nesting is bounded: Cedar's own parser has gone through it.
        conditions.into_iter().flatten().try_for_each(|condition| {
            condition.get("body").map_or(Ok(()), |body| self.expression(body))
        })
    }

    fn numbers(&mut self, attribute: &str) -> Option<(&'static str, &mut Numbers)> {
        Some(match attribute {
            "rows" => ("rows", &mut self.rows),
            "estimated_rows" => ("estimated_rows", &mut self.estimated_rows),
            "estimated_percent" => ("estimated_percent", &mut self.estimated_percent),
            _ => return None,
        })
    }

    fn expression(&mut self, expression: &Value) -> Result<(), Unbounded> {
        match expression {
            Value::Object(parts) => {
                for (name, part) in parts {
                    if name == "Value" {
                        continue;
                    }
                    self.operation(name, part)?;
                }
                Ok(())
            }
            Value::Array(parts) => parts.iter().try_for_each(|part| self.expression(part)),
            _ => Ok(()),
        }
    }

    fn operation(&mut self, name: &str, part: &Value) -> Result<(), Unbounded> {
        if name == "Var" {
            return if part == "context" { Err(Unbounded::Context) } else { Ok(()) };
        }
        if COMPARISONS.contains(&name)
            && let (Some(left), Some(right)) = (part.get("left"), part.get("right"))
        {
            for (one, other) in [(left, right), (right, left)] {
                if let Some((_, numbers)) = attribute(one).and_then(|name| self.numbers(name))
                    && let Some(number) = number(other)
                {
                    numbers.0.insert(number);
                    return Ok(());
                }
            }
        }
        if matches!(name, "." | "has")
            && let Some(left) = part.get("left")
            && is_context(left)
        {
            let attributes = part.get("attr").and_then(Value::as_str);
            if name == "."
                && let Some((name, _)) = attributes.and_then(|attribute| self.numbers(attribute))
            {
                return Err(Unbounded::Count(name));
            }
            return match attributes {
                Some("hour" | "weekday") => {
                    self.time = true;
                    Ok(())
                }
                Some("claims") => {
                    self.claims = true;
                    Ok(())
                }
                _ => Ok(()),
            };
        }
        self.expression(part)
    }
}

fn is_context(expression: &Value) -> bool {
    expression.get("Var").is_some_and(|variable| variable == "context")
}

/// The attribute of the context that it is.
fn attribute(expression: &Value) -> Option<&str> {
    let access = expression.get(".")?;
    let attribute = access.get("attr")?.as_str()?;
    access.get("left").is_some_and(is_context).then_some(attribute)
}

fn number(expression: &Value) -> Option<i64> {
    match expression.get("neg") {
        Some(negated) => number(negated.get("arg")?)?.checked_neg(),
        None => expression.get("Value")?.as_i64(),
    }
}
