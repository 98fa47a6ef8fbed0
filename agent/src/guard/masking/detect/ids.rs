//! Numbers of people, as their countries give them, by their checksums.

use super::{is_end, numbers::digits};

pub(super) fn national_id(text: &[u8]) -> Option<usize> {
    let of_digits = || {
        let (digits, end) = digits(text, b" .-/", 15)?;
        let is_one = match digits.len() {
            11 => is_brazilian(&digits) || is_german(&digits) || is_polish(&digits),
            15 => is_french(&digits),
            _ => false,
        };
        // The same digit eleven times fulfils most checksums.
        let is_some = digits.iter().any(|digit| Some(digit) != digits.first());
        (is_one && is_some).then_some(end)
    };
    of_digits().or_else(|| spanish(text)).or_else(|| italian(text))
}

fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(digit, weight)| u32::from(*digit) * weight).sum()
}

fn digit(digits: &[u8], place: usize) -> u32 {
    digits.get(place).copied().map_or(0, u32::from)
}

/// CPF: two digits check those before them.
fn is_brazilian(digits: &[u8]) -> bool {
    let check = |weights: &[u32]| weighted(digits, weights) * 10 % 11 % 10;
    check(&[10, 9, 8, 7, 6, 5, 4, 3, 2]) == digit(digits, 9)
        && check(&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2]) == digit(digits, 10)
}

/// Steuer-Identifikationsnummer: ISO 7064, modulo 11 and 10; not all of its first ten digits differ.
fn is_german(digits: &[u8]) -> bool {
    let Some((first, [check])) = digits.split_at_checked(10) else { return false };
    if first.first() == Some(&0) {
        return false;
    }
    let n_different = (0..10).filter(|digit| first.contains(digit)).count();
    let product = first.iter().fold(10, |product, digit| {
        let sum = (u32::from(*digit) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (8..=9).contains(&n_different) && (11 - product) % 10 == u32::from(*check)
}

/// PESEL: a date of birth, a number, a digit that checks both.
fn is_polish(digits: &[u8]) -> bool {
    let month = (digit(digits, 2) * 10 + digit(digits, 3)) % 20;
    let day = digit(digits, 4) * 10 + digit(digits, 5);
    let sum = weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3]);
    (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (10 - sum % 10) % 10 == digit(digits, 10)
}

/// NIR: sex, year, month, place, number, and what is missing to a multiple of 97. Corsica's letters aren't known.
fn is_french(digits: &[u8]) -> bool {
    let number = |from: usize, to: usize| {
        let digits = digits.get(from..to).unwrap_or_default();
        digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(*digit))
    };
    let is_sex = matches!(digits.first(), Some(1 | 2));
    let is_month = matches!(number(3, 5), 1..=12 | 20..=42 | 50..=99);
    is_sex && is_month && 97 - number(0, 13) % 97 == number(13, 15)
}

/// DNI and NIE: eight digits, the first of which may be a letter of a foreigner's, and a letter that checks them.
fn spanish(text: &[u8]) -> Option<usize> {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let text_of_nine = text.first_chunk::<9>()?;
    let [first, rest @ .., letter] = text_of_nine;
    let first = match first.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => digit - b'0',
        foreign @ b'X'..=b'Z' => foreign - b'X',
        _ => return None,
    };
    let number = rest.iter().try_fold(u32::from(first), |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
    })?;
    let expected = LETTERS.get(number as usize % LETTERS.len())?;
    (*expected == letter.to_ascii_uppercase() && is_end(text, 9)).then_some(9)
}

/// Codice fiscale: letters of the names, a date of birth, a place, and a letter that checks them.
fn italian(text: &[u8]) -> Option<usize> {
    const FORM: &[u8; 16] = b"aaaaaa##a##a###a";
    /// What a digit, or the letter of that number, counts at the first, third, fifth … place.
    const ODD: [u32; 26] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24,
        23,
    ];
    let text_of_all = text.first_chunk::<16>()?;
    let fits = text_of_all.iter().zip(FORM).all(|(byte, form)| match form {
        b'a' => byte.is_ascii_alphabetic(),
        _ => byte.is_ascii_digit(),
    });
    let [rest @ .., check] = text_of_all;
    let sum = rest.iter().enumerate().try_fold(0, |sum, (place, byte)| {
        let value = match byte.to_ascii_uppercase() {
            digit @ b'0'..=b'9' => digit - b'0',
            letter => letter.checked_sub(b'A')?,
        };
        let counts = match place % 2 {
            0 => *ODD.get(usize::from(value))?,
            _ => u32::from(value),
        };
        Some(sum + counts)
    })?;
    let expected = u32::from(check.to_ascii_uppercase().checked_sub(b'A')?);
    (fits && sum % 26 == expected && is_end(text, 16)).then_some(16)
}
