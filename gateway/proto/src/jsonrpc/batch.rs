//! Arrays of messages.

use super::cursor::{Broken, Cursor};
use super::draft::{Draft, Span};
use super::envelope::Envelope;
use super::fault::{Fault, Problem};
use super::{DEPTH_MAX, ScanLimits};

/// A batch: valid JSON as a whole, with as many elements as are allowed. Each
/// element is judged by itself, since one bad message does not spoil the others
/// (JSON-RPC 2.0, 6).
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    text: &'a [u8],
    elements: Vec<Span>,
}

impl<'a> Batch<'a> {
    pub(super) fn read(
        mut cursor: Cursor<'a>,
        start: usize,
        limits: &ScanLimits,
    ) -> Result<Batch<'a>, Fault<'a>> {
        let mut elements = Vec::new();
        let mut too_many = None;
        let walked = cursor.elements(start, 1, |cursor, from| {
            let end = cursor.skip_value(from, 1)?;
            if elements.len() < limits.batch_max {
                elements.push(Span::new(from, end));
            } else {
                too_many.get_or_insert(from);
            }
            Ok(end)
        });
        walked.and_then(|end| cursor.finish(end)).map_err(|Broken| cursor.flaw())?;
        if let Some(at) = too_many {
            return Err(Fault::new(Problem::BatchLarge, at));
        }
        if elements.is_empty() {
            return Err(Fault::new(Problem::BatchEmpty, start));
        }
        Ok(Batch { text: cursor.bytes(), elements })
    }

    /// How many messages there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// The messages in order, each read or refused for itself. Offsets of faults count from the body's start.
    pub fn messages(&self) -> impl Iterator<Item = Result<Envelope<'a>, Fault<'a>>> + '_ {
        let text = self.text;
        self.elements.iter().map(move |span| read_element(text, *span))
    }
}

fn read_element(text: &[u8], span: Span) -> Result<Envelope<'_>, Fault<'_>> {
    let start = span.start();
    let element = span.of(text).unwrap_or_default();
    if element.first() != Some(&b'{') {
        return Err(Fault::new(Problem::NoObject, start));
    }
    let mut cursor = Cursor::new(element, DEPTH_MAX)?;
    let (draft, _) = Draft::read(&mut cursor, 0, 0).map_err(|Broken| cursor.flaw())?;
    draft.judge(element).map_err(|fault| Fault { at: fault.at + start, ..fault })
}
