//! TLS with tool servers: whom the gateway trusts, and what it says when it can't.
//!
//! TLS 1.2 and 1.3, by rustls with the cryptography of ring. A server must show a
//! certificate for its URL's host that one of these roots vouches for: those of the
//! machine, and those of the upstream's `ca_file`.
//!
//! Invariants:
//! - Only a configuration with an `https` upstream reads the machine's roots.
//! - A [`TlsClient`] is shared by all shards. What it remembers of sessions lies behind a
//!   lock, which is taken while a handshake begins or ends and never for a message.

mod fault;
mod session;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

pub(crate) use session::TlsSession;

/// Sessions that are remembered per upstream, to make the next handshake short. Each has
/// one name, for which rustls keeps eight tickets at most.
const SESSIONS_MAX: usize = 8;

/// The one protocol that is spoken inside of TLS (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// The roots that the machine trusts.
#[derive(Clone, Debug)]
pub(crate) struct SystemRoots(Arc<RootCertStore>);

/// How TLS is spoken with one upstream.
#[derive(Debug)]
pub(crate) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    trusted: Trusted,
}

/// Which roots there are, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trusted {
    has_system_roots: bool,
    has_ca_file: bool,
}

/// Why there is no TLS for an upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    /// The host is neither a name nor an address.
    #[error("its host {0:?} is no name that a certificate could bear")]
    Name(String),
    /// The library refuses its own defaults.
    #[error("set TLS up")]
    Library(#[source] rustls::Error),
}

impl SystemRoots {
    /// Reads them where this system keeps them, or where `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` say. What can't be read is left out and told in the log.
    pub(crate) fn load() -> SystemRoots {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(event = "system_roots", %error, "a root certificate can't be read");
        }
        let mut roots = RootCertStore::empty();
        let (usable, unusable) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(event = "system_roots", usable, unusable, "the machine's roots are read");
        SystemRoots(Arc::new(roots))
    }
}

impl TlsClient {
    /// TLS with the server `host`, which may be an IP address.
    ///
    /// # Errors
    /// No certificate could bear that host.
    pub(crate) fn new(
        host: &str,
        own_roots: &[CertificateDer<'static>],
        system: &SystemRoots,
    ) -> Result<TlsClient, TlsSetupError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsSetupError::Name(host.to_owned()))?;
        let trusted =
            Trusted { has_system_roots: !system.0.is_empty(), has_ca_file: !own_roots.is_empty() };
        let mut roots = Arc::clone(&system.0);
        if trusted.has_ca_file {
            Arc::make_mut(&mut roots).add_parsable_certificates(own_roots.iter().cloned());
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsSetupError::Library)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(TlsClient { config: Arc::new(config), name, trusted })
    }
}

#[cfg(test)]
mod tests;
