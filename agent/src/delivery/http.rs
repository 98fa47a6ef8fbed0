//! Requests over HTTP: posted once, to where they were meant to go, with a bounded answer.

use std::time::Duration;

pub use reqwest::StatusCode;
use reqwest::{
    Certificate, Identity, Response,
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};
use time::{UtcDateTime, macros::format_description};

use super::{Failure, shortened};
use crate::event::in_full;

/// Of an answer; there is little to say.
const ANSWER_BYTES: usize = 64 << 10;
/// A receiver may ask for more patience than that, and doesn't get it.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How both ends are known to each other, in PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Who signs the receiver's certificate; by default those whom the system trusts.
    pub authority: Option<Vec<u8>>,
    /// A certificate and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Header lines, shown in no log.
pub struct Headers(HeaderMap);

impl Headers {
    /// Those that can't be header lines are left out.
    pub fn new<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let (Ok(name), Ok(mut value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        Self(headers)
    }
}

/// What a receiver says, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// How long it asks to be left alone.
    pub again_after: Option<Duration>,
    pub body: Vec<u8>,
}

impl Answer {
    /// For people: the status and the first words.
    pub fn words(&self) -> String {
        shortened(&format!("HTTP {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

/// Keeps its connections.
pub struct Client(reqwest::Client);

impl Client {
    /// `headers` go with every request.
    pub fn new(tls: &Tls, user_agent: &str, headers: Headers) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .use_rustls_tls()
            .user_agent(user_agent)
            // Whoever is redirected may be led astray, headers and all.
            .redirect(redirect::Policy::none())
            .default_headers(headers.0);
        let failed = |error: reqwest::Error| Failure::passing(in_full(&error));
        if let Some(authority) = &tls.authority {
            builder = builder.tls_built_in_root_certs(false);
            for certificate in Certificate::from_pem_bundle(authority).map_err(failed)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let Some((certificate, key)) = &tls.client {
            let both = [certificate.as_slice(), b"\n", key.as_slice()].concat();
            builder = builder.identity(Identity::from_pem(&both).map_err(failed)?);
        }
        Ok(Self(builder.build().map_err(failed)?))
    }

    /// # Errors
    /// There is no answer.
    pub async fn post(
        &self,
        url: &str,
        headers: Headers,
        body: Vec<u8>,
    ) -> Result<Answer, Failure> {
        // The URL is said elsewhere, or is a secret.
        let failed = |error: reqwest::Error| Failure::passing(in_full(&error.without_url()));
        let request = self.0.post(url).headers(headers.0).body(body);
        let answer = request.send().await.map_err(failed)?;
        let again_after = pause(answer.headers(), UtcDateTime::now());
        let status = answer.status();
        Ok(Answer { status, again_after, body: bounded(answer).await.map_err(failed)? })
    }
}

async fn bounded(mut answer: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        let room = ANSWER_BYTES - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if body.len() >= ANSWER_BYTES {
            break;
        }
    }
    Ok(body)
}

/// `Retry-After`: seconds, or a date.
fn pause(headers: &HeaderMap, now: UtcDateTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let format = format_description!(
                "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
            );
            let date = UtcDateTime::parse(text, format).ok()?;
            // In the past: at once.
            Duration::try_from(date - now).unwrap_or_default()
        }
    };
    Some(pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::UtcDateTime;

    use super::{Headers, LONGEST_PAUSE, pause};

    #[test]
    fn a_receiver_says_when_to_come_again_in_seconds_or_by_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = UtcDateTime::from_unix_timestamp(784_111_777).unwrap();
        for (text, expected) in [
            ("30", Some(Duration::from_secs(30))),
            ("0", Some(Duration::ZERO)),
            ("86400", Some(LONGEST_PAUSE)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(Duration::from_secs(60))),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = Headers::new([("retry-after", text)]);
            assert_eq!(pause(&headers.0, now), expected, "{text}");
        }
        assert_eq!(pause(&Headers::new([]).0, now), None);
    }
}
