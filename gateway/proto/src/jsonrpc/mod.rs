//! JSON-RPC 2.0 messages as byte ranges of the text they arrived in.
//!
//! [`scan`] reads a body once. It validates the whole text as JSON (RFC 8259)
//! and notes where the few members stand by which a message is routed. Nothing
//! is copied, so a message that is only passed on is never re-serialised.
//!
//! Invariants:
//! - A text is accepted only if all of it is JSON in UTF-8: what we route by is
//!   what any other parser behind us reads. A member we route by that occurs
//!   twice is refused, also if one of the two is spelled with escapes.
//! - Ranges of an [`Envelope`] lie on whole JSON values.
//! - No recursion: nesting costs one bit per level.
//!
//! Where JSON parsers differ: lone surrogate escapes (`"\ud800"`) and numbers
//! beyond a double are grammatical and accepted where they are passed on; in a
//! text we have to read (a method, a name) a lone surrogate is refused.
//!
//! Limits: [`ScanLimits`], [`ID_BYTES_MAX`].

mod batch;
mod cursor;
mod draft;
mod envelope;
mod fault;
mod member;
#[cfg(test)]
mod tests;
mod text;
mod write;

pub use batch::Batch;
pub(crate) use cursor::{Broken, Cursor};
pub use envelope::{Envelope, Id, Kind};
pub use fault::{ErrorCode, Fault, Problem};
pub use member::{each_member, may_spell, member, string, walk_elements, walk_members};
pub use text::unescape;
pub use write::{
    error_bytes, result_bytes, write_error, write_error_object, write_error_response,
    write_notification, write_request, write_result, write_string,
};

use draft::Draft;

/// The deepest nesting that can be configured: one bit per level in a `u128`.
pub const DEPTH_MAX: usize = 128;

/// The longest `id` as raw text. Ids are kept for as long as their request lives.
pub const ID_BYTES_MAX: usize = 1_024;

/// What a message may be, besides its size, which is its carrier's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Nested arrays and objects. Values over [`DEPTH_MAX`] count as that.
    pub depth_max: usize,
    /// Messages in one batch.
    pub batch_max: usize,
}

impl Default for ScanLimits {
    fn default() -> ScanLimits {
        ScanLimits { depth_max: DEPTH_MAX, batch_max: 1_024 }
    }
}

/// What a body holds.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    /// One message.
    Single(Envelope<'a>),
    /// An array of at least one message.
    Batch(Batch<'a>),
}

/// Reads a body.
///
/// # Errors
/// - -32700 if `text` is not JSON in UTF-8, or nested too deeply to tell.
/// - -32600 if it is JSON but no JSON-RPC 2.0 message, -32602 if only its
///   `params` are of a kind that MCP does not have. The fault carries the `id`
///   to answer with, if one could be read.
pub fn scan<'a>(text: &'a [u8], limits: &ScanLimits) -> Result<Message<'a>, Fault<'a>> {
    let mut cursor = Cursor::new(text, limits.depth_max)?;
    let start = cursor.begin().map_err(|Broken| cursor.flaw())?;
    match cursor.peek(start) {
        Some(b'{') => {
            let draft = read_object(&mut cursor, start).map_err(|Broken| cursor.flaw())?;
            Ok(Message::Single(draft.judge(text)?))
        }
        Some(b'[') => Ok(Message::Batch(Batch::read(cursor, start, limits)?)),
        _ => {
            let end = cursor.skip_value(start, 0);
            end.and_then(|end| cursor.finish(end)).map_err(|Broken| cursor.flaw())?;
            Err(Fault::new(Problem::NoObject, start))
        }
    }
}

fn read_object(cursor: &mut Cursor<'_>, start: usize) -> Result<Draft, Broken> {
    let (draft, end) = Draft::read(cursor, start, 0)?;
    cursor.finish(end)?;
    Ok(draft)
}
