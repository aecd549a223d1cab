//! One request and its answer: POST, then JSON or a stream that may break and be resumed.
//!
//! Whatever else comes with the answer, such as progress or a question of the server, goes
//! to the client at once.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use shardgate_proto::jsonrpc::{self, Envelope, Kind, Message, ScanLimits};

use super::Bridge;
use super::backoff::Backoff;
use super::events::{EventStream, LAST_EVENT_ID, Position, StreamEnd};
use super::failure::Failure;
use super::message::{Request, RequestId};
use super::session::{SESSION_ID, Session};
use super::stdio::ClientGone;

/// Failed tries in a row to resume a stream before its request is given up.
const RESUME_TRIES_MAX: u32 = 8;
/// How long a stream may go on behind its answer before its connection is given up.
const TRAILER_TIME_MAX: Duration = Duration::from_secs(1);
/// How much of a text that is no message is shown.
const EXCERPT_CHARS_MAX: usize = 120;

/// An answer, and the session it opened.
#[derive(Debug)]
pub(super) struct Answered {
    /// The JSON-RPC response.
    pub(super) message: Bytes,
    /// `Mcp-Session-Id`.
    pub(super) session_id: Option<HeaderValue>,
}

impl Bridge {
    /// POSTs a request and waits for its answer. A legacy stream that ends early is
    /// resumed; `session` is the one the request belongs to.
    pub(super) async fn exchange(
        &self,
        request: &Request,
        headers: HeaderMap,
        session: Option<&Session>,
    ) -> Result<Answered, Failure> {
        let response = self.gateway.post(headers, request.text.clone()).await?;
        if !response.status().is_success() {
            return Err(self.gateway.read_refusal(response).await);
        }
        let session_id = response.headers().get(SESSION_ID).cloned();
        let message = match content(&response) {
            Content::Json => {
                let body = self.gateway.read_message(response.into_body()).await?;
                let answer = self.pick(&body, &request.id).await?;
                answer.ok_or_else(|| Failure::NoAnswer { url: self.gateway.url() })?
            }
            Content::Events => {
                // The session that initialize opens is known before its answer is there.
                let opened = session_id.clone().map(Session::unsettled);
                let session = session.or(opened.as_ref()).filter(|_| request.modern.is_none());
                self.follow(request, response.into_body(), session).await?
            }
            Content::Other(what) => {
                return Err(Failure::Foreign { url: self.gateway.url(), what });
            }
        };
        Ok(Answered { message, session_id })
    }

    /// Reads a request's stream until the answer is there.
    async fn follow(
        &self,
        request: &Request,
        body: Incoming,
        session: Option<&Session>,
    ) -> Result<Bytes, Failure> {
        let mut position = Position::default();
        let mut body = body;
        loop {
            let mut events = EventStream::new(body, &mut position);
            let end = loop {
                match events.next().await {
                    Ok(data) => {
                        if let Some(answer) = self.pick(&data.into(), &request.id).await? {
                            finish_in_background(events.into_body());
                            return Ok(answer);
                        }
                    }
                    Err(end) => break end,
                }
            };
            let session = session.filter(|_| !self.is_cancelled(&request.id));
            body = self.resume(&position, session, end).await?;
        }
    }

    /// Goes on with a stream behind its last event.
    ///
    /// MCP 2025-11-25, transports: a GET with `Last-Event-ID` resumes any stream, also one
    /// that a POST has opened. A server may close a stream on purpose and let the client
    /// come back after `retry:`, so a resumed stream that brings nothing is no failure.
    async fn resume(
        &self,
        position: &Position,
        session: Option<&Session>,
        end: StreamEnd,
    ) -> Result<Incoming, Failure> {
        let url = self.gateway.url();
        let (Some(session), Some(last)) = (session, &position.last_event_id) else {
            return Err(match end {
                StreamEnd::Closed => Failure::NoAnswer { url },
                StreamEnd::Broken(cause) => Failure::Broken { url, cause },
                StreamEnd::TooLarge => Failure::TooLarge { url },
            });
        };
        if matches!(end, StreamEnd::TooLarge) {
            return Err(Failure::TooLarge { url });
        }
        tracing::debug!("a request's stream ended early ({end}); resuming it");
        let mut backoff = Backoff::default();
        loop {
            tokio::time::sleep(backoff.next(position.retry)).await;
            let mut headers = session.headers();
            headers.insert(LAST_EVENT_ID, last.clone());
            let failure = match self.gateway.stream(headers).await {
                Ok(response) if response.status().is_success() => {
                    if let Content::Events = content(&response) {
                        return Ok(response.into_body());
                    }
                    return Err(Failure::NoAnswer { url });
                }
                Ok(response) => {
                    let passes = is_passing(&response);
                    let refusal = self.gateway.read_refusal(response).await;
                    if refusal.is_session_lost() {
                        return Err(Failure::SessionLost { url });
                    }
                    if !passes {
                        return Err(refusal);
                    }
                    refusal
                }
                Err(failure) => failure,
            };
            if backoff.failures() >= RESUME_TRIES_MAX {
                return Err(Failure::Broken { url, cause: failure.to_string() });
            }
        }
    }

    /// Takes the answer to `id` out of a text, and sends all else to the client.
    pub(super) async fn pick(
        &self,
        text: &Bytes,
        id: &RequestId,
    ) -> Result<Option<Bytes>, Failure> {
        let scanned = jsonrpc::scan(text, &ScanLimits::default());
        let foreign = |fault: &dyn std::fmt::Display| Failure::Foreign {
            url: self.gateway.url(),
            what: format!("{fault}: {}", excerpt(text)),
        };
        let mut answer = None;
        match scanned.map_err(|fault| foreign(&fault))? {
            Message::Single(envelope) => self.sort(text, &envelope, id, &mut answer).await?,
            // MCP 2025-03-26 lets a server answer with a batch.
            Message::Batch(batch) => {
                for message in batch.messages() {
                    let envelope = message.map_err(|fault| foreign(&fault))?;
                    self.sort(text, &envelope, id, &mut answer).await?;
                }
            }
        }
        Ok(answer)
    }

    async fn sort(
        &self,
        text: &Bytes,
        envelope: &Envelope<'_>,
        id: &RequestId,
        answer: &mut Option<Bytes>,
    ) -> Result<(), ClientGone> {
        match envelope.kind() {
            Kind::Result(found) | Kind::Error { id: Some(found), .. }
                if RequestId::new(found).key() == id.key() =>
            {
                *answer = Some(text.slice_ref(envelope.text()));
                Ok(())
            }
            // A server that could not read the id: the only request it can mean is this one.
            Kind::Error { id: None, .. } => {
                let mut named = Vec::new();
                let error = envelope.error().unwrap_or_default();
                jsonrpc::write_error_response(&mut named, Some(id.raw()), error);
                *answer = Some(named.into());
                Ok(())
            }
            Kind::Result(_) | Kind::Error { .. } | Kind::Request(_) | Kind::Notification => {
                self.output.send(envelope.text()).await
            }
        }
    }
}

/// What a body holds.
pub(super) enum Content {
    Json,
    Events,
    /// Neither; in words.
    Other(String),
}

pub(super) fn content(response: &Response<Incoming>) -> Content {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        kind if kind.eq_ignore_ascii_case("application/json") => Content::Json,
        kind if kind.eq_ignore_ascii_case("text/event-stream") => Content::Events,
        "" => Content::Other(format!("status {} without content", response.status())),
        kind => Content::Other(format!("content type {kind}")),
    }
}

/// True if the same may succeed a little later.
pub(super) fn is_passing(response: &Response<Incoming>) -> bool {
    let status = response.status();
    status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 425 | 429)
}

/// Reads what follows an answer, so that its connection can serve the next request.
fn finish_in_background(mut body: Incoming) {
    tokio::task::spawn_local(async move {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        // Dropping the body closes the connection, which is what is left to do.
        let _ = tokio::time::timeout(TRAILER_TIME_MAX, rest).await;
    });
}

fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * EXCERPT_CHARS_MAX)]);
    format!("{:?}", text.chars().take(EXCERPT_CHARS_MAX).collect::<String>())
}

impl From<ClientGone> for Failure {
    fn from(_: ClientGone) -> Failure {
        Failure::Ending
    }
}
