//! A legacy request that has passed the checks any shard can make.

use shardgate_proto::jsonrpc::{self, Id};
use shardgate_proto::mcp::session_id::SessionId;
use shardgate_proto::upstream::RouteId;

use crate::metrics::Method;

/// What the client wants of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// POST: one or several JSON-RPC messages.
    Messages,
    /// GET: a standing stream, or the rest of a stream that broke.
    Listen,
    /// DELETE: the end of the session.
    End,
}

impl Verb {
    /// As it is counted, where nothing more is known.
    pub(crate) fn method(self) -> Method {
        match self {
            Verb::Messages => Method::Other,
            Verb::Listen => Method::StreamGet,
            Verb::End => Method::SessionDelete,
        }
    }
}

/// Borrowed from the connection's bytes, or from an [`OwnedRequest`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionRequest<'a> {
    pub(crate) verb: Verb,
    /// On which path.
    pub(crate) route: RouteId,
    /// Authenticated, not yet looked up.
    pub(crate) session: SessionId,
    pub(crate) last_event_id: Option<&'a [u8]>,
    /// Valid UTF-8 JSON-RPC in the case of [`Verb::Messages`], else empty.
    pub(crate) body: &'a [u8],
}

/// The same, on its way to another shard.
#[derive(Debug)]
pub(crate) struct OwnedRequest {
    verb: Verb,
    route: RouteId,
    session: SessionId,
    last_event_id: Option<Box<[u8]>>,
    body: Box<[u8]>,
}

impl<'a> SessionRequest<'a> {
    /// The id an error answer bears. Reads the body anew: for refusals only.
    pub(crate) fn id(&self, limits: &jsonrpc::ScanLimits) -> Option<&'a [u8]> {
        match jsonrpc::scan(self.body, limits) {
            Ok(jsonrpc::Message::Single(envelope)) => envelope.id().map(Id::raw),
            Ok(jsonrpc::Message::Batch(_)) | Err(_) => None,
        }
    }

    /// What is asked for. Reads the body anew as well.
    pub(crate) fn method(&self, limits: &jsonrpc::ScanLimits) -> Method {
        match (self.verb, jsonrpc::scan(self.body, limits)) {
            (Verb::Messages, Ok(jsonrpc::Message::Single(envelope))) => {
                Method::of(&envelope.method())
            }
            (verb, _) => verb.method(),
        }
    }

    pub(crate) fn to_boxed(self) -> Box<OwnedRequest> {
        Box::new(OwnedRequest {
            verb: self.verb,
            route: self.route,
            session: self.session,
            last_event_id: self.last_event_id.map(Box::from),
            body: self.body.into(),
        })
    }
}

impl OwnedRequest {
    pub(crate) fn borrow(&self) -> SessionRequest<'_> {
        SessionRequest {
            verb: self.verb,
            route: self.route,
            session: self.session,
            last_event_id: self.last_event_id.as_deref(),
            body: &self.body,
        }
    }
}
