//! Going on with calls that take time, and calls that cross shards.

use shardgate_proto::clock::Millis;
#[cfg(doc)]
use shardgate_proto::upstream::Upstream;
use shardgate_proto::upstream::{Call, CallKey, Events, Target};

use super::Embedded;
use super::answers::{Fault, put, put_number, put_string, refuse, tool_text};
use super::client::LogLevel;
use super::siblings::{Counter, SiblingMessage, TaskMethod};
use super::tasks::TaskId;
use super::timed_calls::{TimedCall, Work};

/// Steps of running calls in one turn of the shard.
const STEPS_PER_TURN_MAX: usize = 64;

/// Events after which the next step waits for another turn: an update goes to every
/// subscriber, and there may be thousands.
const EVENTS_PER_TURN_MAX: usize = 4_096;

/// How long another shard may take for an answer about a task.
const SIBLING_PATIENCE_MS: u64 = 5_000;

/// The log messages of the logging tools, one per step.
const LOG_TEXTS: [&str; 3] =
    ["Tool execution started", "Tool processing data", "Tool execution completed"];

impl Embedded {
    /// Takes a call in and does its first step if it is due at once.
    pub(super) fn start(
        &mut self,
        key: CallKey,
        call: TimedCall,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        self.timed.insert(key, call)?;
        self.go_on(now, events);
        Ok(())
    }

    /// Does what is due, as much as is fit for one turn of the shard. The rest is
    /// still due then, and [`Upstream::poll_timeout`] says so.
    pub(super) fn go_on(&mut self, now: Millis, events: &mut Events) {
        let mut steps = 0;
        while steps < STEPS_PER_TURN_MAX
            && events.list().len() < EVENTS_PER_TURN_MAX
            && let Some((key, mut call)) = self.timed.pop_due(now)
        {
            steps += 1;
            self.step(key, &call, events);
            call.step += 1;
            if call.step < call.steps {
                self.timed.again(key, call);
            } else {
                end(key, &call, events);
            }
        }
    }

    fn step(&mut self, key: CallKey, call: &TimedCall, events: &mut Events) {
        match &call.work {
            Work::Wait { .. } | Work::Forwarded => {}
            Work::Progress { token, total, .. } => {
                let Some(token) = token else { return };
                let done = (total * call.step).checked_div(call.steps - 1).unwrap_or(*total);
                events.notify(Target::Call(key), |out| put_progress(out, token, done, *total));
            }
            Work::Log { least } => {
                if least.is_some_and(|least| least <= LogLevel::Info) {
                    let at =
                        usize::try_from(call.step).unwrap_or_default().min(LOG_TEXTS.len() - 1);
                    events.notify(Target::Call(key), |out| put_log(out, LOG_TEXTS[at]));
                }
            }
            Work::UpdateResource => self.change(Counter::Watched, events),
        }
    }

    /// Hands a call about a task to the shard the task lives on.
    pub(super) fn forward_task_call(
        &mut self,
        method: TaskMethod,
        id: TaskId,
        responses: &[u8],
        call: &Call<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let patience = now + SIBLING_PATIENCE_MS;
        let waiting = TimedCall::new(call.version, Work::Forwarded, 1, patience, 0);
        self.timed.insert(call.key, waiting)?;
        let message = SiblingMessage::TaskCall {
            from: self.shard,
            to: id.shard,
            call: call.key.0,
            method,
            task: id.number,
            responses,
        };
        events.siblings(|out| message.write(out));
        Ok(())
    }

    /// Takes in what a sibling says. Nothing of it is passed on.
    pub(super) fn sibling(&mut self, message: &[u8], now: Millis, events: &mut Events) {
        match SiblingMessage::read(message) {
            Some(SiblingMessage::Changed { counter, times }) => {
                let count = &mut self.counters[counter as usize];
                *count = count.wrapping_add(times);
                // Whoever listens reads a list anew: once is enough for all that came at once.
                // Updates of a resource are counted, by the shard that made them as well.
                let told = if counter == Counter::Watched { times } else { 1 };
                for _ in 0..told {
                    self.announce(counter, events);
                }
            }
            Some(SiblingMessage::TaskCall { from, to, call, method, task, responses }) => {
                if to != self.shard {
                    return;
                }
                let mut body = Vec::new();
                let code = match self.tasks.perform(method, task, responses, now, &mut body) {
                    Ok(()) => 0,
                    Err(fault) => {
                        body.clear();
                        fault.write(&mut body);
                        fault.code()
                    }
                };
                let answer = SiblingMessage::TaskAnswer { to: from, call, code, body: &body };
                events.siblings(|out| answer.write(out));
            }
            Some(SiblingMessage::TaskAnswer { to, call, code, body }) => {
                let key = CallKey(call);
                // Whoever has given up, or was cancelled, is not answered any more.
                if to != self.shard || self.timed.remove(key).is_none() {
                    return;
                }
                if code == 0 {
                    events.result(key, |out| out.extend_from_slice(body));
                } else {
                    events.error(key, code, |out| out.extend_from_slice(body));
                }
            }
            None => {}
        }
    }
}

fn end(key: CallKey, call: &TimedCall, events: &mut Events) {
    let text = match &call.work {
        Work::Wait { text } | Work::Progress { text, .. } => text,
        Work::Log { .. } => "Tool execution with logging completed.",
        Work::UpdateResource => "The watched resource was updated.",
        Work::Forwarded => {
            let fault = Fault::Internal("the shard that holds the task does not answer");
            return refuse(events, key, &fault);
        }
    };
    tool_text(events, key, call.version, text, false);
}

fn put_progress(out: &mut Vec<u8>, token: &[u8], done: u64, total: u64) {
    put(out, r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#);
    out.extend_from_slice(token);
    put(out, r#","progress":"#);
    put_number(out, done);
    put(out, r#","total":"#);
    put_number(out, total);
    put(out, "}}");
}

fn put_log(out: &mut Vec<u8>, text: &str) {
    put(
        out,
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","logger":"embedded","data":"#,
    );
    put_string(out, text);
    put(out, "}}");
}
