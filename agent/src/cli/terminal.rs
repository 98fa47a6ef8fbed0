//! What may reach a terminal: text made harmless, fitted to cells, coloured only where that is wanted.

use std::{env, io, io::IsTerminal, os::fd::AsFd};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Used where nobody says how wide the terminal is.
const WIDTH: usize = 120;

/// Colour needs a terminal that knows it and nobody who has said `NO_COLOR`.
pub(super) fn wants_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns of the terminal behind standard output.
pub(super) fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout().as_fd())
        .map(|size| usize::from(size.ws_col))
        .ok()
        .filter(|&columns| columns > 0)
        .unwrap_or(WIDTH)
}

/// Rows of the terminal behind standard output, if it is one.
pub(super) fn height() -> Option<u32> {
    let size = rustix::termios::tcgetwinsize(io::stdout().as_fd()).ok()?;
    Some(u32::from(size.ws_row)).filter(|&rows| rows > 0)
}

/// One harmless line: white space becomes single spaces, and whatever could move the cursor, start
/// an escape sequence or turn the reading direction becomes `�`.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_whitespace() {
            if !clean.is_empty() && !clean.ends_with(' ') {
                clean.push(' ');
            }
        } else if is_harmful(c) {
            clean.push('\u{fffd}');
        } else {
            clean.push(c);
        }
    }
    clean.truncate(clean.trim_end().len());
    clean
}

/// Controls, and the format characters that reorder or hide text.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// At most `cells` wide; `…` stands for what was cut.
pub(super) fn fit(text: &str, cells: usize) -> String {
    // Marks without a width of their own could still pile up without end.
    let chars = cells.saturating_mul(4);
    if text.width() <= cells && text.chars().count() <= chars {
        return text.to_owned();
    }
    let mut fitted = String::new();
    let mut used = 0;
    for c in text.chars().take(chars.saturating_sub(1)) {
        used += c.width().unwrap_or(0);
        if used >= cells {
            break;
        }
        fitted.push(c);
    }
    if cells > 0 {
        fitted.push('…');
    }
    fitted
}

/// Exactly `cells` wide, text on the left.
pub(super) fn left(text: &str, cells: usize) -> String {
    let text = fit(text, cells);
    let blank = cells.saturating_sub(text.width());
    text + &" ".repeat(blank)
}

/// Exactly `cells` wide, text on the right.
pub(super) fn right(text: &str, cells: usize) -> String {
    let text = fit(text, cells);
    " ".repeat(cells.saturating_sub(text.width())) + &text
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Warning,
    Bad,
}

/// Paints, or doesn't.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) colour: bool,
}

impl Paint {
    pub(super) fn of_stdout() -> Self {
        Self { colour: wants_colour(&io::stdout()) }
    }

    pub(super) fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warning => "33",
            Style::Bad => "31",
            Style::Plain => return text.to_owned(),
        };
        match self.colour && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// `1.2 MiB`.
pub(super) fn bytes(n: u64) -> String {
    scaled(n, 1_024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// `1204`, `120k`, `1.2M`.
pub(super) fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        _ => scaled(n, 1_000.0, &["", "k", "M", "G", "T", "P", "E"]).replace(' ', ""),
    }
}

fn scaled(n: u64, step: f64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // What would be shown as a whole step belongs to the next unit.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    let number = match unit > 0 && value < 9.95 {
        true => format!("{value:.1}"),
        false => format!("{value:.0}"),
    };
    format!("{} {name}", number.strip_suffix(".0").unwrap_or(&number))
}

/// `1 row`, `2 rows`, `1.2M rows`.
pub(super) fn counted(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        _ => format!("{} {one}s", count(n)),
    }
}

/// `4 s`, `3 m 02 s`, `5 h 12 m`: for what has no fractions worth reading.
pub(super) fn whole_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        _ => duration(seconds.saturating_mul(1_000_000)),
    }
}

/// `830 µs`, `1.24 ms`, `12.1 s`, `3 m 02 s`, `5 h 12 m`, `2 d 03 h`.
pub(super) fn duration(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{} ms", micros / 1_000),
        1_000_000..10_000_000 => format!("{:.2} s", micros as f64 / 1e6),
        10_000_000..60_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ if seconds < 3_600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{} h {:02} m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::{bytes, clean, count, duration, fit, left, right};

    #[test]
    fn nothing_harmful_reaches_the_terminal() {
        for (text, expected) in [
            ("select\n\t 1", "select 1"),
            ("  a  \r\n b  ", "a b"),
            ("\x1b[2J\x1b]0;owned\x07", "\u{fffd}[2J\u{fffd}]0;owned\u{fffd}"),
            ("a\u{9b}31mb", "a\u{fffd}31mb"),
            ("a\u{8}\u{7f}\0b", "a\u{fffd}\u{fffd}\u{fffd}b"),
            ("admin\u{202e}nimda", "admin\u{fffd}nimda"),
            ("pay\u{200b}roll", "pay\u{fffd}roll"),
            ("\u{2066}x\u{2069}", "\u{fffd}x\u{fffd}"),
            ("zeile\u{2028}neu", "zeile neu"),
            ("München 東京 e\u{301}", "München 東京 e\u{301}"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_character_is_clean_or_shown_as_one() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let clean = clean(&format!("a{c}b"));
            assert!(!clean.chars().any(char::is_control), "{c:?}");
        }
    }

    #[test]
    fn text_fits_its_cells() {
        for (text, cells, expected) in [
            ("select", 6, "select"),
            ("select", 5, "sele…"),
            ("select", 1, "…"),
            ("select", 0, ""),
            ("東京都", 6, "東京都"),
            ("東京都", 5, "東京…"),
            ("東京都", 4, "東…"),
            ("", 3, ""),
        ] {
            assert_eq!(fit(text, cells), expected, "{text} in {cells}");
            assert_eq!(left(text, cells).width(), cells);
            assert_eq!(right(text, cells).width(), cells);
        }
        let piled = format!("a{}", "\u{301}".repeat(10_000));
        assert!(fit(&piled, 10).chars().count() <= 40);
    }

    #[test]
    fn quantities_are_short() {
        for (micros, expected) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_240, "1.24 ms"),
            (83_000, "83.0 ms"),
            (830_000, "830 ms"),
            (1_500_000, "1.50 s"),
            (59_900_000, "59.9 s"),
            (182_000_000, "3 m 02 s"),
            (18_720_000_000, "5 h 12 m"),
            (183_600_000_000, "2 d 03 h"),
        ] {
            assert_eq!(duration(micros), expected);
        }
        for (n, expected) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1 KiB"),
            (1_290_000, "1.2 MiB"),
            (16 << 20, "16 MiB"),
            ((1 << 30) - 1, "1 GiB"),
        ] {
            assert_eq!(bytes(n), expected);
        }
        for (n, expected) in [(9_999, "9999"), (120_000, "120k"), (1_204_221, "1.2M")] {
            assert_eq!(count(n), expected);
        }
    }
}
