//! How the control thread asks shards, without ever waiting on one for long.
//!
//! Invariants:
//! - A shard that does not answer within [`ANSWER_TIME_MAX`] is reported as stalled.
//! - A shard has at most one unanswered request of ours, however often we are asked:
//!   a stalled shard's inbox is not filled by those who look at it.

use std::time::Duration;

use flume::{Receiver, TryRecvError};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::metrics::ShardSnapshot;

/// How long a shard may take to answer; thousands of loop turns.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// What the control thread asks of a shard.
#[derive(Debug)]
pub enum ControlRequest {
    /// A snapshot of its metrics. The shard answers by `try_send` and ignores its failure.
    Snapshot(flume::Sender<ShardSnapshot>),
}

/// Puts a request into a shard's inbox without blocking; false if that is full or closed.
pub type ShardInbox = Box<dyn Fn(ControlRequest) -> bool + Send + Sync>;

/// The ways to all shards, in their order.
pub struct ShardLinks {
    links: Vec<Link>,
}

struct Link {
    inbox: ShardInbox,
    outstanding: Mutex<Option<Receiver<ShardSnapshot>>>,
}

impl ShardLinks {
    /// Links over these inboxes; the first is shard 0's.
    pub fn new(inboxes: Vec<ShardInbox>) -> ShardLinks {
        let link = |inbox| Link { inbox, outstanding: Mutex::new(None) };
        ShardLinks { links: inboxes.into_iter().map(link).collect() }
    }

    /// How many shards there are.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// True if there are no shards.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// One snapshot per shard, made now; `None` for a shard that is stalled or gone.
    /// All shards share one deadline, so this takes [`ANSWER_TIME_MAX`] at most.
    pub async fn snapshots(&self) -> Vec<Option<ShardSnapshot>> {
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        // All are asked before the first is waited for.
        for link in &self.links {
            if let Ok(mut outstanding) = link.outstanding.try_lock() {
                link.ask(&mut outstanding);
            }
        }
        let mut snapshots = Vec::with_capacity(self.links.len());
        for link in &self.links {
            snapshots.push(timeout_at(deadline, link.snapshot()).await.unwrap_or_default());
        }
        snapshots
    }
}

impl Link {
    async fn snapshot(&self) -> Option<ShardSnapshot> {
        let mut outstanding = self.outstanding.lock().await;
        if outstanding.is_none() {
            self.ask(&mut outstanding);
        }
        let snapshot = outstanding.as_ref()?.recv_async().await.ok();
        *outstanding = None;
        snapshot
    }

    /// Leaves an unanswered request alone, and drops an answer that came too late for its asker.
    fn ask(&self, outstanding: &mut Option<Receiver<ShardSnapshot>>) {
        let is_unanswered = outstanding
            .as_ref()
            .is_some_and(|answer| matches!(answer.try_recv(), Err(TryRecvError::Empty)));
        if is_unanswered {
            return;
        }
        let (answer_to, answer) = flume::bounded(1);
        *outstanding = (self.inbox)(ControlRequest::Snapshot(answer_to)).then_some(answer);
    }
}

impl std::fmt::Debug for ShardLinks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ShardLinks").field("shards", &self.links.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ShardGauges, ShardMetrics};

    fn answer(request: ControlRequest, shard: u16, sessions: u64) {
        let ControlRequest::Snapshot(to) = request;
        let gauges = ShardGauges { sessions, ..ShardGauges::default() };
        let _ = to.try_send(ShardMetrics::new(shard, None).snapshot(gauges));
    }

    fn run<F: Future>(future: F) -> F::Output {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(future)
    }

    #[test]
    fn a_stalled_shard_costs_the_others_nothing_and_is_asked_once() {
        let (inbox, waiting) = flume::bounded(8);
        let links = ShardLinks::new(vec![
            Box::new(|request| {
                answer(request, 0, 5);
                true
            }),
            Box::new(move |request| inbox.try_send(request).is_ok()),
            Box::new(|_| false),
        ]);
        run(async {
            for _ in 0..3 {
                let snapshots = links.snapshots().await;
                assert_eq!(snapshots[0].as_ref().expect("answers").gauges.sessions, 5);
                assert!(snapshots[1].is_none(), "stalled");
                assert!(snapshots[2].is_none(), "gone");
            }
            assert_eq!(waiting.len(), 1, "the stalled shard has one request, not three");

            // It wakes up and answers late: that answer is old and must not be shown.
            answer(waiting.recv().expect("the request"), 1, 1);
            let fresh = tokio::spawn(async move {
                let request = waiting.recv_async().await.expect("a new request");
                answer(request, 1, 2);
            });
            let snapshots = links.snapshots().await;
            assert_eq!(snapshots[1].as_ref().expect("answers again").gauges.sessions, 2);
            fresh.await.expect("it did not panic");
        });
    }
}
