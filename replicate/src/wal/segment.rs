//! Reading a segment: what stands in it, and what is to be made of its end.

use super::format::{self, ALIGN, BadHeader, HEADER_BYTES, Header, Record, Standing};

/// How often a segment's bytes are gone through when records are searched behind its end.
const SEARCHED_TIMES_MAX: usize = 16;
/// Records up to this are looked at whatever that takes.
const SMALL_BYTES: usize = 1_024;

/// A segment's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its header.
    pub header: Header,
    /// The records from the first on, up to the first that is not right.
    pub records: Vec<Standing<'a>>,
    /// Where they end.
    pub end: usize,
    /// Whether there is anything but zeros after them.
    pub has_leftover: bool,
    /// The highest sequence that any record, also one after the end, knows to be synced.
    pub synced: u64,
}

impl Segment<'_> {
    /// Sequence of the record that would come next.
    pub fn next_sequence(&self) -> u64 {
        self.records.last().map_or(self.header.first_sequence, |last| last.sequence + 1)
    }

    /// Whether nothing more was to be written to it.
    pub fn is_sealed(&self) -> bool {
        self.records.last().is_some_and(|last| last.record == Record::Seal)
    }
}

/// Reads a segment. It may be anything at all: this never panics, and takes time and memory
/// in proportion to the bytes.
///
/// # Errors
///
/// The header is damaged or of a later format. What is wrong later is no error here: whether
/// it is a tail that a crash tore depends on what other segments know to be synced.
pub fn decode_segment(bytes: &[u8]) -> Result<Segment<'_>, BadHeader> {
    let header = Header::parse(bytes)?;
    let mut segment =
        Segment { records: Vec::new(), end: HEADER_BYTES, has_leftover: false, synced: 0, header };
    while let Some(standing) = next(bytes, &segment) {
        segment.end = standing.end;
        segment.synced = segment.synced.max(standing.synced);
        let sealed = standing.record == Record::Seal;
        segment.records.push(standing);
        if sealed {
            break;
        }
    }
    look_behind(bytes, &mut segment);
    Ok(segment)
}

fn next<'a>(bytes: &'a [u8], segment: &Segment<'_>) -> Option<Standing<'a>> {
    let standing = format::record_at(bytes, segment.end, segment.header.salt)?;
    let previous =
        segment.records.last().map_or(segment.header.checksum, |standing| standing.checksum);
    let belongs = standing.sequence == segment.next_sequence() && standing.previous == previous;
    // A segment begins with a base, and has no other.
    let fits = matches!(standing.record, Record::Base(_)) == segment.records.is_empty();
    (belongs && fits).then_some(standing)
}

/// Looks for records after the end.
///
/// What looks like the head of a record may be part of a payload, and claim any length.
/// Checksums of small records are always computed; of larger ones until they add up to
/// [`SEARCHED_TIMES_MAX`] times the segment, so that the search ends soon whatever is there.
fn look_behind(bytes: &[u8], segment: &mut Segment<'_>) {
    let next = segment.next_sequence();
    let mut offset = segment.end;
    let mut budget = bytes.len().saturating_mul(SEARCHED_TIMES_MAX);
    while offset < bytes.len() {
        let piece = &bytes[offset..bytes.len().min(offset + ALIGN)];
        if piece.iter().all(|byte| *byte == 0) {
            offset += ALIGN;
            continue;
        }
        segment.has_leftover = true;
        let claimed = format::claimed_bytes(bytes, offset, next);
        let worth = claimed > 0 && (claimed <= SMALL_BYTES || claimed <= budget);
        if claimed > SMALL_BYTES && worth {
            budget -= claimed;
        }
        let salt = segment.header.salt;
        match worth.then(|| format::record_at(bytes, offset, salt)).flatten() {
            Some(standing) => {
                segment.synced = segment.synced.max(standing.synced);
                offset = standing.end;
            }
            None => offset += ALIGN,
        }
    }
}
