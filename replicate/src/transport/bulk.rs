//! Bulk transfers: snapshots and blobs, each on a connection of its own, so that no heartbeat or
//! request waits behind them.
//!
//! ```text
//! push   -> BulkHead, BulkPart…, BulkEnd    <- Answer | Failure
//! pull   -> Request                         <- BulkHead, BulkPart…, BulkEnd | Failure
//! ```
//! A head tells the length, the end a SHA-256 of all parts: the receiver has the whole only
//! when both are right.
//!
//! Invariants:
//! - Either side holds one part at a time; TCP holds the sender back.
//! - A transfer that makes no progress for a while is given up on both sides.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::conversation::{Conversation, Ended, sentence};
use super::dial::DialError;
use super::frame::{Frame, FrameClass};
use super::hello::SENTENCE_BYTES_MAX;

/// Bytes of one part.
pub const BULK_PART_BYTES: usize = 256 << 10;

/// Before it answers, a receiver may have to write all of it to disk: it gets so many times the
/// time that each part gets.
const ANSWER_PATIENCE: u32 = 6;

/// Why a bulk transfer has failed.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// Nobody has said where that node is.
    #[error("the node is no peer of this node")]
    UnknownPeer,
    /// There is no connection.
    #[error("connect for a bulk transfer: {0}")]
    Dial(#[from] DialError),
    /// What should be sent can't be read.
    #[error("read what is to be sent: {0}")]
    Source(#[source] io::Error),
    /// What should be sent is not what was announced.
    #[error("what is to be sent ends after {got} bytes, {announced} were announced")]
    SourceShort {
        /// Bytes that were there.
        got: u64,
        /// Bytes that the head tells.
        announced: u64,
    },
    /// Nothing moved.
    #[error("the transfer made no progress for {} ms", .0.as_millis())]
    Stalled(Duration),
    /// The connection ended.
    #[error("the transfer broke off: {0}")]
    Ended(String),
    /// The other side can't, or won't.
    #[error("the peer gave the transfer up: {0}")]
    Failed(String),
    /// It came through differently.
    #[error("{got} bytes came of {announced} that were announced")]
    Length {
        /// Bytes that came.
        got: u64,
        /// Bytes that were announced.
        announced: u64,
    },
    /// It came through differently.
    #[error("the {bytes} bytes that came have another SHA-256 than those that were sent")]
    Damaged {
        /// Bytes that came.
        bytes: u64,
    },
}

/// What a node sends when it is asked for something large.
pub struct Supply {
    /// Its exact length.
    pub length: u64,
    /// What the receiver is told before it.
    pub head: Bytes,
    /// Where it is read from.
    pub source: Box<dyn AsyncRead + Unpin>,
}

impl fmt::Debug for Supply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Supply").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A bulk transfer that comes in.
pub struct Incoming {
    conversation: Conversation,
    head: Bytes,
    length: u64,
    received: u64,
    hash: Context,
    is_complete: bool,
    stalled_after: Duration,
}

impl Incoming {
    pub(super) fn new(
        conversation: Conversation,
        head: &Frame,
        stalled_after: Duration,
    ) -> Incoming {
        Incoming {
            conversation,
            head: head.body.clone(),
            length: head.id,
            received: 0,
            hash: Context::new(&SHA256),
            is_complete: false,
            stalled_after,
        }
    }

    /// What the sender says before it.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// Bytes that will have come at its end.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that have come so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next part; `None` once all has come and is what was sent. Before that nothing may be
    /// believed of what came.
    ///
    /// # Errors
    /// It can't go on, or what came is not what was sent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BulkError> {
        if self.is_complete {
            return Ok(None);
        }
        let frame = next_frame(&mut self.conversation, self.stalled_after).await?;
        match frame.class {
            FrameClass::BulkPart => self.take(frame.body).map(Some),
            FrameClass::BulkEnd => self.end(&frame).map(|()| None),
            FrameClass::Failure => Err(BulkError::Failed(sentence(&frame.body))),
            FrameClass::Hello
            | FrameClass::Rejection
            | FrameClass::Request
            | FrameClass::Answer
            | FrameClass::Notice
            | FrameClass::BulkHead => Err(out_of_place(frame.class)),
        }
    }

    fn take(&mut self, part: Bytes) -> Result<Bytes, BulkError> {
        self.received += part.len() as u64;
        if self.received > self.length {
            return Err(BulkError::Length { got: self.received, announced: self.length });
        }
        self.hash.update(&part);
        Ok(part)
    }

    fn end(&mut self, end: &Frame) -> Result<(), BulkError> {
        if self.received != self.length {
            return Err(BulkError::Length { got: self.received, announced: self.length });
        }
        if self.hash.clone().finish().as_ref() != end.body.as_ref() {
            return Err(BulkError::Damaged { bytes: self.received });
        }
        self.is_complete = true;
        Ok(())
    }

    /// Tells the sender what became of it.
    pub(super) async fn answer(self, kind: u8, answer: Result<Bytes, String>) {
        let answer = match answer {
            Ok(_) if !self.is_complete => Err("the receiver did not read to the end".to_owned()),
            other => other,
        };
        let frame = match answer {
            Ok(body) => Frame { class: FrameClass::Answer, kind, id: 0, body },
            Err(why) => failure(kind, &why),
        };
        self.conversation.part_with(&frame).await;
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Incoming");
        shown.field("length", &self.length).field("received", &self.received);
        shown.finish_non_exhaustive()
    }
}

/// Sends all of a source, and tells `progress` after each part how many bytes are sent.
pub(super) async fn send(
    conversation: &mut Conversation,
    kind: u8,
    supply: Supply,
    stalled_after: Duration,
    mut progress: impl FnMut(u64),
) -> Result<(), BulkError> {
    let Supply { length, head, mut source } = supply;
    let head = Frame { class: FrameClass::BulkHead, kind, id: length, body: head };
    write(conversation, &head, stalled_after).await?;
    let (mut sent, mut hash) = (0, Context::new(&SHA256));
    while sent < length {
        let wanted = (length - sent).min(BULK_PART_BYTES as u64);
        let part = read_part(&mut source, wanted).await.map_err(BulkError::Source)?;
        if part.is_empty() {
            return Err(BulkError::SourceShort { got: sent, announced: length });
        }
        hash.update(&part);
        sent += part.len() as u64;
        let part = Frame { class: FrameClass::BulkPart, kind, id: 0, body: part };
        write(conversation, &part, stalled_after).await?;
        progress(sent);
    }
    let body = Bytes::copy_from_slice(hash.finish().as_ref());
    write(conversation, &Frame { class: FrameClass::BulkEnd, kind, id: 0, body }, stalled_after)
        .await
}

/// The next frame, if it comes before patience ends.
pub(super) async fn next_frame(
    conversation: &mut Conversation,
    stalled_after: Duration,
) -> Result<Frame, BulkError> {
    match timeout(stalled_after, conversation.read_frame()).await {
        Ok(Ok(frame)) if frame.class == FrameClass::Rejection => {
            Err(BulkError::Failed(sentence(&frame.body)))
        }
        Ok(Ok(frame)) => Ok(frame),
        Ok(Err(ended)) => Err(BulkError::Ended(ended.to_string())),
        Err(_) => Err(BulkError::Stalled(stalled_after)),
    }
}

/// What the receiver of a push says at its end.
pub(super) async fn answer(
    conversation: &mut Conversation,
    stalled_after: Duration,
) -> Result<Bytes, BulkError> {
    let frame = next_frame(conversation, stalled_after * ANSWER_PATIENCE).await?;
    match frame.class {
        FrameClass::Answer => Ok(frame.body),
        FrameClass::Failure => Err(BulkError::Failed(sentence(&frame.body))),
        FrameClass::Hello
        | FrameClass::Rejection
        | FrameClass::Request
        | FrameClass::Notice
        | FrameClass::BulkHead
        | FrameClass::BulkPart
        | FrameClass::BulkEnd => Err(out_of_place(frame.class)),
    }
}

/// A sentence instead of what was asked for.
pub(super) fn failure(kind: u8, why: &str) -> Frame {
    let end = why.floor_char_boundary(SENTENCE_BYTES_MAX);
    let body = Bytes::copy_from_slice(&why.as_bytes()[..end]);
    Frame { class: FrameClass::Failure, kind, id: 0, body }
}

pub(super) fn out_of_place(class: FrameClass) -> BulkError {
    BulkError::Ended(Ended::OutOfPlace(class).to_string())
}

/// As much as is wanted, or what there is until the end.
async fn read_part(source: &mut (impl AsyncRead + Unpin), wanted: u64) -> io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(usize::try_from(wanted).unwrap_or(BULK_PART_BYTES));
    let mut limited = source.take(wanted);
    while limited.read_buf(&mut part).await? > 0 {
        if part.len() as u64 == wanted {
            break;
        }
    }
    Ok(part.freeze())
}

async fn write(
    conversation: &mut Conversation,
    frame: &Frame,
    stalled_after: Duration,
) -> Result<(), BulkError> {
    match timeout(stalled_after, conversation.write_frame(frame)).await {
        Ok(Ok(())) => Ok(()),
        // The receiver may have said why it takes no more.
        Ok(Err(error)) => match next_frame(conversation, stalled_after).await {
            Ok(frame) if frame.class == FrameClass::Failure => {
                Err(BulkError::Failed(sentence(&frame.body)))
            }
            Ok(frame) => Err(out_of_place(frame.class)),
            Err(BulkError::Failed(why)) => Err(BulkError::Failed(why)),
            Err(_) => Err(BulkError::Ended(Ended::Broken(error).to_string())),
        },
        Err(_) => Err(BulkError::Stalled(stalled_after)),
    }
}
