//! Where tool servers are: the table that every shard has.
//!
//! It is never changed in place: what the control thread has learnt comes as a new table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use shardgate_proto::upstream::EndpointId;

use crate::tls::TlsClient;

/// One place to link to.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    /// A TCP address.
    Tcp(TcpEndpoint),
    /// A child process, which the control thread starts.
    Child,
}

/// A server that is reached by TCP.
#[derive(Clone, Debug)]
pub(crate) struct TcpEndpoint {
    /// What its URL says.
    pub(crate) host: Host,
    /// What that stands for.
    pub(crate) addresses: Addresses,
    /// How TLS is spoken with it, if it is.
    pub(crate) tls: Option<Arc<TlsClient>>,
}

/// A name or literal address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host {
    /// IPv6 without brackets.
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// What a host stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Nobody has answered yet: links wait.
    Pending,
    /// It could not be found out, which the sentence explains.
    Unknown(Arc<str>),
    /// In the order in which they are tried; never empty.
    Known(Arc<[SocketAddr]>),
}

/// All endpoints.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints(BTreeMap<EndpointId, Endpoint>);

impl TcpEndpoint {
    /// A literal address is known at once, a name has to be looked up.
    pub(crate) fn new(host: Host, tls: Option<Arc<TlsClient>>) -> TcpEndpoint {
        let addresses = match host.name.parse() {
            Ok(address) => Addresses::Known([SocketAddr::new(address, host.port)].into()),
            Err(_) => Addresses::Pending,
        };
        TcpEndpoint { host, addresses, tls }
    }

    fn is_literal(&self) -> bool {
        self.host.name.parse::<std::net::IpAddr>().is_ok()
    }
}

impl Endpoints {
    pub(crate) fn insert(&mut self, id: EndpointId, endpoint: Endpoint) {
        self.0.insert(id, endpoint);
    }

    /// `newer` with what only `older` has: servers that are not configured any more, which
    /// calls under way may need, and addresses. Tables of a reload and of the resolver may
    /// cross, and the resolver tells what it has found out only once.
    pub(crate) fn keeping(newer: Arc<Endpoints>, older: &Endpoints) -> Arc<Endpoints> {
        let kept = older.0.iter().filter_map(|(id, old)| match (newer.0.get(id), old) {
            (None, _) => Some((*id, old.clone())),
            (Some(Endpoint::Tcp(new)), Endpoint::Tcp(old)) => {
                let lost = new.addresses == Addresses::Pending
                    && matches!(old.addresses, Addresses::Known(_));
                lost.then(|| (*id, Endpoint::Tcp(old.clone())))
            }
            (Some(_), _) => None,
        });
        let kept: Vec<_> = kept.collect();
        if kept.is_empty() {
            return newer;
        }
        let mut all = Arc::unwrap_or_clone(newer);
        all.0.extend(kept);
        Arc::new(all)
    }

    pub(crate) fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.0.get(&id)
    }

    /// The hosts that have to be looked up.
    pub(crate) fn names(&self) -> BTreeSet<Host> {
        self.tcp().filter(|tcp| !tcp.is_literal()).map(|tcp| tcp.host.clone()).collect()
    }

    /// What the host stands for, if it is in the table.
    pub(crate) fn addresses_of(&self, host: &Host) -> Option<&Addresses> {
        self.tcp().find(|tcp| tcp.host == *host).map(|tcp| &tcp.addresses)
    }

    /// What a host stands for has become known. True if that is new.
    pub(crate) fn learn(&mut self, host: &Host, addresses: &Addresses) -> bool {
        let mut changed = false;
        for endpoint in self.0.values_mut() {
            if let Endpoint::Tcp(tcp) = endpoint
                && tcp.host == *host
                && tcp.addresses != *addresses
            {
                tcp.addresses = addresses.clone();
                changed = true;
            }
        }
        changed
    }

    fn tcp(&self) -> impl Iterator<Item = &TcpEndpoint> {
        self.0.values().filter_map(|endpoint| match endpoint {
            Endpoint::Tcp(tcp) => Some(tcp),
            Endpoint::Child => None,
        })
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.name.contains(':') {
            write!(formatter, "[{}]:{}", self.name, self.port)
        } else {
            write!(formatter, "{}:{}", self.name, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_nothing_back_that_an_older_one_knew() {
        let endpoint = |name: &str| {
            let host = Host { name: name.to_owned(), port: 1 };
            Endpoint::Tcp(TcpEndpoint::new(host, None))
        };
        let mut older = Endpoints::default();
        older.insert(EndpointId(0), endpoint("one.example"));
        older.insert(EndpointId(1), Endpoint::Child);
        let host = Host { name: "one.example".to_owned(), port: 1 };
        let known = Addresses::Known([SocketAddr::from(([127, 0, 0, 1], 1))].into());
        assert!(older.learn(&host, &known));
        let mut newer = Endpoints::default();
        newer.insert(EndpointId(0), endpoint("one.example"));
        newer.insert(EndpointId(2), endpoint("two.example"));
        let all = Endpoints::keeping(Arc::new(newer), &older);
        assert_eq!(all.addresses_of(&host), Some(&known));
        assert!(matches!(all.endpoint(EndpointId(1)), Some(Endpoint::Child)));
        let two = Host { name: "two.example".to_owned(), port: 1 };
        assert_eq!(all.addresses_of(&two), Some(&Addresses::Pending));
    }
}
