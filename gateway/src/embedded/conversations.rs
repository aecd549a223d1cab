//! Dialogues of the legacy era: calls that wait for the client's replies.
//!
//! Limits: [`CONVERSATIONS_MAX`] calls per shard may wait at once.

use std::collections::BTreeMap;

use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{AskKey, CallKey, SessionKey};

use super::answers::Fault;
use super::dialogue::{Answer, Question, Script};

/// Calls that may wait for their client on one shard.
pub const CONVERSATIONS_MAX: usize = 16_384;

/// A call in the middle of a dialogue.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    pub(super) session: SessionKey,
    pub(super) version: ProtocolVersion,
    pub(super) script: Script,
    pub(super) subject: String,
    pub(super) round: u8,
    pub(super) carried: String,
    /// The round's questions with the names they went out under and their answers.
    pub(super) asked: Vec<(AskKey, Question, Option<Answer>)>,
}

impl Conversation {
    /// The round's answers in the order of its questions, once all are there.
    pub(super) fn answers(&self) -> Option<Vec<Answer>> {
        self.asked.iter().map(|(_, _, answer)| answer.clone()).collect()
    }
}

/// All waiting calls of a shard.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    by_call: BTreeMap<CallKey, Conversation>,
    by_ask: BTreeMap<AskKey, CallKey>,
    asks_made: u64,
}

impl Conversations {
    /// A name for one more request to a client.
    pub(super) fn new_ask(&mut self) -> AskKey {
        self.asks_made += 1;
        AskKey(self.asks_made)
    }

    /// Lets a call wait.
    pub(super) fn insert(&mut self, call: CallKey, waiting: Conversation) -> Result<(), Fault> {
        if self.by_call.len() >= CONVERSATIONS_MAX {
            let what = "too many calls wait for their clients";
            return Err(Fault::Busy { what, max: CONVERSATIONS_MAX });
        }
        for (ask, _, answer) in &waiting.asked {
            if answer.is_none() {
                self.by_ask.insert(*ask, call);
            }
        }
        self.by_call.insert(call, waiting);
        Ok(())
    }

    /// Takes a call out.
    pub(super) fn remove(&mut self, call: CallKey) -> Option<Conversation> {
        let waiting = self.by_call.remove(&call)?;
        for (ask, _, _) in &waiting.asked {
            self.by_ask.remove(ask);
        }
        Some(waiting)
    }

    /// Takes out the call that asked, if it still waits.
    pub(super) fn remove_asking(&mut self, ask: AskKey) -> Option<(CallKey, Conversation)> {
        let call = *self.by_ask.get(&ask)?;
        self.remove(call).map(|waiting| (call, waiting))
    }

    /// How many calls wait.
    pub(super) fn len(&self) -> usize {
        self.by_call.len()
    }
}
