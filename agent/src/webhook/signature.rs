//! Signatures as the Standard Webhooks specification has them: HMAC-SHA256 over id, time and body.

use base64::{
    Engine,
    alphabet::STANDARD as LETTERS,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Nobody guesses it then: the specification's own bound.
const KEY_BYTES: usize = 24;
/// While one takes the other's place.
const MAX_KEYS: usize = 4;
const PREFIX: &str = "whsec_";

/// Keys that messages are signed with; each alone makes a signature.
pub struct Keys(Vec<Vec<u8>>);

/// Why a text is no key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it holds no key")]
    Empty,
    #[error("what stands behind {PREFIX} is no base64")]
    Encoding,
    #[error("a key needs {KEY_BYTES} bytes, this one has {0}: whsec_$(openssl rand -base64 32)")]
    Short(usize),
    #[error("it holds more than {MAX_KEYS} keys")]
    Many,
}

impl Keys {
    /// One a line: `whsec_` and base64, or letters that are taken as they are.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        // With or without `=` at its end.
        let padding =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let base64 = GeneralPurpose::new(&LETTERS, padding);
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let key = match line.strip_prefix(PREFIX) {
                Some(encoded) => base64.decode(encoded).map_err(|_| KeyError::Encoding)?,
                None => line.as_bytes().to_vec(),
            };
            if key.len() < KEY_BYTES {
                return Err(KeyError::Short(key.len()));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(KeyError::Empty),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(KeyError::Many),
        }
    }

    /// The value of `webhook-signature`; `timestamp` in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self.0.iter().filter_map(|key| {
            // Keys may have any length.
            let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyError, Keys};

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_signature_is_what_other_implementations_make_it() {
        // The vector of the specification's reference libraries.
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let sign = |keys: &str| {
            let body = br#"{"test": 2432232314}"#;
            Keys::parse(keys).unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
        };
        assert_eq!(sign(KEY), expected);
        assert_eq!(sign(&format!("\n  {KEY}\n")), expected);
        let padded = "whsec_bGV0dGVycyBvZiBhIGtleSBvZiBhbiBvZGQgbGVuZ3Ro";
        let padded = format!("{padded}IQ==");
        assert_eq!(sign(&padded), sign(padded.trim_end_matches('=')));
        // The old key and the new one, while receivers change over.
        let both = sign(&format!("{KEY}\nletters-that-are-taken-as-they-are"));
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(first, expected);
        assert!(second.starts_with("v1,") && second != expected);
    }

    #[test]
    fn what_is_no_key_is_told_without_repeating_it() {
        for (text, expected) in [
            ("", KeyError::Empty),
            (" \n", KeyError::Empty),
            ("whsec_*hush*", KeyError::Encoding),
            ("whsec_aHVzaA==", KeyError::Short(4)),
            ("hush", KeyError::Short(4)),
            (&format!("{KEY}\n").repeat(5), KeyError::Many),
        ] {
            let error = Keys::parse(text).err().unwrap();
            assert!(!error.to_string().contains("hush"), "{error}");
            assert_eq!(error, expected, "{text}");
        }
    }
}
