//! Claims out of texts: sqlcommenter's comments, and applications that are named in the same way.
//!
//! `SELECT 1 /*agent='billing-bot',traceparent='00-…-…-01'*/`: names and values are percent-encoded, a
//! quote in a value is escaped by a backslash. The comment stands last or first in the text. Whatever
//! doesn't look so is no claim. Nothing here fails, and what is kept is bounded.

use crate::event::{ClaimTag, Claims, Trace};

/// Of a comment that is looked into.
const COMMENT_BYTES: usize = 8 << 10;
/// Of all that one statement claims.
const TAGS: usize = 32;
const NAME_BYTES: usize = 64;
const VALUE_BYTES: usize = 256;

/// Tags with these in their names hold what nobody may keep.
const SECRETS: [&str; 5] = ["password", "passwd", "pwd", "secret", "token"];
const MASK: &str = "***";

/// What is claimed in a statement's text and by the application's name; the text counts more. Two
/// looks at its ends are all that a text without comments costs.
pub fn read(text: Option<&str>, application: Option<&str>) -> Option<Claims> {
    let text = text.unwrap_or_default();
    let comments = [last_comment(text), first_comment(text)];
    let application = application.filter(|name| may_claim(name));
    if comments == [None, None] && application.is_none() {
        return None;
    }
    let mut found = Found::default();
    for comment in comments.into_iter().flatten() {
        found.take_all(quoted(comment));
    }
    found.take_all(bare(application.unwrap_or_default()));
    found.finish()
}

/// Whether an application of that name may claim something.
pub fn may_claim(application: &str) -> bool {
    application.contains('=')
}

fn last_comment(text: &str) -> Option<&str> {
    let text = text.trim_end().trim_end_matches(';').trim_end();
    let body = text.strip_suffix("*/")?;
    let body = body.get(body.rfind("/*")? + 2..)?;
    (body.len() <= COMMENT_BYTES && !body.contains("*/")).then_some(body)
}

fn first_comment(text: &str) -> Option<&str> {
    let body = text.trim_start().strip_prefix("/*")?;
    let body = body.get(..body.find("*/")?)?;
    (body.len() <= COMMENT_BYTES).then_some(body)
}

/// `name='value'` and so on, as far as it goes.
fn quoted(comment: &str) -> impl Iterator<Item = (String, String)> {
    let mut rest = comment.trim();
    std::iter::from_fn(move || {
        let (name, behind) = rest.split_once('=')?;
        let behind = behind.trim_start();
        let (value, after) = match behind.strip_prefix('\'') {
            Some(behind) => {
                let end = closing_quote(behind)?;
                (behind.get(..end)?.replace("\\'", "'"), behind.get(end + 1..)?)
            }
            // OpenTelemetry's Python instrumentation leaves numbers bare.
            None => {
                let after = behind.trim_start_matches(|c: char| c.is_ascii_digit());
                let number = behind.strip_suffix(after).filter(|number| !number.is_empty())?;
                (number.to_owned(), after)
            }
        };
        rest = after.trim_start();
        // What follows is another tag or the end, else this was prose.
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return None,
        };
        Some((decoded(name.trim()), decoded(&value)))
    })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'\'' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// `name=value` of an application's name, parted by commas, semicolons or spaces, quoted or not.
fn bare(application: &str) -> impl Iterator<Item = (String, String)> {
    let words = application.split([',', ';', ' ']).filter(|word| !word.is_empty());
    words.map_while(|word| {
        let (name, value) = word.split_once('=')?;
        Some((decoded(name), decoded(value.trim_matches('\''))))
    })
}

/// Percent-encoded bytes, as UTF-8 as far as they are.
fn decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digit = |at: usize| behind.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (*first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = behind.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Default)]
struct Found(Claims);

impl Found {
    fn take_all(&mut self, tags: impl Iterator<Item = (String, String)>) {
        tags.take(TAGS).for_each(|(name, value)| self.take(name, value));
    }

    /// The first of a name counts.
    fn take(&mut self, name: String, value: String) {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(is_name) {
            return;
        }
        if name == "traceparent"
            && let Some(trace) = traceparent(&value)
        {
            self.0.trace.get_or_insert(trace);
            return;
        }
        let tags = &mut self.0.tags;
        if let Err(place) = tags.binary_search_by(|tag| (*tag.name).cmp(name.as_str()))
            && tags.len() < TAGS
        {
            let lower = name.to_ascii_lowercase();
            let value = match SECRETS.iter().any(|secret| lower.contains(secret)) {
                true => MASK.into(),
                false => cut(value),
            };
            tags.insert(place, ClaimTag { name: name.into(), value });
        }
    }

    fn finish(self) -> Option<Claims> {
        let Self(claims) = self;
        (!claims.tags.is_empty() || claims.trace.is_some()).then_some(claims)
    }
}

/// `…` stands for what was too long.
fn cut(mut value: String) -> Box<str> {
    if value.len() > VALUE_BYTES {
        let end = (0..=VALUE_BYTES).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
        value.truncate(end);
        value.push('…');
    }
    value.into()
}

/// W3C Trace Context: `version-trace_id-parent_id-flags`, of which a later version may have more.
fn traceparent(value: &str) -> Option<Trace> {
    let mut parts = value.split('-');
    let mut hex = |digits: usize| {
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == digits && part.bytes().all(is_hex))
    };
    let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let is_zero = |id: &str| id.bytes().all(|b| b == b'0');
    let whole = parts.next().is_none() || version != "00";
    (version != "ff" && whole && !is_zero(trace_id) && !is_zero(span_id)).then(|| Trace {
        trace_id: trace_id.into(),
        span_id: span_id.into(),
        is_sampled: u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1),
    })
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::event::Trace;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The tags as `name=value`, with commas between them; a trace as its span.
    fn check(text: &str, application: &str, expected: &str) {
        let claims = read(Some(text), Some(application)).unwrap_or_default();
        let tags = claims.tags.iter().map(|tag| format!("{}={}", tag.name, tag.value));
        let span = claims.trace.map(|Trace { span_id, .. }| format!("span {span_id}"));
        let found: Vec<String> = tags.chain(span).collect();
        assert_eq!(found.join(","), expected, "{text} {application}");
    }

    #[test]
    fn comments_first_and_last() {
        let traced = format!("SELECT 1 /*agent='bot',traceparent='{PARENT}'*/");
        check(&traced, "", "agent=bot,span b7ad6b7169203331");
        for (text, expected) in [
            ("SELECT 1", ""),
            ("SELECT 1 /*agent='bot'*/", "agent=bot"),
            ("SELECT 1 /* agent='bot' , model='m' */ ; ", "agent=bot,model=m"),
            ("/*agent='bot'*/ SELECT 1", "agent=bot"),
            ("  /*agent='bot'*/SELECT 1/*run_id='7'*/", "agent=bot,run_id=7"),
            ("/*agent='first'*/ SELECT 1 /*agent='last'*/", "agent=last"),
            ("SELECT /*agent='bot'*/ 1", ""),
            ("SELECT 1 -- agent='bot'", ""),
            ("SELECT '/*agent=''bot''*/'", ""),
            ("SELECT 1 /*route='%2Fpolls%2F1',x='it%5C%27s'*/", "route=/polls/1,x=it\\'s"),
            ("SELECT 1 /*x='it\\'s',y='\\\\'*/", "x=it's,y=\\\\"),
            ("SELECT 1 /*x='100%',y='%zz%4'*/", "x=100%,y=%zz%4"),
            ("SELECT 1 /*x='%ff%c3%a4'*/", "x=\u{fffd}ä"),
            ("SELECT 1 /*agent=bot*/", ""),
            ("SELECT 1 /*dbapi_threadsafety=2,agent='bot'*/", "agent=bot,dbapi_threadsafety=2"),
            ("SELECT 1 /*a=2b,agent='bot'*/", ""),
            ("SELECT 1 /*a=,agent='bot'*/", ""),
            ("SELECT 1 /*agent='bot*/", ""),
            ("SELECT 1 /*agent='bot' and more*/", ""),
            ("SELECT 1 /*+ SeqScan(t) */", ""),
            ("SELECT 1 /* a note: x = 'y' */", ""),
            ("SELECT 1 /* a /* agent='bot' */ */", ""),
            ("/*agent='bot'*/", "agent=bot"),
            ("*/", ""),
            ("/*", ""),
            ("/*/", ""),
            ("SELECT 1 /*db_password='x',API_TOKEN='y'*/", "API_TOKEN=***,db_password=***"),
        ] {
            check(text, "", expected);
        }
    }

    #[test]
    fn applications_that_say_more_than_a_name() {
        for (application, expected) in [
            ("psql", ""),
            ("agent=bot", "agent=bot"),
            ("agent=bot,run_id=7", "agent=bot,run_id=7"),
            ("agent='bot';model=m run_id=7", "agent=bot,model=m,run_id=7"),
            ("my app (x=1)", ""),
            ("=", ""),
        ] {
            check("SELECT 1", application, expected);
        }
        check("SELECT 1 /*agent='text'*/", "agent=name,model=m", "agent=text,model=m");
    }

    #[test]
    fn parents_of_traces() {
        let zeros = "0".repeat(32);
        for (value, valid) in [
            (PARENT.to_owned(), true),
            (PARENT.replace("00-0a", "cc-0a"), true),
            (format!("{}-more", PARENT.replace("00-0a", "cc-0a")), true),
            (format!("{PARENT}-more"), false),
            (PARENT.replace("00-0a", "ff-0a"), false),
            (PARENT.to_uppercase(), false),
            (PARENT.replace("0af7651916cd43dd8448eb211c80319c", &zeros), false),
            (PARENT.replace("b7ad6b7169203331", &zeros[..16]), false),
            (PARENT.replace("b7ad", "b7a"), false),
            (String::new(), false),
        ] {
            let claims = read(Some(&format!("SELECT 1 /*traceparent='{value}'*/")), None).unwrap();
            assert_eq!((claims.trace.is_some(), claims.tags.is_empty()), (valid, valid), "{value}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let many: Vec<String> = (0..60).map(|n| format!("n{n:03}='{}'", "ä".repeat(40))).collect();
        let many = read(Some(&format!("SELECT 1 /*{}*/", many.join(","))), None).unwrap();
        assert_eq!(many.tags.len(), super::TAGS);
        let long = read(Some(&format!("/*x='a{}'*/", "ä".repeat(2_000))), None).unwrap();
        assert!(long.tags[0].value.len() <= super::VALUE_BYTES + 3);
        assert_eq!(read(Some(&format!("/*x='{}'*/", "a".repeat(9_000))), None), None);
    }

    /// Any cut and any change of a byte gives claims or none, and they keep the ledger's order.
    #[test]
    fn nothing_fails() {
        let text = format!(
            "/*ä='%c3%',b='\\'%41'*/ SELECT 1 /*agent='bot',traceparent='{PARENT}',b='\\\\'*/;"
        );
        let mut state = 7_u32;
        for round in 0..20_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..round % 4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = state as usize >> 8;
                let at = at % bytes.len();
                bytes[at] = b"'\\%/*=,-;aZ0 \n"[state as usize % 14];
            }
            bytes.truncate(text.len() - round % text.len());
            let text = String::from_utf8_lossy(&bytes);
            let claims = read(Some(&text), Some(&text)).unwrap_or_default();
            assert!(claims.tags.windows(2).all(|pair| pair[0].name < pair[1].name), "{text}");
        }
    }
}
