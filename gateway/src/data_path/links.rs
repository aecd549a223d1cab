//! Links: the byte pipes between the upstream and its tool servers.
//!
//! The upstream names a link and an endpoint; here that becomes a connection of this
//! shard's data ring, or the standard streams of a child process that the control
//! thread keeps.
//!
//! Invariant: the upstream hears of each link's end once, unless it closed it itself.

use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use shardgate_proto::upstream::{EndpointId, LinkEnd, LinkKey, Upstream};
use shardgate_shard::{CloseReason, ConnId, Io};

use super::message::Message;
use super::service::Gateway;
use crate::children::{ChildCommand, ChildNews};
use crate::endpoints::{Addresses, Endpoint, Endpoints};
use crate::tls::{TlsClient, TlsSession};

/// Memory for decrypted bytes that a shard keeps from one record to the next.
const PLAINTEXT_KEPT_BYTES_MAX: usize = 64 * 1024;

/// The links of one shard.
#[derive(Debug)]
pub(crate) struct Links {
    endpoints: Arc<Endpoints>,
    links: HashMap<LinkKey, Link>,
    by_conn: HashMap<ConnId, LinkKey>,
    children: Option<flume::Sender<ChildCommand>>,
    /// Empty between uses.
    plaintext: Vec<u8>,
}

#[derive(Debug)]
enum Link {
    /// For the addresses of its endpoint.
    Waiting {
        endpoint: EndpointId,
        unsent: Vec<u8>,
    },
    Connection(Connection),
    Child,
}

/// A link over the network.
#[derive(Debug)]
struct Connection {
    conn: ConnId,
    target: Target,
    /// Which of the target's addresses.
    attempt: usize,
    /// True once the upstream was told that the link is open.
    stands: bool,
    /// What was sent before: for the next address, and for after the handshake.
    unsent: Vec<u8>,
    /// From the moment the connection stands, where TLS is spoken.
    tls: Option<Box<TlsSession>>,
}

/// Where a link goes, as it was when the link was opened.
#[derive(Clone, Debug)]
struct Target {
    addresses: Arc<[SocketAddr]>,
    tls: Option<Arc<TlsClient>>,
}

impl Links {
    pub(crate) fn new(
        endpoints: Arc<Endpoints>,
        children: Option<flume::Sender<ChildCommand>>,
    ) -> Links {
        Links {
            endpoints,
            links: HashMap::new(),
            by_conn: HashMap::new(),
            children,
            plaintext: Vec::new(),
        }
    }

    /// True if a connection goes to a tool server.
    pub(crate) fn is_link(&self, conn: ConnId) -> bool {
        self.by_conn.contains_key(&conn)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    fn connection(&mut self, link: LinkKey) -> Option<&mut Connection> {
        match self.links.get_mut(&link) {
            Some(Link::Connection(connection)) => Some(connection),
            Some(Link::Waiting { .. } | Link::Child) | None => None,
        }
    }

    /// Forgets the link of a connection.
    fn remove_by_conn(&mut self, conn: ConnId) -> Option<(LinkKey, Connection)> {
        let link = self.by_conn.remove(&conn)?;
        match self.links.remove(&link) {
            Some(Link::Connection(connection)) => Some((link, connection)),
            Some(Link::Waiting { .. } | Link::Child) | None => None,
        }
    }
}

impl<U: Upstream> Gateway<U> {
    pub(crate) fn open_link(
        &mut self,
        io: &mut Io<'_, Message>,
        link: LinkKey,
        endpoint: EndpointId,
    ) {
        self.link_to(io, link, endpoint, Vec::new());
    }

    fn link_to(
        &mut self,
        io: &mut Io<'_, Message>,
        link: LinkKey,
        endpoint: EndpointId,
        unsent: Vec<u8>,
    ) {
        let endpoints = Arc::clone(&self.links.endpoints);
        match endpoints.endpoint(endpoint) {
            Some(Endpoint::Tcp(tcp)) => match &tcp.addresses {
                Addresses::Known(addresses) => {
                    let target = Target { addresses: Arc::clone(addresses), tls: tcp.tls.clone() };
                    self.connect_link(io, link, target, 0, unsent);
                }
                Addresses::Unknown(why) => {
                    self.link_failed(io, link, LinkEnd::Unreachable(why.to_string()));
                }
                // The upstream's patience bounds this like every other part of connecting.
                Addresses::Pending => {
                    self.links.links.insert(link, Link::Waiting { endpoint, unsent });
                }
            },
            Some(Endpoint::Child) => self.open_child(io, link, endpoint),
            None => {
                let why = "its endpoint is not configured any more".to_owned();
                self.link_failed(io, link, LinkEnd::Unreachable(why));
            }
        }
    }

    /// The control thread has learnt what names stand for.
    pub(crate) fn replace_endpoints(
        &mut self,
        io: &mut Io<'_, Message>,
        endpoints: Arc<Endpoints>,
    ) {
        self.links.endpoints = Endpoints::keeping(endpoints, &self.links.endpoints);
        let waiting = self.links.links.iter().filter_map(|(link, state)| match state {
            Link::Waiting { .. } => Some(*link),
            Link::Connection(_) | Link::Child => None,
        });
        let mut waiting: Vec<LinkKey> = waiting.collect();
        waiting.sort_unstable();
        for link in waiting {
            if let Some(Link::Waiting { endpoint, unsent }) = self.links.links.remove(&link) {
                self.link_to(io, link, endpoint, unsent);
            }
        }
        self.relay(io);
    }

    /// Tries the target's address number `attempt`.
    fn connect_link(
        &mut self,
        io: &mut Io<'_, Message>,
        link: LinkKey,
        target: Target,
        attempt: usize,
        unsent: Vec<u8>,
    ) {
        let Some(address) = target.addresses.get(attempt) else {
            let why = "no address is left to try".to_owned();
            return self.link_failed(io, link, LinkEnd::Unreachable(why));
        };
        match io.connect(*address) {
            Ok(conn) => {
                if target.tls.is_none()
                    && let Some(output) = io.output(conn)
                {
                    output.extend_from_slice(&unsent);
                }
                self.links.by_conn.insert(conn, link);
                let connection =
                    Connection { conn, target, attempt, stands: false, unsent, tls: None };
                self.links.links.insert(link, Link::Connection(connection));
            }
            Err(refused) => self.link_failed(io, link, LinkEnd::Unreachable(refused.to_string())),
        }
    }

    fn open_child(&mut self, io: &mut Io<'_, Message>, link: LinkKey, endpoint: EndpointId) {
        let shard = io.shard().0;
        let command = ChildCommand::Open { shard, link, endpoint };
        if self.send_to_children(command) {
            self.links.links.insert(link, Link::Child);
        } else {
            let why = "the gateway's supervisor of children is overloaded".to_owned();
            self.link_failed(io, link, LinkEnd::Unreachable(why));
        }
    }

    fn send_to_children(&self, command: ChildCommand) -> bool {
        self.links.children.as_ref().is_some_and(|children| children.try_send(command).is_ok())
    }

    pub(crate) fn send_on_link(&mut self, io: &mut Io<'_, Message>, link: LinkKey, bytes: &[u8]) {
        match self.links.links.get_mut(&link) {
            Some(Link::Waiting { unsent, .. }) => unsent.extend_from_slice(bytes),
            Some(Link::Connection(connection)) => connection.send(io, bytes),
            Some(Link::Child) => {
                let shard = io.shard().0;
                let command = ChildCommand::Write { shard, link, bytes: bytes.to_vec() };
                if !self.send_to_children(command) {
                    self.links.links.remove(&link);
                    let why = "the gateway's supervisor of children is overloaded".to_owned();
                    self.link_failed(io, link, LinkEnd::Broken(why));
                }
            }
            None => {}
        }
    }

    pub(crate) fn close_link(&mut self, io: &mut Io<'_, Message>, link: LinkKey) {
        match self.links.links.remove(&link) {
            Some(Link::Connection(connection)) => {
                self.links.by_conn.remove(&connection.conn);
                connection.close(io);
            }
            Some(Link::Child) => {
                let shard = io.shard().0;
                // The supervisor's queue has room for an end of each child it was told of.
                self.send_to_children(ChildCommand::Close { shard, link });
            }
            Some(Link::Waiting { .. }) | None => {}
        }
    }

    /// A link's connection stands. Where TLS is spoken, its handshake comes first.
    pub(crate) fn link_connected(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let Some(&link) = self.links.by_conn.get(&conn) else { return };
        let Some(connection) = self.links.connection(link) else { return };
        match connection.target.tls.clone() {
            None => self.link_stands(io, link),
            Some(tls) => {
                let Some(output) = io.output(conn) else { return };
                match TlsSession::begin(&tls, output) {
                    Ok(session) => connection.tls = Some(Box::new(session)),
                    Err(why) => self.end_link(io, conn, LinkEnd::Unreachable(why)),
                }
            }
        }
        self.relay(io);
    }

    fn link_stands(&mut self, io: &mut Io<'_, Message>, link: LinkKey) {
        if let Some(connection) = self.links.connection(link) {
            connection.stands = true;
            connection.unsent = Vec::new();
        }
        let now = self.now(io);
        self.upstream.link_opened(link, now, &mut self.events);
    }

    pub(crate) fn link_received(
        &mut self,
        io: &mut Io<'_, Message>,
        conn: ConnId,
        bytes: &mut [u8],
    ) {
        let Some(&link) = self.links.by_conn.get(&conn) else { return };
        if self.links.connection(link).is_some_and(|connection| connection.target.tls.is_some()) {
            return self.link_received_tls(io, conn, link, bytes);
        }
        let now = self.now(io);
        self.upstream.link_received(link, bytes, now, &mut self.events);
        self.relay(io);
    }

    fn link_received_tls(
        &mut self,
        io: &mut Io<'_, Message>,
        conn: ConnId,
        link: LinkKey,
        bytes: &[u8],
    ) {
        let mut plaintext = std::mem::take(&mut self.links.plaintext);
        let Some(connection) = self.links.connection(link) else { return };
        let (Some(tls), Some(output)) = (&mut connection.tls, io.output(conn)) else { return };
        let step = tls.receive(bytes, &mut plaintext, output);
        if step.opened {
            tls.send(&connection.unsent, output);
            self.link_stands(io, link);
        }
        if !plaintext.is_empty() {
            let now = self.now(io);
            self.upstream.link_received(link, &mut plaintext, now, &mut self.events);
        }
        plaintext.clear();
        plaintext.shrink_to(PLAINTEXT_KEPT_BYTES_MAX);
        self.links.plaintext = plaintext;
        // Perhaps what came makes the upstream close the link, so that its end is no news.
        self.relay(io);
        if let Some(end) = step.end {
            self.end_link(io, conn, end);
            self.relay(io);
        }
    }

    /// The server has closed its half: it sends nothing more, which ends the link.
    pub(crate) fn link_eof(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let Some(link) = self.links.by_conn.get(&conn) else { return };
        let tls = self.links.links.get(link).and_then(|link| match link {
            Link::Connection(connection) => connection.tls.as_deref(),
            Link::Waiting { .. } | Link::Child => None,
        });
        let end = tls.map_or(LinkEnd::Closed, TlsSession::cut);
        self.end_link(io, conn, end);
        self.relay(io);
    }

    /// Ends a link whose connection is still there.
    fn end_link(&mut self, io: &mut Io<'_, Message>, conn: ConnId, end: LinkEnd) {
        let Some((link, connection)) = self.links.remove_by_conn(conn) else { return };
        connection.close(io);
        self.link_failed(io, link, end);
    }

    pub(crate) fn link_lost(
        &mut self,
        io: &mut Io<'_, Message>,
        conn: ConnId,
        reason: &CloseReason,
    ) {
        let Some((link, connection)) = self.links.remove_by_conn(conn) else { return };
        let Connection { target, attempt, stands, unsent, tls, .. } = connection;
        let end = match reason {
            CloseReason::ConnectFailed(error) => {
                if attempt + 1 < target.addresses.len() {
                    self.connect_link(io, link, target, attempt + 1, unsent);
                    return self.relay(io);
                }
                LinkEnd::Unreachable(format!("connect to {}: {error}", target.addresses[attempt]))
            }
            CloseReason::Reset(error) => match &tls {
                Some(tls) => tls.broken(error),
                None => LinkEnd::Broken(format!("the connection broke: {error}")),
            },
            CloseReason::Peer => tls.as_deref().map_or(LinkEnd::Closed, TlsSession::cut),
            _ if stands => LinkEnd::Broken("the gateway closed the connection".to_owned()),
            CloseReason::Local
            | CloseReason::Panicked
            | CloseReason::SlowReader
            | CloseReason::Idle
            | CloseReason::Shutdown => {
                LinkEnd::Unreachable("the gateway gave the connection up".to_owned())
            }
        };
        self.link_failed(io, link, end);
        self.relay(io);
    }

    fn link_failed(&mut self, io: &mut Io<'_, Message>, link: LinkKey, end: LinkEnd) {
        let now = self.now(io);
        self.upstream.link_closed(link, end, now, &mut self.events);
    }

    /// News of a child.
    pub(crate) fn child_news(&mut self, io: &mut Io<'_, Message>, news: ChildNews) {
        let now = self.now(io);
        match news {
            ChildNews::Opened(link) if self.links.links.contains_key(&link) => {
                self.upstream.link_opened(link, now, &mut self.events);
            }
            ChildNews::Bytes(link, mut bytes) if self.links.links.contains_key(&link) => {
                self.upstream.link_received(link, &mut bytes, now, &mut self.events);
            }
            ChildNews::Ended(link, end) => {
                if self.links.links.remove(&link).is_some() {
                    self.link_failed(io, link, end);
                }
            }
            // Of a link that was closed meanwhile.
            ChildNews::Opened(_) | ChildNews::Bytes(..) => {}
        }
        self.relay(io);
    }
}

impl Connection {
    fn send(&mut self, io: &mut Io<'_, Message>, bytes: &[u8]) {
        if !self.stands {
            self.unsent.extend_from_slice(bytes);
        }
        let Some(output) = io.output(self.conn) else { return };
        match (&self.target.tls, &mut self.tls) {
            (None, _) => output.extend_from_slice(bytes),
            (Some(_), Some(tls)) if self.stands => tls.send(bytes, output),
            // The end of the handshake sends it.
            (Some(_), _) => {}
        }
    }

    /// Closes the connection; its link is forgotten already.
    fn close(self, io: &mut Io<'_, Message>) {
        match self.tls {
            // An alert behind output that the server does not take would keep the
            // connection for as long as the server likes.
            Some(mut tls) if io.queued_bytes(self.conn) == 0 => {
                if let Some(output) = io.output(self.conn) {
                    tls.close(output);
                }
                io.close_after_flush(self.conn);
            }
            _ => io.close(self.conn),
        }
    }
}
