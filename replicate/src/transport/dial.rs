//! Opening a connection to a peer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use shardgate_replicate_proto::identity::NodeId;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::conversation::{Conversation, Ended, dismiss, sentence};
use super::endpoint::{Endpoint, Security};
use super::frame::{Decoder, FRAME_BODY_BYTES_MAX, Frame, FrameClass};
use super::hello::{HELLO_BYTES_MAX, Hello, PeerIdentity, Purpose, Rejection};
use super::tls;
use super::wire::{self, Wire};
use crate::pki::CertifiedIdentity;

/// Why a peer can't be talked to. The sentences go on from "node 2 at …:".
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address means nothing.
    #[error("its address can't be resolved: {0}")]
    Resolve(#[source] io::Error),
    /// Nothing listens there: the machine is up, the process is not.
    #[error("the connection is refused: no node listens there")]
    Refused,
    /// The network.
    #[error("it can't be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// Nothing came back.
    #[error("it did not answer within {} ms ({doing})", .after.as_millis())]
    Silent {
        /// How long this node waited.
        after: Duration,
        /// What it waited for.
        doing: &'static str,
    },
    /// No TLS, or no trust.
    #[error("{0}")]
    Tls(String),
    /// The connection ended before the hellos.
    #[error("{0}")]
    Ended(String),
    /// It does not want this node.
    #[error("it refuses this node: {0}")]
    Rejected(String),
    /// This node does not want it.
    #[error("{0}")]
    Unfit(#[from] Rejection),
}

/// A connection after the hellos.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) conversation: Conversation,
    pub(super) peer: PeerIdentity,
}

/// Connects and says hello. With `expected` no other node will do.
pub(super) async fn dial(
    endpoint: &Endpoint,
    address: &str,
    expected: Option<NodeId>,
    purpose: Purpose,
) -> Result<Established, DialError> {
    let settings = endpoint.settings();
    let after = settings.connect_timeout;
    let tcp = timeout(after, connect(address))
        .await
        .map_err(|_| DialError::Silent { after, doing: "connecting" })??;
    wire::prepare(&tcp, settings.unacknowledged_max).map_err(DialError::Unreachable)?;
    let address = tcp.peer_addr().map_err(DialError::Unreachable)?;
    let after = settings.handshake_timeout;
    timeout(after, greet(endpoint, tcp, address, expected, purpose))
        .await
        .map_err(|_| DialError::Silent { after, doing: "TLS and hello" })?
}

async fn connect(address: &str) -> Result<TcpStream, DialError> {
    let candidates: Vec<SocketAddr> = match address.parse() {
        Ok(address) => vec![address],
        Err(_) => tokio::net::lookup_host(address).await.map_err(DialError::Resolve)?.collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        match TcpStream::connect(candidate).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(if last.kind() == io::ErrorKind::ConnectionRefused {
        DialError::Refused
    } else {
        DialError::Unreachable(last)
    })
}

async fn greet(
    endpoint: &Endpoint,
    tcp: TcpStream,
    address: SocketAddr,
    expected: Option<NodeId>,
    purpose: Purpose,
) -> Result<Established, DialError> {
    let (wire, certified) = match endpoint.security() {
        Security::Insecure => (Wire::Plain(tcp), None),
        Security::Tls(tls) => {
            let tls = tls.connect(tcp).await.map_err(DialError::Tls)?;
            let certified = tls::certified(&tls);
            let wire = Wire::Tls(Box::new(tls));
            match certified {
                Ok(certified) => (wire, Some(certified)),
                Err(rejection) => {
                    dismiss(wire, &rejection.to_string()).await;
                    return Err(rejection.into());
                }
            }
        }
    };
    let mut conversation = Conversation::new(wire, Decoder::new(HELLO_BYTES_MAX));
    let hello = hello_frame(&Hello::of(endpoint.own(), purpose));
    let written = conversation.write_frame(&hello).await;
    // A peer that refuses may have closed already: what it said is read all the same.
    let frame = match conversation.read_frame().await {
        Ok(frame) => frame,
        Err(ended) => {
            let ended = written.err().map_or(ended, Ended::Broken);
            return Err(DialError::Ended(format!("before its hello: {ended}")));
        }
    };
    if frame.class == FrameClass::Rejection {
        return Err(DialError::Rejected(sentence(&frame.body)));
    }
    match recognise(endpoint, &frame, certified.as_ref(), address, expected) {
        Ok(peer) => {
            conversation.decoder.take_bodies_up_to(FRAME_BODY_BYTES_MAX);
            Ok(Established { conversation, peer })
        }
        Err(rejection) => {
            dismiss(conversation.wire, &rejection.to_string()).await;
            Err(rejection.into())
        }
    }
}

fn recognise(
    endpoint: &Endpoint,
    frame: &Frame,
    certified: Option<&CertifiedIdentity>,
    address: SocketAddr,
    expected: Option<NodeId>,
) -> Result<PeerIdentity, Rejection> {
    let peer = read_hello(frame)?.examine(endpoint.own(), certified, address)?;
    if let Some(expected) = expected.filter(|expected| *expected != peer.node) {
        return Err(Rejection::OtherNode { expected, got: peer.node, name: peer.name, address });
    }
    peer.admit(endpoint.gate(), &[])?;
    Ok(peer)
}

/// The first frame of a connection.
pub(super) fn hello_frame(hello: &Hello) -> Frame {
    // Serializing texts and numbers into memory does not fail.
    let body = postcard::to_allocvec(hello).map(Bytes::from).unwrap_or_default();
    Frame { class: FrameClass::Hello, kind: 0, id: 0, body }
}

/// What the other side says of itself in the first frame.
pub(super) fn read_hello(frame: &Frame) -> Result<Hello, Rejection> {
    if frame.class != FrameClass::Hello {
        return Err(Rejection::NoHello(format!("a frame of class {:?}", frame.class)));
    }
    Hello::parse(&frame.body)
}
