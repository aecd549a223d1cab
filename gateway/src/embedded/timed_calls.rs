//! Calls that take time: what each does at which moment.
//!
//! A call is in here from its start to its answer or its cancellation, in one
//! queue ordered by when it wants to go on. Nothing is in here when nothing runs.
//!
//! Limits: [`TIMED_CALLS_MAX`] calls per shard, [`DURATION_MS_MAX`] each.

use std::collections::{BTreeMap, BTreeSet};

use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::CallKey;

use super::answers::Fault;
use super::client::LogLevel;

/// Calls that may run at once on one shard.
pub const TIMED_CALLS_MAX: usize = 65_536;

/// The longest any tool runs.
pub const DURATION_MS_MAX: u64 = 3_600_000;

/// The most reports or updates one call makes.
pub const STEPS_MAX: u64 = 1_000;

/// The pause between two steps of the suite's tools.
pub(super) const STEP_MS: u64 = 50;

/// What a running call does.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Waits, then answers with this text.
    Wait { text: String },
    /// Reports progress at each step, if the client gave a token (raw JSON).
    Progress { token: Option<Box<[u8]>>, total: u64, text: String },
    /// Sends a log message at each step, if the client wants that level.
    Log { least: Option<LogLevel> },
    /// Updates the watched resource at each step.
    UpdateResource,
    /// A task's call that went to the shard it lives on; the time is the patience with it.
    Forwarded,
}

/// A running call.
#[derive(Clone, Debug)]
pub(super) struct TimedCall {
    pub(super) version: ProtocolVersion,
    pub(super) work: Work,
    /// Steps done so far.
    pub(super) step: u64,
    /// Steps in all; the answer follows the last one at once.
    pub(super) steps: u64,
    pub(super) interval_ms: u64,
    due: Millis,
}

impl TimedCall {
    /// A call whose first step comes after `first_ms` and the others `interval_ms` apart.
    pub(super) fn new(
        version: ProtocolVersion,
        work: Work,
        steps: u64,
        first: Millis,
        interval_ms: u64,
    ) -> TimedCall {
        TimedCall { version, work, step: 0, steps, interval_ms, due: first }
    }
}

/// All running calls of a shard.
#[derive(Debug, Default)]
pub(super) struct TimedCalls {
    calls: BTreeMap<CallKey, TimedCall>,
    queue: BTreeSet<(Millis, CallKey)>,
}

impl TimedCalls {
    /// Takes a call in.
    pub(super) fn insert(&mut self, key: CallKey, call: TimedCall) -> Result<(), Fault> {
        if self.calls.len() >= TIMED_CALLS_MAX {
            return Err(Fault::Busy { what: "too many running calls", max: TIMED_CALLS_MAX });
        }
        self.queue.insert((call.due, key));
        self.calls.insert(key, call);
        Ok(())
    }

    /// Forgets a call, if it runs here.
    pub(super) fn remove(&mut self, key: CallKey) -> Option<TimedCall> {
        let call = self.calls.remove(&key)?;
        self.queue.remove(&(call.due, key));
        Some(call)
    }

    /// The next call that is due, taken out; it is put back with [`TimedCalls::again`].
    pub(super) fn pop_due(&mut self, now: Millis) -> Option<(CallKey, TimedCall)> {
        let (due, key) = *self.queue.first()?;
        if due > now {
            return None;
        }
        self.queue.pop_first();
        self.calls.remove(&key).map(|call| (key, call))
    }

    /// Puts a call back for its next step.
    pub(super) fn again(&mut self, key: CallKey, mut call: TimedCall) {
        call.due = call.due + call.interval_ms;
        self.queue.insert((call.due, key));
        self.calls.insert(key, call);
    }

    /// When the next call is due.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// How many calls run.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(first: u64) -> TimedCall {
        let work = Work::Wait { text: String::new() };
        TimedCall::new(ProtocolVersion::V2025_11_25, work, 2, Millis(first), 10)
    }

    #[test]
    fn calls_come_in_the_order_of_time() {
        let mut calls = TimedCalls::default();
        for (key, first) in [(1, 30), (2, 10), (3, 20)] {
            calls.insert(CallKey(key), call(first)).expect("room");
        }
        assert_eq!(calls.next_due(), Some(Millis(10)));
        assert!(calls.pop_due(Millis(9)).is_none());
        let (key, due) = calls.pop_due(Millis(20)).expect("due");
        assert_eq!(key, CallKey(2));
        calls.again(key, due);
        assert_eq!(calls.pop_due(Millis(20)).map(|(key, _)| key), Some(CallKey(2)));
        assert_eq!(calls.pop_due(Millis(20)).map(|(key, _)| key), Some(CallKey(3)));
        assert!(calls.remove(CallKey(1)).is_some());
        assert_eq!((calls.next_due(), calls.len()), (None, 0));
    }

    #[test]
    fn a_full_table_refuses() {
        let mut calls = TimedCalls::default();
        for key in 0..TIMED_CALLS_MAX as u64 {
            calls.insert(CallKey(key), call(key)).expect("room");
        }
        let refused = calls.insert(CallKey(u64::MAX), call(0));
        assert!(matches!(refused, Err(Fault::Busy { .. })));
    }
}
