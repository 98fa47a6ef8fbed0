//! Addresses of mail, keys and tokens.

use super::is_end;

/// Before the `@`, and of a whole address.
const LOCAL_BYTES: usize = 64;
const ADDRESS_BYTES: usize = 254;

pub(super) fn email(text: &[u8]) -> Option<usize> {
    text.first().filter(|first| first.is_ascii_alphanumeric())?;
    let is_local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-'".contains(byte);
    let local = text.iter().take(LOCAL_BYTES + 1).take_while(|byte| is_local(byte)).count();
    let domain = text.get(local..)?.strip_prefix(b"@")?;
    let is_domain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let len = domain.iter().take(ADDRESS_BYTES).take_while(|byte| is_domain(byte)).count();
    let domain = domain.get(..len)?;
    // A sentence may end behind it.
    let ending = domain.iter().rev().take_while(|byte| b".-".contains(byte)).count();
    let domain = domain.get(..len - ending)?;
    let mut labels = domain.split(|byte| *byte == b'.').rev();
    let is_top = labels.next()?.iter().filter(|byte| byte.is_ascii_alphabetic()).count() >= 2;
    let mut n_labels = 0;
    for label in labels {
        if label.is_empty() || label.starts_with(b"-") || label.ends_with(b"-") {
            return None;
        }
        n_labels += 1;
    }
    (is_top && n_labels > 0).then_some(local + 1 + domain.len())
}

/// How tokens begin, and how many characters follow at least.
const TOKENS: [(&[u8], usize); 22] = [
    // AWS
    (b"AKIA", 16),
    (b"ASIA", 16),
    // GitHub, GitLab
    (b"ghp_", 36),
    (b"gho_", 36),
    (b"ghu_", 36),
    (b"ghs_", 36),
    (b"ghr_", 36),
    (b"github_pat_", 40),
    (b"glpat-", 20),
    // Slack
    (b"xoxb-", 20),
    (b"xoxp-", 20),
    (b"xoxa-", 20),
    (b"xapp-", 20),
    // Stripe
    (b"sk_live_", 16),
    (b"rk_live_", 16),
    // Google, npm, PyPI, Hugging Face, DigitalOcean, SendGrid, OpenAI and its like
    (b"AIza", 35),
    (b"npm_", 36),
    (b"pypi-", 40),
    (b"hf_", 30),
    (b"dop_v1_", 60),
    (b"SG.", 40),
    (b"sk-", 20),
];
const TOKEN_BYTES: usize = 512;

pub(super) fn secret(text: &[u8]) -> Option<usize> {
    let token = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    for (begins, least) in TOKENS {
        if let Some(rest) = text.strip_prefix(begins) {
            let len = rest.iter().take(TOKEN_BYTES).take_while(token).count();
            let end = begins.len() + len;
            return (len >= least && is_end(text, end)).then_some(end);
        }
    }
    private_key(text).or_else(|| web_token(text))
}

/// PEM, to its end or the text's.
fn private_key(text: &[u8]) -> Option<usize> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const KIND: &[u8] = b"PRIVATE KEY-----";
    const END: &[u8] = b"-----END ";
    let rest = text.strip_prefix(BEGIN)?;
    let line = rest.get(..rest.len().min(KIND_BYTES))?;
    line.windows(KIND.len()).position(|window| window == KIND)?;
    let end = text.windows(END.len()).position(|window| window == END)?;
    let after = text.get(end..)?;
    let kind = after.windows(KIND.len()).position(|window| window == KIND)?;
    Some(end + kind + KIND.len())
}

/// `BEGIN RSA PRIVATE KEY` and its like.
const KIND_BYTES: usize = 40;

/// Three parts of base64, of which the first two begin as JSON does.
fn web_token(text: &[u8]) -> Option<usize> {
    const JSON: &[u8] = b"eyJ";
    const MOST: usize = 8 << 10;
    text.strip_prefix(JSON)?;
    let is_base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    let part = |text: &[u8]| text.iter().take(MOST).take_while(is_base64).count();
    let header = part(text);
    let payload = text.get(header..)?.strip_prefix(b".").filter(|it| it.starts_with(JSON))?;
    let payload_len = part(payload);
    let signature = payload.get(payload_len..)?.strip_prefix(b".")?;
    let len = part(signature);
    let least = 10;
    (header > least && payload_len > JSON.len() && len >= least)
        .then_some(header + 1 + payload_len + 1 + len)
}
