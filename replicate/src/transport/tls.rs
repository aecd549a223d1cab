//! TLS between nodes: 1.3 only, and both sides show certificates of the cluster's authority.
//!
//! Sessions are not resumed: a resumed one would not look at certificates again, and
//! connections between nodes are made seldom.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, Error, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::hello::Rejection;
use crate::pki::{
    Certificate, CertifiedIdentity, Credentials, PkiError, certificate_sentence,
    cluster_server_name,
};

/// The one protocol that is spoken inside (RFC 7301). Another one will have another name.
const ALPN: &[u8] = b"shardgate-peer";
/// The first byte of TLS: a record of a handshake (RFC 8446, 5.1).
pub(super) const HANDSHAKE_RECORD: u8 = 22;

/// How a node secures its connections.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    name: ServerName<'static>,
}

impl Tls {
    /// TLS with what a node shows and whom it believes.
    ///
    /// # Errors
    /// The library can't use the certificates, or the cluster's name can't be in one.
    pub fn new(credentials: &Credentials, cluster: &str) -> Result<Tls, PkiError> {
        let unusable = |error: &dyn fmt::Display| PkiError::Tls(error.to_string());
        let mut roots = RootCertStore::empty();
        for authority in &credentials.authorities {
            roots.add(authority.clone()).map_err(|error| unusable(&error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let (chain, key) = (&credentials.chain, &credentials.key);

        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(&error))?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(&error))?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(&error))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        Ok(Tls {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
            name: cluster_server_name(cluster)?,
        })
    }

    pub(super) async fn connect(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let connected = self.connector.connect(self.name.clone(), tcp).await;
        connected.map(TlsStream::from).map_err(|error| sentence(&error))
    }

    pub(super) async fn accept(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let accepted = self.acceptor.accept(tcp).await;
        accepted.map(TlsStream::from).map_err(|error| sentence(&error))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whom the other side's certificate is for. TLS has verified it.
pub(super) fn certified(tls: &TlsStream<TcpStream>) -> Result<CertifiedIdentity, Rejection> {
    let (_, session) = tls.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    certificate
        .and_then(Certificate::from_der)
        .and_then(|certificate| certificate.identity)
        .ok_or(Rejection::NoIdentity)
}

/// Why TLS failed or ended, as far as the error says more than that the connection broke.
pub(super) fn sentence(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(error)) => {
            format!("TLS: {}", certificate_sentence(error))
        }
        Some(Error::NoCertificatesPresented) => {
            "TLS: no certificate was shown; every node needs one of the cluster's authority"
                .to_owned()
        }
        Some(Error::AlertReceived(alert)) => alert_sentence(*alert),
        Some(Error::InvalidMessage(_)) => "it does not speak TLS; is it a node with insecure = \
            true, or no node at all?"
            .to_owned(),
        Some(Error::NoApplicationProtocol) => {
            "it speaks TLS, but no protocol of Shardgate's nodes".to_owned()
        }
        Some(Error::PeerIncompatible(what)) => {
            format!("it does not speak TLS 1.3 as nodes do ({what:?}); is it a node?")
        }
        Some(other) => format!("TLS: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer closed the connection without TLS's farewell".to_owned()
        }
        None => error.to_string(),
    }
}

fn alert_sentence(alert: AlertDescription) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "most alerts say all there is to say")]
    let why = match alert {
        AlertDescription::CertificateExpired => {
            "it says that this node's certificate is expired or not yet valid; renew it with \
             `shardgate pki issue`, and look at both clocks"
        }
        AlertDescription::UnknownCA => {
            "it does not know the authority of this node's certificate; both nodes need \
             certificates of one authority"
        }
        AlertDescription::DecryptError => {
            "it says that this node's certificate is not signed by the authority that it names; \
             was the authority made anew?"
        }
        AlertDescription::CertificateRequired => {
            "it wants a certificate, and this node showed none"
        }
        AlertDescription::NoApplicationProtocol => "it speaks TLS, but not as a node of Shardgate",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        _ => return format!("it refuses this node in TLS's handshake ({alert:?})"),
    };
    format!("it refuses this node in TLS's handshake: {why} ({alert:?})")
}
