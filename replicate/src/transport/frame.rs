//! A frame: the unit in which nodes talk, and the machine that finds frames in a stream of bytes.
//!
//! ```text
//!  0        2       3       4          8            16              20            24
//!  +--------+-------+-------+----------+------------+---------------+-------------+------
//!  | magic  | class | kind  | length   | id         | crc of 0..16  | crc of body | body
//!  +--------+-------+-------+----------+------------+---------------+-------------+------
//! ```
//! Numbers are little-endian, checksums CRC-32C. The header has a checksum of its own, for a
//! length that was damaged on its way must not make the receiver wait for megabytes.
//!
//! Invariants:
//! - A body is handed out only after its checksum was right.
//! - No sequence of bytes makes the [`Decoder`] panic, or hold more than one frame of the
//!   longest length that it was told to take, and one read beyond it.
//! - After an error there is no next frame: where one would begin is unknown.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a body at most.
pub const FRAME_BODY_BYTES_MAX: usize = 8 << 20;
/// Bytes before a body.
pub const FRAME_HEADER_BYTES: usize = 24;

/// The first byte is none that TLS or a text protocol begins with.
pub(super) const MAGIC: [u8; 2] = [0xd5, 0x47];

/// Bodies up to this size are copied out of what was read: a small body that somebody keeps
/// must not keep the whole read alive.
const COPIED_BYTES_MAX: usize = 4 << 10;
/// Room for one read.
const READ_BYTES: usize = 64 << 10;
/// With less room than this a read isn't worth its system call.
const READ_BYTES_MIN: usize = 8 << 10;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameClass {
    /// The first frame of both sides: who they are.
    Hello = 1,
    /// Instead of the acceptor's hello: a sentence that says why not. The last frame.
    Rejection = 2,
    /// Asks for an answer with the same id.
    Request = 3,
    /// The answer to a request.
    Answer = 4,
    /// Instead of an answer: a sentence that says why there is none.
    Failure = 5,
    /// Has no answer.
    Notice = 6,
    /// Begins a bulk transfer: what it is.
    BulkHead = 7,
    /// A part of a bulk transfer.
    BulkPart = 8,
    /// Ends a bulk transfer: its length and its hash.
    BulkEnd = 9,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub class: FrameClass,
    /// What the layer above calls it.
    pub kind: u8,
    /// Joins an answer to its request.
    pub id: u64,
    /// What it carries.
    pub body: Bytes,
}

/// The bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something else is spoken here.
    #[error("what came is no frame of Shardgate's: it begins with \"{}\"", .0.escape_ascii())]
    Magic([u8; 2]),
    /// A header was altered on its way.
    #[error("a frame's header came damaged (checksum {got:08x} instead of {expected:08x})")]
    DamagedHeader {
        /// As it was computed here.
        expected: u32,
        /// As it came.
        got: u32,
    },
    /// A body was altered on its way.
    #[error(
        "a frame's body of {bytes} bytes came damaged (checksum {got:08x} instead of {expected:08x})"
    )]
    DamagedBody {
        /// Its length.
        bytes: usize,
        /// As it was computed here.
        expected: u32,
        /// As it came.
        got: u32,
    },
    /// A later release may know it; this one doesn't.
    #[error("a frame of class {0} came, which this release does not know")]
    Class(u8),
    /// Nobody may send that much in one frame here.
    #[error("a frame with a body of {got} bytes came where {max} are the most")]
    TooLong {
        /// What the header says.
        got: usize,
        /// What is allowed.
        max: usize,
    },
}

/// Finds frames in a stream of bytes, however they are split.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    body_bytes_max: usize,
    /// The header of the frame whose body has not come whole.
    head: Option<Head>,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    class: FrameClass,
    kind: u8,
    length: usize,
    id: u64,
    body_checksum: u32,
}

impl FrameClass {
    fn from_byte(byte: u8) -> Option<FrameClass> {
        Some(match byte {
            1 => FrameClass::Hello,
            2 => FrameClass::Rejection,
            3 => FrameClass::Request,
            4 => FrameClass::Answer,
            5 => FrameClass::Failure,
            6 => FrameClass::Notice,
            7 => FrameClass::BulkHead,
            8 => FrameClass::BulkPart,
            9 => FrameClass::BulkEnd,
            _ => return None,
        })
    }
}

impl Frame {
    /// What goes before the body.
    ///
    /// # Panics
    /// The body is longer than [`FRAME_BODY_BYTES_MAX`]: whoever makes a frame checks that.
    pub fn header(&self) -> [u8; FRAME_HEADER_BYTES] {
        assert!(self.body.len() <= FRAME_BODY_BYTES_MAX, "a frame of {} bytes", self.body.len());
        let mut header = [0; FRAME_HEADER_BYTES];
        header[..2].copy_from_slice(&MAGIC);
        header[2] = self.class as u8;
        header[3] = self.kind;
        #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
        header[4..8].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.id.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..16]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header[20..].copy_from_slice(&crc32c::crc32c(&self.body).to_le_bytes());
        header
    }

    /// Header and body in one piece.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header().to_vec();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

impl Decoder {
    /// A decoder that takes bodies up to this size.
    pub fn new(body_bytes_max: usize) -> Decoder {
        Decoder { buffer: BytesMut::new(), body_bytes_max, head: None }
    }

    /// Takes bodies up to this size from the next header on.
    pub fn take_bodies_up_to(&mut self, bytes_max: usize) {
        self.body_bytes_max = bytes_max;
    }

    /// Where the next bytes of the stream go, with room for a read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let room = self.buffer.capacity() - self.buffer.len();
        let missing = self.missing();
        if room < missing.max(READ_BYTES_MIN) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
        &mut self.buffer
    }

    /// True if the stream may end here: no frame has begun.
    pub fn is_between_frames(&self) -> bool {
        self.head.is_none() && self.buffer.is_empty()
    }

    /// The next frame, if it has come whole.
    ///
    /// # Errors
    /// What came is no frame. The stream is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let head = match self.head.take() {
            Some(head) => head,
            None => match self.take_head()? {
                Some(head) => head,
                None => return Ok(None),
            },
        };
        if self.buffer.len() < head.length {
            self.head = Some(head);
            return Ok(None);
        }
        let expected = crc32c::crc32c(&self.buffer[..head.length]);
        if expected != head.body_checksum {
            let (bytes, got) = (head.length, head.body_checksum);
            return Err(FrameError::DamagedBody { bytes, expected, got });
        }
        let body = self.take_body(head.length);
        Ok(Some(Frame { class: head.class, kind: head.kind, id: head.id, body }))
    }

    fn take_body(&mut self, length: usize) -> Bytes {
        if length > COPIED_BYTES_MAX {
            return self.buffer.split_to(length).freeze();
        }
        let body = Bytes::copy_from_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        body
    }

    fn take_head(&mut self) -> Result<Option<Head>, FrameError> {
        let bytes = self.buffer.as_ref();
        if let Some(magic) = bytes.first_chunk::<2>()
            && *magic != MAGIC
        {
            return Err(FrameError::Magic(*magic));
        }
        let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
        let expected = crc32c::crc32c(&header[..16]);
        let got = word(header, 16);
        if expected != got {
            return Err(FrameError::DamagedHeader { expected, got });
        }
        let class = FrameClass::from_byte(header[2]).ok_or(FrameError::Class(header[2]))?;
        let length = word(header, 4) as usize;
        if length > self.body_bytes_max {
            return Err(FrameError::TooLong { got: length, max: self.body_bytes_max });
        }
        let id = u64::from(word(header, 8)) | u64::from(word(header, 12)) << 32;
        let head = Head { class, kind: header[3], length, id, body_checksum: word(header, 20) };
        self.buffer.advance(FRAME_HEADER_BYTES);
        Ok(Some(head))
    }

    /// Bytes that are known to be missing.
    fn missing(&self) -> usize {
        self.head.map_or(0, |head| head.length.saturating_sub(self.buffer.len()))
    }
}

fn word(header: &[u8; FRAME_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const CLASSES: [FrameClass; 9] = [
        FrameClass::Hello,
        FrameClass::Rejection,
        FrameClass::Request,
        FrameClass::Answer,
        FrameClass::Failure,
        FrameClass::Notice,
        FrameClass::BulkHead,
        FrameClass::BulkPart,
        FrameClass::BulkEnd,
    ];

    fn frame() -> impl Strategy<Value = Frame> {
        let body = prop_oneof![vec(any::<u8>(), 0..64), vec(any::<u8>(), 0..20_000)];
        (0..CLASSES.len(), any::<u8>(), any::<u64>(), body).prop_map(|(class, kind, id, body)| {
            Frame { class: CLASSES[class], kind, id, body: body.into() }
        })
    }

    /// All frames of a stream that comes in pieces, and the error at its end.
    fn decode(stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<FrameError>) {
        let mut decoder = Decoder::new(FRAME_BODY_BYTES_MAX);
        let mut frames = Vec::new();
        let mut rest = stream;
        let mut cuts = cuts.iter().copied().cycle();
        while !rest.is_empty() {
            let (piece, behind) =
                rest.split_at(cuts.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
            rest = behind;
            decoder.buffer().extend_from_slice(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_split(
            frames in vec(frame(), 1..8),
            cuts in vec(1_usize..9_000, 1..20),
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
            prop_assert_eq!(decode(&stream, &cuts), (frames, None));
        }

        #[test]
        fn any_flipped_bit_is_noticed_in_the_frame_that_it_is_in(
            frames in vec(frame(), 1..4),
            at in any::<prop::sample::Index>(),
            cuts in vec(1_usize..9_000, 1..20),
        ) {
            let mut stream: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
            let bit = at.index(stream.len() * 8);
            stream[bit / 8] ^= 1 << (bit % 8);
            let mut end = 0;
            let before = frames.iter().take_while(|frame| {
                end += FRAME_HEADER_BYTES + frame.body.len();
                end <= bit / 8
            });
            let before: Vec<Frame> = before.cloned().collect();
            let (got, error) = decode(&stream, &cuts);
            prop_assert_eq!(got, before);
            prop_assert!(error.is_some());
        }

        #[test]
        fn random_bytes_end_in_an_error_and_nothing_worse(
            bytes in vec(any::<u8>(), 2..5_000),
            cuts in vec(1_usize..900, 1..20),
        ) {
            prop_assume!(bytes[..2] != MAGIC);
            let expected = FrameError::Magic([bytes[0], bytes[1]]);
            prop_assert_eq!(decode(&bytes, &cuts), (Vec::new(), Some(expected)));
        }

        #[test]
        fn random_bytes_behind_a_good_beginning_do_no_harm(
            header in any::<[u8; 14]>(),
            bytes in vec(any::<u8>(), 0..500),
            cuts in vec(1_usize..90, 1..20),
        ) {
            let mut stream = MAGIC.to_vec();
            stream.extend_from_slice(&header);
            stream.extend_from_slice(&crc32c::crc32c(&stream).to_le_bytes());
            stream.extend_from_slice(&bytes);
            // Whether it fails or waits for more depends on the bytes.
            let _ = decode(&stream, &cuts);
        }
    }

    #[test]
    fn a_body_that_is_longer_than_allowed_is_refused_before_it_comes() {
        let frame =
            Frame { class: FrameClass::Hello, kind: 0, id: 0, body: Bytes::from_static(&[7; 65]) };
        let mut decoder = Decoder::new(64);
        decoder.buffer().extend_from_slice(&frame.header());
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLong { got: 65, max: 64 }));
        assert!(decoder.buffer().capacity() <= READ_BYTES, "nothing was reserved for it");
    }

    #[test]
    fn a_small_body_does_not_keep_what_was_read_with_it() {
        let frame = Frame {
            class: FrameClass::Request,
            kind: 1,
            id: 2,
            body: Bytes::from_static(b"small"),
        };
        let mut decoder = Decoder::new(FRAME_BODY_BYTES_MAX);
        decoder.buffer().extend_from_slice(&frame.to_bytes());
        let room = decoder.buffer().as_ptr_range();
        let got = decoder.next_frame().expect("sound").expect("whole");
        assert_eq!(got, frame);
        assert!(!room.contains(&got.body.as_ptr()), "it is a copy");
        assert!(decoder.is_between_frames());
        for _ in 0..10_000 {
            decoder.buffer().extend_from_slice(&frame.to_bytes());
            assert_eq!(decoder.next_frame().as_ref(), Ok(&Some(got.clone())));
        }
        assert!(decoder.buffer().capacity() <= READ_BYTES, "the room is used again");
    }
}
