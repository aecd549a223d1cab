//! The way to one peer: a connection that is made again whenever it ends, and the requests that
//! wait for answers on it.
//!
//! Invariant: what is queued and what waits for an answer belongs to one attempt to connect and
//! the connection that follows. When that ends, all of it fails; nothing is sent twice.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use shardgate_replicate_proto::identity::NodeId;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use super::conversation::{Ended, Taker, sentence};
use super::dial::{DialError, Established, dial};
use super::endpoint::{Endpoint, LinkSettings};
use super::frame::{FRAME_BODY_BYTES_MAX, Frame, FrameClass};
use super::hello::{PeerIdentity, Purpose};
use super::outbox::Outbox;

/// Requests to one peer that wait for their answers.
pub const REQUESTS_MAX: usize = 16_384;
/// Bytes of requests to one peer that wait to be written.
pub const REQUESTS_QUEUED_BYTES_MAX: usize = 64 << 20;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody has said where that node is.
    #[error("node {0} is no peer of this node")]
    UnknownPeer(NodeId),
    /// There is no connection. The request was not sent.
    #[error("node {peer} can't be reached: {why}")]
    Down {
        /// The node.
        peer: NodeId,
        /// What the last attempt came to.
        why: Arc<str>,
    },
    /// The peer is slower than what is asked of it. The request was not sent.
    #[error("the queue to node {peer} is full ({limit}); it answers too slowly")]
    Full {
        /// The node.
        peer: NodeId,
        /// Which bound was met.
        limit: &'static str,
    },
    /// The request is larger than a frame. It was not sent.
    #[error("a request of {bytes} bytes is more than the {FRAME_BODY_BYTES_MAX} of a frame")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// The connection ended before the answer: nobody knows whether it was handled.
    #[error("the connection to node {peer} ended before its answer: {why}")]
    Closed {
        /// The node.
        peer: NodeId,
        /// How it ended.
        why: Arc<str>,
    },
    /// No answer came in time: nobody knows whether it was, or will be, handled.
    #[error("node {peer} did not answer within {} ms", .after.as_millis())]
    Timeout {
        /// The node.
        peer: NodeId,
        /// What the caller granted.
        after: Duration,
    },
    /// The peer answers that it could not.
    #[error("node {peer} answered: {why}")]
    Failed {
        /// The node.
        peer: NodeId,
        /// In its words.
        why: Arc<str>,
    },
}

impl LinkError {
    /// True if the peer may have handled the request, or may yet.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            LinkError::Closed { .. } | LinkError::Timeout { .. } => true,
            LinkError::UnknownPeer(_)
            | LinkError::Down { .. }
            | LinkError::Full { .. }
            | LinkError::TooLong { .. }
            | LinkError::Failed { .. } => false,
        }
    }
}

/// What has become of a link. Told at once, and again with each further attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Both sides know each other; requests flow.
    Up(PeerIdentity),
    /// Nothing listens at the peer's address: its process is not there.
    Refused(NodeId),
    /// An attempt failed otherwise.
    Failed {
        /// The peer.
        peer: NodeId,
        /// A sentence.
        why: Arc<str>,
    },
    /// A connection that was up has ended.
    Closed {
        /// The peer.
        peer: NodeId,
        /// A sentence.
        why: Arc<str>,
        /// True if it just ended, as it does when the peer's process or machine is gone; false
        /// if either side said why.
        is_sudden: bool,
    },
}

/// A link as it is now, for whoever looks at the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// The peer.
    pub node: NodeId,
    /// Where it should be.
    pub address: String,
    /// Who is there, while the link is up.
    pub peer: Option<PeerIdentity>,
    /// What the last attempt or connection came to, while the link is not up.
    pub last_failure: Option<Arc<str>>,
    /// Requests that wait for answers.
    pub requests: usize,
    /// Bytes that wait to be written.
    pub queued_bytes: usize,
}

/// The way to one peer.
#[derive(Debug)]
pub(super) struct Link {
    node: NodeId,
    address: RefCell<String>,
    phase: RefCell<Phase>,
    last_failure: RefCell<Option<Arc<str>>>,
    outbox: Outbox,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Result<Bytes, LinkError>>>>,
    last_id: Cell<u64>,
    /// Why the present connection shall end.
    dismissal: RefCell<Option<String>>,
    /// An attempt is wanted now.
    wanted_now: Notify,
}

#[derive(Clone, Debug)]
enum Phase {
    /// An attempt is under way: requests wait for it.
    Dialing,
    Up(Rc<PeerIdentity>),
    /// Until the next attempt. Requests fail.
    Resting(Arc<str>),
}

/// A request that was queued.
#[derive(Debug)]
pub(super) struct Asked {
    link: Rc<Link>,
    id: u64,
    answer: oneshot::Receiver<Result<Bytes, LinkError>>,
}

impl Link {
    pub(super) fn new(node: NodeId, address: String) -> Link {
        Link {
            node,
            address: RefCell::new(address),
            phase: RefCell::new(Phase::Dialing),
            last_failure: RefCell::new(None),
            outbox: Outbox::default(),
            waiting: RefCell::new(HashMap::new()),
            last_id: Cell::new(0),
            dismissal: RefCell::new(None),
            wanted_now: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> LinkState {
        LinkState {
            node: self.node,
            address: self.address.borrow().clone(),
            peer: self.peer().map(|peer| peer.as_ref().clone()),
            last_failure: self.last_failure.borrow().clone(),
            requests: self.waiting.borrow().len(),
            queued_bytes: self.outbox.bytes(),
        }
    }

    pub(super) fn address(&self) -> String {
        self.address.borrow().clone()
    }

    pub(super) fn peer(&self) -> Option<Rc<PeerIdentity>> {
        match &*self.phase.borrow() {
            Phase::Up(peer) => Some(Rc::clone(peer)),
            Phase::Dialing | Phase::Resting(_) => None,
        }
    }

    /// The peer is elsewhere now.
    pub(super) fn redirect(&self, address: &str) {
        if *self.address.borrow() == address {
            return;
        }
        address.clone_into(&mut self.address.borrow_mut());
        self.dismiss(&format!("node {} is now at another address", self.node));
        self.wanted_now.notify_one();
    }

    /// Ends the present connection.
    pub(super) fn dismiss(&self, why: &str) {
        if self.peer().is_some() {
            self.dismissal.replace(Some(why.to_owned()));
            self.outbox.wake();
        }
    }

    /// Tries now instead of after the rest of the pause.
    pub(super) fn dial_now(&self) {
        if matches!(*self.phase.borrow(), Phase::Resting(_)) {
            self.wanted_now.notify_one();
        }
    }

    /// Queues a request.
    pub(super) fn ask(self: &Rc<Link>, kind: u8, body: Bytes) -> Result<Asked, LinkError> {
        self.check_room(&body)?;
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        self.outbox.push(Frame { class: FrameClass::Request, kind, id, body });
        Ok(Asked { link: Rc::clone(self), id, answer })
    }

    fn check_room(&self, body: &Bytes) -> Result<(), LinkError> {
        let peer = self.node;
        if let Phase::Resting(why) = &*self.phase.borrow() {
            return Err(LinkError::Down { peer, why: Arc::clone(why) });
        }
        if body.len() > FRAME_BODY_BYTES_MAX {
            return Err(LinkError::TooLong { bytes: body.len() });
        }
        if self.waiting.borrow().len() >= REQUESTS_MAX {
            return Err(LinkError::Full { peer, limit: "16384 requests without an answer" });
        }
        if self.outbox.bytes() + body.len() > REQUESTS_QUEUED_BYTES_MAX {
            return Err(LinkError::Full { peer, limit: "64 MiB not yet sent" });
        }
        Ok(())
    }

    /// Queues a notice. False if there is no connection.
    pub(super) fn notify(&self, kind: u8, body: Bytes) -> bool {
        let is_up = self.peer().is_some() && body.len() <= FRAME_BODY_BYTES_MAX;
        if is_up {
            self.outbox.push_notice(Frame { class: FrameClass::Notice, kind, id: 0, body });
        }
        is_up
    }

    /// Keeps the link up until the task is dropped.
    pub(super) async fn keep(
        self: Rc<Link>,
        endpoint: Rc<Endpoint>,
        observe: Rc<dyn Fn(LinkEvent)>,
    ) {
        let mut backoff = Backoff::new(endpoint.settings());
        loop {
            self.phase.replace(Phase::Dialing);
            let address = self.address();
            let attempt = tokio::select! {
                attempt = dial(&endpoint, &address, Some(self.node), Purpose::Messages) => attempt,
                () = self.wanted_now.notified() => continue,
            };
            let pause = match attempt {
                Ok(established) => {
                    let since = Instant::now();
                    self.converse(established, observe.as_ref()).await;
                    backoff.pause_after(since.elapsed())
                }
                Err(error) => {
                    self.fail(&error, observe.as_ref());
                    Some(backoff.pause())
                }
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.wanted_now.notified() => {}
                }
            }
        }
    }

    fn fail(&self, error: &DialError, observe: &dyn Fn(LinkEvent)) {
        let why: Arc<str> = error.to_string().into();
        let is_news = self.last_failure.borrow().as_ref() != Some(&why);
        if is_news {
            let (node, address) = (self.node.0, self.address());
            tracing::warn!(event = "link_failed", node, address, %why, "a peer can't be talked to");
        }
        self.rest(&why, |peer, why| LinkError::Down { peer, why });
        observe(match error {
            DialError::Refused => LinkEvent::Refused(self.node),
            DialError::Resolve(_)
            | DialError::Unreachable(_)
            | DialError::Silent { .. }
            | DialError::Tls(_)
            | DialError::Ended(_)
            | DialError::Rejected(_)
            | DialError::Unfit(_) => LinkEvent::Failed { peer: self.node, why },
        });
    }

    async fn converse(&self, established: Established, observe: &dyn Fn(LinkEvent)) {
        let Established { mut conversation, peer } = established;
        let (node, name, address) = (self.node.0, peer.name.clone(), peer.address);
        tracing::info!(event = "link_up", node, name, %address, "a peer is connected");
        self.last_failure.replace(None);
        self.phase.replace(Phase::Up(Rc::new(peer.clone())));
        observe(LinkEvent::Up(peer));
        let mut answers = Answers { link: self };
        let ended = poll_fn(|context| {
            if let Some(why) = self.dismissal.take() {
                return Poll::Ready(Ended::Wanted(why));
            }
            conversation.poll(&self.outbox, &mut answers, context)
        })
        .await;
        let why: Arc<str> = ended.to_string().into();
        tracing::warn!(event = "link_closed", node, name, %why, "a peer's connection has ended");
        self.rest(&why, |peer, why| LinkError::Closed { peer, why });
        observe(LinkEvent::Closed { peer: self.node, why, is_sudden: ended.is_sudden() });
        conversation.close(&ended).await;
    }

    /// Nobody keeps the link any more.
    pub(super) fn abandon(&self) {
        let why: Arc<str> = "it is no peer of this node any more".into();
        self.rest(&why, |peer, why| LinkError::Closed { peer, why });
    }

    /// There is no connection: whoever waits is told.
    fn rest(&self, why: &Arc<str>, error: impl Fn(NodeId, Arc<str>) -> LinkError) {
        self.phase.replace(Phase::Resting(Arc::clone(why)));
        self.last_failure.replace(Some(Arc::clone(why)));
        self.dismissal.replace(None);
        self.outbox.clear();
        let waiting = self.waiting.take();
        for sender in waiting.into_values() {
            // Whoever has stopped waiting needs no answer.
            let _ = sender.send(Err(error(self.node, Arc::clone(why))));
        }
    }
}

/// Hands answers to those who wait for them.
struct Answers<'a> {
    link: &'a Link,
}

impl Taker for Answers<'_> {
    fn has_room(&self) -> bool {
        true
    }

    fn take(&mut self, frame: Frame) -> Result<(), Ended> {
        let Link { node, waiting, .. } = self.link;
        let answer = match frame.class {
            FrameClass::Answer => Ok(frame.body),
            FrameClass::Failure => {
                Err(LinkError::Failed { peer: *node, why: sentence(&frame.body).into() })
            }
            FrameClass::Hello
            | FrameClass::Rejection
            | FrameClass::Request
            | FrameClass::Notice
            | FrameClass::BulkHead
            | FrameClass::BulkPart
            | FrameClass::BulkEnd => return Err(Ended::OutOfPlace(frame.class)),
        };
        // An answer that comes too late finds nobody.
        if let Some(sender) = waiting.borrow_mut().remove(&frame.id) {
            let _ = sender.send(answer);
        }
        Ok(())
    }
}

impl Asked {
    /// Waits for the answer.
    pub(super) async fn answer(mut self, after: Duration) -> Result<Bytes, LinkError> {
        let peer = self.link.node;
        match tokio::time::timeout(after, &mut self.answer).await {
            Ok(Ok(answer)) => answer,
            // The sender goes only with the link itself.
            Ok(Err(_)) => Err(LinkError::Closed { peer, why: "the link was removed".into() }),
            Err(_) => Err(LinkError::Timeout { peer, after }),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.link.waiting.borrow_mut().remove(&self.id).is_some() {
            self.link.outbox.take_back(self.id);
        }
    }
}

/// Pauses between attempts.
#[derive(Debug)]
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(settings: &LinkSettings) -> Backoff {
        Backoff { min: settings.backoff_min, max: settings.backoff_max, next: settings.backoff_min }
    }

    fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        pause
    }

    /// After a connection that lasted, the next attempt follows at once: if the peer's process
    /// has ended, it is refused, and that is evidence.
    fn pause_after(&mut self, lasted: Duration) -> Option<Duration> {
        if lasted < self.max {
            return Some(self.pause());
        }
        self.next = self.min;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_lasting_connection() {
        let settings = LinkSettings {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_millis(300),
            ..LinkSettings::default()
        };
        let mut backoff = Backoff::new(&settings);
        let pauses: Vec<u128> = (0..5).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 300, 300]);
        assert_eq!(backoff.pause_after(Duration::from_millis(10)), Some(settings.backoff_max));
        assert_eq!(backoff.pause_after(Duration::from_secs(1)), None);
        assert_eq!(backoff.pause(), settings.backoff_min);
    }

    #[test]
    fn only_what_may_have_been_sent_has_an_unknown_outcome() {
        let (peer, why): (NodeId, Arc<str>) = (NodeId(2), "gone".into());
        let closed = LinkError::Closed { peer, why: Arc::clone(&why) };
        assert!(closed.is_outcome_unknown());
        assert!(!LinkError::Down { peer, why }.is_outcome_unknown());
    }
}
