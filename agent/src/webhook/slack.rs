//! A message for Slack's incoming webhooks and their like: whatever strangers wrote in it stays plain text.

use serde_json::{Value, json};

use super::{
    json::{TEST, command},
    message::{Content, Message},
};
use crate::event::{Approval, Episode, EpisodeAction, Origin};

/// Slack refuses longer ones: 150 in a header, 2000 in a field, 3000 in a section.
const HEADER_CHARS: usize = 140;
const FIELD_CHARS: usize = 200;
const TEXT_CHARS: usize = 1_000;

pub fn body(message: &Message) -> Vec<u8> {
    let value = match &message.content {
        Content::Finding(episode) => finding(episode, &message.episode),
        Content::Approval(approval) => self::approval(approval),
        Content::Test { host, .. } => {
            let text = format!("dbwarden on {}: {TEST}", plain(host, FIELD_CHARS));
            json!({ "text": text, "mrkdwn": false, "blocks": [section(&text)] })
        }
    };
    value.to_string().into_bytes()
}

fn finding(episode: &Episode, id: &str) -> Value {
    let Episode { action, finding, origin, facts, destination, counts, .. } = episode;
    let mode = if finding.dry_run { " (dry-run)" } else { "" };
    let head =
        format!("{} finding {}{mode}: {}", finding.severity.name(), action.name(), finding.rule);
    let (mut text, mut blocks) = opening(&head, &finding.message, origin);
    if let Some(facts) = facts {
        let statement = plain(&facts.text, TEXT_CHARS);
        text = format!("{text}: {statement}");
        blocks.push(section(&format!("first statement: {statement}")));
    }
    if let Some(destination) = destination {
        let program = destination.program.iter().map(|exe| format!(" by {exe}"));
        let to = plain(&format!("{destination}{}", program.collect::<String>()), TEXT_CHARS);
        text = format!("{text}: to {to}");
        blocks.push(section(&format!("to: {to}")));
    }
    if *action == EpisodeAction::Ended {
        let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let counts = plain(&counts.join(", "), FIELD_CHARS);
        text = format!("{text}: {counts}");
        blocks.push(section(&format!("in all: {counts}")));
    }
    let context = [element(&format!("episode {id}"))];
    blocks.push(json!({ "type": "context", "elements": context }));
    json!({ "text": text, "mrkdwn": false, "blocks": blocks })
}

fn approval(row: &Approval) -> Value {
    let Approval { action, id, origin, rule, facts, message, .. } = row;
    let head = format!("approval {}: {rule}", action.name());
    let (mut text, mut blocks) = opening(&head, message, origin);
    if let Some(facts) = facts {
        let statement = plain(&facts.text, TEXT_CHARS);
        text = format!("{text}: {statement}");
        blocks.push(section(&format!("statement: {statement}")));
    }
    if let Some(command) = command(row) {
        let host = plain(&origin.host, FIELD_CHARS);
        let how = format!("on {host}: {command}");
        text = format!("{text}. {how}");
        blocks.push(section(&how));
    }
    let context = [element(&format!("approval {id}"))];
    blocks.push(json!({ "type": "context", "elements": context }));
    json!({ "text": text, "mrkdwn": false, "blocks": blocks })
}

/// What every message begins with, as a text and as blocks.
fn opening(head: &str, why: &str, origin: &Origin) -> (String, Vec<Value>) {
    let (head, why) = (plain(head, HEADER_CHARS), plain(why, TEXT_CHARS));
    let (who, place) = (plain(&who(origin), FIELD_CHARS), plain(&place(origin), FIELD_CHARS));
    let blocks = vec![
        json!({ "type": "header", "text": element(&head) }),
        section(&why),
        json!({
            "type": "section",
            "fields": [element(&format!("who: {who}")), element(&format!("where: {place}"))],
        }),
    ];
    (format!("{head}: {why} ({who}, {place})"), blocks)
}

fn section(text: &str) -> Value {
    json!({ "type": "section", "text": element(text) })
}

/// Never `mrkdwn`.
fn element(text: &str) -> Value {
    json!({ "type": "plain_text", "text": text, "emoji": false })
}

fn who(origin: &Origin) -> String {
    let Origin { principal, principal_kind, initiator, db_user, os_user, client_address, .. } =
        origin;
    let who = [principal, os_user, client_address].into_iter().flatten().next();
    let mut text = who.map_or_else(|| "unknown".to_owned(), ToString::to_string);
    if let Some(kind) = principal_kind {
        text = format!("{text} ({})", kind.name());
    }
    if let Some(initiator) = initiator {
        text = format!("{text}, launched by {initiator}");
    }
    match db_user {
        Some(user) => format!("{text}, as {user}"),
        None => text,
    }
}

fn place(origin: &Origin) -> String {
    let Origin { host, environment, server, database, .. } = origin;
    let parts = [database, server].into_iter().flatten().map(|part| &**part);
    let parts: Vec<&str> = parts.chain([&**host]).chain(environment.as_deref()).collect();
    parts.join(", ")
}

/// Without anything that Slack, or what reads Markdown, makes more of than letters: no mention of people
/// or channels, no link, no form. Letters that mean something are replaced by others that look alike.
fn plain(text: &str, max_chars: usize) -> String {
    let mut out = String::new();
    let mut before = ' ';
    let mut letters = text.chars().peekable();
    for _ in 0..max_chars {
        let Some(letter) = letters.next() else { return out };
        let is_inside = before.is_alphanumeric()
            && letters.peek().is_some_and(|next| next.is_alphanumeric() || *next == '_');
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '*' => out.push('∗'),
            '~' => out.push('∼'),
            '`' => out.push('ˋ'),
            '[' => out.push('［'),
            ']' => out.push('］'),
            '|' => out.push('∣'),
            '#' => out.push('＃'),
            // In names it is left alone, by whoever reads it too.
            '_' if !is_inside => out.push('＿'),
            // No mention, no address of a page or of a mailbox.
            '@' => out.push_str("@\u{200b}"),
            ':' => out.push_str(":\u{200b}"),
            c if c.is_control() || is_invisible(c) => out.push(' '),
            c => out.push(c),
        }
        before = letter;
    }
    if letters.next().is_some() {
        out.push('…');
    }
    out
}

/// What hides text, or turns its direction.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn strangers_can_not_shout_link_or_format() {
        for (text, expected) in [
            ("SELECT a FROM patient_visits", "SELECT a FROM patient_visits"),
            ("a < b && b > a", "a &lt; b &amp;&amp; b &gt; a"),
            ("<!here> <@U123>", "&lt;!here&gt; &lt;@\u{200b}U123&gt;"),
            ("@channel @here", "@\u{200b}channel @\u{200b}here"),
            ("<https://evil.example|click>", "&lt;https:\u{200b}//evil.example∣click&gt;"),
            ("[click](https://evil.example)", "［click］(https:\u{200b}//evil.example)"),
            ("*bold* _it_ ~no~ `code`", "∗bold∗ ＿it＿ ∼no∼ ˋcodeˋ"),
            ("a\nb\u{202e}c\u{200b}d", "a b c d"),
            ("&lt;!here&gt;", "&amp;lt;!here&amp;gt;"),
        ] {
            assert_eq!(plain(text, 100), expected, "{text}");
        }
        assert_eq!(plain("abcdef", 3), "abc…");
        assert_eq!(plain("abc", 3), "abc");
        assert_eq!(plain("&&&&", 2), "&amp;&amp;…");
    }
}
