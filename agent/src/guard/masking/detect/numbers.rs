//! Numbers of cards, accounts and phones.

use super::is_end;

/// Digits of a card.
const CARD: std::ops::RangeInclusive<usize> = 13..=19;

/// Up to `most` digits at the front, between which single separators may stand; and how long that is. `None` where
/// more of them follow.
pub(super) fn digits(text: &[u8], separators: &[u8], most: usize) -> Option<(Vec<u8>, usize)> {
    let (mut digits, mut end) = (Vec::new(), 0);
    let mut after_separator = false;
    for (at, byte) in text.iter().enumerate() {
        if byte.is_ascii_digit() {
            if digits.len() == most {
                return None;
            }
            digits.push(byte - b'0');
            (end, after_separator) = (at + 1, false);
        } else if separators.contains(byte) && !after_separator && !digits.is_empty() {
            after_separator = true;
        } else {
            break;
        }
    }
    (!digits.is_empty() && is_end(text, end)).then_some((digits, end))
}

pub(super) fn card(text: &[u8]) -> Option<usize> {
    // Those of payment begin so.
    text.first().filter(|first| (b'2'..=b'6').contains(first))?;
    let (digits, end) = digits(text, b" -", *CARD.end())?;
    (CARD.contains(&digits.len()) && luhn(&digits)).then_some(end)
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let doubled = u32::from(*digit) << (place % 2);
            doubled / 10 + doubled % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Letters and digits of an account's number.
const IBAN: std::ops::RangeInclusive<usize> = 15..=34;

/// Two letters, two digits, and what the country wants, perhaps in groups of four.
pub(super) fn iban(text: &[u8]) -> Option<usize> {
    let [a, b, c, d, ..] = text else { return None };
    let begins = a.is_ascii_alphabetic() && b.is_ascii_alphabetic() && c.is_ascii_digit();
    if !begins || !d.is_ascii_digit() {
        return None;
    }
    let (mut letters, mut found) = (Vec::new(), None);
    for (at, byte) in text.iter().enumerate().take(IBAN.end() * 2) {
        if byte.is_ascii_alphanumeric() {
            letters.push(byte.to_ascii_uppercase());
        } else if *byte != b' ' || letters.len() % 4 != 0 {
            break;
        }
        if IBAN.contains(&letters.len()) && is_end(text, at + 1) && is_sum_97(&letters) {
            found = Some(at + 1);
        }
    }
    found
}

/// ISO 7064: letters count from ten, the first four characters come last.
fn is_sum_97(letters: &[u8]) -> bool {
    let (first, rest) = letters.split_at_checked(4).unwrap_or((letters, &[]));
    let rest = rest.iter().chain(first).fold(0_u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        letter => (rest * 100 + u32::from(letter.saturating_sub(b'A')) + 10) % 97,
    });
    rest == 1
}

/// Digits of a phone's number with its country's code.
const PHONE: std::ops::RangeInclusive<usize> = 8..=15;

pub(super) fn phone(text: &[u8]) -> Option<usize> {
    if let Some(number) = text.strip_prefix(b"+") {
        let (digits, end) = digits(number, b" -./()", *PHONE.end())?;
        let is_code = digits.first().is_some_and(|first| *first != 0);
        return (is_code && PHONE.contains(&digits.len())).then_some(end + 1);
    }
    let patterns: [&[u8]; 3] = [b"(###) ###-####", b"(###)###-####", b"###-###-####"];
    let fits = |pattern: &&&[u8]| {
        let text = text.get(..pattern.len()).unwrap_or_default();
        text.len() == pattern.len()
            && text.iter().zip(**pattern).all(|(byte, wanted)| match wanted {
                b'#' => byte.is_ascii_digit(),
                wanted => byte == wanted,
            })
    };
    let end = patterns.iter().find(fits)?.len();
    is_end(text, end).then_some(end)
}
