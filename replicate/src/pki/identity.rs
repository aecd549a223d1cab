//! What a certificate says of a node, as a URI.

use std::fmt;

use rustls::pki_types::ServerName;
use shardgate_replicate_proto::identity::NodeId;

/// Bytes of a cluster's or a node's name in a certificate, at most: one label of a DNS name
/// (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

const SCHEME: &str = "shardgate://";

/// What a certificate says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedIdentity {
    /// The cluster whose authority signed it.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// Its number, if the certificate is for that number only.
    pub node: Option<NodeId>,
}

/// The text can't be the name of a cluster or node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} can't be a name in a certificate: use 1 to {NAME_BYTES_MAX} of the characters a-z, 0-9 \
     and '-', with no '-' at either end"
)]
pub struct NotAName(pub String);

/// Can this be the name of a cluster or a node in a certificate?
///
/// # Errors
/// It can't.
pub fn check_name(name: &str) -> Result<(), NotAName> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    let is_plain = name.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if fits && is_plain && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(());
    }
    Err(NotAName(name.to_owned()))
}

/// The name that the certificates of a cluster's nodes have in common: whoever calls a node
/// wants one of its own cluster, and finds out by its URI which one it is.
pub(crate) fn cluster_dns_name(cluster: &str) -> String {
    format!("{cluster}.cluster.shardgate.internal")
}

/// [`cluster_dns_name`], as TLS asks for it.
pub(crate) fn cluster_server_name(cluster: &str) -> Result<ServerName<'static>, NotAName> {
    check_name(cluster)?;
    let name = cluster_dns_name(cluster);
    ServerName::try_from(name).map_err(|_| NotAName(cluster.to_owned()))
}

impl fmt::Display for CertifiedIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}/{}", self.cluster, self.name)?;
        self.node.map_or(Ok(()), |node| write!(formatter, "/{node}"))
    }
}

impl CertifiedIdentity {
    /// Reads what [`Display`](fmt::Display) writes; `None` for anything else.
    pub fn parse(uri: &str) -> Option<CertifiedIdentity> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (cluster, name) = (parts.next()?, parts.next()?);
        check_name(cluster).ok()?;
        check_name(name).ok()?;
        let node = match parts.next() {
            Some(number) => Some(NodeId(number.parse().ok().filter(|number| *number > 0)?)),
            None => None,
        };
        let identity =
            CertifiedIdentity { cluster: cluster.to_owned(), name: name.to_owned(), node };
        // One identity has one spelling.
        (parts.next().is_none() && identity.to_string() == uri).then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_spelling() {
        for node in [None, Some(NodeId(1)), Some(NodeId(u16::MAX))] {
            let (cluster, name) = ("prod".to_owned(), "gw-1".to_owned());
            let identity = CertifiedIdentity { cluster, name, node };
            assert_eq!(CertifiedIdentity::parse(&identity.to_string()), Some(identity));
        }
        for text in [
            "",
            "https://prod/gw-1",
            "shardgate://prod",
            "shardgate://prod/",
            "shardgate:///gw-1",
            "shardgate://prod/gw-1/",
            "shardgate://prod/gw-1/0",
            "shardgate://prod/gw-1/01",
            "shardgate://prod/gw-1/+1",
            "shardgate://prod/gw-1/65536",
            "shardgate://prod/gw-1/1/2",
            "shardgate://prod/-gw",
            "shardgate://Prod/gw-1",
        ] {
            assert_eq!(CertifiedIdentity::parse(text), None, "{text}");
        }
    }
}
