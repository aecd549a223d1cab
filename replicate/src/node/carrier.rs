//! Carries the control log's messages over the links.
//!
//! The engine wants something that may be sent between threads, the links live on one: so
//! messages are handed over by a queue. All of it runs on the control thread.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use shardgate_replicate_proto::identity::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;

use crate::peers::{CallError, Kind, Peers};
use crate::transport::{BulkError, LinkError, Links, Supply};

/// Messages that wait to be handed to the links.
pub const ORDERS_MAX: usize = 16_384;

type Answer = Result<Bytes, CallError>;

enum Order {
    Call {
        to: NodeId,
        kind: Kind,
        body: Bytes,
        within: Duration,
        reply: oneshot::Sender<Answer>,
    },
    Tell {
        to: NodeId,
        kind: Kind,
        body: Bytes,
    },
    Snapshot {
        to: NodeId,
        head: Bytes,
        body: Bytes,
        within: Duration,
        reply: oneshot::Sender<Answer>,
    },
}

/// The links, as the control log sees them.
#[derive(Clone)]
pub struct Carrier {
    orders: mpsc::Sender<Order>,
}

impl Carrier {
    /// A carrier over these links, for as long as they live.
    pub(super) fn over(links: &Rc<Links>) -> Carrier {
        let (orders, mut taken) = mpsc::channel(ORDERS_MAX);
        let links = Rc::downgrade(links);
        spawn_local(async move {
            while let Some(order) = taken.recv().await {
                let Some(links) = links.upgrade() else { return };
                carry_out(links, order);
            }
        });
        Carrier { orders }
    }

    fn order(&self, order: Order, answer: oneshot::Receiver<Answer>) -> BoxFuture<'static, Answer> {
        let ordered = self.orders.try_send(order);
        Box::pin(async move {
            if ordered.is_err() {
                let why = format!("{ORDERS_MAX} messages wait for the links already");
                return Err(CallError::Unreachable(why));
            }
            let gone = || CallError::Failed("the links of this node are closed".to_owned());
            answer.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

fn carry_out(links: Rc<Links>, order: Order) {
    match order {
        Order::Tell { to, kind, body } => {
            // It may be lost; what is told is told again.
            let _ = links.notify(to, kind as u8, body);
        }
        Order::Call { to, kind, body, within, reply } => {
            // Queued by this very call, so that messages keep their order.
            let asked = links.request(to, kind as u8, body, within);
            spawn_local(async move {
                // Whoever asked may have given up.
                let _ = reply.send(asked.await.map_err(call_error));
            });
        }
        Order::Snapshot { to, head, body, within, reply } => {
            spawn_local(async move {
                let supply =
                    Supply { length: body.len() as u64, head, source: Box::new(Reading(body)) };
                let kind = Kind::Snapshot as u8;
                let sent = links.send_bulk(to, kind, supply, |_| ());
                let sent = tokio::time::timeout(within, sent).await;
                let answer = match sent {
                    Ok(answer) => {
                        answer.map_err(|error: BulkError| CallError::Failed(error.to_string()))
                    }
                    Err(_) => Err(CallError::TimedOut(within)),
                };
                // Whoever asked may have given up.
                let _ = reply.send(answer);
            });
        }
    }
}

fn call_error(error: LinkError) -> CallError {
    match error {
        LinkError::UnknownPeer(_) | LinkError::Down { .. } | LinkError::Full { .. } => {
            CallError::Unreachable(error.to_string())
        }
        LinkError::Timeout { after, .. } => CallError::TimedOut(after),
        LinkError::TooLong { .. } | LinkError::Closed { .. } | LinkError::Failed { .. } => {
            CallError::Failed(error.to_string())
        }
    }
}

impl Peers for Carrier {
    fn call(
        &self,
        to: NodeId,
        kind: Kind,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Answer> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Call { to, kind, body, within, reply }, answer)
    }

    fn tell(&self, to: NodeId, kind: Kind, body: Bytes) {
        // As for a link that is down: what is told is told again.
        let _ = self.orders.try_send(Order::Tell { to, kind, body });
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        head: Bytes,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Answer> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Snapshot { to, head, body, within, reply }, answer)
    }
}

/// Bytes as something to read from.
struct Reading(Bytes);

impl tokio::io::AsyncRead for Reading {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let count = buffer.remaining().min(self.0.len());
        buffer.put_slice(&self.0.split_to(count));
        std::task::Poll::Ready(Ok(()))
    }
}
