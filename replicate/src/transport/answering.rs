//! A peer's connection: its requests are handed to the handler, the answers go back.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use tokio::task::spawn_local;

use super::conversation::{Conversation, Ended, Taker};
use super::frame::{FRAME_BODY_BYTES_MAX, Frame, FrameClass};
use super::hello::{PeerIdentity, SENTENCE_BYTES_MAX};
use super::outbox::Outbox;
use super::serve::Handler;

/// Requests of one peer that are handled at once. Further ones wait on the peer's side.
pub const HANDLED_AT_ONCE_MAX: usize = 4_096;
/// Bytes of answers to one peer that wait to be written before no further request is taken.
pub const ANSWERS_QUEUED_BYTES_MAX: usize = 16 << 20;

/// Requests of one peer in the handler's hands, whatever connections they came by: a handler
/// that never ends is not forgotten because its connection has.
#[derive(Debug, Default)]
pub(super) struct InHand {
    count: Cell<usize>,
    /// Of the peer's latest connection, which may wait for room.
    outbox: RefCell<Rc<Outbox>>,
}

/// One connection of a peer's.
#[derive(Debug)]
pub(super) struct Answering<H> {
    handler: Rc<H>,
    peer: Rc<PeerIdentity>,
    in_hand: Rc<InHand>,
    outbox: Rc<Outbox>,
    dismissal: Rc<Dismissal>,
}

/// How a connection is ended from outside.
#[derive(Debug, Default)]
pub(super) struct Dismissal {
    why: RefCell<Option<String>>,
    outbox: Rc<Outbox>,
}

impl Dismissal {
    pub(super) fn dismiss(&self, why: &str) {
        self.why.replace(Some(why.to_owned()));
        self.outbox.wake();
    }
}

impl<H: Handler> Answering<H> {
    pub(super) fn new(
        handler: Rc<H>,
        peer: Rc<PeerIdentity>,
        in_hand: Rc<InHand>,
    ) -> (Answering<H>, Rc<Dismissal>) {
        let outbox = Rc::<Outbox>::default();
        in_hand.outbox.replace(Rc::clone(&outbox));
        let dismissal = Rc::new(Dismissal { why: RefCell::new(None), outbox: Rc::clone(&outbox) });
        let answering =
            Answering { handler, peer, in_hand, outbox, dismissal: Rc::clone(&dismissal) };
        (answering, dismissal)
    }

    /// Answers until the connection ends.
    pub(super) async fn run(mut self, mut conversation: Conversation) -> Ended {
        let outbox = Rc::clone(&self.outbox);
        let dismissal = Rc::clone(&self.dismissal);
        let ended = poll_fn(|context| {
            if let Some(why) = dismissal.why.take() {
                return Poll::Ready(Ended::Wanted(why));
            }
            conversation.poll(&outbox, &mut self, context)
        })
        .await;
        outbox.close();
        conversation.close(&ended).await;
        ended
    }

    /// Tasks on one thread run in the order in which they were spawned: handlers begin in the
    /// order of the requests.
    fn handle(&self, frame: Frame) {
        let Frame { kind, id, body, .. } = frame;
        let (handler, peer) = (Rc::clone(&self.handler), Rc::clone(&self.peer));
        let reply = Reply::new(&self.in_hand, &self.outbox, kind, id);
        spawn_local(async move {
            let answer = handler.handle(&peer, kind, body).await;
            reply.send(answer);
        });
    }
}

impl<H: Handler> Taker for Answering<H> {
    fn has_room(&self) -> bool {
        self.in_hand.count.get() < HANDLED_AT_ONCE_MAX
            && self.outbox.bytes() < ANSWERS_QUEUED_BYTES_MAX
    }

    fn take(&mut self, frame: Frame) -> Result<(), Ended> {
        match frame.class {
            FrameClass::Request => self.handle(frame),
            FrameClass::Notice => self.handler.notice(&self.peer, frame.kind, frame.body),
            FrameClass::Hello
            | FrameClass::Rejection
            | FrameClass::Answer
            | FrameClass::Failure
            | FrameClass::BulkHead
            | FrameClass::BulkPart
            | FrameClass::BulkEnd => return Err(Ended::OutOfPlace(frame.class)),
        }
        Ok(())
    }
}

/// The answer that is owed for one request. Dropped unsent, it says so: a handler that panics
/// leaves nobody waiting.
struct Reply {
    in_hand: Rc<InHand>,
    outbox: Rc<Outbox>,
    kind: u8,
    id: u64,
    is_sent: bool,
}

impl Reply {
    fn new(in_hand: &Rc<InHand>, outbox: &Rc<Outbox>, kind: u8, id: u64) -> Reply {
        in_hand.count.set(in_hand.count.get() + 1);
        let (in_hand, outbox) = (Rc::clone(in_hand), Rc::clone(outbox));
        Reply { in_hand, outbox, kind, id, is_sent: false }
    }

    fn send(mut self, answer: Result<Bytes, String>) {
        match answer {
            Ok(body) if body.len() <= FRAME_BODY_BYTES_MAX => {
                self.push(FrameClass::Answer, body);
            }
            Ok(body) => self.fail(&format!(
                "the answer of {} bytes is more than the {FRAME_BODY_BYTES_MAX} of a frame",
                body.len()
            )),
            Err(why) => self.fail(&why),
        }
    }

    fn fail(&mut self, why: &str) {
        let end = why.floor_char_boundary(SENTENCE_BYTES_MAX);
        self.push(FrameClass::Failure, Bytes::copy_from_slice(&why.as_bytes()[..end]));
    }

    fn push(&mut self, class: FrameClass, body: Bytes) {
        self.is_sent = true;
        self.outbox.push(Frame { class, kind: self.kind, id: self.id, body });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_sent {
            self.fail("the request was given up: its handler failed");
        }
        let in_hand = &self.in_hand;
        let had_no_room = in_hand.count.get() == HANDLED_AT_ONCE_MAX;
        in_hand.count.set(in_hand.count.get() - 1);
        if had_no_room {
            in_hand.outbox.borrow().wake();
        }
    }
}
