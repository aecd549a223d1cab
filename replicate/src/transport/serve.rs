//! The listening side: who is connected, and what is made of what they send.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use shardgate_replicate_proto::identity::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::sleep;

use super::accept::{AcceptError, accept};
pub use super::answering::{ANSWERS_QUEUED_BYTES_MAX, HANDLED_AT_ONCE_MAX};
use super::answering::{Answering, Dismissal, InHand};
use super::bulk::{self, BulkError, Incoming, Supply};
use super::conversation::Conversation;
use super::dial::Established;
use super::endpoint::Endpoint;
use super::frame::FrameClass;
use super::hello::{PeerIdentity, Purpose};

/// Connections that have not said hello yet. For a further one the oldest has to go: peers
/// say hello at once, and others shall not keep them out.
pub const HANDSHAKES_MAX: usize = 256;

/// Bulk transfers that are served at once. Further ones are told to come later.
pub const BULKS_MAX: usize = 16;

/// After a connection that can't be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is made of peers' requests.
pub trait Handler: 'static {
    /// Answers a request. Requests of one peer are begun in the order in which it made them,
    /// and may be answered in any. A body that is kept for long should be copied: a large one
    /// may share its memory with what was read along with it. The handler runs to its end even
    /// if the connection has ended.
    ///
    /// # Errors
    /// A sentence that the peer gets as [`LinkError::Failed`](super::LinkError::Failed).
    fn handle(
        &self,
        from: &PeerIdentity,
        kind: u8,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, String>>;

    /// Takes a notice. It must be quick: further frames of that peer wait for it.
    fn notice(&self, from: &PeerIdentity, kind: u8, body: Bytes);

    /// Takes something large that a peer sends: `incoming` has to be read to its end, and may
    /// be believed only then. The answer goes to the sender.
    ///
    /// # Errors
    /// A sentence that the sender is told.
    fn receive(
        &self,
        _from: &PeerIdentity,
        kind: u8,
        _incoming: &mut Incoming,
    ) -> impl Future<Output = Result<Bytes, String>> {
        async move { Err(format!("this node takes no transfers of kind {kind}")) }
    }

    /// Supplies something large that a peer asks for.
    ///
    /// # Errors
    /// A sentence that the peer is told.
    fn supply(
        &self,
        _from: &PeerIdentity,
        kind: u8,
        _body: Bytes,
    ) -> impl Future<Output = Result<Supply, String>> {
        async move { Err(format!("this node supplies nothing of kind {kind}")) }
    }

    /// A peer has connected.
    fn connected(&self, _peer: &PeerIdentity) {}

    /// Somebody was not let in, and why.
    fn refused(&self, _address: SocketAddr, _why: &str) {}

    /// A connection of a peer's has ended. If another one took its place, that one is told
    /// before.
    fn disconnected(&self, _peer: &PeerIdentity, _why: &str) {}
}

/// A listener at work. Dropping it closes all connections.
pub struct Serving {
    address: SocketAddr,
    acceptor: AbortHandle,
    ledger: Rc<Ledger>,
}

/// Connections, by the order in which they came.
#[derive(Debug, Default)]
struct Ledger {
    next: Cell<u64>,
    handshakes: RefCell<BTreeMap<u64, AbortHandle>>,
    connections: RefCell<BTreeMap<u64, Connection>>,
    bulks: RefCell<BTreeMap<u64, (NodeId, AbortHandle)>>,
    in_hand: RefCell<BTreeMap<NodeId, Rc<InHand>>>,
}

#[derive(Debug)]
struct Connection {
    peer: Rc<PeerIdentity>,
    dismissal: Rc<Dismissal>,
    task: AbortHandle,
}

/// Takes connections of peers until the returned handle is dropped.
///
/// To be used inside of a tokio `LocalSet`.
///
/// # Errors
/// The listener has no address.
pub fn serve<H: Handler>(
    listener: TcpListener,
    endpoint: Rc<Endpoint>,
    handler: Rc<H>,
) -> io::Result<Serving> {
    let address = listener.local_addr()?;
    let ledger = Rc::<Ledger>::default();
    let acceptor = Acceptor { endpoint, handler, ledger: Rc::clone(&ledger) };
    let acceptor = spawn_local(Rc::new(acceptor).run(listener)).abort_handle();
    Ok(Serving { address, acceptor, ledger })
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who is connected now, in the order in which they came.
    pub fn connected(&self) -> Vec<Rc<PeerIdentity>> {
        self.ledger.connections.borrow().values().map(|it| Rc::clone(&it.peer)).collect()
    }

    /// Ends all connections of a node, and tells it why.
    pub fn disconnect(&self, node: NodeId, why: &str) {
        self.ledger.dismiss(why, |peer| peer.node == node);
        for (of, task) in self.ledger.bulks.borrow().values() {
            if *of == node {
                task.abort();
            }
        }
        self.ledger.bulks.borrow_mut().retain(|_, (of, _)| *of != node);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.acceptor.abort();
        for task in self.ledger.handshakes.take().into_values() {
            task.abort();
        }
        for (_, task) in self.ledger.bulks.take().into_values() {
            task.abort();
        }
        for connection in self.ledger.connections.take().into_values() {
            connection.task.abort();
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Serving").field("address", &self.address).finish_non_exhaustive()
    }
}

struct Acceptor<H> {
    endpoint: Rc<Endpoint>,
    handler: Rc<H>,
    ledger: Rc<Ledger>,
}

impl<H: Handler> Acceptor<H> {
    async fn run(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((tcp, address)) => self.begin(tcp, address),
                Err(error) => {
                    tracing::warn!(event = "peer_accept", %error, "accept a peer's connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, tcp: TcpStream, address: SocketAddr) {
        let number = self.ledger.next.get();
        self.ledger.next.set(number + 1);
        let acceptor = Rc::clone(self);
        let task = spawn_local(async move {
            let accepted =
                accept(&acceptor.endpoint, tcp, address, |peer| acceptor.ledger.namesakes(peer))
                    .await;
            let task = acceptor.ledger.handshakes.borrow_mut().remove(&number);
            match (accepted, task) {
                (Ok((established, purpose)), Some(task)) => {
                    acceptor.take(number, established, purpose, task).await;
                }
                (Err(error), _) => acceptor.report(address, &error),
                // The handle is there until this very place.
                (Ok(_), None) => {}
            }
        });
        self.ledger.remember(number, task.abort_handle());
    }

    fn report(&self, address: SocketAddr, error: &AcceptError) {
        tracing::warn!(event = "peer_refused", %address, %error, "a connection is refused");
        self.handler.refused(address, &error.to_string());
    }

    async fn take(
        &self,
        number: u64,
        established: Established,
        purpose: Purpose,
        task: AbortHandle,
    ) {
        let Established { conversation, peer } = established;
        match purpose {
            Purpose::Messages => {}
            Purpose::Bulk => return self.transfer(number, conversation, &peer, task).await,
            Purpose::Identify => return,
        }
        let later = format!("a later process of node {} ({}) has connected", peer.node, peer.name);
        self.ledger.dismiss(&later, |other| {
            other.node == peer.node && other.incarnation < peer.incarnation
        });
        // A node keeps one connection for its requests. The end of an earlier one may not have
        // been noticed: it is not read while too much is in hand, and a network may keep silent.
        let again = format!("node {} ({}) has connected again", peer.node, peer.name);
        self.ledger.dismiss(&again, |other| {
            other.node == peer.node && other.incarnation == peer.incarnation
        });
        let peer = Rc::new(peer);
        let in_hand = Rc::clone(self.ledger.in_hand.borrow_mut().entry(peer.node).or_default());
        let (answering, dismissal) =
            Answering::new(Rc::clone(&self.handler), Rc::clone(&peer), in_hand);
        let connection = Connection { peer: Rc::clone(&peer), dismissal, task };
        self.ledger.connections.borrow_mut().insert(number, connection);
        self.handler.connected(&peer);
        let ended = answering.run(conversation).await;
        self.ledger.connections.borrow_mut().remove(&number);
        let (node, name) = (peer.node.0, &peer.name);
        tracing::info!(event = "peer_left", node, name, why = %ended, "a peer's connection ended");
        self.handler.disconnected(&peer, &ended.to_string());
    }
}

impl<H: Handler> Acceptor<H> {
    /// Serves one bulk transfer.
    async fn transfer(
        &self,
        number: u64,
        conversation: Conversation,
        peer: &PeerIdentity,
        task: AbortHandle,
    ) {
        if self.ledger.bulks.borrow().len() >= BULKS_MAX {
            let why = format!("{BULKS_MAX} bulk transfers are under way here; try again later");
            conversation.part_with(&bulk::failure(0, &why)).await;
            return;
        }
        self.ledger.bulks.borrow_mut().insert(number, (peer.node, task));
        let transferred = self.transfer_one(conversation, peer).await;
        self.ledger.bulks.borrow_mut().remove(&number);
        if let Err(error) = transferred {
            let (node, name) = (peer.node.0, &peer.name);
            tracing::warn!(event = "bulk_failed", node, name, %error, "a bulk transfer failed");
        }
    }

    async fn transfer_one(
        &self,
        mut conversation: Conversation,
        peer: &PeerIdentity,
    ) -> Result<(), BulkError> {
        let stalled_after = self.endpoint.settings().bulk_stalled_after;
        let first = bulk::next_frame(&mut conversation, stalled_after).await?;
        let kind = first.kind;
        match first.class {
            FrameClass::BulkHead => {
                let mut incoming = Incoming::new(conversation, &first, stalled_after);
                let answer = self.handler.receive(peer, kind, &mut incoming).await;
                incoming.answer(kind, answer).await;
                Ok(())
            }
            FrameClass::Request => match self.handler.supply(peer, kind, first.body).await {
                Ok(supply) => {
                    let sent =
                        bulk::send(&mut conversation, kind, supply, stalled_after, |_| {}).await;
                    if let Err(BulkError::Source(_) | BulkError::SourceShort { .. }) = &sent {
                        let why = sent.as_ref().err().map(BulkError::to_string).unwrap_or_default();
                        conversation.part_with(&bulk::failure(kind, &why)).await;
                    }
                    sent
                }
                Err(why) => {
                    conversation.part_with(&bulk::failure(kind, &why)).await;
                    Ok(())
                }
            },
            FrameClass::Hello
            | FrameClass::Rejection
            | FrameClass::Answer
            | FrameClass::Failure
            | FrameClass::Notice
            | FrameClass::BulkPart
            | FrameClass::BulkEnd => Err(bulk::out_of_place(first.class)),
        }
    }
}

impl Ledger {
    /// Connections of the same node, or of one with the same name.
    fn namesakes(&self, peer: &PeerIdentity) -> Vec<PeerIdentity> {
        let connections = self.connections.borrow();
        let peers = connections.values().map(|connection| connection.peer.as_ref());
        peers.filter(|it| it.node == peer.node || it.name == peer.name).cloned().collect()
    }

    fn dismiss(&self, why: &str, is_meant: impl Fn(&PeerIdentity) -> bool) {
        for connection in self.connections.borrow().values() {
            if is_meant(&connection.peer) {
                connection.dismissal.dismiss(why);
            }
        }
    }

    fn remember(&self, number: u64, task: AbortHandle) {
        let mut handshakes = self.handshakes.borrow_mut();
        handshakes.insert(number, task);
        if handshakes.len() > HANDSHAKES_MAX
            && let Some((_, oldest)) = handshakes.pop_first()
        {
            oldest.abort();
        }
    }
}
