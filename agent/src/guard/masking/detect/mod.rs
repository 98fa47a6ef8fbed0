//! A second net: what texts hold that no label says, found by its form and its checksum.
//!
//! What is found becomes `*`, letter by letter, so that the text stays as long as it was and stays what it was: JSON
//! stays JSON. Nothing is decoded first.

mod ids;
mod numbers;
mod words;

use super::cover::Form;
use crate::event::Detector;

/// How long what it looks for is at the front of a text.
fn find(detector: Detector, text: &[u8]) -> Option<usize> {
    match detector {
        Detector::Card => numbers::card(text),
        Detector::Iban => numbers::iban(text),
        Detector::Email => words::email(text),
        Detector::Phone => numbers::phone(text),
        Detector::NationalId => ids::national_id(text),
        Detector::Secret => words::secret(text),
    }
}

/// Those that the configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detectors(Vec<Detector>);

/// The values of a column are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Watch(());

/// Types whose values are, or hold, texts in both formats: text, json, xml, character(n), varchar(n), jsonb, and lists
/// of texts. What is found in them is as long afterwards.
const TEXTS: [u32; 8] = [25, 114, 142, 1042, 1043, 3802, 1009, 1015];

impl Detectors {
    pub fn new(detectors: &[Detector]) -> Self {
        Self(detectors.to_vec())
    }

    pub fn watch(&self, form: Form) -> Option<Watch> {
        self.watch_any().filter(|_| TEXTS.contains(&form.kind))
    }

    /// Of values of which nobody knows the type.
    pub fn watch_any(&self) -> Option<Watch> {
        (!self.0.is_empty()).then_some(Watch(()))
    }

    /// Writes a value with what was found in it hidden.
    pub fn put(&self, _: Watch, value: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(value);
        let mut at = 0;
        while let Some(rest) = value.get(at..).filter(|rest| !rest.is_empty()) {
            let is_inside = at.checked_sub(1).and_then(|before| value.get(before));
            let is_inside = is_inside.is_some_and(u8::is_ascii_alphanumeric);
            let found = match is_inside {
                true => None,
                false => self.0.iter().filter_map(|detector| find(*detector, rest)).max(),
            };
            let found = found.unwrap_or_default();
            let hidden = out.get_mut(start + at..start + at + found).unwrap_or_default();
            hidden.iter_mut().filter(|byte| byte.is_ascii_alphanumeric()).for_each(|it| *it = b'*');
            at += found.max(1);
        }
    }
}

/// Whether what stands there ends a word.
fn is_end(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::{super::cover::Form, Detectors};
    use crate::event::Detector;

    fn hidden(detectors: &Detectors, text: &str) -> String {
        let form = Form { kind: 25, modifier: -1, format: 0, is_utf8: true };
        let mut out = b"x".to_vec();
        detectors.put(detectors.watch(form).unwrap(), text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap().split_off(1)
    }

    /// Of each detector what it finds, and what looks like it and isn't.
    #[test]
    fn what_is_found_and_what_only_looks_like_it() {
        let cases: &[(Detector, &[&str], &[&str])] = &[
            (
                Detector::Card,
                &[
                    "4111111111111111",
                    "4111 1111 1111 1111",
                    "5500-0000-0000-0004",
                    "378282246310005",
                ],
                &[
                    "4111111111111112",
                    "0000000000000000",
                    "1234567890123",
                    "41111111111111111111",
                    "order 4111",
                ],
            ),
            (
                Detector::Iban,
                &[
                    "DE89370400440532013000",
                    "GB29 NWBK 6016 1331 9268 19",
                    "fr1420041010050500013m02606",
                ],
                &["DE89370400440532013001", "DE89", "XX00000000000000000000x0000000000000000"],
            ),
            (
                Detector::Email,
                &["ann@example.org", "first.last+tag@mail.example.co.uk"],
                &["@example.org", "ann@", "ann@example", "a @ b.de", "ann@-example.org"],
            ),
            (
                Detector::Phone,
                &["+49 30 901820", "+1-202-555-0143", "(202) 555-0143", "202-555-0143"],
                &["+1", "202-555", "1999-12-31", "555-0143"],
            ),
            (
                Detector::NationalId,
                &[
                    "52998224725",
                    "529.982.247-25",
                    "255081416802538",
                    "2 55 08 14 168 025 38",
                    "86095742719",
                    "RSSMRA85T10A562S",
                    "44051401359",
                    "12345678Z",
                    "X1234567L",
                ],
                &[
                    "52998224726",
                    "255081416802539",
                    "RSSMRA85T10A562X",
                    "44051401358",
                    "12345678A",
                    "11111111111",
                ],
            ),
            (
                Detector::Secret,
                &[
                    "AKIAIOSFODNN7EXAMPLE",
                    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
                    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlLWhlcmU",
                    "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----",
                ],
                &["AKIA", "ghp_short", "eyJ.", "-----BEGIN CERTIFICATE-----"],
            ),
        ];
        for (detector, found, others) in cases {
            let detectors = Detectors::new(&[*detector]);
            for text in *found {
                let stars = |text: &str| -> String {
                    text.chars().map(|c| if c.is_ascii_alphanumeric() { '*' } else { c }).collect()
                };
                for (before, after) in [("", ""), ("see ", ", ok"), ("{\"a\": \"", "\"}")] {
                    let expected = format!("{before}{}{after}", stars(text));
                    assert_eq!(
                        hidden(&detectors, &format!("{before}{text}{after}")),
                        expected,
                        "{detector:?}"
                    );
                }
                assert_eq!(
                    hidden(&Detectors::new(&[*detector]), &format!("x{text}")).len(),
                    text.len() + 1
                );
            }
            for text in *others {
                assert_eq!(hidden(&detectors, text), *text, "{detector:?}");
            }
        }
    }

    #[test]
    fn nothing_is_looked_at_that_nobody_has_asked_for() {
        let form = Form { kind: 25, modifier: -1, format: 0, is_utf8: true };
        assert!(Detectors::default().watch(form).is_none());
        let cards = Detectors::new(&[Detector::Card]);
        assert!(cards.watch(Form { kind: 20, ..form }).is_none());
    }

    #[test]
    fn hostile_texts_take_no_long_time() {
        let all = Detectors::new(Detector::ALL);
        for unit in ["a.", "1 ", "+1 ", "-----BEGIN ", "eyJ.", "DE89 ", "@", "\u{fc}"] {
            let text = unit.repeat((64 << 10) / unit.len());
            assert_eq!(hidden(&all, &text).len(), text.len());
        }
    }
}
