//! One connection at work: frames in and out in as few system calls as there are wake-ups.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::{Decoder, Frame, FrameClass, FrameError};
use super::hello::SENTENCE_BYTES_MAX;
use super::outbox::{Outbox, Writing};
use super::tls;
use super::wire::Wire;

/// Time for the other side to take the last frame and to close.
const FAREWELL: Duration = Duration::from_millis(500);
/// Bytes that are thrown away while the other side takes the last frame.
const FAREWELL_BYTES_MAX: usize = 1 << 20;

/// A connection whose two sides know each other.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) wire: Wire,
    pub(super) decoder: Decoder,
    writing: Writing,
}

/// Who takes the frames of a connection.
pub(super) trait Taker {
    /// False while no further frame should come: it then waits in the connection.
    fn has_room(&self) -> bool;

    /// Takes a frame.
    fn take(&mut self, frame: Frame) -> Result<(), Ended>;
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The other side closed it, or its process has ended.
    #[error("the peer closed the connection")]
    Closed,
    /// The other side closed it, or its process has ended, while it was sending.
    #[error("the peer closed the connection in the middle of a frame")]
    Cut,
    /// The network or the other side's machine.
    #[error("the connection broke: {}", tls::sentence(.0))]
    Broken(io::Error),
    /// The other side sends what is no frame.
    #[error("the peer misbehaved: {0}")]
    Misframed(#[from] FrameError),
    /// The other side sends a frame that has no place here.
    #[error("the peer misbehaved: a frame of class {0:?} has no place here")]
    OutOfPlace(FrameClass),
    /// The other side has said why it ends.
    #[error("the peer ended the connection: {0}")]
    Dismissed(String),
    /// This side wants it so.
    #[error("{0}")]
    Wanted(String),
}

impl Ended {
    /// True if neither side said why.
    pub(super) fn is_sudden(&self) -> bool {
        match self {
            Ended::Closed | Ended::Cut | Ended::Broken(_) => true,
            Ended::Misframed(_) | Ended::OutOfPlace(_) | Ended::Dismissed(_) | Ended::Wanted(_) => {
                false
            }
        }
    }

    /// What the other side is told, if it still listens.
    fn farewell(&self) -> Option<String> {
        match self {
            Ended::Closed | Ended::Cut | Ended::Broken(_) | Ended::Dismissed(_) => None,
            Ended::Misframed(error) => Some(error.to_string()),
            Ended::OutOfPlace(class) => {
                Some(format!("a frame of class {class:?} has no place here"))
            }
            Ended::Wanted(why) => Some(why.clone()),
        }
    }
}

impl Conversation {
    pub(super) fn new(wire: Wire, decoder: Decoder) -> Conversation {
        Conversation { wire, decoder, writing: Writing::default() }
    }

    /// Reads and writes until neither can go on. Ready when the connection has ended.
    pub(super) fn poll(
        &mut self,
        outbox: &Outbox,
        taker: &mut impl Taker,
        context: &mut Context<'_>,
    ) -> Poll<Ended> {
        outbox.register(context.waker());
        loop {
            let has_written = match self.writing.poll_write(outbox, &mut self.wire, context) {
                Poll::Ready(Ok(has_written)) => has_written,
                // What the other side still said is more telling than that it takes no more.
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(self.last_words(taker, context, error));
                }
                Poll::Pending => false,
            };
            match self.poll_read(taker, context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                Poll::Pending if has_written => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Hands frames on, and reads once. Pending if nothing came.
    fn poll_read(
        &mut self,
        taker: &mut impl Taker,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        self.hand_on(taker)?;
        if !taker.has_room() {
            return Poll::Pending;
        }
        let read = match pin!(self.wire.read_buf(self.decoder.buffer())).poll(context) {
            Poll::Ready(read) => read,
            Poll::Pending => return Poll::Pending,
        };
        match read {
            Ok(0) if self.decoder.is_between_frames() => Poll::Ready(Err(Ended::Closed)),
            Ok(0) => Poll::Ready(Err(Ended::Cut)),
            Ok(_) => Poll::Ready(self.hand_on(taker)),
            Err(error) => Poll::Ready(Err(Ended::Broken(error))),
        }
    }

    fn hand_on(&mut self, taker: &mut impl Taker) -> Result<(), Ended> {
        while taker.has_room() {
            match self.decoder.next_frame()? {
                Some(frame) if frame.class == FrameClass::Rejection => {
                    return Err(Ended::Dismissed(sentence(&frame.body)));
                }
                Some(frame) => taker.take(frame)?,
                None => break,
            }
        }
        Ok(())
    }

    fn last_words(
        &mut self,
        taker: &mut impl Taker,
        context: &mut Context<'_>,
        error: io::Error,
    ) -> Ended {
        loop {
            match self.poll_read(taker, context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Ended::Dismissed(why))) => return Ended::Dismissed(why),
                Poll::Ready(Err(_)) | Poll::Pending => return Ended::Broken(error),
            }
        }
    }

    /// Tells the other side why, if it may not know, and closes.
    pub(super) async fn close(self, ended: &Ended) {
        if let Some(why) = ended.farewell() {
            dismiss(self.wire, &why).await;
        }
    }

    /// Sends the last frame, and closes.
    pub(super) async fn part_with(self, last: &Frame) {
        part(self.wire, last).await;
    }

    /// The next frame, for the time before both sides know each other.
    pub(super) async fn read_frame(&mut self) -> Result<Frame, Ended> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.wire.read_buf(self.decoder.buffer()).await {
                Ok(0) if self.decoder.is_between_frames() => return Err(Ended::Closed),
                Ok(0) => return Err(Ended::Cut),
                Ok(_) => {}
                Err(error) => return Err(Ended::Broken(error)),
            }
        }
    }

    /// Writes one frame at once.
    pub(super) async fn write_frame(&mut self, frame: &Frame) -> io::Result<()> {
        self.wire.write_all(&frame.header()).await?;
        self.wire.write_all(&frame.body).await?;
        self.wire.flush().await
    }
}

/// Sends a sentence as the last frame.
pub(super) async fn dismiss(wire: Wire, why: &str) {
    part(wire, &rejection(why)).await;
}

/// Sends the last frame, and waits a little until the other side has it: a connection that is
/// closed while bytes come in is reset, and the frame with it.
async fn part(mut wire: Wire, last: &Frame) {
    let farewell = async {
        wire.write_all(&last.to_bytes()).await?;
        wire.shutdown().await?;
        let mut thrown_away = 0;
        let mut room = [0; 1_024];
        while thrown_away < FAREWELL_BYTES_MAX {
            match wire.read(&mut room).await? {
                0 => break,
                count => thrown_away += count,
            }
        }
        io::Result::Ok(())
    };
    // Whether it listens is the other side's affair.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// A sentence as the last frame of a connection.
pub(super) fn rejection(why: &str) -> Frame {
    let body =
        Bytes::copy_from_slice(&why.as_bytes()[..why.floor_char_boundary(SENTENCE_BYTES_MAX)]);
    Frame { class: FrameClass::Rejection, kind: 0, id: 0, body }
}

/// What the other side says, fit for a log: one line without control characters.
pub(super) fn sentence(body: &[u8]) -> String {
    let told = &body[..body.len().min(SENTENCE_BYTES_MAX)];
    let text = String::from_utf8_lossy(told);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
