//! The shard's requests in flight: from the client's id to the exchange that waits.

use shardgate_proto::mcp::stream::StreamNumber;
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{CallKey, SessionKey};
use slab::Slab;

use super::exchange::Exchange;
use crate::metrics::Method;

/// One request in flight.
#[derive(Debug)]
pub(crate) struct PendingCall {
    /// Its name towards the upstream.
    pub(crate) key: CallKey,
    /// Its session; `None` in the modern era.
    pub(crate) session: Option<SessionKey>,
    /// The exchange that waits for a plain answer or carries a modern stream;
    /// `None` once a legacy stream took over or the client went.
    pub(crate) exchange: Option<Exchange>,
    /// The legacy stream its messages go to, once there is one.
    pub(crate) stream: Option<StreamNumber>,
    /// True once a modern answer has begun as a stream.
    pub(crate) streaming: bool,
    /// True once its id is noted in its session.
    pub(crate) in_flight: bool,
    /// True if a task makes it: no client waits.
    pub(crate) for_task: bool,
    /// The request's id as the client wrote it.
    pub(crate) id: RequestId,
    /// The revision in force.
    pub(crate) version: ProtocolVersion,
    /// For the metrics.
    pub(crate) method: Method,
    /// When it came, on the shard's precise clock.
    pub(crate) started_ns: u64,
}

/// A request id's raw JSON text. Short ones, which is nearly all, need no allocation.
#[derive(Clone, Debug)]
pub(crate) enum RequestId {
    /// Up to 22 bytes in place.
    Short(u8, [u8; 22]),
    /// Anything longer.
    Long(Box<[u8]>),
}

impl RequestId {
    /// Copies the text.
    pub(crate) fn new(text: &[u8]) -> RequestId {
        let mut short = [0; 22];
        match short.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                RequestId::Short(text.len() as u8, short)
            }
            None => RequestId::Long(text.into()),
        }
    }

    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            RequestId::Short(length, bytes) => &bytes[..usize::from(*length)],
            RequestId::Long(bytes) => bytes,
        }
    }
}

/// All requests in flight of one shard.
#[derive(Debug, Default)]
pub(crate) struct CallTable {
    calls: Slab<PendingCall>,
    generation: u32,
}

impl CallTable {
    /// Adds a call made by `make` from its fresh key.
    pub(crate) fn insert(&mut self, make: impl FnOnce(CallKey) -> PendingCall) -> CallKey {
        self.generation = self.generation.wrapping_add(1);
        let place = self.calls.vacant_entry();
        let key = CallKey(u64::from(self.generation) << 32 | place.key() as u64);
        place.insert(make(key));
        key
    }

    /// The call, if it still runs.
    pub(crate) fn call(&mut self, key: CallKey) -> Option<&mut PendingCall> {
        self.calls.get_mut(slot(key)).filter(|call| call.key == key)
    }

    /// Takes the call out.
    pub(crate) fn remove(&mut self, key: CallKey) -> Option<PendingCall> {
        self.call(key)?;
        Some(self.calls.remove(slot(key)))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }
}

fn slot(key: CallKey) -> usize {
    (key.0 & u64::from(u32::MAX)) as usize
}
