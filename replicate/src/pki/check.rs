//! Are a node's certificate and key good? Asked before it starts, so that its peers need not say.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::UnixTime;
use shardgate_replicate_proto::identity::NodeId;

use super::certificate::Certificate;
use super::credentials::{Credentials, NodeFiles};
use super::fault::{Fault, PkiError, certificate_sentence};
use super::identity::{CertifiedIdentity, cluster_server_name};

/// A certificate that ends within this time is worth a warning.
pub const EXPIRY_NEAR_DAYS: u64 = 30;

/// Bits of a key's permissions that let others in.
const OTHERS: u32 = 0o077;
const DAY_S: u64 = 24 * 60 * 60;

/// Whom the files should be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The cluster.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// The node's number.
    pub node: NodeId,
}

/// All that is wrong with a node's files, as of `now`.
pub fn check(files: &NodeFiles, expected: &Expected, now: SystemTime) -> Vec<Fault> {
    let mut faults: Vec<Fault> = key_open(&files.key).into_iter().collect();
    let credentials = match Credentials::load(files) {
        Ok(credentials) => credentials,
        Err(error) => {
            faults.push(error.into());
            return faults;
        }
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let is_refused = match verify(&credentials, &expected.cluster, now) {
        Ok(()) => false,
        Err(fault) => {
            faults.push(fault);
            true
        }
    };
    let certificate = credentials.chain.first().and_then(Certificate::from_der);
    faults.extend(compare(certificate.as_ref().and_then(|it| it.identity.as_ref()), expected));
    if let Some(certificate) = certificate.filter(|_| !is_refused)
        && certificate.not_after_s < now.as_secs() + EXPIRY_NEAR_DAYS * DAY_S
    {
        faults.push(Fault::ExpiresSoon(certificate.not_after_s));
    }
    faults
}

fn key_open(path: &Path) -> Option<Fault> {
    // A key that can't be looked at can't be read either, and that is told.
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    (mode & OTHERS != 0).then(|| Fault::KeyOpen { path: path.to_owned(), mode })
}

/// Asks the very code that peers will ask.
fn verify(credentials: &Credentials, cluster: &str, now: Duration) -> Result<(), Fault> {
    let mut roots = RootCertStore::empty();
    for authority in &credentials.authorities {
        roots.add(authority.clone()).map_err(|error| {
            Fault::Refused(format!("the authority's certificate is not usable: {error}"))
        })?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| PkiError::Tls(error.to_string()))?;
    let name = cluster_server_name(cluster).map_err(PkiError::from)?;
    let [node, between @ ..] = credentials.chain.as_slice() else { return Ok(()) };
    let now = UnixTime::since_unix_epoch(now);
    match verifier.verify_server_cert(node, between, &name, &[], now) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(error)) => {
            Err(Fault::Refused(certificate_sentence(&error)))
        }
        Err(other) => Err(Fault::Refused(format!("TLS does not accept it: {other}"))),
    }
}

fn compare(identity: Option<&CertifiedIdentity>, expected: &Expected) -> Vec<Fault> {
    let Some(certified) = identity else { return vec![Fault::NoIdentity] };
    let mut faults = Vec::new();
    if certified.cluster != expected.cluster {
        let (certified, cluster) = (certified.cluster.clone(), expected.cluster.clone());
        faults.push(Fault::Cluster { certified, cluster });
    }
    if certified.name != expected.name {
        let (certified, name) = (certified.name.clone(), expected.name.clone());
        faults.push(Fault::Name { certified, name });
    }
    if let Some(certified) = certified.node.filter(|node| *node != expected.node) {
        faults.push(Fault::Node { certified, node: expected.node });
    }
    faults
}
