//! Commands on their way into the log.
//!
//! Commands that wait at the same time travel in one entry, so that one disk write and
//! one message per follower carry many. Commands are idempotent, so an attempt whose
//! outcome is unknown is made again, here or at the next leader, until the deadline.
//!
//! Limits: [`COMMANDS_PER_ENTRY_MAX`], [`ENTRY_BYTES_MAX`], [`ENTRIES_IN_FLIGHT_MAX`],
//! [`PROPOSALS_WAITING_MAX`].

use std::io;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::{AsyncRuntime, MpscReceiver};
use openraft::errors::{ClientWriteError, RaftError};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{MpscReceiverOf, MpscSenderOf, OneshotSenderOf};
use openraft::type_config::async_runtime::mpsc::MpscSender;
use openraft::type_config::async_runtime::oneshot::OneshotSender;
use serde::{Deserialize, Serialize};
use shardgate_replicate_proto::coordinator::{Command, Outcome};
use shardgate_replicate_proto::identity::NodeId;

use super::journal::{decode, encode};
use super::types::{LogTypes, Proposal};
use super::{Inner, RaftLog, not_leader};
use crate::control_log::ProposeError;
use crate::peers::{Kind, Peers};

/// Commands of one entry; settings can only lower it.
pub const COMMANDS_PER_ENTRY_MAX: usize = 4_096;

/// Bytes of one entry's commands, after which no more are added.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Entries of this node that are not committed yet. While they are on their way, the
/// next ones grow; two keep disk and network busy at once.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 2;

/// Proposals that wait for their entry; who comes next waits in front.
pub const PROPOSALS_WAITING_MAX: usize = 65_536;

/// One attempt, after which the leader is looked for again.
const ATTEMPT: Duration = Duration::from_secs(2);

/// How long to wait for a leader to be known before looking again.
const LEADER_POLL: Duration = Duration::from_millis(10);

type Answer = Result<Committed, ProposeError>;

/// One caller's commands.
pub(super) struct Waiting<RT: AsyncRuntime> {
    commands: Encoded,
    /// They come from a peer that takes us for the leader: they are not passed on again.
    forwarded: bool,
    reply: OneshotSenderOf<LogTypes<RT>, Answer>,
}

/// Commands in their stored form, one after the other. They are encoded once, by the
/// node whose commands they are.
#[derive(Default)]
struct Encoded {
    count: usize,
    bytes: Vec<u8>,
}

impl Encoded {
    fn of(commands: &[Command]) -> io::Result<Encoded> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend_from_slice(&encode(command)?);
        }
        Ok(Encoded { count: commands.len(), bytes })
    }

    fn append(&mut self, other: &Encoded) {
        self.count += other.count;
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// The stored form of a list of commands.
    fn list(&self) -> io::Result<Vec<u8>> {
        let mut list = encode(&self.count)?;
        list.extend_from_slice(&self.bytes);
        Ok(list)
    }

    /// The stored form of a `Batch`.
    fn batch(&self, now_ms: u64) -> io::Result<Vec<u8>> {
        let mut batch = encode(&now_ms)?;
        batch.extend_from_slice(&self.list()?);
        Ok(batch)
    }
}

/// Commands that are committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// The entry they are in.
    pub index: u64,
    /// What each came to, in their order.
    pub outcomes: Vec<Outcome>,
}

pub(super) type Queue<RT> = MpscSenderOf<LogTypes<RT>, Waiting<RT>>;
type Queued<RT> = MpscReceiverOf<LogTypes<RT>, Waiting<RT>>;

impl<RT: AsyncRuntime, P: Peers> RaftLog<RT, P> {
    /// Proposes commands as one unit and waits until they are committed and applied on this node.
    ///
    /// # Errors
    /// If no leader could be reached or the log has stopped. Commands that may have been
    /// committed are reported so.
    pub async fn propose(&self, commands: Vec<Command>) -> Result<Committed, ProposeError> {
        let within = self.inner.settings.propose_within;
        let commands = Encoded::of(&commands).map_err(|error| bad(&error))?;
        let committed = self.enqueue(commands, false, within).await?;
        self.applied(committed.index, within).await.map_err(|_| unknown(within))?;
        Ok(committed)
    }

    /// Commands that a peer sent, because it takes this node for the leader.
    pub(super) async fn propose_for_peer(&self, body: &[u8]) -> Result<Bytes, ProposeError> {
        // What this release cannot decode must not get into the log, where every node would fail on it.
        let commands: Vec<Command> = decode("commands", body).map_err(|error| bad(&error))?;
        let commands = Encoded::of(&commands).map_err(|error| bad(&error))?;
        let committed = self.enqueue(commands, true, ATTEMPT).await?;
        let bytes = encode(&committed).map_err(|error| bad(&error))?;
        Ok(bytes.into())
    }

    async fn enqueue(&self, commands: Encoded, forwarded: bool, within: Duration) -> Answer {
        let (reply, answer) = LogTypes::<RT>::oneshot();
        let waiting = Waiting { commands, forwarded, reply };
        let sent = LogTypes::<RT>::timeout(within, self.inner.proposals.send(waiting)).await;
        match sent {
            Err(_) => {
                return Err(not_taken(format!("{PROPOSALS_WAITING_MAX} proposals wait already")));
            }
            Ok(Err(_)) => return Err(ProposeError::Stopped),
            Ok(Ok(())) => {}
        }
        match LogTypes::<RT>::timeout(within, answer).await {
            Err(_) => Err(unknown(within)),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Ok(Ok(answer)) => answer,
        }
    }
}

/// Makes entries of what waits, until the log is dropped.
pub(super) async fn run<RT: AsyncRuntime, P: Peers>(
    log: std::sync::Weak<Inner<RT, P>>,
    mut queued: Queued<RT>,
) {
    let (permit, mut permits) = LogTypes::<RT>::mpsc::<()>(ENTRIES_IN_FLIGHT_MAX);
    for _ in 0..ENTRIES_IN_FLIGHT_MAX {
        if permit.send(()).await.is_err() {
            return;
        }
    }
    while let Some(first) = queued.recv().await {
        // While no entry may start, more commands gather for the next.
        if permits.recv().await.is_none() {
            return;
        }
        let Some(inner) = log.upgrade() else { return };
        let commands_max = inner.settings.commands_per_entry.min(COMMANDS_PER_ENTRY_MAX);
        let mut batch = Gathered::new(first);
        while batch.has_room(commands_max) {
            let Ok(next) = queued.try_recv() else { break };
            batch.add(next);
        }
        let permit = permit.clone();
        drop(LogTypes::<RT>::spawn(async move {
            carry(RaftLog { inner }, batch).await;
            // The loop has ended if it takes no permits any more.
            let _ = permit.send(()).await;
        }));
    }
}

/// Callers whose commands travel in one entry.
struct Gathered<RT: AsyncRuntime> {
    callers: Vec<Waiting<RT>>,
    commands: usize,
    bytes: usize,
}

impl<RT: AsyncRuntime> Gathered<RT> {
    fn new(first: Waiting<RT>) -> Gathered<RT> {
        let mut gathered = Gathered { callers: Vec::new(), commands: 0, bytes: 0 };
        gathered.add(first);
        gathered
    }

    fn add(&mut self, caller: Waiting<RT>) {
        self.commands += caller.commands.count;
        self.bytes += caller.commands.bytes.len();
        self.callers.push(caller);
    }

    fn has_room(&self, commands_max: usize) -> bool {
        self.commands < commands_max && self.bytes < ENTRY_BYTES_MAX
    }

    fn all(&self) -> Encoded {
        let mut all = Encoded::default();
        for caller in &self.callers {
            all.append(&caller.commands);
        }
        all
    }

    /// Tells each caller its own part.
    fn answer(self, committed: Committed) {
        let mut outcomes = committed.outcomes.into_iter();
        for caller in self.callers {
            let part: Vec<Outcome> = outcomes.by_ref().take(caller.commands.count).collect();
            // Who gave up is not told.
            let _ = caller.reply.send(Ok(Committed { index: committed.index, outcomes: part }));
        }
    }

    fn fail(self, error: &ProposeError) {
        for caller in self.callers {
            let _ = caller.reply.send(Err(error.clone()));
        }
    }
}

fn bad(error: &impl ToString) -> ProposeError {
    ProposeError::Bad(error.to_string())
}

fn not_taken(why: String) -> ProposeError {
    ProposeError::NotTaken { why }
}

fn unknown(within: Duration) -> ProposeError {
    let why = format!("no majority of the voters confirmed it within {within:?}");
    ProposeError::Unknown { why }
}

/// How one attempt went.
enum Attempt {
    Done(Committed),
    Again,
    Failed(ProposeError),
}

async fn carry<RT: AsyncRuntime, P: Peers>(log: RaftLog<RT, P>, mut batch: Gathered<RT>) {
    let deadline = LogTypes::<RT>::now() + log.inner.settings.propose_within;
    loop {
        let leader = log.leader();
        if leader != Some(log.inner.own) {
            let (forwarded, own) = batch.callers.into_iter().partition(|caller| caller.forwarded);
            let refused = Gathered { callers: forwarded, commands: 0, bytes: 0 };
            refused.fail(&not_taken(not_leader(leader)));
            batch = Gathered { callers: own, commands: 0, bytes: 0 };
        }
        if batch.callers.is_empty() {
            return;
        }
        let attempt = match leader {
            None => Attempt::Again,
            Some(leader) if leader == log.inner.own => log.write(&batch.all()).await,
            Some(leader) => log.forward(leader, &batch.all()).await,
        };
        match attempt {
            Attempt::Done(committed) => return batch.answer(committed),
            Attempt::Failed(error) => return batch.fail(&error),
            Attempt::Again if LogTypes::<RT>::now() >= deadline => {
                let within = log.inner.settings.propose_within;
                return batch.fail(&unknown(within));
            }
            Attempt::Again => LogTypes::<RT>::sleep(LEADER_POLL).await,
        }
    }
}

impl<RT: AsyncRuntime, P: Peers> RaftLog<RT, P> {
    /// Writes one entry as the leader.
    async fn write(&self, commands: &Encoded) -> Attempt {
        let bytes = match commands.batch(self.log_time_ms()) {
            Ok(bytes) => bytes,
            Err(error) => return Attempt::Failed(bad(&error)),
        };
        let written = self.inner.engine.client_write(Proposal(bytes.into()));
        match LogTypes::<RT>::timeout(ATTEMPT, written).await {
            Err(_) => Attempt::Again,
            Ok(Ok(response)) => {
                Attempt::Done(Committed { index: response.log_id.index, outcomes: response.data.0 })
            }
            Ok(Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_),
            ))) => Attempt::Again,
            Ok(Err(RaftError::APIError(
                error @ (ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            ))) => Attempt::Failed(bad(&error)),
            Ok(Err(RaftError::Fatal(_))) => Attempt::Failed(ProposeError::Stopped),
        }
    }

    async fn forward(&self, leader: NodeId, commands: &Encoded) -> Attempt {
        let body = match commands.list() {
            Ok(bytes) => bytes,
            Err(error) => return Attempt::Failed(bad(&error)),
        };
        let answer = self.inner.peers.call(leader, Kind::Propose, body.into(), ATTEMPT).await;
        // Not the leader, not reachable, not in time: all of it may change.
        let Ok(bytes) = answer else { return Attempt::Again };
        match decode("the leader's answer", &bytes) {
            Ok(committed) => Attempt::Done(committed),
            Err(error) => Attempt::Failed(bad(&error)),
        }
    }
}
