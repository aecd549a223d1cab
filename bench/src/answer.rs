//! What came back: an answer told from an error with as little reading as will do.
//!
//! Most servers write `{"jsonrpc":"2.0","id":…,"result":…}` in this order, and then the
//! first bytes say all, and the rest is trusted; any other order is scanned in full. A body
//! that comes in one piece is looked at where it lies.

use shardgate_proto::http1::client::ResponseHead;
use shardgate_proto::jsonrpc::{Kind, Message, ScanLimits, member, scan};
use shardgate_proto::sse::{EventDecoder, Received};

use crate::requests::RequestId;

/// The largest answer that is kept until it is whole.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 * 1_024 * 1_024;
/// How much of an error is shown.
const EXCERPT_BYTES_MAX: usize = 160;

/// What an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// As it should be.
    Good,
    /// The server has too much to do and says so.
    Shed,
    /// The session is not known any more.
    SessionLost,
    /// Something else: its kind and a sentence.
    Bad { kind: String, sentence: String },
}

impl Judged {
    fn bad(kind: impl Into<String>, sentence: String) -> Judged {
        Judged::Bad { kind: kind.into(), sentence }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Media {
    #[default]
    Json,
    Events,
}

/// One answer while it comes in.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    status: u16,
    media: Media,
    /// The session this answer opens.
    pub(crate) session: Option<Box<str>>,
    verdict: Option<Judged>,
    partial: Vec<u8>,
    events: Option<Box<EventDecoder>>,
    /// Events that were no answer.
    pub(crate) events_seen: u32,
}

impl Answer {
    /// A head has come.
    pub(crate) fn begin(&mut self, head: &ResponseHead<'_>, wants_session: bool) {
        self.status = head.status();
        self.media = Media::Json;
        self.verdict = None;
        self.session = None;
        if head.content_type_is("text/event-stream") {
            self.media = Media::Events;
            self.events = Some(Box::new(EventDecoder::new(ANSWER_BYTES_MAX)));
        }
        if wants_session {
            self.session = head.session_id().map(Into::into);
        }
    }

    /// True if a stream of events has begun.
    pub(crate) fn is_stream(&self) -> bool {
        self.media == Media::Events && self.status == 200
    }

    /// A piece of the body has come.
    pub(crate) fn take(&mut self, bytes: &[u8], last: bool, id: RequestId) {
        if self.media == Media::Events {
            return self.take_events(bytes, id);
        }
        if self.partial.is_empty() && last {
            self.verdict = Some(judge_body(self.status, bytes, id));
            return;
        }
        if self.partial.len() + bytes.len() <= ANSWER_BYTES_MAX {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn take_events(&mut self, bytes: &[u8], id: RequestId) {
        let Some(decoder) = &mut self.events else { return };
        let mut rest = bytes;
        loop {
            match decoder.decode(&mut rest) {
                // A priming event: an id to resume from, and nothing else.
                Ok(Some(Received::Event { data: b"", .. })) => {}
                Ok(Some(Received::Event { data, .. })) => match judge_event(data, id) {
                    Some(verdict) => self.verdict = Some(verdict),
                    None => self.events_seen += 1,
                },
                Ok(Some(Received::Retry(_))) => {}
                Ok(None) => return,
                Err(error) => {
                    self.verdict = Some(Judged::bad("unreadable", error.to_string()));
                    self.events = None;
                    return;
                }
            }
        }
    }

    /// True if an event has brought a good answer, though the stream goes on.
    pub(crate) fn is_told(&self) -> bool {
        self.verdict == Some(Judged::Good)
    }

    /// The answer is whole.
    pub(crate) fn end(&mut self, id: RequestId, wants_body: bool) -> Judged {
        self.events = None;
        if let Some(verdict) = self.verdict.take() {
            return verdict;
        }
        let partial = std::mem::take(&mut self.partial);
        let is_good = (200..300).contains(&self.status);
        match self.media {
            Media::Events => Judged::bad(
                "stream without answer",
                "the server ended an event stream without the answer to the request".to_owned(),
            ),
            Media::Json if partial.is_empty() && is_good && !wants_body => Judged::Good,
            Media::Json => judge_body(self.status, &partial, id),
        }
    }
}

/// A whole body.
fn judge_body(status: u16, body: &[u8], id: RequestId) -> Judged {
    match status {
        429 | 503 => Judged::Shed,
        404 => Judged::SessionLost,
        200..300 => judge_message(body, id).unwrap_or_else(|| {
            let sentence = format!("the server answered another request: {}", excerpt(body));
            Judged::bad("wrong id", sentence)
        }),
        _ => {
            let sentence = format!("the server answered with status {status}: {}", excerpt(body));
            Judged::bad(format!("http {status}"), sentence)
        }
    }
}

fn judge_event(data: &[u8], id: RequestId) -> Option<Judged> {
    // An event that is no answer is passed over without being read.
    memchr::memmem::find(data, &id.0)?;
    judge_message(data, id)
}

/// `None` if it is no answer to this request.
fn judge_message(body: &[u8], id: RequestId) -> Option<Judged> {
    const START: &[u8] = br#"{"jsonrpc":"2.0","id":"#;
    const RESULT: &[u8] = br#","result":"#;
    let usual = body
        .strip_prefix(START)
        .and_then(|rest| rest.strip_prefix(&id.0))
        .and_then(|rest| rest.strip_prefix(RESULT));
    if let Some(rest) = usual
        && rest.last() == Some(&b'}')
    {
        return Some(judge_result(rest));
    }
    let limits = ScanLimits::default();
    let envelope = match scan(body, &limits) {
        Ok(Message::Single(envelope)) => envelope,
        Ok(Message::Batch(_)) => {
            let sentence = format!("the server answered with a batch: {}", excerpt(body));
            return Some(Judged::bad("unreadable", sentence));
        }
        Err(fault) => {
            let sentence =
                format!("the server's answer is no JSON-RPC ({fault}): {}", excerpt(body));
            return Some(Judged::bad("unreadable", sentence));
        }
    };
    if envelope.id_range().is_none_or(|range| body[range] != id.0)
        && !matches!(envelope.kind(), Kind::Error { id: None, .. })
    {
        return None;
    }
    match envelope.kind() {
        Kind::Result(_) => Some(judge_result(envelope.result().unwrap_or_default())),
        Kind::Error { code, .. } => {
            let error = envelope.error().unwrap_or_default();
            if says_when_to_try_again(error) {
                return Some(Judged::Shed);
            }
            let text = member(error, "message").map_or_else(String::new, excerpt);
            Some(Judged::bad(
                format!("json-rpc {code}"),
                format!("the server answered with error {code}: {text}"),
            ))
        }
        Kind::Request(_) | Kind::Notification => None,
    }
}

/// A refusal that is worth trying again later. Status 503 for one tool's sake would cost
/// some clients their whole connection, so servers may say it within a JSON-RPC error.
fn says_when_to_try_again(error: &[u8]) -> bool {
    member(error, "data").is_some_and(|data| member(data, "retryAfterMs").is_some())
}

/// A tool tells of its own failure within a good result.
fn judge_result(result: &[u8]) -> Judged {
    const FAILED: &[u8] = br#""isError":true"#;
    // Text in a result would have its quotes escaped, so this is a member.
    if memchr::memmem::find(result, FAILED).is_some() {
        return Judged::bad("tool error", format!("the tool failed: {}", excerpt(result)));
    }
    Judged::Good
}

fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(EXCERPT_BYTES_MAX)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    format!("{}{more}", String::from_utf8_lossy(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        RequestId::of(23)
    }

    fn judged(status: u16, body: &str) -> Judged {
        judge_body(status, body.as_bytes(), id())
    }

    fn kind(judged: Judged) -> String {
        match judged {
            Judged::Bad { kind, .. } => kind,
            Judged::Good | Judged::Shed | Judged::SessionLost => format!("{judged:?}"),
        }
    }

    #[test]
    fn answers_are_told_from_errors_in_any_order_of_members() {
        for (status, body, expected) in [
            (
                200,
                r#"{"jsonrpc":"2.0","id":1000000023,"error":{"code":-32000,"message":"full","data":{"retryAfterMs":1000}}}"#,
                "Shed",
            ),
            (
                200,
                r#"{"jsonrpc":"2.0","id":1000000023,"error":{"code":-32000,"message":"retryAfterMs","data":"retryAfterMs"}}"#,
                "json-rpc -32000",
            ),
            (200, r#"{"jsonrpc":"2.0","id":1000000023,"result":{}}"#, "Good"),
            (200, r#"{"result":{}, "id":1000000023,"jsonrpc":"2.0"}"#, "Good"),
            (200, r#"{"jsonrpc":"2.0","id":1000000024,"result":{}}"#, "wrong id"),
            (
                200,
                r#"{"jsonrpc":"2.0","id":1000000023,"error":{"code":-32601,"message":"no"}}"#,
                "json-rpc -32601",
            ),
            (
                200,
                r#"{"jsonrpc":"2.0","id":1000000023,"result":{"content":[],"isError":true}}"#,
                "tool error",
            ),
            (
                200,
                r#"{"jsonrpc":"2.0","id":1000000023,"result":{"text":"\"isError\":true"}}"#,
                "Good",
            ),
            (200, r#"{"jsonrpc":"2.0","id":1000000023,"result":{"a":"#, "unreadable"),
            (200, "<html>", "unreadable"),
            (200, "", "unreadable"),
            (503, "busy", "Shed"),
            (429, "", "Shed"),
            (404, "", "SessionLost"),
            (500, "oops", "http 500"),
            (401, "", "http 401"),
        ] {
            assert_eq!(kind(judged(status, body)), expected, "{status} {body}");
        }
    }

    #[test]
    fn an_error_shows_the_servers_words() {
        let body =
            r#"{"jsonrpc":"2.0","id":1000000023,"error":{"code":-32602,"message":"no such tool"}}"#;
        let Judged::Bad { sentence, .. } = judged(200, body) else { panic!("an error") };
        assert!(sentence.contains("-32602") && sentence.contains("no such tool"), "{sentence}");
    }
}
