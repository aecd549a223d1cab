//! Tasks as JSON, in the form of either era.
//!
//! The eras name some members differently, and tell of a tool that failed differently: to
//! 2025-11-25 its task has failed, to 2026-07-28 it is complete with a result that says so.

use shardgate_proto::jsonrpc::{self, ErrorCode};
use shardgate_proto::mcp::version::Era;
use shardgate_replicate_proto::coordinator::{Ending, Page, Task, TaskStatus};

use super::{Progress, RELATED_TASK};
use crate::data_path::SERVER_INFO;
use crate::embedded::iso_8601;
use crate::federation::ObjectWriter;

/// The status as clients of an era know it.
pub(super) fn status(task: &Task, era: Era) -> &'static str {
    match (task.status(), task.ending.as_deref(), era) {
        // SEP-2663: "failed" is for protocol errors; a tool's own error is a result.
        (TaskStatus::Failed, Some(Ending::Result(_)), Era::Modern) => {
            TaskStatus::Completed.as_str()
        }
        (status, _, _) => status.as_str(),
    }
}

/// The members that every message about a task has.
fn members(object: &mut ObjectWriter<'_>, task: &Task, era: Era) {
    object.string("taskId", &task.id.to_string());
    object.string("status", status(task, era));
    if let Some(message) = &task.status_message {
        object.string("statusMessage", message);
    }
    object.string("createdAt", &iso_8601(task.created_ms));
    object.string("lastUpdatedAt", &iso_8601(task.updated_ms));
    let (ttl, poll_interval) = match era {
        Era::Legacy => ("ttl", "pollInterval"),
        Era::Modern => ("ttlMs", "pollIntervalMs"),
    };
    match task.ttl_ms {
        Some(ttl_ms) => object.raw(ttl, ttl_ms.to_string().as_bytes()),
        None => object.raw(ttl, b"null"),
    }
    if let Some(interval_ms) = task.poll_interval_ms {
        object.raw(poll_interval, interval_ms.to_string().as_bytes());
    }
}

/// A task alone: what legacy clients get for `tasks/get`, and what is in all else.
pub(super) fn legacy_task(task: &Task) -> Vec<u8> {
    let mut out = Vec::with_capacity(320);
    let mut object = ObjectWriter::begin(&mut out);
    members(&mut object, task, Era::Legacy);
    object.end();
    out
}

/// `CreateTaskResult`: the answer to a call that has become a task.
pub(super) fn created(task: &Task, era: Era) -> Vec<u8> {
    let mut out = Vec::with_capacity(384);
    let mut object = ObjectWriter::begin(&mut out);
    match era {
        Era::Legacy => object.raw("task", &legacy_task(task)),
        Era::Modern => {
            object.string("resultType", "task");
            members(&mut object, task, Era::Modern);
            server_info(&mut object);
        }
    }
    object.end();
    out
}

/// MCP 2026-07-28, basic: results should say whose they are.
fn server_info(object: &mut ObjectWriter<'_>) {
    let meta = format!("{{\"io.modelcontextprotocol/serverInfo\":{SERVER_INFO}}}");
    object.raw("_meta", meta.as_bytes());
}

/// The answer of the modern era that says nothing but that all is well.
pub(super) fn modern_acknowledgement() -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let mut object = ObjectWriter::begin(&mut out);
    object.string("resultType", "complete");
    server_info(&mut object);
    object.end();
    out
}

/// `tasks/get` of the modern era, with what there is beside the status. `result` is the raw
/// result, if the task has one.
pub(super) fn modern_task(task: &Task, result: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + result.map_or(0, <[u8]>::len));
    let mut object = ObjectWriter::begin(&mut out);
    object.string("resultType", "complete");
    members(&mut object, task, Era::Modern);
    if task.status() == TaskStatus::InputRequired {
        object.raw("inputRequests", &open_questions(task));
    }
    if let Some(result) = result {
        object.raw("result", &modern_result(result));
    }
    if let Some(Ending::Error { code, message }) = task.ending.as_deref() {
        object.raw("error", &error_object(*code, message));
    }
    server_info(&mut object);
    object.end();
    out
}

fn open_questions(task: &Task) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = ObjectWriter::begin(&mut out);
    for question in task.inputs.iter().flat_map(|inputs| &inputs.requests) {
        object.raw(&question.key, &question.body);
    }
    object.end();
    out
}

/// A result inside of another; its own task is named around it.
fn modern_result(result: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(result.len() + 32);
    let mut object = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(result, |name, value| object.raw(name, value));
    if jsonrpc::member(result, "resultType").is_none() {
        object.string("resultType", "complete");
    }
    object.end();
    out
}

/// `tasks/result`: what the call itself would have been answered, and which task it belongs to.
// MCP 2025-11-25, tasks: the result of tasks/result MUST name the task in `_meta`, "as the
// result structure itself does not contain the task ID".
pub(super) fn legacy_result(task: &Task, result: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(result.len() + 128);
    let mut object = ObjectWriter::begin(&mut out);
    let mut meta = None;
    jsonrpc::each_member(result, |name, value| match name {
        "resultType" => {}
        "_meta" => meta = Some(value),
        _ => object.raw(name, value),
    });
    object.raw("_meta", &related_meta(meta, &task.id.to_string()));
    object.end();
    out
}

/// `_meta` with the task it is about, and without what only the modern era knows.
fn related_meta(meta: Option<&[u8]>, id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let mut object = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(meta.unwrap_or(b"{}"), |name, value| {
        if !name.starts_with("io.modelcontextprotocol/") {
            object.raw(name, value);
        }
    });
    object.raw(RELATED_TASK, format!("{{\"taskId\":\"{id}\"}}").as_bytes());
    object.end();
    out
}

/// `params` of a request to a legacy client, which belongs to a task.
pub(crate) fn related_params(params: &[u8], id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(params.len() + 128);
    let mut object = ObjectWriter::begin(&mut out);
    let mut meta = None;
    jsonrpc::each_member(params, |name, value| match name {
        "_meta" => meta = Some(value),
        _ => object.raw(name, value),
    });
    object.raw("_meta", &related_meta(meta, id));
    object.end();
    out
}

/// A JSON-RPC error object.
pub(super) fn error_object(code: i64, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 48);
    // Codes come from servers as 32 bits; a stranger one is no code.
    let code = i32::try_from(code).unwrap_or(shardgate_proto::mcp::modern::INTERNAL_ERROR);
    jsonrpc::write_error_object(&mut out, ErrorCode(code), message, None);
    out
}

/// `tasks/list`
pub(super) fn list(page: &Page) -> Vec<u8> {
    let mut tasks = vec![b'['];
    for (at, task) in page.tasks.iter().enumerate() {
        if at > 0 {
            tasks.push(b',');
        }
        tasks.extend_from_slice(&legacy_task(task));
    }
    tasks.push(b']');
    let mut out = Vec::with_capacity(tasks.len() + 64);
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("tasks", &tasks);
    if let Some(next) = page.next {
        object.string("nextCursor", &next.to_string());
    }
    object.end();
    out
}

/// `notifications/tasks/status`
pub(super) fn status_notification(task: &Task) -> Vec<u8> {
    let mut out = Vec::with_capacity(400);
    let method = "notifications/tasks/status";
    jsonrpc::write_notification(&mut out, method, Some(&legacy_task(task)));
    out
}

/// `notifications/progress` under the token of the call that has become the task.
// MCP 2025-11-25, tasks: a progress token "remains valid throughout the task's lifetime".
pub(super) fn progress_notification(id: &str, token: &[u8], progress: &Progress) -> Vec<u8> {
    let mut params = Vec::with_capacity(192);
    let mut object = ObjectWriter::begin(&mut params);
    object.raw("progressToken", token);
    object.raw("progress", &progress.progress);
    if let Some(total) = &progress.total {
        object.raw("total", total);
    }
    if let Some(message) = &progress.message {
        object.string("message", message);
    }
    object.raw("_meta", &related_meta(None, id));
    object.end();
    let mut out = Vec::with_capacity(256);
    jsonrpc::write_notification(&mut out, "notifications/progress", Some(&params));
    out
}

/// What people are told of progress.
pub(super) fn progress_text(progress: &Progress) -> String {
    let number = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    match (&progress.message, &progress.total) {
        (Some(message), _) => message.to_string(),
        (None, Some(total)) => format!("{} of {}", number(&progress.progress), number(total)),
        (None, None) => number(&progress.progress),
    }
}
