//! What is wrong with certificates and keys, in sentences that say what helps.

use std::io;
use std::path::PathBuf;

use rustls::CertificateError;
use shardgate_replicate_proto::identity::NodeId;

use super::certificate::date;
use super::check::EXPIRY_NEAR_DAYS;
use super::identity::NotAName;

/// Something could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The name can't be certified.
    #[error(transparent)]
    Name(#[from] NotAName),
    /// The address can't be certified.
    #[error("{0:?} can't be certified as an address: give an IP address or a host name")]
    Address(String),
    /// It would end before it begins, or last too long.
    #[error("a certificate can't be valid from {} to {}", date(*from_s), date(*to_s))]
    Validity {
        /// Its beginning, in seconds since 1970.
        from_s: u64,
        /// Its end.
        to_s: u64,
    },
    /// A file is there already.
    #[error(
        "{} exists already and is not written over; nodes that trust it would be locked out. \
         Choose another directory, or move the file away if it is not needed any more",
        .0.display()
    )]
    Exists(PathBuf),
    /// A file can't be written.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file can't be read.
    #[error("read the {what} {}", path.display())]
    Read {
        /// Which of the files.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("there is no {what} in {from}: it should be PEM, as `shardgate pki` writes it ({why})")]
    NoPem {
        /// Which of the files.
        what: &'static str,
        /// The file.
        from: String,
        /// What the parser says.
        why: String,
    },
    /// The authority's certificate is none.
    #[error(
        "{0} is no authority's certificate; is it a node's? `shardgate pki init` makes an authority"
    )]
    NoAuthority(String),
    /// The authority's certificate does not name its cluster.
    #[error(
        "the authority's certificate in {0} does not say of which cluster it is (organization)"
    )]
    NoCluster(String),
    /// The two do not belong together.
    #[error("the key does not belong to the certificate of {0}; were files of two nodes mixed?")]
    KeyMismatch(String),
    /// The library could not.
    #[error("make a certificate or key: {0}")]
    Make(String),
    /// The library refuses what it was given.
    #[error("set TLS up with the node's certificate: {0}")]
    Tls(String),
}

/// What is wrong with a node's files. The sentences go on from "the node's certificate:".
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A file can't be used.
    #[error(transparent)]
    Unusable(#[from] PkiError),
    /// TLS would refuse it.
    #[error("{0}")]
    Refused(String),
    /// It names no node.
    #[error(
        "it names no node of a cluster (a URI shardgate://cluster/node); `shardgate pki issue` \
         makes one that does"
    )]
    NoIdentity,
    /// Another cluster's.
    #[error("it is for cluster \"{certified}\", but the node belongs to \"{cluster}\"")]
    Cluster {
        /// What it says.
        certified: String,
        /// What the configuration says.
        cluster: String,
    },
    /// Another node's.
    #[error(
        "it is for the node \"{certified}\", but this one is called \"{name}\"; give each node the \
         certificate that was issued for it"
    )]
    Name {
        /// What it says.
        certified: String,
        /// What the configuration says.
        name: String,
    },
    /// Another node's.
    #[error(
        "it is for node {certified}, but this one has id {node}; correct the id, or issue anew"
    )]
    Node {
        /// What it says.
        certified: NodeId,
        /// What the configuration says.
        node: NodeId,
    },
    /// Others can read the key.
    #[error(
        "others than its owner may read or change the key {} (mode {mode:04o}); run chmod 600",
        path.display()
    )]
    KeyOpen {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is good, but not for long.
    #[error(
        "it expires on {}, in less than {EXPIRY_NEAR_DAYS} days; issue the next one with \
         `shardgate pki issue`",
        date(*.0)
    )]
    ExpiresSoon(u64),
}

impl Fault {
    /// True if the node can still work.
    pub fn is_warning(&self) -> bool {
        match self {
            Fault::ExpiresSoon(_) => true,
            Fault::Unusable(_)
            | Fault::Refused(_)
            | Fault::NoIdentity
            | Fault::Cluster { .. }
            | Fault::Name { .. }
            | Fault::Node { .. }
            | Fault::KeyOpen { .. } => false,
        }
    }
}

/// Why TLS does not accept a certificate; goes on from whose it is.
pub(crate) fn certificate_sentence(error: &CertificateError) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is told in the library's words")]
    match error {
        CertificateError::UnknownIssuer => "the certificate is not signed by this cluster's \
            authority; is it of another cluster, or of an authority that was made anew?"
            .to_owned(),
        CertificateError::BadSignature => "the certificate is not signed by the authority that \
            it names: one of that name is trusted, but it has another key; was the authority made \
            anew?"
            .to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "the certificate expired on {}; issue the next one with `shardgate pki issue`",
            date(not_after.as_secs())
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the certificate is valid only from {} on; are the clocks of all nodes right?",
            date(not_before.as_secs())
        ),
        CertificateError::NotValidForNameContext { expected, .. } => format!(
            "the certificate is not for {}: it is of another cluster, or was not made by \
             `shardgate pki issue`",
            expected.to_str()
        ),
        CertificateError::InvalidPurposeContext { .. } => "the certificate is not for both \
            servers and clients, as that of a node has to be"
            .to_owned(),
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => "the \
            certificate is the authority's own, which no node may show; issue it one with \
            `shardgate pki issue`"
            .to_owned(),
        other => format!("the certificate is not accepted: {other}"),
    }
}
