//! What waits to be written to one connection, and how it becomes few writes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::frame::{FRAME_HEADER_BYTES, Frame};

/// Notices that wait for one connection. Of more the oldest is dropped: a later one says more.
pub(super) const NOTICES_QUEUED_MAX: usize = 64;

/// Frames are gathered into one write up to this size.
const WRITE_BYTES: usize = 64 << 10;
/// A body from this size on is written from where it is.
const GATHERED_BYTES_MAX: usize = 8 << 10;

/// Frames that wait for one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: RefCell<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    notices: VecDeque<Frame>,
    frames: VecDeque<Frame>,
    /// Of `frames`, headers included.
    bytes: usize,
    writer: Option<Waker>,
    /// The connection has ended: nothing is taken any more.
    is_closed: bool,
}

/// What is being written now: frames that were gathered, then a large body.
#[derive(Debug, Default)]
pub(super) struct Writing {
    gathered: Vec<u8>,
    written: usize,
    body: Bytes,
    /// Something was written and not flushed: TLS keeps records that the socket did not take.
    is_unflushed: bool,
}

impl Outbox {
    /// Queues a frame behind the others, and wakes the writer.
    pub(super) fn push(&self, frame: Frame) {
        let mut queues = self.queues.borrow_mut();
        if queues.is_closed {
            return;
        }
        queues.bytes += FRAME_HEADER_BYTES + frame.body.len();
        queues.frames.push_back(frame);
        queues.wake();
    }

    /// Queues a notice in front of all other frames.
    pub(super) fn push_notice(&self, notice: Frame) {
        let mut queues = self.queues.borrow_mut();
        if queues.notices.len() == NOTICES_QUEUED_MAX {
            queues.notices.pop_front();
        }
        queues.notices.push_back(notice);
        queues.wake();
    }

    /// Bytes of the frames that wait, without notices.
    pub(super) fn bytes(&self) -> usize {
        self.queues.borrow().bytes
    }

    /// Takes a request back that nobody waits for any more. Nothing happens if it is written.
    ///
    /// Only for an outbox whose frames have rising ids.
    pub(super) fn take_back(&self, id: u64) {
        let mut queues = self.queues.borrow_mut();
        if let Ok(at) = queues.frames.binary_search_by_key(&id, |frame| frame.id)
            && let Some(frame) = queues.frames.remove(at)
        {
            queues.bytes -= FRAME_HEADER_BYTES + frame.body.len();
        }
    }

    /// Forgets all that waits.
    pub(super) fn clear(&self) {
        let mut queues = self.queues.borrow_mut();
        queues.notices.clear();
        queues.frames.clear();
        queues.bytes = 0;
    }

    /// Forgets all that waits, and all that may come.
    pub(super) fn close(&self) {
        self.clear();
        self.queues.borrow_mut().is_closed = true;
    }

    /// Wakes the writer though there may be nothing new.
    pub(super) fn wake(&self) {
        self.queues.borrow_mut().wake();
    }

    /// Who is to be woken by the next frame.
    pub(super) fn register(&self, waker: &Waker) {
        let mut queues = self.queues.borrow_mut();
        match &mut queues.writer {
            Some(writer) => writer.clone_from(waker),
            None => queues.writer = Some(waker.clone()),
        }
    }

    fn pop(&self) -> Option<Frame> {
        let mut queues = self.queues.borrow_mut();
        if let Some(notice) = queues.notices.pop_front() {
            return Some(notice);
        }
        let frame = queues.frames.pop_front()?;
        queues.bytes -= FRAME_HEADER_BYTES + frame.body.len();
        Some(frame)
    }
}

impl Queues {
    fn wake(&mut self) {
        // Once is enough until the writer has run.
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl Writing {
    /// Writes what waits. Ready when all is written and flushed; true if there was anything.
    pub(super) fn poll_write(
        &mut self,
        outbox: &Outbox,
        wire: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let mut has_written = false;
        loop {
            while self.written < self.gathered.len() {
                let rest = &self.gathered[self.written..];
                self.written += taken(ready!(Pin::new(&mut *wire).poll_write(context, rest))?)?;
                self.is_unflushed = true;
            }
            while !self.body.is_empty() {
                let count = taken(ready!(Pin::new(&mut *wire).poll_write(context, &self.body))?)?;
                self.body.advance(count);
                self.is_unflushed = true;
            }
            if !self.gather(outbox) {
                break;
            }
            has_written = true;
        }
        if self.is_unflushed {
            ready!(Pin::new(wire).poll_flush(context))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(has_written))
    }

    /// Takes what fits into one write. False if nothing waits.
    fn gather(&mut self, outbox: &Outbox) -> bool {
        self.gathered.clear();
        self.written = 0;
        self.body = Bytes::new();
        while self.gathered.len() < WRITE_BYTES {
            let Some(frame) = outbox.pop() else { break };
            self.gathered.extend_from_slice(&frame.header());
            if frame.body.len() > GATHERED_BYTES_MAX {
                self.body = frame.body;
                break;
            }
            self.gathered.extend_from_slice(&frame.body);
        }
        !self.gathered.is_empty()
    }
}

fn taken(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Decoder, FRAME_BODY_BYTES_MAX, FrameClass};
    use super::*;

    /// Takes at most so many bytes per write, and counts the writes.
    #[derive(Default)]
    struct Counted {
        bytes: Vec<u8>,
        writes: usize,
        at_most: Option<usize>,
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let counted = self.get_mut();
            let count = bytes.len().min(counted.at_most.unwrap_or(usize::MAX));
            counted.bytes.extend_from_slice(&bytes[..count]);
            counted.writes += 1;
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(class: FrameClass, id: u64, body: Bytes) -> Frame {
        Frame { class, kind: 0, id, body }
    }

    fn write(outbox: &Outbox, wire: &mut Counted) {
        let mut context = Context::from_waker(Waker::noop());
        let written = Writing::default().poll_write(outbox, wire, &mut context);
        assert!(matches!(written, Poll::Ready(Ok(true))), "{written:?}");
        assert_eq!(outbox.bytes(), 0);
    }

    fn ids(bytes: &[u8]) -> Vec<u64> {
        let mut decoder = Decoder::new(FRAME_BODY_BYTES_MAX);
        decoder.buffer().extend_from_slice(bytes);
        std::iter::from_fn(|| decoder.next_frame().expect("sound")).map(|frame| frame.id).collect()
    }

    #[test]
    fn many_small_frames_become_one_write() {
        let outbox = Outbox::default();
        for id in 0..500 {
            outbox.push(frame(FrameClass::Request, id, Bytes::from_static(b"sixteen bytes...")));
        }
        let mut wire = Counted::default();
        write(&outbox, &mut wire);
        assert_eq!(wire.writes, 1);
        assert_eq!(ids(&wire.bytes), (0..500).collect::<Vec<u64>>());
    }

    #[test]
    fn notices_overtake_what_waits_and_never_pile_up() {
        let outbox = Outbox::default();
        outbox.push(frame(FrameClass::Request, 1, Bytes::new()));
        let last = 1_000 + NOTICES_QUEUED_MAX as u64;
        for id in 1_000..=last {
            outbox.push_notice(frame(FrameClass::Notice, id, Bytes::new()));
        }
        let mut wire = Counted::default();
        write(&outbox, &mut wire);
        let expected: Vec<u64> = (1_001..=last).chain([1]).collect();
        assert_eq!(ids(&wire.bytes), expected, "the oldest notice is gone");
    }

    #[test]
    fn what_is_taken_back_is_not_written() {
        let outbox = Outbox::default();
        for id in [3, 4, 6] {
            outbox.push(frame(FrameClass::Request, id, Bytes::from_static(b"body")));
        }
        outbox.take_back(4);
        outbox.take_back(5);
        let mut wire = Counted::default();
        write(&outbox, &mut wire);
        assert_eq!(ids(&wire.bytes), [3, 6]);
    }

    #[test]
    fn bodies_of_every_size_arrive_whole_however_little_a_write_takes() {
        let outbox = Outbox::default();
        let sizes = [0, 1, GATHERED_BYTES_MAX, GATHERED_BYTES_MAX + 1, 3 * WRITE_BYTES, 5];
        for (id, size) in (0..).zip(sizes) {
            outbox.push(frame(FrameClass::Answer, id, vec![7; size].into()));
        }
        let mut wire = Counted { at_most: Some(1_000), ..Counted::default() };
        write(&outbox, &mut wire);
        assert_eq!(ids(&wire.bytes), [0, 1, 2, 3, 4, 5]);
    }
}
