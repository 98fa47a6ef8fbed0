//! Signed notes (<https://c2sp.org/signed-note>): text with Ed25519 signatures under it, and their keys.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// The only signature type that is used here.
const ED25519: u8 = 1;
/// What the specification asks of every reader; more is nothing that we write.
const MAX_SIGNATURES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("it isn't a signed note")]
    Malformed,
    #[error("it has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    #[error("a signature doesn't fit the text")]
    BadSignature,
    #[error("none of the known keys has signed it")]
    UnknownKeys,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it isn't an Ed25519 key in the form of signed notes")]
pub struct KeyError;

/// Who may sign, as `name+id+key` (a "vkey").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Four bytes that tell keys apart, big-endian; no proof of anything.
    pub fn id(&self) -> u32 {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
    }

    fn encoded(&self, key: &[u8; 32]) -> String {
        let typed = [&[ED25519], key.as_slice()].concat();
        format!("{}+{:08x}+{}", self.name, self.id(), STANDARD.encode(typed))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encoded(self.key.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, id, key) = decoded(text)?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| KeyError)?;
        let public = Self { name: name.to_owned(), key };
        if public.id() == id { Ok(public) } else { Err(KeyError) }
    }
}

/// Signs. Written out as Go's `sumdb/note` does: `PRIVATE+KEY+name+id+seed`.
#[derive(Clone)]
pub struct SecretKey {
    public: PublicKey,
    key: SigningKey,
}

const SECRET_PREFIX: &str = "PRIVATE+KEY+";

impl SecretKey {
    /// `seed` is 32 random bytes; `name` is made into one that a key may have.
    pub fn new(name: &str, seed: [u8; 32]) -> Self {
        let key = SigningKey::from_bytes(&seed);
        let allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
        let name = name.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
        Self { public: PublicKey { name, key: key.verifying_key() }, key }
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The secret itself, for its file.
    pub fn to_secret_text(&self) -> String {
        format!("{SECRET_PREFIX}{}", self.public.encoded(self.key.as_bytes()))
    }

    pub fn from_secret_text(text: &str) -> Result<Self, KeyError> {
        let (name, id, seed) = decoded(text.strip_prefix(SECRET_PREFIX).ok_or(KeyError)?)?;
        let secret = Self::new(name, seed);
        if secret.public.id() == id { Ok(secret) } else { Err(KeyError) }
    }

    /// `text` consists of lines, each with its newline, without control characters; the last one
    /// isn't empty.
    pub fn sign(&self, text: String) -> Note {
        let signature = Signature {
            name: self.public.name.clone(),
            id: self.public.id(),
            bytes: self.key.sign(text.as_bytes()).to_bytes().to_vec(),
        };
        Note { text, signatures: vec![signature] }
    }
}

/// Secrets don't get into logs by accident.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public)
    }
}

fn decoded(text: &str) -> Result<(&str, u32, [u8; 32]), KeyError> {
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(KeyError);
    };
    let typed = STANDARD.decode(key).map_err(|_| KeyError)?;
    let Some((&ED25519, key)) = typed.split_first() else { return Err(KeyError) };
    let key = key.try_into().map_err(|_| KeyError)?;
    let number = u32::from_str_radix(id, 16).map_err(|_| KeyError)?;
    if !is_name(name) || format!("{number:08x}") != id {
        return Err(KeyError);
    }
    Ok((name, number, key))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// A text and who claims to have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    name: String,
    id: u32,
    bytes: Vec<u8>,
}

impl Note {
    /// The text, last newline included, before anybody has checked it.
    pub fn unverified_text(&self) -> &str {
        &self.text
    }

    pub fn n_signatures(&self) -> usize {
        self.signatures.len()
    }

    /// The text, if one of `keys` has signed it and none of them seems to but hasn't. Signatures of
    /// others, as of witnesses, don't count.
    pub fn verified(&self, keys: &[&PublicKey]) -> Result<&str, NoteError> {
        let mut is_signed = false;
        for signature in &self.signatures {
            let is_of = |key: &&&PublicKey| key.name == signature.name && key.id() == signature.id;
            for key in keys.iter().filter(is_of) {
                let bytes = ed25519_dalek::Signature::from_slice(&signature.bytes)
                    .map_err(|_| NoteError::BadSignature)?;
                key.key
                    .verify_strict(self.text.as_bytes(), &bytes)
                    .map_err(|_| NoteError::BadSignature)?;
                is_signed = true;
            }
        }
        if is_signed { Ok(&self.text) } else { Err(NoteError::UnknownKeys) }
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        let is_control = |c: char| c < ' ' && c != '\n';
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Malformed)?;
        let lines = signatures.strip_suffix('\n').ok_or(NoteError::Malformed)?;
        if note.contains(is_control) {
            return Err(NoteError::Malformed);
        }
        if lines.split('\n').count() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        let signatures = lines.split('\n').map(Signature::from_str).collect::<Result<_, _>>()?;
        Ok(Self { text: format!("{text}\n"), signatures })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl FromStr for Signature {
    type Err = NoteError;

    fn from_str(line: &str) -> Result<Self, NoteError> {
        let parts = line.strip_prefix("— ").and_then(|rest| rest.split_once(' '));
        let (name, bytes) = parts.ok_or(NoteError::Malformed)?;
        let bytes = STANDARD.decode(bytes).map_err(|_| NoteError::Malformed)?;
        let (id, bytes) = bytes.split_first_chunk().ok_or(NoteError::Malformed)?;
        if !is_name(name) {
            return Err(NoteError::Malformed);
        }
        Ok(Self { name: name.to_owned(), id: u32::from_be_bytes(*id), bytes: bytes.to_vec() })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id.to_be_bytes(), self.bytes.as_slice()].concat();
        write!(f, "— {} {}", self.name, STANDARD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{Note, NoteError, PublicKey, SecretKey};

    /// The example of the specification.
    const SPEC_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const SPEC_NOTE: &str = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    /// The example of golang.org/x/mod/sumdb/note.
    const GO_SECRET: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const GO_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_NOTE: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn key(text: &str) -> PublicKey {
        text.parse().unwrap()
    }

    #[test]
    fn the_examples_of_others_verify_and_are_written_the_same() {
        for (vkey, text) in [(SPEC_KEY, SPEC_NOTE), (GO_KEY, GO_NOTE)] {
            let note: Note = text.parse().unwrap();
            let expected = format!("{}\n", text.split_once("\n\n").unwrap().0);
            assert_eq!(note.verified(&[&key(vkey)]), Ok(expected.as_str()));
            assert_eq!(note.to_string(), text);
            assert_eq!(key(vkey).to_string(), vkey);
        }
    }

    #[test]
    fn signing_gives_the_bytes_that_others_give() {
        let secret = SecretKey::from_secret_text(GO_SECRET).unwrap();
        assert_eq!(secret.public().to_string(), GO_KEY);
        assert_eq!(secret.to_secret_text(), GO_SECRET);
        let text = GO_NOTE.split_once("\n\n").unwrap().0;
        assert_eq!(secret.sign(format!("{text}\n")).to_string(), GO_NOTE);
        assert!(!format!("{secret:?}").contains("AYEK"), "a secret in a log");
    }

    #[test]
    fn any_changed_bit_of_a_note_is_refused() {
        for at in 0..SPEC_NOTE.len() {
            for bit in 0..8 {
                let mut bytes = SPEC_NOTE.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                let note = String::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
                let verdict = note.map(|note: Note| note.verified(&[&key(SPEC_KEY)]).is_ok());
                assert_ne!(verdict, Some(true), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn signatures_of_strangers_neither_help_nor_harm() {
        let stranger = GO_NOTE.split_once("\n\n").unwrap().1;
        let witnessed: Note = format!("{SPEC_NOTE}{stranger}").parse().unwrap();
        assert_eq!(witnessed.verified(&[&key(SPEC_KEY)]).unwrap(), "This is an example message.\n");
        for (keys, expected) in [
            (vec![], NoteError::UnknownKeys),
            // Known, and it hasn't signed this.
            (vec![key(GO_KEY)], NoteError::BadSignature),
            (vec![key(SPEC_KEY), key(GO_KEY)], NoteError::BadSignature),
        ] {
            let keys: Vec<&PublicKey> = keys.iter().collect();
            assert_eq!(witnessed.verified(&keys), Err(expected));
        }
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let line = SPEC_NOTE.split_once("\n\n").unwrap().1.trim_end();
        for text in [
            String::new(),
            "text\n".into(),
            format!("text\n{line}\n"),
            format!("text\n\n{line}"),
            format!("te\txt\n\n{line}\n"),
            format!("text\n\n{}\n", line.replace('—', "-")),
            format!("text\n\n{}\n", line.replace("example.com/foo", "a+b")),
            format!("text\n\n{}\n", line.replace("example.com/foo ", "")),
            "text\n\n— example.com/foo Uw2Q\n".into(),
        ] {
            assert_eq!(text.parse::<Note>(), Err(NoteError::Malformed), "{text}");
        }
        let many = format!("text\n\n{}", format!("{line}\n").repeat(17));
        assert_eq!(many.parse::<Note>(), Err(NoteError::TooManySignatures));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "example.com/foo+530d903a",
            "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            "example.com/bar+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            "example.com/foo+530d903a+BOkyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        ] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
        assert_eq!(SecretKey::new("dbwarden/a b+c", [1; 32]).public().name(), "dbwarden/a-b-c");
    }
}
