//! One exchange: from its request to the end of the answer.
//!
//! Invariant: a body that arrives in one piece is handed on where it lies; only
//! one in several pieces is collected, and never beyond its bound.

use super::{
    Content, ExchangeEvent, ExchangeKey, FailureKind, HttpClientSettings, OTHER_BODY_BYTES_MAX,
};
use crate::clock::Millis;
use crate::http1::client::{
    BadResponse, BodyLength, ResponseDecoder, ResponseHead, ResponsePart, excerpt,
};
use crate::sse::{EventDecoder, Received};

/// A link is closed so long before its server would: a request that meets the
/// server's close on its way is lost, and nobody can say whether it was handled.
const KEEP_ALIVE_MARGIN_MS: u64 = 1_000;

/// A request on its way, or its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) key: ExchangeKey,
    /// When the answer must be there; irrelevant once it turns out to be a stream.
    pub(super) deadline: Millis,
    /// The time that was given, for messages.
    pub(super) timeout_ms: u64,
    /// The request's bytes, while it may have to be sent again; else empty.
    pub(super) kept: Vec<u8>,
    /// True from the first byte of the answer on.
    pub(super) begun: bool,
    /// The time the server will keep the link without a request, where it said so.
    idle_ms_max: u64,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    /// The head has not come yet.
    Awaited,
    Whole(Body),
    Events(EventDecoder),
}

/// A body that is collected.
#[derive(Debug)]
struct Body {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// What becomes of a larger one: is it refused, or is its beginning enough?
    needed_whole: bool,
}

/// What the bytes of a link have done to its exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is to come.
    Going,
    /// The answer is complete.
    Ended {
        /// So long may the link be used again; not at all if zero.
        idle_ms_max: u64,
        /// What came behind the answer, if anything did.
        extra: Option<String>,
    },
}

/// Why an exchange cannot go on.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: FailureKind,
    pub(super) text: String,
}

impl From<BadResponse> for Fault {
    fn from(bad: BadResponse) -> Fault {
        let kind = match () {
            () if bad.is_cut() => FailureKind::ClosedEarly,
            () if bad.is_too_large() => FailureKind::TooLarge,
            () => FailureKind::Malformed,
        };
        Fault { kind, text: bad.to_string() }
    }
}

impl Exchange {
    pub(super) fn new(key: ExchangeKey, now: Millis, timeout_ms: u64) -> Exchange {
        Exchange {
            key,
            deadline: now + timeout_ms,
            timeout_ms,
            kept: Vec::new(),
            begun: false,
            idle_ms_max: u64::MAX,
            answer: Answer::Awaited,
        }
    }

    /// True once the answer is known to be a stream of events.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.answer, Answer::Events(_))
    }

    pub(super) fn awaits_head(&self) -> bool {
        matches!(self.answer, Answer::Awaited)
    }

    pub(super) fn last_event_id(&self) -> &[u8] {
        match &self.answer {
            Answer::Events(decoder) => decoder.last_event_id(),
            Answer::Awaited | Answer::Whole(_) => &[],
        }
    }

    /// Reads what came on the exchange's link.
    pub(super) fn receive<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        decoder: &mut ResponseDecoder,
        bytes: &mut [u8],
        settings: &HttpClientSettings,
        sink: &mut S,
    ) -> Result<Progress, Fault> {
        let mut from = 0;
        loop {
            match decoder.decode(&mut bytes[from..])? {
                ResponsePart::NeedMore => return Ok(Progress::Going),
                ResponsePart::Head { head, consumed } => {
                    from += consumed;
                    self.take_head(&head, settings, sink)?;
                }
                ResponsePart::Body { bytes, last, consumed } => {
                    from += consumed;
                    if !self.take_body(bytes, last, sink)? {
                        self.end(sink);
                        return Ok(Progress::Ended { idle_ms_max: 0, extra: None });
                    }
                }
                ResponsePart::End { keep_alive, consumed } => {
                    from += consumed;
                    self.end(sink);
                    let extra = &bytes[from..];
                    let extra = (!extra.is_empty()).then(|| excerpt(extra));
                    let idle_ms_max = if keep_alive { self.idle_ms_max } else { 0 };
                    return Ok(Progress::Ended { idle_ms_max, extra });
                }
            }
        }
    }

    /// The answer is complete: hands out what was collected, and the last event.
    pub(super) fn end<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(&mut self, sink: &mut S) {
        if let Answer::Whole(body) = &mut self.answer
            && !body.bytes.is_empty()
        {
            sink(self.key, whole(&body.bytes));
            body.bytes = Vec::new();
        }
        sink(self.key, ExchangeEvent::End { last_event_id: self.last_event_id() });
    }

    fn take_head<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        head: &ResponseHead<'_>,
        settings: &HttpClientSettings,
        sink: &mut S,
    ) -> Result<(), Fault> {
        let content = content_of(head);
        let event = ExchangeEvent::Head {
            status: head.status(),
            content,
            session_id: head.session_id(),
            retry_after_s: head.retry_after_s(),
            location: head.location(),
            www_authenticate: head.www_authenticate(),
        };
        sink(self.key, event);
        if let Some(timeout_s) = head.keep_alive_timeout_s() {
            let margin = KEEP_ALIVE_MARGIN_MS;
            self.idle_ms_max = (u64::from(timeout_s) * 1_000).saturating_sub(margin);
        }
        if let Some(encoding) = head.content_encoding()
            && content != Content::None
        {
            return Err(Fault {
                kind: FailureKind::Malformed,
                text: format!(
                    "the server encoded its answer as `{}`, though it was asked for `identity`",
                    excerpt(encoding)
                ),
            });
        }
        if content == Content::Events {
            self.answer = Answer::Events(EventDecoder::new(settings.message_bytes_max));
            return Ok(());
        }
        let needed_whole = content == Content::Json && matches!(head.status(), 200..=299);
        let bytes_max =
            if needed_whole { settings.message_bytes_max } else { OTHER_BODY_BYTES_MAX };
        if needed_whole
            && let BodyLength::Bytes(length) = head.body_length()
            && length > bytes_max
        {
            return Err(too_large(bytes_max));
        }
        self.answer = Answer::Whole(Body { bytes: Vec::new(), bytes_max, needed_whole });
        Ok(())
    }

    /// Takes a piece of the body. False if no more of it is wanted.
    fn take_body<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        piece: &[u8],
        last: bool,
        sink: &mut S,
    ) -> Result<bool, Fault> {
        let key = self.key;
        match &mut self.answer {
            Answer::Whole(body) => body.take(piece, last, |event| sink(key, event)),
            Answer::Events(decoder) => {
                let mut rest = piece;
                loop {
                    match decoder.decode(&mut rest) {
                        Ok(Some(Received::Event { id, name, data })) => {
                            sink(key, ExchangeEvent::Message { event: name, id, data });
                        }
                        Ok(Some(Received::Retry(retry_ms))) => {
                            sink(key, ExchangeEvent::Retry(retry_ms));
                        }
                        Ok(None) => return Ok(true),
                        Err(large) => {
                            let text = large.to_string();
                            return Err(Fault { kind: FailureKind::TooLarge, text });
                        }
                    }
                }
            }
            // A body has a head before it: the decoder sees to that.
            Answer::Awaited => Ok(true),
        }
    }
}

impl Body {
    fn take(
        &mut self,
        piece: &[u8],
        last: bool,
        mut sink: impl FnMut(ExchangeEvent<'_>),
    ) -> Result<bool, Fault> {
        let room = self.bytes_max - self.bytes.len();
        if piece.len() > room {
            if self.needed_whole {
                return Err(too_large(self.bytes_max));
            }
            self.bytes.extend_from_slice(&piece[..room]);
            return Ok(false);
        }
        if last && self.bytes.is_empty() {
            sink(whole(piece));
        } else {
            self.bytes.extend_from_slice(piece);
        }
        Ok(true)
    }
}

fn whole(data: &[u8]) -> ExchangeEvent<'_> {
    ExchangeEvent::Message { event: &[], id: &[], data }
}

fn content_of(head: &ResponseHead<'_>) -> Content {
    if head.body_length() == BodyLength::Bytes(0) {
        Content::None
    } else if head.content_type_is("application/json") {
        Content::Json
    } else if head.content_type_is("text/event-stream") {
        Content::Events
    } else {
        Content::Other
    }
}

fn too_large(bytes_max: usize) -> Fault {
    Fault {
        kind: FailureKind::TooLarge,
        text: format!(
            "the server sent an answer of more than {bytes_max} bytes: raise the limit, or ask for less"
        ),
    }
}
