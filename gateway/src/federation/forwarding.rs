//! A call's way to its tool server and its outcome's way back.

use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc::{self, ErrorCode};
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{Call, CallKey, Caller, Events, Outcome, RouteId};

use super::counters::outcome_of;
use super::job::{Job, JobKey, Place, Waiter};
use super::params::{self, Edit, Inputs, Meta, ModernContext};
use super::replacing::Leaving;
use super::server::{Outgoing, Server, Use};
use super::session::{Owner, Pending, Phase, UpKey};
use super::settings::Protocol;
use super::siblings::Order;
use super::sweeping::BUSY_SWEEP_MS;
use super::{Away, Federation, fault};
use crate::metrics::CallOutcome;

/// Times a job is sent again at most: on a fresh session, or after a connection that
/// could not be had.
const RESENDS_MAX: u8 = 2;

/// Where a call goes.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) server: u16,
    /// `params.name` as the server knows it, where the client's differs.
    pub(super) name: Option<Box<str>>,
    /// What `Mcp-Name` says to a modern server.
    pub(super) name_header: Option<Box<str>>,
    /// Whether headers mirror some of the tool's arguments (MCP 2026-07-28, `x-mcp-header`).
    pub(super) mirrored: bool,
    /// Whether it may be sent twice.
    pub(super) repeatable: bool,
}

impl Federation {
    /// Sends a call to its server, or answers why it can't be.
    pub(super) fn forward(
        &mut self,
        call: &Call<'_>,
        route: Route,
        now: Millis,
        events: &mut Events,
    ) {
        if let Some(home) = self.elsewhere(route.server) {
            let order = Order {
                server: route.server,
                version: call.version,
                repeatable: route.repeatable,
                for_task: call.caller == Caller::Task,
                method: call.method,
                name: route.name.as_deref(),
                name_header: route.name_header.as_deref(),
                params: call.params,
            };
            self.away.insert(call.key, Away::Call(home));
            return super::siblings::write_call(
                events,
                self.settings.shard,
                home,
                call.key,
                &order,
            );
        }
        let waiter = Waiter::Call(call.key);
        if let Some(key) = self.insert_job(waiter, call, route, now, events) {
            self.by_call.insert(call.key, key);
            self.dispatch(key, now, events);
        }
    }

    /// A call that another shard has sent here, as the server's child is kept here.
    pub(super) fn forward_for_sibling(
        &mut self,
        waiter: Waiter,
        order: &Order<'_>,
        now: Millis,
        events: &mut Events,
    ) {
        let known = self.servers.get(usize::from(order.server));
        // One that leaves goes on until its last call has ended.
        let serves = known.is_some_and(|it| matches!(it.leaving, None | Some(Leaving::Draining)));
        if !serves {
            let why = "its settings are being replaced; call again";
            let name = known.map_or("a tool server", Server::name);
            let mut body = Vec::new();
            fault::Refusal::failed(name, why).write(&mut body);
            return self.hand_to(waiter, Outcome::Error(fault::UPSTREAM), &body, events);
        }
        let call = Call {
            // Events are never told of it: its waiter is elsewhere.
            key: CallKey(u64::MAX),
            caller: if order.for_task { Caller::Task } else { Caller::Stateless },
            // The name is routed already, and a child is told no headers.
            route: RouteId::WHOLE,
            version: order.version,
            id: b"0",
            method: order.method,
            params: order.params,
            name: None,
        };
        let route = Route {
            server: order.server,
            name: order.name.map(Box::from),
            name_header: order.name_header.map(Box::from),
            // A child is told no headers.
            mirrored: false,
            repeatable: order.repeatable,
        };
        if let Some(key) = self.insert_job(waiter, &call, route, now, events) {
            self.dispatch(key, now, events);
        }
    }

    /// The shard that keeps a server's only child, if that is not this one.
    fn elsewhere(&self, server: u16) -> Option<u16> {
        let home = self.home(server);
        let shared = self.servers[usize::from(server)].is_one_child();
        (shared && home != self.settings.shard).then_some(home)
    }

    /// Makes a job of a call, or answers why it can't be.
    fn insert_job(
        &mut self,
        waiter: Waiter,
        call: &Call<'_>,
        route: Route,
        now: Millis,
        events: &mut Events,
    ) -> Option<JobKey> {
        if let Err(refusal) = self.admit(route.server, now) {
            let mut body = Vec::new();
            refusal.write(&mut body);
            self.hand_to(waiter, Outcome::Error(fault::UPSTREAM), &body, events);
            return None;
        }
        self.look_by(now + BUSY_SWEEP_MS);
        let server = &mut self.servers[usize::from(route.server)];
        server.in_flight += 1;
        let lifetime_ends = now + server.settings.request_lifetime_ms;
        let deadline = now + server.settings.patience_ms(call.caller);
        Some(self.jobs.insert(|key| Job {
            key,
            waiter,
            caller: call.caller,
            route: call.route,
            version: call.version,
            method: call.method.into(),
            params: call.params.map(Box::from),
            server: route.server,
            name: route.name,
            name_header: route.name_header,
            mirrored: route.mirrored,
            repeatable: route.repeatable,
            place: None,
            deadline,
            lifetime_ends,
            sent_at: now,
            failed: None,
            resent: 0,
            progress_token: None,
            rounds: 0,
            asked: 0,
            lacking: None,
            questions: Vec::new(),
            server_state: None,
            held: Vec::new(),
            held_outcome: None,
        }))
    }

    /// Whether the server takes another call.
    fn admit(&mut self, server: u16, now: Millis) -> Result<(), fault::Refusal> {
        let server = &mut self.servers[usize::from(server)];
        if server.in_flight >= server.settings.in_flight_max {
            server.counters.call(CallOutcome::Full);
            return Err(fault::Refusal::full(server.name(), server.settings.in_flight_max));
        }
        server.breaker.admit(now).map_err(|after_ms| {
            server.counters.call(CallOutcome::Breaker);
            fault::Refusal::broken(server.name(), server.trouble.as_deref(), after_ms)
        })
    }

    /// Sends a job on the session it belongs to, or parks it until there is one.
    pub(super) fn dispatch(&mut self, key: JobKey, now: Millis, events: &mut Events) {
        let Some(job) = self.jobs.job(key) else { return };
        let (index, caller) = (job.server, job.caller);
        let server = &mut self.servers[usize::from(index)];
        let Some(era) = server.era() else {
            server.parked.push(key);
            return self.probe(index, now, events);
        };
        let session = match (era, caller) {
            (Era::Legacy, Caller::Session(client)) if !server.is_one_child() => {
                self.client_session(index, client, now, events)
            }
            (Era::Legacy, Caller::Stateless | Caller::Task)
                if server.settings.session_per_modern_call && !server.is_one_child() =>
            {
                Some(self.call_session(index, key, now, events))
            }
            (Era::Legacy | Era::Modern, _) => Some(self.everybodys_session(index, now, events)),
        };
        let Some(session) = session else {
            let why = "the client's session has ended";
            return self.fail_as(key, CallOutcome::Cancelled, why, now, events);
        };
        let server = &mut self.servers[usize::from(index)];
        let Some(entry) = server.sessions.session(session) else { return };
        if entry.phase == Phase::Ready {
            self.send_job(key, session, now, events);
        } else {
            entry.waiting.push(key);
        }
    }

    /// Sends a job on a session that is ready.
    pub(super) fn send_job(
        &mut self,
        key: JobKey,
        session: UpKey,
        now: Millis,
        events: &mut Events,
    ) {
        let Some(job) = self.jobs.job(key) else { return };
        let server = &mut self.servers[usize::from(job.server)];
        let Some(entry) = server.sessions.session(session) else { return };
        let id = entry.next_id();
        entry.pending.insert(id, Pending::Job(key));
        job.place = Some(Place { session, id, exchange: None });
        job.sent_at = now;
        job.deadline = now + server.settings.patience_ms(job.caller);
        let era = entry.version.era();
        let shared = !matches!(entry.owner, Owner::Client(_));
        let client = job.client_session().and_then(|client| self.clients.get(&client));
        let context = client.map(|client| ModernContext {
            capabilities: &client.capabilities,
            log_level: client.log_level.as_deref(),
        });
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        write_request(&mut body, job, id, era, shared, context.as_ref());
        let fields = match era {
            Era::Modern => self.views.modern_fields(job),
            Era::Legacy => Vec::new(),
        };
        let patience_ms = Some(server.settings.patience_ms(job.caller));
        let message =
            Outgoing { body: &body, fields: &fields, repeatable: job.repeatable, patience_ms };
        let sent = server.post(session, Use::Request(id), &message, now, events);
        self.scratch = body;
        match sent {
            Ok(exchange) => {
                if let Some(Place { exchange: place, .. }) = &mut job.place {
                    *place = exchange;
                }
            }
            Err(full) => {
                let why = full.to_string();
                self.fail_as(key, CallOutcome::Full, &why, now, events);
            }
        }
    }

    /// The outcome of a job has come from its server.
    pub(super) fn finish(
        &mut self,
        key: JobKey,
        outcome: Outcome,
        body: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        self.leave_place(key);
        self.count_answer(key, now);
        let Some(job) = self.jobs.job(key) else { return };
        if let Waiter::Nobody { .. } = job.waiter {
            job.held_outcome = Some((outcome, body.into()));
            return;
        }
        // Only a modern server asks so: answers of others need not be looked through.
        let asks_so = self.servers[usize::from(job.server)].era() == Some(Era::Modern);
        if outcome == Outcome::Result
            && job.version.era() == Era::Legacy
            && asks_so
            && jsonrpc::may_spell(body, "input_required")
        {
            let kind = jsonrpc::member(body, "resultType").and_then(jsonrpc::string);
            if kind.as_deref() == Some("input_required") {
                return self.ask_legacy_client(key, body, now, events);
            }
        }
        self.deliver(key, outcome, body, events);
    }

    /// Gives a job's outcome to whoever waits, in the words of its era; the job is over.
    pub(super) fn deliver(
        &mut self,
        key: JobKey,
        outcome: Outcome,
        body: &[u8],
        events: &mut Events,
    ) {
        self.leave_place(key);
        let Some(job) = self.remove_job(key) else { return };
        let server = &mut self.servers[usize::from(job.server)];
        server.counters.call(outcome_of(job.failed, outcome));
        let bridged = job.version.era() == Era::Modern && server.era() == Some(Era::Legacy);
        let mut text = Vec::new();
        // Where the server did not answer at all, it is not the capability that was missing.
        let lacking = job.lacking.filter(|_| job.failed.is_none() && is_failure(outcome, body));
        let (outcome, body) = match outcome {
            _ if let Some(lacking) = lacking => {
                write_missing_capability(&mut text, &format!("{{\"{lacking}\":{{}}}}"));
                (Outcome::Error(modern::MISSING_CLIENT_CAPABILITY), text.as_slice())
            }
            Outcome::Result if bridged => {
                write_modern_result(&mut text, &job.method, body);
                (outcome, text.as_slice())
            }
            // MCP 2026-07-28, resources: an unknown resource is -32602, where it was -32002.
            Outcome::Error(-32002) if bridged => {
                let message = jsonrpc::member(body, "message").and_then(jsonrpc::string);
                let message = message.unwrap_or_default();
                let code = ErrorCode(modern::INVALID_PARAMS);
                let data = jsonrpc::member(body, "data");
                jsonrpc::write_error_object(&mut text, code, &message, data);
                (Outcome::Error(modern::INVALID_PARAMS), text.as_slice())
            }
            Outcome::Result => match self.with_task_place(&job, body) {
                Some(placed) => {
                    text = placed;
                    (outcome, text.as_slice())
                }
                None => {
                    self.remember_task(&job, body);
                    (outcome, body)
                }
            },
            Outcome::Error(_) => (outcome, body),
        };
        self.hand_to(job.waiter, outcome, body, events);
    }

    /// Gives an outcome to a waiter as it is.
    pub(super) fn hand_to(
        &mut self,
        waiter: Waiter,
        outcome: Outcome,
        body: &[u8],
        events: &mut Events,
    ) {
        match (waiter, outcome) {
            (Waiter::Call(call), Outcome::Result) => {
                events.result(call, |out| out.extend_from_slice(body));
            }
            (Waiter::Call(call), Outcome::Error(code)) => {
                events.error(call, code, |out| out.extend_from_slice(body));
            }
            (Waiter::Sibling { shard, call }, _) => {
                super::siblings::write_answer(events, shard, call, outcome, body);
            }
            (Waiter::Nobody { .. }, _) => {}
        }
    }

    /// Ends a job with an error of the gateway's own, for the reason of this step.
    pub(super) fn fail(&mut self, key: JobKey, why: &str, now: Millis, events: &mut Events) {
        let Some(job) = self.jobs.job(key) else { return };
        let reason = self.servers[usize::from(job.server)].counters.blame();
        self.fail_as(key, reason, why, now, events);
    }

    /// Ends a job with an error of the gateway's own.
    pub(super) fn fail_as(
        &mut self,
        key: JobKey,
        reason: CallOutcome,
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        let Some(job) = self.jobs.job(key) else { return };
        job.failed = Some(reason);
        let refusal = fault::Refusal::failed(self.servers[usize::from(job.server)].name(), why);
        let mut body = Vec::new();
        refusal.write(&mut body);
        if let Waiter::Nobody { .. } = job.waiter {
            self.leave_place(key);
            if let Some(job) = self.jobs.job(key) {
                job.held_outcome = Some((Outcome::Error(fault::UPSTREAM), body.into()));
                job.deadline = now;
            }
            return;
        }
        self.deliver(key, Outcome::Error(fault::UPSTREAM), &body, events);
    }

    /// Sends a job once more if that can do no harm. False if it can't.
    pub(super) fn resend(&mut self, key: JobKey, now: Millis, events: &mut Events) -> bool {
        self.leave_place(key);
        let Some(job) = self.jobs.job(key) else { return false };
        if job.resent >= RESENDS_MAX {
            return false;
        }
        job.resent += 1;
        self.servers[usize::from(job.server)].counters.resend();
        self.dispatch(key, now, events);
        true
    }

    /// The job is not in its session any more.
    pub(super) fn leave_place(&mut self, key: JobKey) {
        let Some(job) = self.jobs.job(key) else { return };
        let Some(place) = job.place.take() else { return };
        let server = &mut self.servers[usize::from(job.server)];
        if let Some(session) = server.sessions.session(place.session) {
            session.pending.remove(&place.id);
        }
    }

    /// Takes a job out; its server has room for another.
    pub(super) fn remove_job(&mut self, key: JobKey) -> Option<Job> {
        let job = self.jobs.remove(key)?;
        let server = &mut self.servers[usize::from(job.server)];
        server.in_flight -= 1;
        if server.settings.session_per_modern_call && job.client_session().is_none() {
            self.over.push((job.server, key));
        }
        if let Waiter::Call(call) = job.waiter {
            self.by_call.remove(&call);
        }
        Some(job)
    }

    /// The client has given a call up: its server, and no other, is told.
    pub(super) fn cancel_call(&mut self, call: CallKey, now: Millis, events: &mut Events) {
        let Some(key) = self.by_call.get(&call).copied() else { return };
        self.cancel_job(key, "the client cancelled the request", now, events);
    }

    /// Ends a job whose outcome nobody wants.
    pub(super) fn cancel_job(
        &mut self,
        key: JobKey,
        reason: &str,
        now: Millis,
        events: &mut Events,
    ) {
        let place = self.jobs.job(key).and_then(|job| job.place);
        self.leave_place(key);
        let Some(job) = self.remove_job(key) else { return };
        let server = &mut self.servers[usize::from(job.server)];
        server.counters.call(CallOutcome::Cancelled);
        server.parked.retain(|parked| *parked != key);
        if let Some(session) = self.waiting_session(job.server, key)
            && let Some(entry) = self.servers[usize::from(job.server)].sessions.session(session)
        {
            entry.waiting.retain(|waiting| *waiting != key);
        }
        if let Some(place) = place {
            self.tell_cancelled(job.server, place, reason, now, events);
        }
    }

    fn waiting_session(&self, server: u16, key: JobKey) -> Option<UpKey> {
        let sessions = &self.servers[usize::from(server)].sessions;
        sessions.iter().find(|session| session.waiting.contains(&key)).map(|session| session.key)
    }

    pub(super) fn tell_cancelled(
        &mut self,
        server: u16,
        place: Place,
        reason: &str,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(server)];
        // MCP 2026-07-28, Streamable HTTP: closing the stream is the cancellation.
        if server.era() == Some(Era::Modern)
            && let Some(exchange) = place.exchange
        {
            return server.abort(exchange, events);
        }
        // In the legacy era a disconnect says nothing, so the server is told.
        let mut params = format!("{{\"requestId\":{},\"reason\":", place.id).into_bytes();
        jsonrpc::write_string(&mut params, reason);
        params.push(b'}');
        let mut body = Vec::new();
        jsonrpc::write_notification(&mut body, "notifications/cancelled", Some(&params));
        // Where no connection is free nobody can be told; the answer is dropped all the same.
        let _ = server.post(place.session, Use::Note, &Outgoing::plain(&body), now, events);
        if let Some(exchange) = place.exchange {
            server.abort(exchange, events);
        }
    }
}

impl Server {
    /// Which era to try first.
    pub(super) fn first_try(&self) -> Era {
        match self.settings.protocol {
            Protocol::Legacy => Era::Legacy,
            Protocol::Auto | Protocol::Modern => Era::Modern,
        }
    }
}

fn write_request(
    out: &mut Vec<u8>,
    job: &mut Job,
    id: u64,
    server: Era,
    shared: bool,
    context: Option<&ModernContext<'_>>,
) {
    let nothing = ModernContext { capabilities: b"{}", log_level: None };
    let context = context.unwrap_or(&nothing);
    let meta = match (job.version.era(), server) {
        (Era::Legacy, Era::Modern) => Meta::ToModern(context),
        (Era::Modern, Era::Legacy) => Meta::ToLegacy,
        (Era::Legacy, Era::Legacy) | (Era::Modern, Era::Modern) => Meta::Same,
    };
    // Clients that share a session may have chosen the same token.
    let token = if shared { own_progress_token(job, id) } else { None };
    let responses = written_responses(job);
    let inputs = responses
        .as_deref()
        .map(|responses| Inputs { responses, state: job.server_state.as_deref() });
    let edit = Edit { name: job.name.as_deref(), meta, progress_token: token, inputs };
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    out.extend_from_slice(b",\"method\":");
    jsonrpc::write_string(out, &job.method);
    if job.params.is_some() || server == Era::Modern {
        out.extend_from_slice(b",\"params\":");
        params::write(out, job.params.as_deref(), &edit);
    }
    out.push(b'}');
}

/// The request's id as its progress token, if the client wants progress.
fn own_progress_token(job: &mut Job, id: u64) -> Option<u64> {
    let token = params::meta_member(job.params.as_deref(), "progressToken")?.into();
    job.progress_token = Some(token);
    Some(id)
}

/// The `inputResponses` of a further round with a modern server, if this is one.
fn written_responses(job: &Job) -> Option<Vec<u8>> {
    if job.version.era() == Era::Modern || (job.questions.is_empty() && job.server_state.is_none())
    {
        return None;
    }
    let mut out = Vec::new();
    let mut object = params::ObjectWriter::begin(&mut out);
    for question in &job.questions {
        if let Some(answer) = &question.answer {
            object.raw(&question.key, answer);
        }
    }
    object.end();
    Some(out)
}

/// True if a call came to nothing.
fn is_failure(outcome: Outcome, body: &[u8]) -> bool {
    match outcome {
        Outcome::Result => jsonrpc::member(body, "isError") == Some(b"true"),
        Outcome::Error(_) => true,
    }
}

/// MCP 2026-07-28, basic: a server that needs a capability its client did not declare
/// "MUST return" -32021. `required` is the raw JSON of what would have been needed.
pub(super) fn write_missing_capability(out: &mut Vec<u8>, required: &str) {
    let code = ErrorCode(modern::MISSING_CLIENT_CAPABILITY);
    let text = format!("the client must declare the capability {required}");
    let data = format!("{{\"requiredCapabilities\":{required}}}");
    jsonrpc::write_error_object(out, code, &text, Some(data.as_bytes()));
}

/// A legacy server's result as the modern era wants it.
fn write_modern_result(out: &mut Vec<u8>, method: &str, body: &[u8]) {
    out.extend_from_slice(b"{\"resultType\":\"complete\"");
    // MCP 2026-07-28, caching: required here. What a session's server answered is its client's.
    if method == "resources/read" {
        out.extend_from_slice(b",\"ttlMs\":0,\"cacheScope\":\"private\"");
    }
    let members = body.trim_ascii();
    let members = members.strip_prefix(b"{").unwrap_or(b"}");
    if members.trim_ascii_start() != b"}" {
        out.push(b',');
    }
    out.extend_from_slice(members);
}

/// The revision to ask a legacy server for.
pub(super) fn asked_version(client: ProtocolVersion) -> ProtocolVersion {
    match client.era() {
        Era::Legacy => client,
        Era::Modern => ProtocolVersion::LATEST_LEGACY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_results_become_modern_ones() {
        let written = |method, body: &str| {
            let mut out = Vec::new();
            write_modern_result(&mut out, method, body.as_bytes());
            String::from_utf8(out).expect("JSON")
        };
        assert_eq!(written("tools/call", "{}"), r#"{"resultType":"complete"}"#);
        assert_eq!(written("tools/call", r#"{ "a":1}"#), r#"{"resultType":"complete", "a":1}"#);
        assert_eq!(
            written("resources/read", r#"{"contents":[]}"#),
            r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","contents":[]}"#
        );
    }
}
