//! What servers ask of clients, within an era and across.
//!
//! A legacy server sends a request; a legacy client gets it on its call's stream, a
//! modern one as an `input_required` result, while the server's call is held open. A
//! modern server answers `input_required`; a modern client gets that as it is, a legacy
//! one is sent requests, and when all are answered the server is called again.
//!
//! Limits: [`ROUNDS_MAX`] rounds per call, [`HOLD_MS`] for a modern client to come back.

use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc::{self, ErrorCode};
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::{AskKey, Call, Caller, Events, Outcome, SessionKey};

use super::job::{JobKey, Question, Waiter};
use super::params::{CLIENT_CAPABILITIES, ObjectWriter, meta_member};
use super::session::{Owner, UpKey};
use super::{Away, Federation, fault};
use crate::embedded::input_required::{Binding, DialogueState};

/// How long a modern client may take to come back with what was asked for.
const HOLD_MS: u64 = 300_000;
/// Rounds of one call with a modern server that asks a legacy client.
const ROUNDS_MAX: u8 = 16;
/// Questions of one round.
const QUESTIONS_MAX: usize = 64;

/// Whose question a client was asked.
#[derive(Debug)]
pub(super) struct AskOrigin {
    pub(super) server: u16,
    pub(super) session: UpKey,
    /// The token by which the client may report progress, raw.
    pub(super) token: Option<Box<[u8]>>,
    pub(super) to: AnswerTo,
}

/// Where a client's answer goes.
#[derive(Debug)]
pub(super) enum AnswerTo {
    /// Back to the legacy server, under its own id (raw).
    Server(Box<[u8]>),
    /// Into the next round of a job with a modern server.
    Round {
        /// Which job.
        job: JobKey,
        /// Which of its questions.
        question: usize,
    },
}

impl Federation {
    /// A legacy server asks something: `(server, session, job)`, `(method, params, id)`.
    pub(super) fn ask_client(
        &mut self,
        (index, key, job): (u16, UpKey, Option<JobKey>),
        (method, params, id): (&str, &[u8], &[u8]),
        now: Millis,
        events: &mut Events,
    ) {
        let job = job.or_else(|| self.only_job_of_many(index, key));
        let modern = job
            .and_then(|job| self.jobs.job(job))
            .filter(|job| job.version.era() == Era::Modern)
            .map(|job| job.key);
        if let Some(job) = modern {
            return self.ask_modern_client(job, (method, params, id), now, events);
        }
        let server = &mut self.servers[usize::from(index)];
        let owner = server.sessions.session(key).map(|session| session.owner);
        let Some(Owner::Client(client)) = owner else {
            let why = "the gateway can put a question to a client only while a call of it runs, \
                       and of several calls only if the question comes on the call's own stream";
            return self.refuse_question((index, key), id, why, now, events);
        };
        let call = job.and_then(|job| self.jobs.job(job)).and_then(|job| match job.waiter {
            Waiter::Call(call) => Some(call),
            Waiter::Sibling { .. } | Waiter::Nobody { .. } => None,
        });
        let to = AnswerTo::Server(id.into());
        let token = meta_member(Some(params), "progressToken").map(Box::from);
        let ask = self.new_ask(AskOrigin { server: index, session: key, token, to });
        events.ask(ask, client, call, method, |out| out.extend_from_slice(params));
    }

    /// A question that comes on a session's own stream names no call. Where no client owns the
    /// session, it is for the call under way, if there is exactly one.
    fn only_job_of_many(&mut self, index: u16, key: UpKey) -> Option<JobKey> {
        let session = self.servers[usize::from(index)].sessions.session(key)?;
        match session.owner {
            Owner::Everybody | Owner::Call(_) | Owner::Catalog => session.only_job(),
            Owner::Client(_) | Owner::Nobody => None,
        }
    }

    fn new_ask(&mut self, origin: AskOrigin) -> AskKey {
        self.asked += 1;
        self.asks.insert(self.asked, origin);
        AskKey(self.asked)
    }

    /// Tells a server that its question is not put to anybody.
    pub(super) fn refuse_question(
        &mut self,
        (index, key): (u16, UpKey),
        id: &[u8],
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        let mut body = Vec::new();
        let code = modern::METHOD_NOT_FOUND;
        jsonrpc::write_error_object(&mut body, ErrorCode(code), why, None);
        self.reply_to_server(index, key, id, Outcome::Error(code), &body, now, events);
    }

    /// A client has answered.
    pub(super) fn take_reply(
        &mut self,
        ask: AskKey,
        outcome: Outcome,
        body: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let Some(origin) = self.asks.remove(&ask.0) else { return };
        match origin.to {
            AnswerTo::Server(id) => {
                self.reply_to_server(
                    origin.server,
                    origin.session,
                    &id,
                    outcome,
                    body,
                    now,
                    events,
                );
            }
            AnswerTo::Round { job, question } => {
                self.take_round_answer(job, question, outcome, body, now, events);
            }
        }
    }

    /// A modern server wants input of a legacy client: its questions become requests.
    pub(super) fn ask_legacy_client(
        &mut self,
        key: JobKey,
        result: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let Some(job) = self.jobs.job(key) else { return };
        job.resent = 0;
        job.rounds += 1;
        job.server_state = jsonrpc::member(result, "requestState").map(Box::from);
        job.questions = questions_of(result);
        // Who thinks is no server that is silent.
        job.deadline = now + HOLD_MS;
        let (index, rounds) = (job.server, job.rounds);
        let asked: Vec<(Box<str>, Box<[u8]>)> = job
            .questions
            .iter()
            .map(|question| (question.method.clone(), question.params.clone()))
            .collect();
        let (Some(client), Waiter::Call(call)) = (job.client_session(), job.waiter) else {
            let why = "it asks the client for input, which a client with a session can't be \
                       asked for by a child that all clients share (upstream.sharing)";
            return self.fail(key, why, now, events);
        };
        if rounds > ROUNDS_MAX || asked.len() > QUESTIONS_MAX {
            let why = "it asks for input again and again";
            return self.fail(key, why, now, events);
        }
        if asked.is_empty() {
            return self.dispatch(key, now, events);
        }
        let Some(session) = self.servers[usize::from(index)].everybody else { return };
        for (question, (method, params)) in asked.iter().enumerate() {
            let to = AnswerTo::Round { job: key, question };
            let ask = self.new_ask(AskOrigin { server: index, session, token: None, to });
            events.ask(ask, client, Some(call), method, |out| out.extend_from_slice(params));
        }
    }

    fn take_round_answer(
        &mut self,
        key: JobKey,
        question: usize,
        outcome: Outcome,
        body: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let Some(job) = self.jobs.job(key) else { return };
        let Some(asked) = job.questions.get_mut(question) else { return };
        if let Outcome::Error(code) = outcome {
            let message = jsonrpc::member(body, "message").and_then(jsonrpc::string);
            let message = message.unwrap_or_default();
            let why = format!("the client refused {} ({code}): {message}", asked.method);
            return self.fail(key, &why, now, events);
        }
        asked.answer = Some(body.into());
        if job.questions.iter().all(|question| question.answer.is_some()) {
            self.dispatch(key, now, events);
        }
    }

    /// A legacy server wants input of a modern client: the call is answered
    /// `input_required`, and the server's call is held.
    fn ask_modern_client(
        &mut self,
        key: JobKey,
        (method, params, id): (&str, &[u8], &[u8]),
        now: Millis,
        events: &mut Events,
    ) {
        let Some(job) = self.jobs.job(key) else { return };
        let place = (job.server, job.place.map(|place| place.session));
        let capabilities = meta_member(job.params.as_deref(), CLIENT_CAPABILITIES);
        let wanted = match method {
            "sampling/createMessage" => "sampling",
            "elicitation/create" => "elicitation",
            _ => "roots",
        };
        if capabilities.is_none_or(|all| jsonrpc::member(all, wanted).is_none()) {
            return self.lacks_capability(key, wanted, id, now, events);
        }
        if job.questions.len() >= QUESTIONS_MAX {
            let why = "too many questions are open for this call";
            if let (index, Some(session)) = place {
                self.refuse_question((index, session), id, why, now, events);
            }
            return;
        }
        job.asked += 1;
        job.questions.push(Question {
            key: format!("q{}", job.asked).into(),
            server_id: id.into(),
            method: method.into(),
            params: params.into(),
            answer: None,
        });
        job.deadline = now + HOLD_MS;
        // What a server asks at once is put to the client at once.
        if !self.asking.contains(&key) {
            self.asking.push(key);
        }
    }

    /// A legacy server asks for what its modern client did not declare. It is told so, for
    /// it may do without; if it can't, the client is told what was missing.
    fn lacks_capability(
        &mut self,
        key: JobKey,
        wanted: &'static str,
        id: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let Some(job) = self.jobs.job(key) else { return };
        // Roots are a session's and asked for at its beginning. Where nothing ties a question
        // to a call, they are no reason for what becomes of the call.
        let of_session =
            wanted == "roots" && self.servers[usize::from(job.server)].is_shared_stream();
        if !of_session {
            job.lacking = Some(wanted);
        }
        let (index, place) = (job.server, job.place);
        if let Some(place) = place {
            let why = format!("the client behind this call did not declare {wanted}");
            self.refuse_question((index, place.session), id, &why, now, events);
        }
    }

    /// Puts the questions of this step to the clients they are for.
    pub(super) fn put_all_questions(&mut self, now: Millis, events: &mut Events) {
        for key in std::mem::take(&mut self.asking) {
            self.put_questions(key, now, events);
        }
        self.end_call_sessions(now, events);
    }

    /// Answers `input_required`, if somebody waits; else the questions wait.
    fn put_questions(&mut self, key: JobKey, now: Millis, events: &mut Events) {
        let Some(job) = self.jobs.job(key) else { return };
        let waiter = job.waiter;
        if job.questions.is_empty() || matches!(waiter, Waiter::Nobody { .. }) {
            return;
        }
        // A task's owner is not expected to look at it at once.
        let until = match job.caller {
            Caller::Task => job.lifetime_ends,
            Caller::Session(_) | Caller::Stateless => now + HOLD_MS,
        };
        job.waiter = Waiter::Nobody { until };
        let binding = binding_of(&self.seal, &job.method, job.params.as_deref());
        let carried = format!("{}.{:x}", self.settings.shard, key.0);
        let state = DialogueState { round: 0, carried };
        // Good for as long as the call is held.
        let unix_ms = self.settings.start_unix_ms.saturating_add(until.0);
        let state = self.seal.seal(&state, binding, unix_ms);
        let mut out = Vec::new();
        let mut object = ObjectWriter::begin(&mut out);
        object.string("resultType", "input_required");
        object.raw("inputRequests", &written_questions(&job.questions));
        object.string("requestState", &state);
        object.end();
        if let Waiter::Call(call) = waiter {
            self.by_call.remove(&call);
        }
        self.hand_to(waiter, Outcome::Result, &out, events);
    }

    /// A modern client's call that brings what was asked for. True if it was one.
    pub(super) fn resume(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) -> bool {
        let params = call.params.unwrap_or(b"{}");
        let Some(state) = jsonrpc::member(params, "requestState").and_then(jsonrpc::string) else {
            return false;
        };
        let binding = binding_of(&self.seal, call.method, call.params);
        let unix_ms = self.settings.start_unix_ms.saturating_add(now.0);
        let place = match self.seal.open(&state, binding, unix_ms) {
            Ok(state) => place_of(&state),
            Err(why) => {
                fault::refuse(events, call.key, modern::INVALID_PARAMS, &why.to_string());
                return true;
            }
        };
        let Some((shard, key)) = place else { return false };
        let responses = jsonrpc::member(params, "inputResponses").unwrap_or(b"{}");
        if shard == self.settings.shard {
            // A call may become a task when it brings its answers.
            if let (Caller::Task, Some(job)) = (call.caller, self.jobs.job(key)) {
                job.caller = Caller::Task;
            }
            self.resume_here(key, Waiter::Call(call.key), responses, now, events);
        } else {
            self.away.insert(call.key, Away::Job(shard, key));
            super::siblings::write_resume(
                events,
                (self.settings.shard, shard),
                call.key,
                key,
                responses,
            );
        }
        true
    }

    /// Goes on with a job of this shard that was held.
    pub(super) fn resume_here(
        &mut self,
        key: JobKey,
        waiter: Waiter,
        responses: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let found = self.jobs.job(key).filter(|job| matches!(job.waiter, Waiter::Nobody { .. }));
        let Some(job) = found else {
            let mut body = Vec::new();
            let text = "params.requestState belongs to a call that has ended; call again \
                        without it";
            let code = modern::INVALID_PARAMS;
            jsonrpc::write_error_object(&mut body, ErrorCode(code), text, None);
            return self.hand_to(waiter, Outcome::Error(code), &body, events);
        };
        job.waiter = waiter;
        let settings = &self.servers[usize::from(job.server)].settings;
        job.deadline = now + settings.patience_ms(job.caller);
        let place = job.place;
        let (index, mut answered) = (job.server, Vec::new());
        job.questions.retain(|question| {
            let answer = jsonrpc::member(responses, &question.key);
            answered.extend(answer.map(|it| (question.server_id.clone(), it.to_vec())));
            answer.is_none()
        });
        let held = std::mem::take(&mut job.held);
        let outcome = job.held_outcome.take();
        if let Waiter::Call(call) = waiter {
            self.by_call.insert(call, key);
        }
        if let Some(place) = place {
            for (id, answer) in answered {
                let result = Outcome::Result;
                self.reply_to_server(index, place.session, &id, result, &answer, now, events);
            }
        }
        for message in held {
            self.tell(key, &message, events);
        }
        match outcome {
            Some((outcome, body)) => self.deliver(key, outcome, &body, events),
            // What the client left out is asked again.
            None => self.put_questions(key, now, events),
        }
    }

    /// A notification of a client for the servers it uses.
    pub(super) fn pass_notification(
        &mut self,
        client: SessionKey,
        method: &str,
        params: Option<&[u8]>,
        now: Millis,
        events: &mut Events,
    ) {
        let Some(entry) = self.clients.get(&client) else { return };
        let sessions = entry.sessions.clone();
        let mut message = Vec::new();
        jsonrpc::write_notification(&mut message, method, params);
        for (index, key) in sessions {
            self.note(index, key, &message, now, events);
        }
    }
}

fn questions_of(result: &[u8]) -> Vec<Question> {
    let mut questions = Vec::new();
    let requests = jsonrpc::member(result, "inputRequests").unwrap_or(b"{}");
    jsonrpc::each_member(requests, |key, request| {
        let method = jsonrpc::member(request, "method").and_then(jsonrpc::string);
        questions.push(Question {
            key: key.into(),
            server_id: Box::default(),
            method: method.unwrap_or_default().into(),
            params: jsonrpc::member(request, "params").unwrap_or(b"{}").into(),
            answer: None,
        });
    });
    questions
}

fn written_questions(questions: &[Question]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = ObjectWriter::begin(&mut out);
    for question in questions {
        let mut request = Vec::new();
        let mut inner = ObjectWriter::begin(&mut request);
        inner.string("method", &question.method);
        if !question.params.is_empty() {
            inner.raw("params", &question.params);
        }
        inner.end();
        object.raw(&question.key, &request);
    }
    object.end();
    out
}

/// What a state is bound to: it is worth nothing with another call.
fn binding_of(
    seal: &crate::embedded::input_required::StateSeal,
    method: &str,
    params: Option<&[u8]>,
) -> Binding {
    let member = |name| params.and_then(|params| jsonrpc::member(params, name));
    let name = member("name").or_else(|| member("uri")).and_then(jsonrpc::string);
    let mut arguments = member("arguments").unwrap_or(b"null").to_vec();
    let arguments = simd_json::to_borrowed_value(&mut arguments).ok();
    seal.bind(method, &name.unwrap_or_default(), arguments.as_ref())
}

fn place_of(state: &DialogueState) -> Option<(u16, JobKey)> {
    let (shard, job) = state.carried.split_once('.')?;
    Some((shard.parse().ok()?, JobKey(u64::from_str_radix(job, 16).ok()?)))
}
