//! The engine's messages to its peers, as bytes.

use std::future::Future;

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shardgate_replicate_proto::identity::NodeId;

use super::journal::{decode, encode};
use super::types::{LogTypes, Member, SnapshotMeta, Vote};
use crate::peers::{CallError, Kind, Peers};

/// Makes the engine's clients of its peers.
pub(super) struct Network<P> {
    pub(super) own: NodeId,
    pub(super) peers: P,
}

/// The engine's client of one peer.
pub(super) struct Client<P> {
    own: NodeId,
    target: NodeId,
    peers: P,
}

impl<RT: AsyncRuntime, P: Peers> RaftNetworkFactory<LogTypes<RT>> for Network<P> {
    type Network = Client<P>;

    async fn new_client(&mut self, target: u64, _: &Member) -> Client<P> {
        Client { own: self.own, target: node_id(target), peers: self.peers.clone() }
    }
}

/// A member's number as a node's.
///
/// # Panics
/// If it is none: members are added by their node's number only.
pub(super) fn node_id(member: u64) -> NodeId {
    NodeId(u16::try_from(member).expect("a member's number is its node's"))
}

impl<P: Peers> Client<P> {
    async fn ask<RT: AsyncRuntime, Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: Kind,
        rpc: RPCTypes,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<LogTypes<RT>>> {
        let body = encode(request).map_err(|error| Unreachable::new(&error))?;
        let answer = self.peers.call(self.target, kind, body.into(), option.hard_ttl()).await;
        let bytes = answer.map_err(|error| self.engine_error(rpc, error))?;
        let answer =
            decode("a peer's answer", &bytes).map_err(|error| NetworkError::new(&error))?;
        Ok(answer)
    }

    fn engine_error<RT: AsyncRuntime>(
        &self,
        action: RPCTypes,
        error: CallError,
    ) -> RPCError<LogTypes<RT>> {
        match error {
            CallError::Unreachable(_) => RPCError::Unreachable(Unreachable::new(&error)),
            CallError::Failed(_) => RPCError::Network(NetworkError::new(&error)),
            CallError::TimedOut(timeout) => {
                let (id, target) = (u64::from(self.own.0), u64::from(self.target.0));
                RPCError::Timeout(Timeout { action, id, target, timeout })
            }
        }
    }
}

impl<RT: AsyncRuntime, P: Peers> RaftNetworkV2<LogTypes<RT>> for Client<P> {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<LogTypes<RT>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<LogTypes<RT>>, RPCError<LogTypes<RT>>> {
        self.ask(Kind::Append, RPCTypes::AppendEntries, &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<LogTypes<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<LogTypes<RT>>, RPCError<LogTypes<RT>>> {
        self.ask(Kind::Vote, RPCTypes::Vote, &rpc, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<LogTypes<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<LogTypes<RT>>, RPCError<LogTypes<RT>>> {
        self.ask(Kind::PreVote, RPCTypes::Vote, &rpc, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<LogTypes<RT>>,
        snapshot: SnapshotOf<LogTypes<RT>, Bytes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<LogTypes<RT>>, StreamingError<LogTypes<RT>>> {
        use openraft::async_runtime::Select2;
        let head = SnapshotHead::<RT> { vote, meta: snapshot.meta };
        let head = encode(&head).map_err(|error| Unreachable::new(&error))?;
        let sent = self.peers.send_snapshot(
            self.target,
            head.into(),
            snapshot.snapshot,
            option.hard_ttl(),
        );
        match LogTypes::<RT>::select2(Box::pin(cancel), sent).await {
            Select2::First(closed) => Err(closed.into()),
            Select2::Second(Ok(answer)) => {
                let answer = decode("a peer's answer", &answer)
                    .map_err(|error| NetworkError::new(&error))?;
                Ok(answer)
            }
            Select2::Second(Err(error)) => Err(Unreachable::new(&error).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<LogTypes<RT>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<LogTypes<RT>>, RPCError<LogTypes<RT>>> {
        let request = Transfer::<RT> {
            from: *request.from_leader(),
            to: *request.to_node_id(),
            last: request.last_log_id().copied(),
        };
        self.ask(Kind::TransferLeader, RPCTypes::TransferLeader, &request, &option).await
    }
}

/// What precedes a snapshot's body.
#[derive(Serialize, serde::Deserialize)]
#[serde(bound = "")]
pub(super) struct SnapshotHead<RT: AsyncRuntime> {
    pub(super) vote: Vote<RT>,
    pub(super) meta: SnapshotMeta<RT>,
}

/// A leader's wish to be followed by another; openraft's own message has no form on the wire.
#[derive(Serialize, serde::Deserialize)]
#[serde(bound = "")]
pub(super) struct Transfer<RT: AsyncRuntime> {
    pub(super) from: Vote<RT>,
    pub(super) to: u64,
    pub(super) last: Option<super::types::LogId<RT>>,
}
