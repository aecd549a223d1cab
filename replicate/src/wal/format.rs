//! What the log's files look like.
//!
//! A segment is a header of [`HEADER_BYTES`] and then records, each beginning at a multiple of
//! [`ALIGN`]. Numbers are little-endian.
//!
//! | header | |
//! |---|---|
//! | 0..8 | `SHGTWAL` and a zero byte |
//! | 8..12 | format |
//! | 12..16 | length of the header |
//! | 16..20 | CRC-32C of the header, these four bytes taken as zero |
//! | 20..24 | salt of this segment's checksums |
//! | 24..32 | number of the segment |
//! | 32..40 | sequence of its first record |
//! | 40..42 | node |
//! | 42, 43.. | length of the cluster's name; the name; zeros |
//!
//! | record | |
//! |---|---|
//! | 0..4 | CRC-32C of the salt, the rest of this head and the payload |
//! | 4..8 | the same of the record before, or of the header |
//! | 8..12 | length of the payload |
//! | 12, 13..16 | kind; zeros |
//! | 16..24 | sequence: one more than that of the record before |
//! | 24..32 | all up to this sequence was synced when this was written |
//! | 32.. | payload; zeros up to the next record |
//!
//! Invariants: what stands in the first 20 bytes of a header stays so in every later format, so
//! that a newer one can be told from damage. What a record says about syncing is true for ever:
//! that is how a torn tail, which nobody was told of, is told from damage to what was kept.
//! The salt is random, so that nobody who may write payloads can write records.

use std::fmt;
use std::sync::Arc;

/// The format that is written. Older ones that are still read would be listed here.
pub const FORMAT: u32 = 1;
/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a record before its payload.
pub(super) const RECORD_HEAD_BYTES: usize = 32;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 16;
/// Longest name of a cluster.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// Longest id of an entry.
pub const ENTRY_ID_BYTES_MAX: usize = 32;
/// Longest vote and longest mark of what is committed.
pub const VOTE_BYTES_MAX: usize = 64;
/// Longest payload of an entry.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;

const MAGIC: [u8; 8] = *b"SHGTWAL\0";
const PAYLOAD_BYTES_MAX: usize = ENTRY_BYTES_MAX + 64;
/// A sequence further ahead than this is none: nothing holds so many records.
const SEQUENCES_AHEAD_MAX: u64 = 1 << 32;

/// A few bytes whose meaning is the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Opaque<const MAX: usize> {
    len: u8,
    bytes: [u8; MAX],
}

/// An entry's id, such as its term and leader.
pub type EntryId = Opaque<ENTRY_ID_BYTES_MAX>;
/// A vote.
pub type Vote = Opaque<VOTE_BYTES_MAX>;
/// Up to where the log is committed.
pub type Committed = Opaque<VOTE_BYTES_MAX>;

/// The place of an entry in the log, with its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which entry.
    pub index: u64,
    /// Its id.
    pub id: EntryId,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One more than that of the entry before.
    pub index: u64,
    /// Its id.
    pub id: EntryId,
    /// What it says; at most [`ENTRY_BYTES_MAX`].
    pub payload: Arc<[u8]>,
}

/// Whose log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the cluster; at most [`CLUSTER_NAME_BYTES_MAX`].
    pub cluster: String,
    /// The node's number.
    pub node: u16,
}

/// What the log says besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The vote saved last.
    pub vote: Option<Vote>,
    /// The committed position saved last. It may be of before a crash: it is not synced.
    pub committed: Option<Committed>,
    /// The last entry that was purged.
    pub purged: Option<Position>,
    /// The last entry of all, be it purged.
    pub last: Option<Position>,
}

/// A segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose log it belongs to.
    pub owner: Owner,
    /// Number of the segment, one more than that of the one before.
    pub number: u64,
    /// Sequence of its first record.
    pub first_sequence: u64,
    /// Goes into the checksums of its records.
    pub salt: u32,
    /// Its own checksum, to which the first record refers.
    pub checksum: u32,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// First in each segment: the state up to here, so that older segments can go.
    Base(LogState),
    /// One more entry.
    Entry {
        /// Where it stands.
        position: Position,
        /// What it says.
        payload: &'a [u8],
    },
    /// A vote.
    Vote(Vote),
    /// A committed position.
    Committed(Option<Committed>),
    /// No entry after this one counts any more; `None`: no entry at all.
    Truncate(Option<Position>),
    /// No entry up to this one is needed any more.
    Purge(Position),
    /// Nothing but what every record says about syncing.
    Mark,
    /// Last in each segment but the newest.
    Seal,
}

/// A record as it stands in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing<'a> {
    /// What it says.
    pub record: Record<'a>,
    /// Where it begins.
    pub offset: usize,
    /// Where the next one begins.
    pub end: usize,
    /// Its sequence.
    pub sequence: u64,
    /// All up to this one was synced when it was written.
    pub synced: u64,
    /// Its checksum.
    pub checksum: u32,
    /// The checksum of the one before.
    pub previous: u32,
}

/// Why bytes are no header of a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Too short, another kind of file, or damaged.
    #[error("its header is damaged, or it is no segment of a log")]
    Damaged,
    /// Written by a later version.
    #[error("it is of format {found}; formats up to {FORMAT} are known")]
    Newer {
        /// Which format.
        found: u32,
    },
}

impl<const MAX: usize> Opaque<MAX> {
    /// `None`: there are more than `MAX` bytes.
    pub fn new(bytes: &[u8]) -> Option<Opaque<MAX>> {
        let mut all = [0; MAX];
        all.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Opaque { len: u8::try_from(bytes.len()).ok()?, bytes: all })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl<const MAX: usize> fmt::Debug for Opaque<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {:?}", self.node, self.cluster)
    }
}

impl Entry {
    /// Its place in the log.
    pub fn position(&self) -> Position {
        Position { index: self.index, id: self.id }
    }

    /// Bytes it takes in the log.
    pub fn bytes_in_log(&self) -> usize {
        let payload = 8 + 1 + self.id.as_bytes().len() + self.payload.len();
        (RECORD_HEAD_BYTES + payload).next_multiple_of(ALIGN)
    }
}

impl Header {
    /// Appends the header to `out`.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.owner.node.to_le_bytes());
        let cluster = self.owner.cluster.as_bytes();
        assert!(cluster.len() <= CLUSTER_NAME_BYTES_MAX, "names are checked where they come in");
        out.push(cluster.len() as u8);
        out.extend_from_slice(cluster);
        out.resize(start + HEADER_BYTES, 0);
        self.checksum = crc32c::crc32c(&out[start..]);
        out[start + 16..start + 20].copy_from_slice(&self.checksum.to_le_bytes());
    }

    /// Reads the header at the beginning of a segment.
    ///
    /// # Errors
    ///
    /// It is damaged, or of a later format.
    pub fn parse(bytes: &[u8]) -> Result<Header, BadHeader> {
        let mut fields = Fields(bytes);
        let (magic, format, len) = (fields.array::<8>(), fields.u32(), fields.u32());
        let len = len.and_then(|len| usize::try_from(len).ok()).ok_or(BadHeader::Damaged)?;
        let header = bytes.get(..len).filter(|header| header.len() >= 20);
        let (Some(header), Some(MAGIC)) = (header, magic) else { return Err(BadHeader::Damaged) };
        let found = crc32c::crc32c(&header[..16]);
        let found = crc32c::crc32c_append(found, &[0; 4]);
        let checksum = crc32c::crc32c_append(found, &header[20..]);
        if fields.u32() != Some(checksum) {
            return Err(BadHeader::Damaged);
        }
        match format {
            Some(FORMAT) if len == HEADER_BYTES => {
                Header::parse_rest(fields, checksum).ok_or(BadHeader::Damaged)
            }
            Some(found) if found > FORMAT => Err(BadHeader::Newer { found }),
            Some(_) | None => Err(BadHeader::Damaged),
        }
    }

    fn parse_rest(mut fields: Fields<'_>, checksum: u32) -> Option<Header> {
        let salt = fields.u32()?;
        let number = fields.u64()?;
        let first_sequence = fields.u64()?;
        let node = u16::from_le_bytes(fields.array()?);
        let [len] = fields.array()?;
        let name = fields.take(usize::from(len).min(CLUSTER_NAME_BYTES_MAX))?;
        let cluster = String::from_utf8(name.to_vec()).ok()?;
        Some(Header { owner: Owner { cluster, node }, number, first_sequence, salt, checksum })
    }
}

/// Where a writer stands in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The segment's salt.
    pub salt: u32,
    /// Checksum of the record before.
    pub previous: u32,
    /// Sequence of the next record.
    pub sequence: u64,
}

impl Chain {
    /// Appends a record to `out`, which begins at a place where a record may begin.
    pub fn write(&mut self, record: &Record<'_>, synced: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.previous.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&[record.kind(), 0, 0, 0]);
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&synced.to_le_bytes());
        record.write_payload(out);
        let payload_len = out.len() - start - RECORD_HEAD_BYTES;
        assert!(payload_len <= PAYLOAD_BYTES_MAX, "lengths are checked where entries come in");
        out[start + 8..start + 12].copy_from_slice(&(payload_len as u32).to_le_bytes());
        self.previous = record_checksum(self.salt, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&self.previous.to_le_bytes());
        self.sequence += 1;
        out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
    }
}

/// The record at `offset`, if there is one whose checksum is right. Whether it belongs there,
/// after the one before, is for the caller to see.
pub(super) fn record_at(bytes: &[u8], offset: usize, salt: u32) -> Option<Standing<'_>> {
    let mut fields = Fields(bytes.get(offset..)?);
    let (checksum, previous) = (fields.u32()?, fields.u32()?);
    let len = usize::try_from(fields.u32()?).ok()?;
    let [kind, zeros @ ..] = fields.array::<4>()?;
    let (sequence, synced) = (fields.u64()?, fields.u64()?);
    // Cheap questions first: a search looks at many places.
    if len > PAYLOAD_BYTES_MAX || kind == 0 || zeros != [0; 3] || synced >= sequence {
        return None;
    }
    let payload = fields.take(len)?;
    let end = offset + RECORD_HEAD_BYTES + len;
    if record_checksum(salt, &bytes[offset + 4..end]) != checksum {
        return None;
    }
    let record = Record::parse(kind, payload)?;
    // A record without its padding is a torn one: more could not follow it.
    let end = Some(end.next_multiple_of(ALIGN)).filter(|end| *end <= bytes.len())?;
    Some(Standing { record, offset, end, sequence, synced, checksum, previous })
}

/// How many bytes what stands at `offset` would have as a record that came after all before
/// `next`; zero if it can't be one.
pub(super) fn claimed_bytes(bytes: &[u8], offset: usize, next: u64) -> usize {
    let head = bytes.get(offset + 8..offset + RECORD_HEAD_BYTES).map(Fields);
    let claimed = head.and_then(|mut head| {
        let len = usize::try_from(head.u32()?).ok()?;
        let [kind, zeros @ ..] = head.array::<4>()?;
        let (sequence, synced) = (head.u64()?, head.u64()?);
        let ahead = sequence.checked_sub(next)?;
        let possible = matches!(kind, 1..=8)
            && zeros == [0; 3]
            && ahead < SEQUENCES_AHEAD_MAX
            && synced < sequence
            && len <= bytes.len() - offset - RECORD_HEAD_BYTES;
        possible.then_some(RECORD_HEAD_BYTES + len)
    });
    claimed.unwrap_or(0)
}

fn record_checksum(salt: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

impl<'a> Record<'a> {
    // The numbers are written to disks: they are never changed or used again.
    fn kind(&self) -> u8 {
        match self {
            Record::Base(_) => 1,
            Record::Entry { .. } => 2,
            Record::Vote(_) => 3,
            Record::Committed(_) => 4,
            Record::Truncate(_) => 5,
            Record::Purge(_) => 6,
            Record::Mark => 7,
            Record::Seal => 8,
        }
    }

    fn write_payload(&self, out: &mut Vec<u8>) {
        match self {
            Record::Base(state) => {
                write_opaque(state.vote.as_ref(), out);
                write_opaque(state.committed.as_ref(), out);
                write_position(state.purged.as_ref(), out);
                write_position(state.last.as_ref(), out);
            }
            Record::Entry { position, payload } => {
                out.extend_from_slice(&position.index.to_le_bytes());
                out.push(position.id.len);
                out.extend_from_slice(position.id.as_bytes());
                out.extend_from_slice(payload);
            }
            Record::Vote(vote) => write_opaque(Some(vote), out),
            Record::Committed(committed) => write_opaque(committed.as_ref(), out),
            Record::Truncate(last) => write_position(last.as_ref(), out),
            Record::Purge(through) => write_position(Some(through), out),
            Record::Mark | Record::Seal => {}
        }
    }

    fn parse(kind: u8, payload: &'a [u8]) -> Option<Record<'a>> {
        let mut fields = Fields(payload);
        let record = match kind {
            1 => Record::Base(LogState {
                vote: fields.opaque()?,
                committed: fields.opaque()?,
                purged: fields.position()?,
                last: fields.position()?,
            }),
            2 => {
                let index = fields.u64()?;
                let [len] = fields.array()?;
                let id = Opaque::new(fields.take(usize::from(len))?)?;
                let payload = std::mem::take(&mut fields.0);
                Record::Entry { position: Position { index, id }, payload }
            }
            3 => Record::Vote(fields.opaque()??),
            4 => Record::Committed(fields.opaque()?),
            5 => Record::Truncate(fields.position()?),
            6 => Record::Purge(fields.position()??),
            7 => Record::Mark,
            8 => Record::Seal,
            _ => return None,
        };
        fields.0.is_empty().then_some(record)
    }
}

/// One byte says that nothing follows; otherwise it is one more than the length.
fn write_opaque<const MAX: usize>(value: Option<&Opaque<MAX>>, out: &mut Vec<u8>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(value.len + 1);
            out.extend_from_slice(value.as_bytes());
        }
    }
}

fn write_position(position: Option<&Position>, out: &mut Vec<u8>) {
    write_opaque(position.map(|position| &position.id), out);
    if let Some(position) = position {
        out.extend_from_slice(&position.index.to_le_bytes());
    }
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        self.take(LEN)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The outer `None` is for bytes that are no opaque value.
    fn opaque<const MAX: usize>(&mut self) -> Option<Option<Opaque<MAX>>> {
        match self.array::<1>()? {
            [0] => Some(None),
            [len] => Opaque::new(self.take(usize::from(len) - 1)?).map(Some),
        }
    }

    fn position(&mut self) -> Option<Option<Position>> {
        let Some(id) = self.opaque()? else { return Some(None) };
        Some(Some(Position { index: self.u64()?, id }))
    }
}
