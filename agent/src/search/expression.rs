//! Conditions that SQL has no quick words for: text in any case, tables touched, words in a list.
//!
//! Each carries its constants and takes one column, so that it can be pushed down to where columns
//! are decoded and be evaluated once for each value of a dictionary instead of once a row.

use std::{hash::Hash, ops::RangeInclusive, sync::Arc};

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, UInt32Array},
        compute::cast,
        datatypes::DataType,
    },
    common::{Result, ScalarValue, exec_err},
    logical_expr::{
        BinaryExpr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility, ident, lit, utils::split_conjunction,
    },
};
use rustc_hash::FxHashMap;

use crate::{
    event::{Effect, WallTime},
    ledger::log::ALL_TIMES,
};

pub(super) fn time_literal(time: WallTime) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(time.0), Some("UTC".into())))
}

/// From when till when a row can be that fulfils all of `filters`: wider than they say, if anything.
pub(super) fn times(filters: &[Expr]) -> RangeInclusive<WallTime> {
    let (mut first, mut last) = ALL_TIMES.into_inner();
    for filter in filters.iter().flat_map(split_conjunction) {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else { continue };
        let (column, op, literal) = match (&**left, &**right) {
            (Expr::Column(column), Expr::Literal(literal, _)) => (column, Some(*op), literal),
            (Expr::Literal(literal, _), Expr::Column(column)) => (column, op.swap(), literal),
            _ => continue,
        };
        let ScalarValue::TimestampMicrosecond(Some(time), _) = literal else { continue };
        let time = WallTime(*time);
        match op {
            _ if column.name != "time" => {}
            Some(Operator::Gt | Operator::GtEq) => first = first.max(time),
            Some(Operator::Lt | Operator::LtEq) => last = last.min(time),
            Some(Operator::Eq) => (first, last) = (first.max(time), last.min(time)),
            _ => {}
        }
    }
    first..=last
}

/// What a condition on a list is called. By this name of a function of its own the engine knows that it
/// may be evaluated while a file is decoded, so that of other rows nothing else is.
const OF_LIST: &str = "array_has_any";

/// `part` stands somewhere in the column's text, in any case.
pub(super) fn has_text(column: &str, part: &str) -> Expr {
    call("has_text", Test::HasText { lower: part.to_lowercase() }, column)
}

/// One of `wanted` is in the column's list.
pub(super) fn has_any(column: &str, wanted: Vec<String>) -> Expr {
    call(OF_LIST, Test::HasAny { wanted }, column)
}

/// The statement touches this table, and one of these is done to it; any where none is given.
pub(super) fn touches(table: &str, accesses: Vec<String>) -> Expr {
    let table = table.to_lowercase();
    call(OF_LIST, Test::Touches { suffix: format!(".{table}"), table, accesses }, "tables")
}

/// The list of effects as a set of bits, which can be united over many statements.
pub(super) fn effect_bits() -> Expr {
    call("effect_bits", Test::EffectBits, "effects")
}

/// The effects of a set made by [`effect_bits`].
pub(super) fn effects_of(bits: u32) -> impl Iterator<Item = Effect> {
    Effect::ALL.iter().copied().filter(move |effect| bits & 1 << *effect as u32 != 0)
}

fn call(name: &'static str, test: Test, column: &str) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::from(Function { name, test, signature }).call(vec![ident(column)])
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Function {
    name: &'static str,
    test: Test,
    signature: Signature,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    HasText { lower: String },
    HasAny { wanted: Vec<String> },
    Touches { table: String, suffix: String, accesses: Vec<String> },
    EffectBits,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.test {
            Test::EffectBits => DataType::UInt32,
            _ => DataType::Boolean,
        })
    }

    /// Constants are part of the name: two searches for different words are different columns.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let columns: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(format!("{}({}, {:?})", self.name, columns.join(", "), self.test))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(column) = args.args.first() else {
            return exec_err!("{} needs a column", self.name);
        };
        let column = column.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(self.test.evaluate(&column)?))
    }
}

impl Test {
    fn evaluate(&self, column: &ArrayRef) -> Result<ArrayRef> {
        Ok(match self {
            Self::HasText { lower } => Arc::new(matches(column, lower)?),
            Self::HasAny { wanted } => Arc::new(any_element(column, |texts, elements| {
                mark(texts, elements, |text| wanted.iter().any(|wanted| wanted == text))
            })?),
            Self::Touches { table, suffix, accesses } => {
                Arc::new(any_element(column, |pairs, elements| {
                    let Some(pairs) = pairs.as_struct_opt() else { return };
                    let (Some(names), Some(done)) =
                        (pairs.column_by_name("name"), pairs.column_by_name("access"))
                    else {
                        return;
                    };
                    mark(names, elements, |name| is_table(name, table, suffix));
                    if !accesses.is_empty() {
                        let mut right = vec![false; elements.len()];
                        mark(done, &mut right, |done| accesses.iter().any(|access| access == done));
                        elements.iter_mut().zip(right).for_each(|(hit, right)| *hit &= right);
                    }
                })?)
            }
            Self::EffectBits => Arc::new(bits(column)?),
        })
    }
}

/// `items` is meant by `items`, `Items` and `shop.items`; `shop.items` only by itself.
fn is_table(name: &str, table: &str, suffix: &str) -> bool {
    let ends = |whole: &str, end: &str| {
        whole.len() >= end.len()
            && whole
                .as_bytes()
                .get(whole.len() - end.len()..)
                .is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes()))
    };
    match name.is_ascii() {
        true => (name.len() == table.len() && ends(name, table)) || ends(name, suffix),
        false => {
            let name = name.to_lowercase();
            name == table || name.ends_with(suffix)
        }
    }
}

/// Each text is looked at once: what is said of a connection or a statement is the same in many rows,
/// and has the same view wherever it comes from the same dictionary.
fn matches(column: &ArrayRef, lower: &str) -> Result<BooleanArray> {
    let column = cast(column, &DataType::Utf8View)?;
    let texts = column.as_string_view();
    let mut known: FxHashMap<u128, bool> = FxHashMap::default();
    let found = texts.iter().zip(texts.views().iter()).map(|(text, view)| {
        text.map(|text| *known.entry(*view).or_insert_with(|| contains(text, lower)))
    });
    Ok(found.collect())
}

/// Whether `lower` stands in `text`, in any case.
fn contains(text: &str, lower: &str) -> bool {
    match text.is_ascii() && lower.is_ascii() && !lower.is_empty() {
        true => {
            let mut places = text.as_bytes().windows(lower.len());
            places.any(|place| place.eq_ignore_ascii_case(lower.as_bytes()))
        }
        false => text.to_lowercase().contains(lower),
    }
}

/// Whether `mark` marks one of a list's elements, for each list.
fn any_element(column: &ArrayRef, mark: impl Fn(&ArrayRef, &mut [bool])) -> Result<BooleanArray> {
    let Some(lists) = column.as_list_opt::<i32>() else {
        return exec_err!("a list is wanted, not {}", column.data_type());
    };
    let mut marked = vec![false; lists.values().len()];
    mark(lists.values(), &mut marked);
    let mut any = BooleanBufferBuilder::new(lists.len());
    for bounds in lists.offsets().windows(2) {
        let elements = match bounds {
            [start, end] => marked.get(*start as usize..*end as usize).unwrap_or_default(),
            _ => &[],
        };
        any.append(elements.contains(&true));
    }
    Ok(BooleanArray::new(any.finish(), lists.nulls().cloned()))
}

/// Marks the texts that `wanted` wants; neighbours are often the same, and are asked about once.
fn mark(texts: &ArrayRef, marks: &mut [bool], wanted: impl Fn(&str) -> bool) {
    let mut last: Option<(&str, bool)> = None;
    let mut ask = |text| match last {
        Some((asked, answer)) if asked == text => answer,
        _ => {
            let answer = wanted(text);
            last = Some((text, answer));
            answer
        }
    };
    match texts.data_type() {
        DataType::Utf8 => texts
            .as_string::<i32>()
            .iter()
            .zip(marks)
            .for_each(|(text, hit)| *hit = text.is_some_and(&mut ask)),
        DataType::Utf8View => texts
            .as_string_view()
            .iter()
            .zip(marks)
            .for_each(|(text, hit)| *hit = text.is_some_and(&mut ask)),
        _ => {}
    }
}

fn bits(column: &ArrayRef) -> Result<UInt32Array> {
    let Some(lists) = column.as_list_opt::<i32>() else {
        return exec_err!("a list is wanted, not {}", column.data_type());
    };
    let mut of_elements = vec![0u32; lists.values().len()];
    for effect in Effect::ALL {
        let mut hits = vec![false; of_elements.len()];
        mark(lists.values(), &mut hits, |text| text == effect.name());
        for (bits, hit) in of_elements.iter_mut().zip(hits) {
            *bits |= u32::from(hit) << *effect as u32;
        }
    }
    let sets = lists.offsets().windows(2).map(|bounds| match bounds {
        [start, end] => {
            let elements = of_elements.get(*start as usize..*end as usize).unwrap_or_default();
            elements.iter().fold(0, |set, bits| set | bits)
        }
        _ => 0,
    });
    Ok(UInt32Array::new(sets.collect(), lists.nulls().cloned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::{
        arrow::array::{Array, ArrayRef, StringArray, StringViewArray},
        logical_expr::{ident, lit},
    };

    use super::{matches, time_literal, times};
    use crate::{event::WallTime, ledger::log::ALL_TIMES};

    #[test]
    fn times_are_those_that_all_filters_allow() {
        let at = |time| time_literal(WallTime(time));
        let time = || ident("time");
        let all = ALL_TIMES;
        for (filters, first, last) in [
            (vec![], all.start().0, all.end().0),
            (vec![time().gt_eq(at(3)), time().lt(at(9))], 3, 9),
            (vec![time().gt_eq(at(3)).and(time().gt(at(5)))], 5, all.end().0),
            (vec![at(9).gt_eq(time())], all.start().0, 9),
            (vec![time().eq(at(4))], 4, 4),
            // Of an alternative, another column or another kind of comparison nothing is known.
            (vec![time().gt(at(3)).or(lit(true))], all.start().0, all.end().0),
            (vec![ident("process_start").gt(at(3))], all.start().0, all.end().0),
            (vec![time().not_eq(at(3))], all.start().0, all.end().0),
        ] {
            assert_eq!(times(&filters), WallTime(first)..=WallTime(last), "{filters:?}");
        }
    }

    #[test]
    fn a_text_matches_in_any_case_wherever_it_stands() {
        let long = "UPDATE accounts SET amount = amount + ? WHERE id = ?";
        let texts = [Some(long), None, Some(""), Some("Straße ÄÖ"), Some(long), None, Some("%")];
        let columns: [ArrayRef; 2] =
            [Arc::new(StringViewArray::from_iter(texts)), Arc::new(StringArray::from_iter(texts))];
        for (part, expected) in [
            (
                "accounts set",
                [Some(true), None, Some(false), Some(false), Some(true), None, Some(false)],
            ),
            ("", [Some(true), None, Some(true), Some(true), Some(true), None, Some(true)]),
            ("äö", [Some(false), None, Some(false), Some(true), Some(false), None, Some(false)]),
            ("%", [Some(false), None, Some(false), Some(false), Some(false), None, Some(true)]),
        ] {
            for column in &columns {
                let found: Vec<Option<bool>> = matches(column, part).unwrap().iter().collect();
                assert_eq!(found, expected, "{part:?} in {}", column.data_type());
            }
        }
    }
}
