//! The coordinator's state as the engine's state machine, and its snapshots.
//!
//! Invariant: state, applied place and members change in one step, under one lock.
//! On a node everything runs on one thread, so the lock is never waited for.

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::WatchSender;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use shardgate_replicate_proto::coordinator::{Batch, Change, State};

use super::Audit;
use super::journal::{decode, encode, lock};
use super::types::{Applied, LogId, LogTypes, SnapshotMeta, StoredMembers};
use crate::control_log::{ChangeFeed, Changes, StateRef};

/// Where snapshots are kept.
pub trait Shelf: Send + Sync + 'static {
    /// Keeps a snapshot of the state after the entry `index` so that it outlives a crash, and
    /// calls `done` when it does.
    fn keep(&self, index: u64, meta: Vec<u8>, body: Bytes, done: super::journal::Done);

    /// The newest whole snapshot: what was kept as its meta, and its body.
    ///
    /// # Errors
    /// If it cannot be read.
    fn newest(&self) -> io::Result<Option<(Vec<u8>, Bytes)>>;
}

/// What a snapshot says besides the state.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Kept<RT: AsyncRuntime> {
    meta: SnapshotMeta<RT>,
}

/// The state machine, shared by the engine and those who read.
pub(super) struct Machine<RT: AsyncRuntime> {
    shared: Arc<Mutex<Shared<RT>>>,
    shelf: Arc<dyn Shelf>,
}

struct Shared<RT: AsyncRuntime> {
    state: State,
    applied: Option<LogId<RT>>,
    members: StoredMembers<RT>,
    /// Bytes of the newest snapshot; its body is on the shelf only.
    snapshot_bytes: Option<usize>,
    feed: ChangeFeed,
    changes: Vec<Change>,
    audit: Option<Audit>,
    progress: <<RT as AsyncRuntime>::Watch as openraft::async_runtime::watch::Watch>::Sender<u64>,
}

/// How far a node has applied the log, to wait on.
pub(super) type Progress<RT> =
    <<RT as AsyncRuntime>::Watch as openraft::async_runtime::watch::Watch>::Receiver<u64>;

impl<RT: AsyncRuntime> Clone for Machine<RT> {
    fn clone(&self) -> Self {
        Machine { shared: Arc::clone(&self.shared), shelf: Arc::clone(&self.shelf) }
    }
}

impl<RT: AsyncRuntime> Machine<RT> {
    /// The newest snapshot's state, or `empty`.
    ///
    /// # Errors
    /// If the snapshot cannot be read, is damaged, or is of a newer release.
    pub(super) fn open(
        empty: State,
        shelf: Arc<dyn Shelf>,
        audit: Option<Audit>,
    ) -> io::Result<Machine<RT>> {
        let (progress, _) = LogTypes::<RT>::watch_channel(0);
        let mut shared = Shared {
            state: empty,
            applied: None,
            members: StoredMembers::<RT>::default(),
            snapshot_bytes: None,
            feed: ChangeFeed::default(),
            changes: Vec::new(),
            audit,
            progress,
        };
        if let Some((meta, body)) = shelf.newest()? {
            let kept: Kept<RT> = decode("a snapshot's place", &meta)?;
            shared.install(&kept.meta, &body)?;
        }
        Ok(Machine { shared: Arc::new(Mutex::new(shared)), shelf })
    }

    fn shared(&self) -> MutexGuard<'_, Shared<RT>> {
        lock(&self.shared)
    }

    /// Reads the state as it is here and now.
    pub(super) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.shared().state)
    }

    /// A look at the state as it is here and now.
    pub(super) fn look(&self) -> StateRef<'_> {
        struct Look<'a, RT: AsyncRuntime>(MutexGuard<'a, Shared<RT>>);

        impl<RT: AsyncRuntime> Deref for Look<'_, RT> {
            type Target = State;

            fn deref(&self) -> &State {
                &self.0.state
            }
        }

        Box::new(Look(self.shared()))
    }

    /// Reads the state, and up to which entry it goes.
    pub(super) fn read_at<R>(&self, look: impl FnOnce(&State, u64) -> R) -> R {
        let shared = self.shared();
        look(&shared.state, shared.applied.map_or(0, |id| id.index))
    }

    /// What happens from now on.
    pub(super) fn subscribe(&self) -> Changes {
        self.shared().feed.subscribe()
    }

    pub(super) fn progress(&self) -> Progress<RT> {
        self.shared().progress.subscribe()
    }

    pub(super) fn snapshot_bytes(&self) -> usize {
        self.shared().snapshot_bytes.unwrap_or(0)
    }

    async fn keep(&self, meta: &SnapshotMeta<RT>, body: Bytes) -> io::Result<()> {
        let (sender, receiver) = LogTypes::<RT>::oneshot();
        let kept = encode(&Kept::<RT> { meta: meta.clone() })?;
        let done: super::journal::Done = Box::new(move |result| {
            use openraft::type_config::async_runtime::oneshot::OneshotSender;
            // The engine has shut down if nobody waits any more.
            let _ = sender.send(result);
        });
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.shelf.keep(index, kept, body, done);
        receiver.await.map_err(|_| io::Error::other("the keeper of snapshots has ended"))?
    }
}

impl<RT: AsyncRuntime> Shared<RT> {
    fn install(&mut self, meta: &SnapshotMeta<RT>, body: &[u8]) -> io::Result<()> {
        let state = State::from_snapshot(body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.state = state;
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        self.snapshot_bytes = Some(body.len());
        self.feed.tell_everything();
        self.tell_progress();
        Ok(())
    }

    fn tell_progress(&self) {
        let index = self.applied.map_or(0, |id| id.index);
        self.progress.send_if_greater(index);
    }

    fn apply(&mut self, place: LogId<RT>, batch: &[u8]) -> io::Result<Applied> {
        let batch: Batch = decode("a batch of commands", batch)?;
        let outcomes = self.state.apply(place.index, &batch, &mut self.changes);
        if let Some(audit) = &self.audit {
            audit(place.index, &batch, &outcomes);
        }
        self.feed.tell(self.changes.drain(..));
        Ok(Applied(outcomes))
    }
}

impl<RT: AsyncRuntime> RaftStateMachine<LogTypes<RT>> for Machine<RT> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Machine<RT>;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<LogTypes<RT>>>, StoredMembershipOf<LogTypes<RT>>)> {
        let shared = self.shared();
        Ok((shared.applied, shared.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<LogTypes<RT>>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let place = entry.log_id;
            let applied = {
                let mut shared = self.shared();
                let applied = match entry.payload {
                    EntryPayload::Blank => Applied::default(),
                    EntryPayload::Normal(proposal) => shared.apply(place, &proposal.0)?,
                    EntryPayload::Membership(members) => {
                        shared.members = StoredMembers::<RT>::new(Some(place), members);
                        Applied::default()
                    }
                };
                shared.applied = Some(place);
                shared.tell_progress();
                applied
            };
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine<RT> {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<LogTypes<RT>>,
        body: Bytes,
    ) -> io::Result<()> {
        // Safe on disk first: after this call the log before it may be purged.
        self.keep(meta, body.clone()).await?;
        self.shared().install(meta, &body)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<LogTypes<RT>, Bytes>>> {
        if self.shared().snapshot_bytes.is_none() {
            return Ok(None);
        }
        let Some((meta, body)) = self.shelf.newest()? else { return Ok(None) };
        let kept: Kept<RT> = decode("a snapshot's place", &meta)?;
        Ok(Some(Snapshot { meta: kept.meta, snapshot: body }))
    }
}

impl<RT: AsyncRuntime> RaftSnapshotBuilder<LogTypes<RT>> for Machine<RT> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<LogTypes<RT>, Bytes>> {
        let (meta, frozen) = {
            let shared = self.shared();
            let meta = SnapshotMeta::<RT> {
                last_log_id: shared.applied,
                last_membership: shared.members.clone(),
            };
            (meta, shared.state.freeze())
        };
        let mut body = Vec::new();
        for part in frozen {
            body.extend_from_slice(&part);
            // A large state is written while the node goes on with other things.
            LogTypes::<RT>::yield_now().await;
        }
        let body = Bytes::from(body);
        self.keep(&meta, body.clone()).await?;
        self.shared().snapshot_bytes = Some(body.len());
        Ok(Snapshot { meta, snapshot: body })
    }
}
