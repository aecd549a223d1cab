//! Linearizable reads on any node (Raft paper, section 8; ReadIndex).
//!
//! Readers that wait at the same time share one question to the leader, which shares one
//! round to its followers; then the local state is good for all of them.
//!
//! Invariant: a round serves only readers that came before it began.

use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::async_runtime::{AsyncRuntime, MpscReceiver};
use openraft::raft::ReadPolicy;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{MpscReceiverOf, MpscSenderOf, OneshotSenderOf};
use openraft::type_config::async_runtime::mpsc::MpscSender;
use openraft::type_config::async_runtime::oneshot::OneshotSender;

use super::journal::{decode, encode};
use super::types::LogTypes;
use super::{Inner, RaftLog, not_leader};
use crate::control_log::ReadError;
use crate::peers::{Kind, Peers};

/// Readers that wait for a round; who comes next waits in front.
pub const READERS_WAITING_MAX: usize = 65_536;

/// One round, after which the leader is looked for again.
const ROUND: Duration = Duration::from_secs(1);

/// How long to wait for a leader to be known before looking again.
const LEADER_POLL: Duration = Duration::from_millis(10);

/// One reader.
pub(super) struct Reader<RT: AsyncRuntime> {
    /// A peer asks, taking us for the leader: it is not passed on again.
    forwarded: bool,
    reply: OneshotSenderOf<LogTypes<RT>, Result<u64, ReadError>>,
}

pub(super) type Queue<RT> = MpscSenderOf<LogTypes<RT>, Reader<RT>>;
type Queued<RT> = MpscReceiverOf<LogTypes<RT>, Reader<RT>>;

impl<RT: AsyncRuntime, P: Peers> RaftLog<RT, P> {
    /// Waits until the local state contains everything that was committed before this call.
    ///
    /// # Errors
    /// If no leader could be reached, or this node does not catch up, in time.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let index = self.read_index(false).await?;
        self.applied(index, self.inner.settings.read_within).await
    }

    pub(super) async fn read_index_for_peer(&self) -> Result<Bytes, ReadError> {
        let index = self.read_index(true).await?;
        encode(&index).map(Bytes::from).map_err(|_| stopped())
    }

    async fn read_index(&self, forwarded: bool) -> Result<u64, ReadError> {
        let within = self.inner.settings.read_within;
        let (reply, answer) = LogTypes::<RT>::oneshot();
        let waited = LogTypes::<RT>::timeout(within, async {
            let reader = Reader { forwarded, reply };
            self.inner.reads.send(reader).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        });
        waited.await.unwrap_or(Err(no_leader(within)))
    }

    /// Waits until this node has applied the log up to `index`.
    pub(super) async fn applied(&self, index: u64, within: Duration) -> Result<(), ReadError> {
        let mut progress = self.inner.machine.progress();
        if *progress.borrow_watched() >= index {
            return Ok(());
        }
        match LogTypes::<RT>::timeout(within, progress.wait_until_ge(&index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => {
                let applied = *self.inner.machine.progress().borrow_watched();
                Err(read_error(format!(
                    "it has applied the control log up to {applied}, not yet {index}, after {within:?}"
                )))
            }
        }
    }
}

/// Serves readers round by round, until the log is dropped.
pub(super) async fn run<RT: AsyncRuntime, P: Peers>(
    log: std::sync::Weak<Inner<RT, P>>,
    mut queued: Queued<RT>,
) {
    while let Some(first) = queued.recv().await {
        let mut readers = vec![first];
        while readers.len() < READERS_WAITING_MAX {
            let Ok(next) = queued.try_recv() else { break };
            readers.push(next);
        }
        let Some(inner) = log.upgrade() else { return };
        round(&RaftLog { inner }, readers).await;
    }
}

async fn round<RT: AsyncRuntime, P: Peers>(log: &RaftLog<RT, P>, mut readers: Vec<Reader<RT>>) {
    let within = log.inner.settings.read_within;
    let deadline = LogTypes::<RT>::now() + within;
    let index = loop {
        let leader = log.leader();
        if leader != Some(log.inner.own) {
            let (forwarded, own): (Vec<_>, Vec<_>) =
                readers.into_iter().partition(|reader| reader.forwarded);
            answer(forwarded, &Err(read_error(not_leader(leader))));
            readers = own;
        }
        if readers.is_empty() {
            return;
        }
        match leader {
            Some(leader) if leader == log.inner.own => {
                let confirmed = log.inner.engine.get_read_log_id(ReadPolicy::ReadIndex);
                if let Ok(Ok((index, _))) = LogTypes::<RT>::timeout(ROUND, confirmed).await {
                    break Ok(index.log_id().index);
                }
            }
            Some(leader) => {
                let asked =
                    log.inner.peers.call(leader, Kind::ReadIndex, Bytes::new(), ROUND).await;
                if let Some(index) =
                    asked.ok().and_then(|bytes| decode("a read index", &bytes).ok())
                {
                    break Ok(index);
                }
            }
            None => {}
        }
        if LogTypes::<RT>::now() >= deadline {
            break Err(no_leader(within));
        }
        LogTypes::<RT>::sleep(LEADER_POLL).await;
    };
    answer(readers, &index);
}

fn answer<RT: AsyncRuntime>(readers: Vec<Reader<RT>>, index: &Result<u64, ReadError>) {
    for reader in readers {
        // Who gave up is not told.
        let _ = reader.reply.send(index.clone());
    }
}

fn read_error(why: String) -> ReadError {
    ReadError { why }
}

fn stopped() -> ReadError {
    read_error("its control log has stopped; the node's log says why".to_owned())
}

fn no_leader(within: Duration) -> ReadError {
    read_error(format!("no leader confirmed what is committed within {within:?}"))
}
