//! Taking a connection of a peer's.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::conversation::{Conversation, Ended, dismiss};
use super::dial::{Established, hello_frame, read_hello};
use super::endpoint::{Endpoint, Security};
use super::frame::{Decoder, FRAME_BODY_BYTES_MAX, Frame};
use super::hello::{CertifiedIdentity, HELLO_BYTES_MAX, Hello, PeerIdentity, Purpose, Rejection};
use super::wire::{self, Wire};

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    /// It ended by itself.
    #[error("it ended before its hello: {0}")]
    Ended(#[from] Ended),
    /// Whoever connected said nothing, or too slowly.
    #[error("no hello came within {} ms", .0.as_millis())]
    Silent(Duration),
    /// Somebody who has no place here.
    #[error("{0}")]
    Rejected(#[from] Rejection),
}

/// Reads a peer's hello and answers it. `connected` are the peer's other connections.
pub(super) async fn accept(
    endpoint: &Endpoint,
    tcp: TcpStream,
    address: SocketAddr,
    connected: impl Fn(&PeerIdentity) -> Vec<PeerIdentity>,
) -> Result<(Established, Purpose), AcceptError> {
    let settings = endpoint.settings();
    let after = settings.handshake_timeout;
    wire::prepare(&tcp, settings.unacknowledged_max)
        .map_err(|error| AcceptError::Ended(Ended::Broken(error)))?;
    timeout(after, greet(endpoint, tcp, address, connected))
        .await
        .map_err(|_| AcceptError::Silent(after))?
}

async fn greet(
    endpoint: &Endpoint,
    tcp: TcpStream,
    address: SocketAddr,
    connected: impl Fn(&PeerIdentity) -> Vec<PeerIdentity>,
) -> Result<(Established, Purpose), AcceptError> {
    let (wire, certified) = match endpoint.security() {
        Security::Insecure => (Wire::Plain(tcp), None),
    };
    let mut conversation = Conversation::new(wire, Decoder::new(HELLO_BYTES_MAX));
    let frame = match conversation.read_frame().await {
        Ok(frame) => frame,
        Err(ended) => {
            conversation.close(&ended).await;
            return Err(ended.into());
        }
    };
    match recognise(endpoint, &frame, certified.as_ref(), address, connected) {
        Ok((peer, purpose)) => {
            let hello = hello_frame(&Hello::of(endpoint.own(), purpose));
            conversation.write_frame(&hello).await.map_err(Ended::Broken)?;
            conversation.decoder.take_bodies_up_to(FRAME_BODY_BYTES_MAX);
            Ok((Established { conversation, peer }, purpose))
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
    connected: impl Fn(&PeerIdentity) -> Vec<PeerIdentity>,
) -> Result<(PeerIdentity, Purpose), Rejection> {
    let hello = read_hello(frame)?;
    let purpose = hello.purpose;
    let peer = hello.examine(endpoint.own(), certified, address)?;
    peer.admit(endpoint.gate(), &connected(&peer))?;
    Ok((peer, purpose))
}
