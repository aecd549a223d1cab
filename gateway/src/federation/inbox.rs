//! What a server's HTTP client has told in one step, kept until the step is over.
//!
//! The client tells while it is borrowed; what follows from it needs the client again.

use std::ops::Range;

use shardgate_proto::http_client::{Content, ExchangeEvent, ExchangeKey, Failure};

/// One thing told, in owned form. Ranges point into the inbox's bytes.
#[derive(Debug)]
pub(super) enum Told {
    Head(Box<Head>),
    Message(Range<usize>),
    /// Where an HTTP+SSE server takes messages.
    Endpoint(Range<usize>),
    Retry(u64),
    End {
        last_event_id: Range<usize>,
    },
    Failed(Failure),
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) content: Content,
    pub(super) session_id: Option<Box<str>>,
    pub(super) retry_after_s: Option<u32>,
    pub(super) location: Option<Box<str>>,
}

/// Queue with one byte arena, reused from step to step.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    list: Vec<(ExchangeKey, Told)>,
    arena: Vec<u8>,
}

/// Arena memory kept from one step to the next.
const ARENA_KEPT_BYTES_MAX: usize = 256 * 1024;

impl Inbox {
    pub(super) fn push(&mut self, exchange: ExchangeKey, event: ExchangeEvent<'_>) {
        let told = match event {
            // The usual head tells nothing that is looked at.
            ExchangeEvent::Head {
                status: 200, session_id: None, content: Content::Json, ..
            } => {
                return;
            }
            ExchangeEvent::Head {
                status, content, session_id, retry_after_s, location, ..
            } => Told::Head(Box::new(Head {
                status,
                content,
                session_id: session_id.map(Box::from),
                retry_after_s,
                location: location.map(Box::from),
            })),
            // MCP 2025-11-25, transports: the priming event has "an empty data field".
            ExchangeEvent::Message { data: b"", .. } => return,
            ExchangeEvent::Message { event: b"endpoint", data, .. } => {
                Told::Endpoint(self.keep(data))
            }
            ExchangeEvent::Message { data, .. } => Told::Message(self.keep(data)),
            ExchangeEvent::Retry(ms) => Told::Retry(ms),
            ExchangeEvent::End { last_event_id } => {
                Told::End { last_event_id: self.keep(last_event_id) }
            }
            ExchangeEvent::Failed(failure) => Told::Failed(failure),
        };
        self.list.push((exchange, told));
    }

    /// Takes what a pool tells, whose keys are marked so in the server's own table.
    pub(super) fn marked(&mut self, mark: u64) -> impl FnMut(ExchangeKey, ExchangeEvent<'_>) {
        move |key, event| self.push(ExchangeKey(key.0 | mark), event)
    }

    pub(super) fn take(&mut self) -> Vec<(ExchangeKey, Told)> {
        std::mem::take(&mut self.list)
    }

    pub(super) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.arena[range.clone()]
    }

    /// Forgets all and keeps the memory; `list` is what [`Inbox::take`] gave.
    pub(super) fn recycle(&mut self, mut list: Vec<(ExchangeKey, Told)>) {
        list.clear();
        self.list = list;
        self.arena.clear();
        self.arena.shrink_to(ARENA_KEPT_BYTES_MAX);
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }
}
