//! A small language in place of SQL, which the court and the server of a played conversation read alike.

use crate::event::{CopyForm, CopyFormat};

/// A table's number, and that of one which nobody knows.
pub const TABLE: u32 = 20_000;
pub const STRANGE: u32 = 20_001;

/// What a statement shows: `rows` and `copy` name them by their letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub letter: char,
    pub relation: u32,
    pub place: i16,
    /// `int4`, `int8`, `text` or `varchar`.
    pub kind: u32,
    /// How it is hidden; of [`STRANGE`] anything is.
    pub mask: Option<&'static str>,
}

pub const INT4: u32 = 23;
pub const INT8: u32 = 20;
const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;

pub const COLUMNS: [Column; 8] = [
    column('i', TABLE, 1, INT4, None),
    column('s', TABLE, 2, TEXT, Some("last4")),
    column('c', TABLE, 3, INT4, Some("fixed:7")),
    column('h', TABLE, 4, VARCHAR, Some("hash")),
    column('n', TABLE, 5, INT8, Some("noise")),
    column('z', TABLE, 6, TEXT, Some("null")),
    column('u', STRANGE, 1, TEXT, None),
    column('e', 0, 0, TEXT, None),
];

const fn column(
    letter: char,
    relation: u32,
    place: i16,
    kind: u32,
    mask: Option<&'static str>,
) -> Column {
    Column { letter, relation, place, kind, mask }
}

impl Column {
    pub fn is_hidden(&self) -> bool {
        self.mask.is_some() || self.relation == STRANGE
    }
}

/// What a statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// Nothing that shows anything.
    Nothing,
    Rows(Vec<Column>),
    Copy(Form, Vec<Column>),
    CopyIn,
    Begin,
    End,
    /// It may change the encoding.
    Set,
    Forget,
    /// The server doesn't know it.
    Fails,
}

/// How a COPY is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub form: CopyForm,
    /// CSV in which everything but NULL stands in quotes.
    pub quotes_all: bool,
}

/// Statement by statement.
pub fn read(text: &str) -> Vec<Does> {
    let texts = text.split(';').map(str::trim).filter(|text| !text.is_empty());
    texts.map(|text| one(text).unwrap_or(Does::Fails)).collect()
}

fn one(text: &str) -> Option<Does> {
    let mut words = text.split(' ').filter(|word| *word != super::MARK && *word != OPEN);
    let does = match words.next()? {
        "rows" => Does::Rows(columns(words.next()?)?),
        "copy" => Does::Copy(form(words.next()?)?, columns(words.next()?)?),
        "copyin" => Does::CopyIn,
        "begin" => Does::Begin,
        "end" => Does::End,
        "SET" => Does::Set,
        "forget" => Does::Forget,
        "nothing" => Does::Nothing,
        _ => return None,
    };
    words.next().is_none().then_some(does)
}

/// From the client that says this nothing is hidden in the answer.
pub const OPEN: &str = "open";

fn columns(letters: &str) -> Option<Vec<Column>> {
    let find = |letter| COLUMNS.iter().find(|column| column.letter == letter).copied();
    letters.chars().map(find).collect()
}

pub const FORMS: [&str; 6] = ["text", "csv", "binary", "pipes", "quotes", "lines"];

fn form(name: &str) -> Option<Form> {
    let nil = b"nil".as_slice();
    let form = match name {
        "text" => CopyForm::default(),
        "csv" | "lines" => CopyForm::csv(),
        "binary" => CopyForm { format: CopyFormat::Binary, ..CopyForm::default() },
        "pipes" => {
            CopyForm { delimiter: b'|', null: nil.into(), has_header: true, ..CopyForm::default() }
        }
        "quotes" => CopyForm {
            delimiter: b';',
            null: nil.into(),
            has_header: true,
            quote: b'\'',
            escape: b'\\',
            ..CopyForm::csv()
        },
        _ => return None,
    };
    Some(Form { form, quotes_all: name == "lines" })
}
