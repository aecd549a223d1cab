//! Server-sent events, as the WHATWG HTML standard defines them (section 9.2).
//!
//! [`Event`] is written by [`write_event`]; [`EventDecoder`] reads a stream that
//! arrives in pieces.
//!
//! Invariants:
//! - What is written is read back as the same event.
//! - Cutting a stream into pieces differently never changes the events.
//!
//! Limits: the decoder holds one event of at most the size it was made with.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{EventDecoder, EventTooLarge, Received};
pub use encode::{Event, write_comment, write_event, write_priming_event, write_retry};
