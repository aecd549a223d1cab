//! What all connections of a node have in common: who it is, how it secures them, its patience.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::hello::{Gate, OwnIdentity};
use super::tls::Tls;

/// This node, as it meets others.
pub struct Endpoint {
    own: OwnIdentity,
    security: RefCell<Security>,
    settings: LinkSettings,
    gate: Rc<dyn Gate>,
}

/// How connections between nodes are secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all: whoever reaches the port is believed. For `insecure = true` only.
    Insecure,
    /// Both sides show certificates of the cluster's authority.
    Tls(Tls),
}

/// How patient links are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Time for a TCP connection to be established.
    pub connect_timeout: Duration,
    /// Time for TLS and the hellos.
    pub handshake_timeout: Duration,
    /// Time before the second attempt to reach a peer; it doubles with each further one.
    pub backoff_min: Duration,
    /// Time between two attempts at most.
    pub backoff_max: Duration,
    /// Time for which a peer may leave bytes unacknowledged before the connection is given up.
    pub unacknowledged_max: Duration,
    /// Time for which a bulk transfer may make no progress.
    pub bulk_stalled_after: Duration,
}

impl Default for LinkSettings {
    fn default() -> LinkSettings {
        LinkSettings {
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            unacknowledged_max: Duration::from_secs(3),
            bulk_stalled_after: Duration::from_secs(10),
        }
    }
}

impl Endpoint {
    /// This node, with whoever decides about the others.
    pub fn new(
        own: OwnIdentity,
        security: Security,
        settings: LinkSettings,
        gate: Rc<dyn Gate>,
    ) -> Endpoint {
        Endpoint { own, security: RefCell::new(security), settings, gate }
    }

    /// Who this node is.
    pub fn own(&self) -> &OwnIdentity {
        &self.own
    }

    /// Secures connections that begin from now on in this way: certificates are renewed
    /// without a restart.
    pub fn renew_security(&self, security: Security) {
        self.security.replace(security);
    }

    pub(super) fn security(&self) -> Security {
        self.security.borrow().clone()
    }

    pub(super) fn settings(&self) -> &LinkSettings {
        &self.settings
    }

    pub(super) fn gate(&self) -> &dyn Gate {
        self.gate.as_ref()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").field("own", &self.own).finish_non_exhaustive()
    }
}
