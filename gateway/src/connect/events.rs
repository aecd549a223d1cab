//! The events of one stream, read from an HTTP body.
//!
//! Limit: an event of [`MESSAGE_BYTES_MAX`] bytes.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use shardgate_proto::sse::{EventDecoder, Received};

use super::http;
use super::stdio::MESSAGE_BYTES_MAX;

/// The longest time that a server's `retry:` may ask for.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// What names an event in a request for the ones after it.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Why no more events come.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamEnd {
    #[error("the server closed the stream")]
    Closed,
    #[error("{0}")]
    Broken(String),
    #[error("the stream holds an event of more than {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
}

/// Where a stream was left and when to come back.
#[derive(Clone, Debug, Default)]
pub(super) struct Position {
    /// `Last-Event-ID`; `None` if the server gave no ids.
    pub(super) last_event_id: Option<HeaderValue>,
    /// The server's `retry:`.
    pub(super) retry: Option<Duration>,
}

/// Reads one body.
pub(super) struct EventStream<'p> {
    body: Incoming,
    decoder: EventDecoder,
    chunk: Bytes,
    position: &'p mut Position,
}

impl<'p> EventStream<'p> {
    /// Notes in `position` how far it has read.
    pub(super) fn new(body: Incoming, position: &'p mut Position) -> EventStream<'p> {
        let decoder = EventDecoder::new(MESSAGE_BYTES_MAX);
        EventStream { body, decoder, chunk: Bytes::new(), position }
    }

    /// The data of the next event that has any.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, StreamEnd> {
        loop {
            if let Some(data) = self.decode()? {
                return Ok(data);
            }
            let frame = match self.body.frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(StreamEnd::Broken(http::cause(&error))),
                None => return Err(StreamEnd::Closed),
            };
            self.chunk = frame.into_data().unwrap_or_default();
        }
    }

    fn decode(&mut self) -> Result<Option<Vec<u8>>, StreamEnd> {
        let mut input = self.chunk.as_ref();
        let mut found = None;
        while found.is_none() {
            match self.decoder.decode(&mut input).map_err(|_| StreamEnd::TooLarge)? {
                // A priming event has an id and empty data: it is there to resume from.
                Some(Received::Event { data, name, .. }) => {
                    let is_message = matches!(name, b"" | b"message") && !data.is_empty();
                    found = is_message.then(|| data.to_vec());
                }
                Some(Received::Retry(ms)) => {
                    self.position.retry = Some(Duration::from_millis(ms).min(RETRY_TIME_MAX));
                }
                None => break,
            }
        }
        let left = input.len();
        self.chunk = self.chunk.slice(self.chunk.len() - left..);
        let id = self.decoder.last_event_id();
        if !id.is_empty() {
            self.position.last_event_id = HeaderValue::from_bytes(id).ok();
        }
        Ok(found)
    }

    /// The rest of the body, to be read to its end so that its connection can be used again.
    pub(super) fn into_body(self) -> Incoming {
        self.body
    }
}
