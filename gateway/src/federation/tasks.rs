//! Calls that go on as tasks, and whose task it is.
//!
//! A modern client may ask for a task anywhere, so its id says which server has it:
//! `<server>.<the server's id>`. A legacy client asks in its session, which remembers.
//!
//! Limit: [`TASKS_KEPT_MAX`] tasks per legacy session; the oldest is forgotten first.

use shardgate_proto::catalog::TaskSupport;
use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{Call, Caller, Events, RouteId, TaskTool};

use super::forwarding::{Route, write_missing_capability};
use super::job::Job;
use super::params::{CLIENT_CAPABILITIES, meta_member, splice_text};
use super::{Federation, fault};

/// Tasks that a legacy session remembers.
pub(super) const TASKS_KEPT_MAX: usize = 1_024;

/// The extension of the modern era.
pub(super) const EXTENSION: &str = "io.modelcontextprotocol/tasks";

impl Federation {
    /// A request about a task.
    pub(super) fn task_call(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        let params = call.params.unwrap_or(b"{}");
        if call.version.era() == Era::Modern && !declares_tasks(call.params) {
            let required = format!("{{\"extensions\":{{\"{EXTENSION}\":{{}}}}}}");
            let code = modern::MISSING_CLIENT_CAPABILITY;
            return events.error(call.key, code, |out| write_missing_capability(out, &required));
        }
        let text = jsonrpc::member(params, "taskId").and_then(jsonrpc::string);
        let found = text.as_deref().and_then(|id| match call.caller {
            Caller::Stateless | Caller::Task => self.place_of_task(call.route, id),
            Caller::Session(session) => {
                let client = self.clients.get(&session)?;
                let known = client.tasks.iter().find(|(task, _)| **task == *id);
                known.map(|(_, server)| (*server, id))
            }
        });
        let Some((server, bare)) = found else {
            let text = "params.taskId names no task of this gateway's servers";
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, text);
        };
        let mut own = Vec::new();
        splice_text(&mut own, params, "taskId", bare);
        let route = Route {
            server,
            name: None,
            name_header: Some(bare.into()),
            mirrored: false,
            repeatable: matches!(call.method, "tasks/get" | "tasks/list"),
        };
        let call = Call { params: Some(&own), ..*call };
        self.forward(&call, route, now, events);
    }

    fn place_of_task<'t>(&self, route: RouteId, id: &'t str) -> Option<(u16, &'t str)> {
        let (name, bare) = id.split_once('.')?;
        let mut there = self.servers.iter().filter(|server| server.leaving.is_none());
        let server = there.find(|server| server.name() == name)?;
        if !self.views.shows(route, server.index) {
            return None;
        }
        Some((server.index, bare))
    }

    /// A modern result whose task the client must be able to find again; `None` if it
    /// tells of none.
    pub(super) fn with_task_place(&self, job: &Job, body: &[u8]) -> Option<Vec<u8>> {
        if job.version.era() == Era::Legacy {
            return None;
        }
        let about_tasks = job.method.starts_with("tasks/") || declares_tasks(job.params.as_deref());
        if !about_tasks {
            return None;
        }
        let id = jsonrpc::member(body, "taskId").and_then(jsonrpc::string)?;
        let server = &self.servers[usize::from(job.server)];
        let mut out = Vec::with_capacity(body.len() + server.name().len());
        splice_text(&mut out, body, "taskId", &format!("{}.{id}", server.name()));
        Some(out)
    }

    /// Remembers the task that a legacy client's call has become.
    pub(super) fn remember_task(&mut self, job: &Job, body: &[u8]) {
        let Caller::Session(session) = job.caller else { return };
        let asked = job.params.as_deref().and_then(|params| jsonrpc::member(params, "task"));
        let task = asked.and_then(|_| jsonrpc::member(body, "task"));
        let id = task.and_then(|task| jsonrpc::member(task, "taskId")).and_then(jsonrpc::string);
        if let (Some(id), Some(client)) = (id, self.clients.get_mut(&session)) {
            if client.tasks.len() == TASKS_KEPT_MAX {
                client.tasks.pop_front();
            }
            client.tasks.push_back(((&*id).into(), job.server));
        }
    }

    /// Whether the gateway can make a task of a call of this tool.
    pub(super) fn tool_as_task(
        &self,
        route: RouteId,
        tool: &str,
        version: ProtocolVersion,
    ) -> TaskTool<'_> {
        let Some(target) = self.views.catalog(route).tool(tool) else {
            let mut stay = self.servers.iter().filter(|server| server.leaving.is_none());
            let all_read = stay.all(|server| server.reading.answered_once);
            return if all_read { TaskTool::Absent } else { TaskTool::NotYetKnown };
        };
        if target.quarantined {
            return TaskTool::Absent;
        }
        let server = &self.servers[usize::from(target.server)];
        let own = server.abilities.tasks && server.era() == Some(version.era());
        let by_itself = match version.era() {
            // Where it may be called plainly, a task of the gateway's is the more durable one.
            Era::Legacy => target.task_support == TaskSupport::Required,
            Era::Modern => true,
        };
        if own && by_itself {
            return TaskTool::OfItsServer;
        }
        TaskTool::Callable {
            server: server.name(),
            idempotent: target.idempotent,
            support: target.task_support,
        }
    }

    /// Whether some server of an era has tasks.
    pub(super) fn has_tasks(&self, era: Era) -> bool {
        let mut stay = self.servers.iter().filter(|server| server.leaving.is_none());
        stay.any(|server| server.era() == Some(era) && server.abilities.tasks)
    }
}

/// True if a modern client can handle tasks.
fn declares_tasks(params: Option<&[u8]>) -> bool {
    meta_member(params, CLIENT_CAPABILITIES)
        .and_then(|capabilities| jsonrpc::member(capabilities, "extensions"))
        .is_some_and(|extensions| jsonrpc::member(extensions, EXTENSION).is_some())
}
