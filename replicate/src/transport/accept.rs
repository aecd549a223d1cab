//! Taking a connection of a peer's.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::conversation::{Conversation, Ended, dismiss};
use super::dial::{Established, hello_frame, read_hello};
use super::endpoint::{Endpoint, Security};
use super::frame::{Decoder, FRAME_BODY_BYTES_MAX, Frame, FrameError, MAGIC};
use super::hello::{HELLO_BYTES_MAX, Hello, PeerIdentity, Purpose, Rejection};
use super::tls;
use super::wire::{self, Wire};
use crate::pki::CertifiedIdentity;

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    /// It ended by itself.
    #[error("it ended before its hello: {0}")]
    Ended(#[from] Ended),
    /// No TLS, or no trust.
    #[error("{0}")]
    Tls(String),
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
    let (wire, certified) = secure(endpoint, tcp).await?;
    let mut conversation = Conversation::new(wire, Decoder::new(HELLO_BYTES_MAX));
    let frame = match conversation.read_frame().await {
        Ok(frame) => frame,
        Err(Ended::Misframed(FrameError::Magic([tls::HANDSHAKE_RECORD, _]))) => {
            dismiss(conversation.wire, &Rejection::Encrypted.to_string()).await;
            return Err(Rejection::Encrypted.into());
        }
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

/// Finds out by its certificate who it is, before anything that it sends is looked at.
async fn secure(
    endpoint: &Endpoint,
    tcp: TcpStream,
) -> Result<(Wire, Option<CertifiedIdentity>), AcceptError> {
    let tls = match endpoint.security() {
        Security::Insecure => return Ok((Wire::Plain(tcp), None)),
        Security::Tls(tls) => tls,
    };
    // One byte tells a node that is configured otherwise, which would not understand an alert.
    let mut first = [0];
    tcp.peek(&mut first).await.map_err(Ended::Broken)?;
    if first[0] == MAGIC[0] {
        dismiss(Wire::Plain(tcp), &Rejection::Plaintext.to_string()).await;
        return Err(Rejection::Plaintext.into());
    }
    let tls = tls.accept(tcp).await.map_err(AcceptError::Tls)?;
    let certified = tls::certified(&tls);
    let wire = Wire::Tls(Box::new(tls));
    match certified {
        Ok(certified) => Ok((wire, Some(certified))),
        Err(rejection) => {
            dismiss(wire, &rejection.to_string()).await;
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
