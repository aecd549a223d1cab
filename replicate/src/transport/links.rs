//! All peers of a node, by number: where they are, and how they are asked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use shardgate_replicate_proto::identity::NodeId;
use tokio::task::{AbortHandle, spawn_local};

use super::bulk::{self, BulkError, Incoming, Supply};
use super::conversation::{Conversation, Ended, sentence};
use super::dial::{DialError, dial};
use super::endpoint::Endpoint;
use super::frame::{Frame, FrameClass};
use super::hello::{PeerIdentity, Purpose};
use super::link::{Link, LinkError, LinkEvent, LinkState};

/// The links of one node to its peers. Each keeps itself up until its peer is forgotten.
///
/// To be used inside of a tokio `LocalSet`.
pub struct Links {
    endpoint: Rc<Endpoint>,
    observe: Rc<dyn Fn(LinkEvent)>,
    links: RefCell<BTreeMap<NodeId, Kept>>,
}

struct Kept {
    link: Rc<Link>,
    keeper: AbortHandle,
}

impl Links {
    /// No links yet. `observe` is told at once what becomes of them; it may use them.
    pub fn new(endpoint: Rc<Endpoint>, observe: impl Fn(LinkEvent) + 'static) -> Links {
        Links { endpoint, observe: Rc::new(observe), links: RefCell::new(BTreeMap::new()) }
    }

    /// The peer is at this address (`host:port`) from now on. A connection to another address
    /// ends.
    pub fn set_peer(&self, node: NodeId, address: &str) {
        let mut links = self.links.borrow_mut();
        if let Some(kept) = links.get(&node) {
            kept.link.redirect(address);
            return;
        }
        let link = Rc::new(Link::new(node, address.to_owned()));
        let (endpoint, observe) = (Rc::clone(&self.endpoint), Rc::clone(&self.observe));
        let keeper = spawn_local(Rc::clone(&link).keep(endpoint, observe)).abort_handle();
        links.insert(node, Kept { link, keeper });
    }

    /// Ends the link to a node. What waits for it fails.
    pub fn forget_peer(&self, node: NodeId) {
        let kept = self.links.borrow_mut().remove(&node);
        if let Some(kept) = kept {
            kept.end();
        }
    }

    /// The numbers of all peers.
    pub fn peers(&self) -> Vec<NodeId> {
        self.links.borrow().keys().copied().collect()
    }

    /// Who is at the other end, while the link is up.
    pub fn peer(&self, node: NodeId) -> Option<Rc<PeerIdentity>> {
        self.links.borrow().get(&node).and_then(|kept| kept.link.peer())
    }

    /// All links as they are now.
    pub fn states(&self) -> Vec<LinkState> {
        self.links.borrow().values().map(|kept| kept.link.state()).collect()
    }

    /// Tries to reach the node now, instead of after the rest of a pause: it was heard of.
    pub fn dial_now(&self, node: NodeId) {
        if let Some(kept) = self.links.borrow().get(&node) {
            kept.link.dial_now();
        }
    }

    /// Asks a peer. The request is queued by this call, before its future is polled: requests to
    /// one peer go out in the order of the calls. Dropping the future takes the request back if
    /// it is not written yet.
    ///
    /// While a first attempt to connect is under way the request waits for it; between two
    /// attempts it fails at once.
    ///
    /// # Errors
    /// There is no answer; [`LinkError::is_outcome_unknown`] says whether it may have been
    /// handled all the same.
    pub fn request(
        &self,
        peer: NodeId,
        kind: u8,
        body: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<Bytes, LinkError>> + use<> {
        let asked = match self.links.borrow().get(&peer) {
            Some(kept) => kept.link.ask(kind, body),
            None => Err(LinkError::UnknownPeer(peer)),
        };
        async move { asked?.answer(timeout).await }
    }

    /// Tells a peer something that it does not answer. It overtakes requests that wait. False if
    /// the link is not up; nothing tells whether it arrives.
    pub fn notify(&self, peer: NodeId, kind: u8, body: Bytes) -> bool {
        self.links.borrow().get(&peer).is_some_and(|kept| kept.link.notify(kind, body))
    }

    /// Sends `length` bytes to a peer on a connection of their own. `head` says what they are,
    /// `progress` is told how many are sent. The peer's answer follows when it has all.
    ///
    /// # Errors
    /// It did not arrive, or the peer does not want it.
    pub async fn send_bulk(
        &self,
        peer: NodeId,
        kind: u8,
        supply: Supply,
        progress: impl FnMut(u64),
    ) -> Result<Bytes, BulkError> {
        let stalled_after = self.endpoint.settings().bulk_stalled_after;
        let mut conversation = self.open_bulk(peer).await?;
        bulk::send(&mut conversation, kind, supply, stalled_after, progress).await?;
        bulk::answer(&mut conversation, stalled_after).await
    }

    /// Asks a peer for something large, which comes on a connection of its own. `body` says
    /// what.
    ///
    /// # Errors
    /// The peer does not have it, or can't be asked.
    pub async fn fetch_bulk(
        &self,
        peer: NodeId,
        kind: u8,
        body: Bytes,
    ) -> Result<Incoming, BulkError> {
        let stalled_after = self.endpoint.settings().bulk_stalled_after;
        let mut conversation = self.open_bulk(peer).await?;
        let request = Frame { class: FrameClass::Request, kind, id: 0, body };
        let written = conversation.write_frame(&request).await;
        written.map_err(|error| BulkError::Ended(Ended::Broken(error).to_string()))?;
        let frame = bulk::next_frame(&mut conversation, stalled_after).await?;
        match frame.class {
            FrameClass::BulkHead => Ok(Incoming::new(conversation, &frame, stalled_after)),
            FrameClass::Failure => Err(BulkError::Failed(sentence(&frame.body))),
            FrameClass::Hello
            | FrameClass::Rejection
            | FrameClass::Request
            | FrameClass::Answer
            | FrameClass::Notice
            | FrameClass::BulkPart
            | FrameClass::BulkEnd => Err(bulk::out_of_place(frame.class)),
        }
    }

    async fn open_bulk(&self, peer: NodeId) -> Result<Conversation, BulkError> {
        let address = self.links.borrow().get(&peer).map(|kept| kept.link.address());
        let address = address.ok_or(BulkError::UnknownPeer)?;
        let established = dial(&self.endpoint, &address, Some(peer), Purpose::Bulk).await?;
        Ok(established.conversation)
    }

    /// Says hello to whoever is at this address, and hangs up: for a node that knows an address
    /// but not yet whose it is.
    ///
    /// # Errors
    /// Nobody is there, or one of both sides refuses the other.
    pub async fn identify(&self, address: &str) -> Result<PeerIdentity, DialError> {
        let established = dial(&self.endpoint, address, None, Purpose::Identify).await?;
        Ok(established.peer)
    }
}

impl Kept {
    fn end(self) {
        self.keeper.abort();
        self.link.abandon();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for (_, kept) in self.links.take() {
            kept.end();
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.states()).finish()
    }
}
