//! One attempt: a message to its receiver, and what that one makes of it.

use tokio::time::timeout;

use super::{json, message::Message, private, signature::Keys, slack};
use crate::{
    config::{Webhook, WebhookFormat, WebhookTarget},
    delivery::{Answer, Client, Failure, Headers, StatusCode, Tls, read_pem, user_agent},
    event::WallTime,
};

/// Where to, for everybody's eyes.
pub fn shown(target: &WebhookTarget) -> String {
    match target {
        WebhookTarget::Url(url) => url.clone(),
        WebhookTarget::UrlFile(file) => format!("the URL in {}", file.display()),
    }
}

/// Posts to one webhook.
pub struct Receiver<'a> {
    webhook: &'a Webhook,
    /// Made anew after each failure: by then a certificate may be another file, a name another address.
    client: Option<Client>,
}

impl<'a> Receiver<'a> {
    pub fn new(webhook: &'a Webhook) -> Self {
        Self { webhook, client: None }
    }

    /// Once; gives what it answered who has taken it. `now` is the time of this attempt.
    pub async fn post(&mut self, message: &Message, now: WallTime) -> Result<Answer, Failure> {
        let patience = self.webhook.timeout.0;
        let outcome = match timeout(patience, self.attempt(message, now)).await {
            Ok(outcome) => outcome.and_then(taken),
            Err(_) => Err(Failure::passing(format!("no answer within {patience:?}"))),
        };
        if outcome.is_err() {
            self.client = None;
        }
        outcome
    }

    async fn attempt(&mut self, message: &Message, now: WallTime) -> Result<Answer, Failure> {
        let url = url(&self.webhook.target)?;
        let body = match self.webhook.format {
            WebhookFormat::Json => json::body(message),
            WebhookFormat::Slack => slack::body(message),
        };
        let mut lines = vec![("content-type".to_owned(), "application/json".to_owned())];
        if let Some(file) = &self.webhook.secret_file {
            let keys = Keys::parse(&private::read(file)?).map_err(|error| {
                Failure::passing(format!("can't use {}: {error}", file.display()))
            })?;
            let seconds = now.0.div_euclid(1_000_000);
            lines.push(("webhook-id".to_owned(), message.id.to_string()));
            lines.push(("webhook-timestamp".to_owned(), seconds.to_string()));
            let signature = keys.sign(&message.id, seconds, &body);
            lines.push(("webhook-signature".to_owned(), signature));
        }
        let headers = Headers::new(lines.iter().map(|(name, value)| (&**name, &**value)));
        let client = match self.client.take() {
            Some(client) => client,
            None => self.connect()?,
        };
        let answer = client.post(&url, headers, body).await;
        self.client = Some(client);
        answer
    }

    fn connect(&self) -> Result<Client, Failure> {
        let authority = self.webhook.certificate.as_deref().map(read_pem).transpose()?;
        Client::new(&Tls { authority, client: None }, &user_agent("webhook"), Headers::new([]))
    }
}

fn url(target: &WebhookTarget) -> Result<String, Failure> {
    let file = match target {
        WebhookTarget::Url(url) => return Ok(url.clone()),
        WebhookTarget::UrlFile(file) => file,
    };
    let text = private::read(file)?.trim().to_owned();
    match url::Url::parse(&text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => Ok(text),
        // What stands there is a secret, even if it is no URL.
        _ => Err(Failure::passing(format!("{} holds no https://HOST/PATH", file.display()))),
    }
}

/// What is wrong with the receiver may be mended; what is wrong with the message stays so.
fn taken(answer: Answer) -> Result<Answer, Failure> {
    let failure = match answer.status {
        status if status.is_success() => return Ok(answer),
        status if status.is_redirection() => {
            let why = format!("HTTP {status}: redirects aren't followed, name the new place");
            Failure::passing(why)
        }
        StatusCode::BAD_REQUEST
        | StatusCode::GONE
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Failure::final_(answer.words()),
        _ => Failure::passing(answer.words()),
    };
    Err(Failure { again_after: answer.again_after, ..failure })
}
