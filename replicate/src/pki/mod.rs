//! A cluster's own certificates: an authority per cluster, which signs one certificate per node.
//!
//! A node's certificate says who it is with a URI: `shardgate://<cluster>/<node>`, or
//! `shardgate://<cluster>/<node>/<id>` if it is for that id only. Whoever holds the authority's
//! key can let nodes in; a node needs the authority's certificate, its own and its own key.
//!
//! Invariants:
//! - A key is written so that only its owner can read it, and no file is written over.
//! - Nothing of a certificate is believed here that TLS has not verified; what is shown to
//!   people is marked as what the certificate says.

mod authority;
mod certificate;
mod check;
mod credentials;
mod fault;
mod identity;

pub use authority::{
    AUTHORITY_DAYS, Authority, Issued, NODE_DAYS, NodeRequest, VALIDITY_DAYS_MAX, Validity,
};
pub use certificate::{Certificate, date};
pub use check::{EXPIRY_NEAR_DAYS, Expected, check};
pub use credentials::{Credentials, NodeFiles};
pub(crate) use fault::certificate_sentence;
pub use fault::{Fault, PkiError};
pub(crate) use identity::cluster_server_name;
pub use identity::{CertifiedIdentity, NAME_BYTES_MAX, NotAName, check_name};
