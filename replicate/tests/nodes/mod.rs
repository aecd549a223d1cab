//! Nodes that talk to each other over loopback, for tests of links.
#![allow(dead_code, reason = "each test file uses a part")]

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use shardgate_replicate::transport::{
    Endpoint, Gate, Handler, Incoming, LinkError, LinkEvent, LinkSettings, Links, OwnIdentity,
    PeerIdentity, Security, Serving, Supply, serve,
};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

/// Long enough for a busy machine; nothing waits for its end.
pub(crate) const HANG: Duration = Duration::from_secs(30);

/// Answers with what it got.
pub(crate) const ECHO: u8 = 1;
/// Answers when the test lets it.
pub(crate) const WAIT: u8 = 2;
/// Answers with a sentence.
pub(crate) const FAIL: u8 = 3;
/// Does not survive its request.
pub(crate) const PANIC: u8 = 4;
/// Answers with as many bytes as the request's number says.
pub(crate) const LARGE: u8 = 5;

/// Runs a test on one thread, as nodes run.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(HANG, test).await.expect("the test hangs");
    });
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(HANG / 2, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// What a node was asked.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) order: RefCell<Vec<Bytes>>,
    pub(crate) notices: RefCell<Vec<(NodeId, u8, Bytes)>>,
    pub(crate) connected: RefCell<Vec<PeerIdentity>>,
    pub(crate) disconnected: RefCell<Vec<String>>,
    pub(crate) refused: RefCell<Vec<String>>,
    /// Transfers that came whole, and the sentences about those that did not.
    pub(crate) received: RefCell<Vec<(u8, Bytes, Vec<u8>)>>,
    pub(crate) broken: RefCell<Vec<String>>,
    pub(crate) waiting: Cell<usize>,
    pub(crate) go_on: Notify,
}

impl Handler for Asked {
    async fn handle(&self, from: &PeerIdentity, kind: u8, body: Bytes) -> Result<Bytes, String> {
        self.order.borrow_mut().push(body.clone());
        match kind {
            ECHO => Ok(body),
            WAIT => {
                self.waiting.set(self.waiting.get() + 1);
                self.go_on.notified().await;
                Ok(body)
            }
            FAIL => Err(format!("{} asked for the impossible", from.name)),
            PANIC => panic!("as the test wants it"),
            LARGE => {
                let size = body.first_chunk::<4>().map(|size| u32::from_le_bytes(*size));
                Ok(vec![9; size.expect("a size") as usize].into())
            }
            other => Err(format!("kind {other} is unknown")),
        }
    }

    fn notice(&self, from: &PeerIdentity, kind: u8, body: Bytes) {
        self.notices.borrow_mut().push((from.node, kind, body));
    }

    /// What comes is kept; kind [`FAIL`] is turned away after its first part.
    async fn receive(
        &self,
        from: &PeerIdentity,
        kind: u8,
        incoming: &mut Incoming,
    ) -> Result<Bytes, String> {
        let mut all = Vec::new();
        loop {
            match incoming.next().await {
                Ok(Some(part)) if kind == FAIL => {
                    return Err(format!("{} may not send {} bytes", from.name, part.len()));
                }
                Ok(Some(part)) if kind == WAIT && all.is_empty() => {
                    self.waiting.set(self.waiting.get() + 1);
                    self.go_on.notified().await;
                    all.extend_from_slice(&part);
                }
                Ok(Some(part)) => all.extend_from_slice(&part),
                Ok(None) => break,
                Err(error) => {
                    self.broken.borrow_mut().push(error.to_string());
                    return Err(error.to_string());
                }
            }
        }
        self.received.borrow_mut().push((kind, incoming.head().clone(), all));
        Ok(Bytes::from_static(b"it is safe"))
    }

    /// Supplies as many bytes as the request's number says, or one fewer for kind [`FAIL`].
    async fn supply(&self, from: &PeerIdentity, kind: u8, body: Bytes) -> Result<Supply, String> {
        let Some(length) = body.first_chunk::<8>().map(|length| u64::from_le_bytes(*length)) else {
            return Err(format!("{} asked for nothing", from.name));
        };
        let there = if kind == FAIL { length - 1 } else { length };
        let source = Box::new(tokio::io::repeat(7).take(there));
        Ok(Supply { length, head: Bytes::from_static(b"sevens"), source })
    }

    fn connected(&self, peer: &PeerIdentity) {
        self.connected.borrow_mut().push(peer.clone());
    }

    fn refused(&self, _: SocketAddr, why: &str) {
        self.refused.borrow_mut().push(why.to_owned());
    }

    fn disconnected(&self, _: &PeerIdentity, why: &str) {
        self.disconnected.borrow_mut().push(why.to_owned());
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) endpoint: Rc<Endpoint>,
    pub(crate) links: Links,
    pub(crate) asked: Rc<Asked>,
    pub(crate) serving: Option<Serving>,
    pub(crate) address: SocketAddr,
    events: mpsc::UnboundedReceiver<LinkEvent>,
}

/// How a node is made.
pub(crate) struct Made {
    pub(crate) own: OwnIdentity,
    pub(crate) security: Security,
    pub(crate) settings: LinkSettings,
    pub(crate) gate: Rc<dyn Gate>,
}

/// Node `id` of the cluster "test", called `node-<id>`, without TLS.
pub(crate) fn made(id: u16) -> Made {
    let own = OwnIdentity {
        cluster: "test".to_owned(),
        node: NodeId(id),
        name: format!("node-{id}"),
        incarnation: Incarnation(1),
    };
    let settings = LinkSettings {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(100),
        ..LinkSettings::default()
    };
    let gate = Rc::new(|_: &PeerIdentity, _: &[PeerIdentity]| Ok(()));
    Made { own, security: Security::Insecure, settings, gate }
}

/// A listener on a free port of loopback.
pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

impl Made {
    pub(crate) async fn start(self) -> Node {
        self.start_on(listener().await)
    }

    pub(crate) fn start_on(self, listener: TcpListener) -> Node {
        let id = self.own.node;
        let endpoint = Rc::new(Endpoint::new(self.own, self.security, self.settings, self.gate));
        let (sender, events) = mpsc::unbounded_channel();
        let links = Links::new(Rc::clone(&endpoint), move |event| {
            // The test may have ended.
            let _ = sender.send(event);
        });
        let asked = Rc::<Asked>::default();
        let serving = serve(listener, Rc::clone(&endpoint), Rc::clone(&asked)).expect("it listens");
        let address = serving.address();
        Node { id, endpoint, links, asked, serving: Some(serving), address, events }
    }
}

impl Node {
    /// Knows the other node from now on.
    pub(crate) fn meets(&self, other: &Node) {
        self.links.set_peer(other.id, &other.address.to_string());
    }

    /// Asks the other node.
    pub(crate) async fn asks(
        &self,
        other: &Node,
        kind: u8,
        body: &[u8],
    ) -> Result<Bytes, LinkError> {
        self.links.request(other.id, kind, Bytes::copy_from_slice(body), HANG).await
    }

    /// The next thing that becomes of a link.
    pub(crate) async fn event(&mut self) -> LinkEvent {
        let event = tokio::time::timeout(HANG / 2, self.events.recv()).await;
        event.expect("nothing becomes of the links").expect("the node lives")
    }

    /// The first of the following events that this finds something in.
    pub(crate) async fn event_with<T>(&mut self, find: impl Fn(&LinkEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = find(&self.event().await) {
                return found;
            }
        }
    }

    /// The next sentence that says why there is no connection.
    pub(crate) async fn failure(&mut self) -> String {
        self.event_with(|event| match event {
            LinkEvent::Failed { why, .. } | LinkEvent::Closed { why, .. } => Some(why.to_string()),
            LinkEvent::Up(_) | LinkEvent::Refused(_) => None,
        })
        .await
    }

    /// Who has been reached next.
    pub(crate) async fn up(&mut self) -> PeerIdentity {
        self.event_with(|event| match event {
            LinkEvent::Up(peer) => Some(peer.clone()),
            LinkEvent::Failed { .. } | LinkEvent::Closed { .. } | LinkEvent::Refused(_) => None,
        })
        .await
    }
}
