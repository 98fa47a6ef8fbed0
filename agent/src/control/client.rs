//! The other end of the control socket: what `watch`, `status` and `search` speak.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{ApprovalChange, Filter, LabelChange, QuarantineChange, Status};
use crate::{approval, enforce::Detainee, inheritance::Inherited};

/// Of an answer that is no stream.
const ANSWER_BYTES: usize = 16 << 20;
/// Of one line of a stream.
const LINE_BYTES: usize = 16 << 20;

/// Asks the service behind one control socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("can't reach the service at {}: {}", socket.display(), hint(source))]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the service at {} refuses: {words}", socket.display())]
    Refused { socket: PathBuf, words: String },
    #[error("the service at {} can't answer: {words}", socket.display())]
    Failed { socket: PathBuf, words: String },
    #[error("the service at {} has ended the stream: it stops, or nothing was read for a minute", socket.display())]
    Ended { socket: PathBuf },
    #[error("the conversation with the service at {} broke off", socket.display())]
    Broken {
        socket: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ClientError {
    /// No service listens on the socket, as opposed to one that can't be asked or won't answer.
    pub fn nobody_is_there(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }
}

fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket; is the service running (systemctl \
                                    status dbwarden)? does it use another `socket` in [control] \
                                    (--control PATH)?"
            .into(),
        io::ErrorKind::ConnectionRefused => {
            "nobody listens there; the service has ended (systemctl status dbwarden)".into()
        }
        io::ErrorKind::PermissionDenied => "you may not open it; ask as root, or as a member of \
                                            the `group` in [control] of its configuration"
            .into(),
        _ => error.to_string(),
    }
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn status(&self) -> Result<Status, ClientError> {
        let body = self.ask(Method::GET, "/v1/status", Bytes::new()).await?;
        let bytes = self.whole(body).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// Who that is, as the service writes it: `{"found": […], "more": 0}`.
    pub async fn whois(&self, who: &str) -> Result<serde_json::Value, ClientError> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let path = format!("/v1/whois?{}", query.append_pair("who", who).finish());
        let body = self.ask(Method::GET, &path, Bytes::new()).await?;
        let bytes = self.whole(body).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// The lines of the watch stream that `filter` lets through.
    pub async fn watch(&self, filter: &Filter) -> Result<Lines, ClientError> {
        let path = format!("/v1/watch?{}", filter.to_query());
        Ok(self.lines(self.ask(Method::GET, &path, Bytes::new()).await?))
    }

    /// Who is in quarantine.
    pub async fn quarantine(&self) -> Result<Vec<Detainee>, ClientError> {
        let body = self.ask(Method::GET, "/v1/quarantine", Bytes::new()).await?;
        let bytes = self.whole(body).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// The one who has been put into quarantine or let out.
    pub async fn change_quarantine(
        &self,
        change: &QuarantineChange,
    ) -> Result<Detainee, ClientError> {
        let request = serde_json::to_vec(change).map_err(|source| self.broken(source))?;
        let body = self.ask(Method::POST, "/v1/quarantine", request.into()).await?;
        let bytes = self.whole(body).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// Columns that have inherited labels.
    pub async fn labels(&self) -> Result<Vec<Inherited>, ClientError> {
        let bytes = self.whole(self.ask(Method::GET, "/v1/labels", Bytes::new()).await?).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// The column that has no inherited label any more.
    pub async fn change_label(&self, change: &LabelChange) -> Result<Inherited, ClientError> {
        let request = serde_json::to_vec(change).map_err(|source| self.broken(source))?;
        let body = self.ask(Method::POST, "/v1/labels", request.into()).await?;
        let bytes = self.whole(body).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// Requests for approvals: those that are open, or all that are known.
    pub async fn approvals(&self, all: bool) -> Result<Vec<approval::Shown>, ClientError> {
        let path = if all { "/v1/approvals?all=true" } else { "/v1/approvals" };
        let bytes = self.whole(self.ask(Method::GET, path, Bytes::new()).await?).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    pub async fn approval(&self, id: &str) -> Result<approval::Shown, ClientError> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let path = format!("/v1/approvals?{}", query.append_pair("id", id).finish());
        let bytes = self.whole(self.ask(Method::GET, &path, Bytes::new()).await?).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// The request as it is after somebody has decided.
    pub async fn decide(&self, change: &ApprovalChange) -> Result<approval::Shown, ClientError> {
        let request = serde_json::to_vec(change).map_err(|source| self.broken(source))?;
        let body = self.ask(Method::POST, "/v1/approvals", request.into()).await?;
        let bytes = self.whole(body).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.broken(source))
    }

    /// Each step of approvals from now on.
    pub async fn follow_approvals(&self) -> Result<Lines, ClientError> {
        let path = "/v1/approvals?follow=true";
        Ok(self.lines(self.ask(Method::GET, path, Bytes::new()).await?))
    }

    /// The lines of the ledger's answer to a query, given as JSON.
    pub async fn query(&self, query: Vec<u8>) -> Result<Lines, ClientError> {
        Ok(self.lines(self.ask(Method::POST, "/v1/query", query.into()).await?))
    }

    fn lines(&self, body: Incoming) -> Lines {
        Lines { body, buffer: Vec::new(), read: 0, socket: self.socket.clone() }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content: Bytes,
    ) -> Result<Incoming, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        // Its error comes out of the body as well.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "dbwarden")
            .body(Full::new(content))
            .map_err(|source| self.broken(source))?;
        let response = sender.send_request(request).await.map_err(|source| self.broken(source))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response.into_body());
        }
        let bytes = self.whole(response.into_body()).await?;
        let words = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|value| value.get("error")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| status.to_string());
        let socket = self.socket.clone();
        Err(match status {
            StatusCode::FORBIDDEN => ClientError::Refused { socket, words },
            _ => ClientError::Failed { socket, words },
        })
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(body, ANSWER_BYTES);
        let collected = body
            .collect()
            .await
            .map_err(|source| ClientError::Broken { socket: self.socket.clone(), source })?;
        Ok(collected.to_bytes())
    }

    fn broken(&self, source: impl std::error::Error + Send + Sync + 'static) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source: Box::new(source) }
    }
}

/// A stream of lines.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// Of `buffer`, what was handed out already.
    read: usize,
    socket: PathBuf,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Lines {
    /// The next line without its end, or `None` when the service is done.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, ClientError> {
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Broken {
            socket: self.socket.clone(),
            source,
        };
        self.buffer.drain(..self.read);
        self.read = 0;
        let mut searched = 0;
        loop {
            let unsearched = self.buffer.get(searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|&byte| byte == b'\n') {
                let end = searched + end;
                self.read = end + 1;
                return Ok(self.buffer.get(..end));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES {
                return Err(broken("a line without end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(broken(error.into())),
                None => return Ok(None),
            }
        }
    }
}
