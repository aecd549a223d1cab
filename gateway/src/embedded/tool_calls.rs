//! `tools/call`: reading arguments and running tools.

use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{Call, Events, TaskTool};
use simd_json::BorrowedValue;
use simd_json::prelude::*;

use super::answers::{
    Fault, complete, finish, put, put_media_block, put_string, put_text_block, tool_text,
};
use super::client::ClientCapabilities;
use super::siblings::Counter;
use super::tasks::{BROKEN_TEXT, Job, computed_text};
use super::timed_calls::{DURATION_MS_MAX, STEP_MS, STEPS_MAX, TimedCall, Work};
use super::tools::{self, FixedTool, JobTool, TimedTool, Tool};
use super::{Embedded, KEPT_ID_BYTES_MAX, KEPT_TEXT_BYTES_MAX, media, missing, resources, scan};

/// What SSE polling asks the client to wait before it comes back.
const RETRY_MS: u64 = 100;

/// How long `test_reconnection` works after it has let go of its stream.
const RECONNECTION_WORK_MS: u64 = 100;

/// What `long_running` does if it is told nothing.
const LONG_RUNNING_MS: u64 = 10_000;
const LONG_RUNNING_STEPS: u64 = 5;

/// Answers `echo` from the raw text of its argument, without reading anything else.
/// False if there is no such argument.
pub(super) fn echo(call: &Call<'_>, events: &mut Events) -> bool {
    let message = call
        .params
        .and_then(|params| scan::member(params, "arguments"))
        .and_then(|arguments| scan::member(arguments, "message"))
        .filter(|message| scan::is_string(message));
    let Some(message) = message else { return false };
    events.result(call.key, |out| {
        out.reserve(message.len() + ECHO_ROOM_BYTES);
        put(out, r#"{"content":[{"type":"text","text":"#);
        out.extend_from_slice(message);
        put(out, "}]");
        finish(out, call.version, None);
    });
    true
}

/// More than what an echo's result has around the message.
const ECHO_ROOM_BYTES: usize = 192;

/// Why a tool did not do what it was asked to.
enum Trouble {
    /// The request fails.
    Fault(Fault),
    /// An argument is missing or wrong.
    Argument(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Trouble {
        Trouble::Fault(fault)
    }
}

impl Embedded {
    /// Runs a tool.
    pub(super) fn call_tool(
        &mut self,
        call: &Call<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let name = call.name.ok_or_else(|| missing("name", "a string"))?;
        let tool = self.known_tool(name, call.version)?;
        let arguments = call.params.and_then(|params| scan::member(params, "arguments"));
        let arguments = arguments.unwrap_or(b"{}");
        if !scan::is_object(arguments) {
            return Err(missing("arguments", "an object"));
        }
        let outcome = self.with_parsed(arguments, |this, arguments| {
            this.run(tool, call, arguments, now, events)
        })?;
        match outcome {
            Ok(()) => Ok(()),
            Err(Trouble::Fault(fault)) => Err(fault),
            // MCP 2025-11-25, tools: input validation errors are tool execution errors, so
            // that the model can correct itself; before, they were protocol errors.
            Err(Trouble::Argument(why)) if call.version >= ProtocolVersion::V2025_11_25 => {
                tool_text(events, call.key, call.version, &why, true);
                Ok(())
            }
            Err(Trouble::Argument(why)) => Err(Fault::InvalidParams(why)),
        }
    }

    /// Whether the gateway can make a task of a call of this tool.
    pub(super) fn tool_as_task(&self, name: &str, version: ProtocolVersion) -> TaskTool<'_> {
        let Ok(tool) = self.known_tool(name, version) else { return TaskTool::Absent };
        let makes_tasks = match tool {
            Tool::Job(_) => true,
            Tool::Dialogue(script) => script.becomes_a_task(),
            Tool::Echo
            | Tool::Add
            | Tool::Greet
            | Tool::AlwaysFails
            | Tool::JsonSchema
            | Tool::HeaderParameters
            | Tool::ChangeTools
            | Tool::ChangePrompts
            | Tool::ChangeResources
            | Tool::Fixed(_)
            | Tool::Timed(_) => false,
        };
        if version.era() == Era::Modern && makes_tasks {
            return TaskTool::OfItsServer;
        }
        let spec = tools::find(name).unwrap_or(&tools::CHANGEABLE_TOOL);
        let support = spec.task_support();
        TaskTool::Callable { server: "embedded", idempotent: spec.is_idempotent(), support }
    }

    fn known_tool(&self, name: &str, version: ProtocolVersion) -> Result<Tool, Fault> {
        let changeable = &tools::CHANGEABLE_TOOL;
        if name == changeable.name && self.has_changeable(Counter::Tools) {
            return Ok(changeable.tool);
        }
        tools::find(name)
            .filter(|spec| spec.is_known_in(version))
            .map(|spec| spec.tool)
            .ok_or_else(|| Fault::UnknownTool { name: name.to_owned() })
    }

    fn run(
        &mut self,
        tool: Tool,
        call: &Call<'_>,
        arguments: &BorrowedValue<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Trouble> {
        match tool {
            Tool::Echo => {
                let message = text(arguments, "message")?;
                tool_text(events, call.key, call.version, message, false);
            }
            Tool::Add => add(arguments, call, events)?,
            Tool::Greet => {
                let greeting = format!("Hello, {}!", text(arguments, "name")?);
                tool_text(events, call.key, call.version, &greeting, false);
            }
            Tool::JsonSchema => {
                check_contact(arguments)?;
                tool_text(events, call.key, call.version, "The contact is valid.", false);
            }
            Tool::HeaderParameters => {
                let region = text(arguments, "region")?;
                let said = format!("Arguments for region {region:?} received.");
                tool_text(events, call.key, call.version, &said, false);
            }
            Tool::AlwaysFails => {
                let why = "This tool intentionally returns an error for testing";
                tool_text(events, call.key, call.version, why, true);
            }
            Tool::Fixed(tool) => {
                complete(events, call.key, call.version, |out| put_fixed(tool, out));
            }
            Tool::ChangeTools => self.change_list(Counter::Tools, "tool", call, events),
            Tool::ChangePrompts => self.change_list(Counter::Prompts, "prompt", call, events),
            Tool::ChangeResources => self.change_list(Counter::Resources, "resource", call, events),
            Tool::Timed(tool) => {
                let timed = self.timed_call(tool, call, arguments, now, events)?;
                self.start(call.key, timed, now, events)?;
            }
            Tool::Job(tool) => self.run_job(tool, call, arguments, now, events)?,
            Tool::Dialogue(script) => {
                let subject = match script.subject() {
                    Some(name) => kept_text(arguments, name)?,
                    None => String::new(),
                };
                self.ask(script, subject, call, now, events)?;
            }
        }
        Ok(())
    }

    fn change_list(&mut self, counter: Counter, what: &str, call: &Call<'_>, events: &mut Events) {
        self.change(counter, events);
        let verb = if self.has_changeable(counter) { "Added" } else { "Removed" };
        tool_text(events, call.key, call.version, &format!("{verb} a {what}."), false);
    }

    fn timed_call(
        &self,
        tool: TimedTool,
        call: &Call<'_>,
        arguments: &BorrowedValue<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<TimedCall, Trouble> {
        let token = || progress_token(call.params);
        let (work, steps, first, interval) = match tool {
            TimedTool::Sleep => {
                let ms = integer(arguments, "ms", None, 0, DURATION_MS_MAX)?;
                (Work::Wait { text: format!("Slept for {ms} ms.") }, 1, now + ms, 0)
            }
            TimedTool::Progress => {
                let text = "Tool with progress completed.".to_owned();
                (Work::Progress { token: token()?, total: 100, text }, 3, now, STEP_MS)
            }
            TimedTool::LongRunning => {
                let all =
                    integer(arguments, "duration_ms", Some(LONG_RUNNING_MS), 0, DURATION_MS_MAX)?;
                let steps = integer(arguments, "steps", Some(LONG_RUNNING_STEPS), 1, STEPS_MAX)?;
                let text = format!("Ran for {all} ms in {steps} steps.");
                // One report at the start, one after each step.
                (
                    Work::Progress { token: token()?, total: steps, text },
                    steps + 1,
                    now,
                    all / steps,
                )
            }
            TimedTool::Reconnection => {
                // MCP 2025-11-25, transports: the server may end the stream any time after
                // an event with an id, so that the client polls.
                if call.version == ProtocolVersion::V2025_11_25 {
                    events.close_stream(call.key, RETRY_MS);
                }
                let text = "The result came after the stream had ended.".to_owned();
                (Work::Wait { text }, 1, now + RECONNECTION_WORK_MS, 0)
            }
            TimedTool::UpdateResource => {
                let times = integer(arguments, "times", Some(1), 1, STEPS_MAX)?;
                let interval =
                    integer(arguments, "interval_ms", Some(STEP_MS), 0, DURATION_MS_MAX)?;
                (Work::UpdateResource, times, now, interval)
            }
            TimedTool::Logging => {
                (Work::Log { least: self.client(call).log_level }, 3, now, STEP_MS)
            }
        };
        Ok(TimedCall::new(call.version, work, steps, first, interval))
    }

    fn run_job(
        &mut self,
        tool: JobTool,
        call: &Call<'_>,
        arguments: &BorrowedValue<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Trouble> {
        let knows_tasks = self.client(call).capabilities.contains(ClientCapabilities::TASKS);
        match (tool, knows_tasks) {
            (JobTool::Failing, true) => self.create_task(Job::Failing, call, now, events)?,
            (JobTool::ProtocolError, true) => self.create_task(Job::Broken, call, now, events)?,
            // This tool runs as a task only, as the suite wants one that does.
            (JobTool::Failing, false) => {
                let required = ClientCapabilities::TASKS.to_json();
                return Err(Trouble::Fault(Fault::MissingCapability { required }));
            }
            (JobTool::ProtocolError, false) => {
                return Err(Trouble::Fault(Fault::Internal(BROKEN_TEXT)));
            }
            (JobTool::SlowCompute, _) => {
                let seconds = integer(arguments, "seconds", None, 0, DURATION_MS_MAX / 1_000)?;
                let label = match arguments.get("label") {
                    Some(_) => kept_text(arguments, "label")?,
                    None => String::new(),
                };
                if seconds > 0 && knows_tasks {
                    self.create_task(Job::Compute { seconds, label }, call, now, events)?;
                } else {
                    let text = computed_text(seconds, &label);
                    let due = now + seconds * 1_000;
                    let timed = TimedCall::new(call.version, Work::Wait { text }, 1, due, 0);
                    self.start(call.key, timed, now, events)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a task and answers the call with it.
    pub(super) fn create_task(
        &mut self,
        job: Job,
        call: &Call<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let number = self.tasks.create(job, now)?;
        events.result(call.key, |out| self.tasks.write_created(number, now, out));
        Ok(())
    }
}

fn progress_token(params: Option<&[u8]>) -> Result<Option<Box<[u8]>>, Fault> {
    let token = params.and_then(|params| scan::path(params, &["_meta", "progressToken"]));
    if token.is_some_and(|token| token.len() > KEPT_ID_BYTES_MAX) {
        let expected = format!("at most {KEPT_ID_BYTES_MAX} bytes long");
        return Err(missing("_meta.progressToken", &expected));
    }
    Ok(token.map(Into::into))
}

/// A text argument that is kept beyond the call's first step.
fn kept_text(arguments: &BorrowedValue<'_>, name: &str) -> Result<String, Trouble> {
    let text = text(arguments, name)?;
    if text.len() > KEPT_TEXT_BYTES_MAX {
        return Err(Trouble::Argument(format!(
            "params.arguments.{name} must be at most {KEPT_TEXT_BYTES_MAX} bytes long"
        )));
    }
    Ok(text.to_owned())
}

fn text<'a>(arguments: &'a BorrowedValue<'_>, name: &str) -> Result<&'a str, Trouble> {
    arguments
        .get_str(name)
        .ok_or_else(|| Trouble::Argument(format!("params.arguments.{name} must be a string")))
}

fn integer(
    arguments: &BorrowedValue<'_>,
    name: &str,
    default: Option<u64>,
    min: u64,
    max: u64,
) -> Result<u64, Trouble> {
    let given = match (arguments.get(name), default) {
        (None, Some(default)) => Some(default),
        (None, None) => None,
        (Some(value), _) => value.as_u64(),
    };
    given.filter(|given| (min..=max).contains(given)).ok_or_else(|| {
        Trouble::Argument(format!("params.arguments.{name} must be an integer from {min} to {max}"))
    })
}

fn add(arguments: &BorrowedValue<'_>, call: &Call<'_>, events: &mut Events) -> Result<(), Trouble> {
    let number = |name: &str| {
        arguments
            .get(name)
            .filter(|value| value.is_number())
            .ok_or_else(|| Trouble::Argument(format!("params.arguments.{name} must be a number")))
    };
    let (a, b) = (number("a")?, number("b")?);
    let whole = a.as_i64().zip(b.as_i64()).and_then(|(a, b)| a.checked_add(b));
    let sum = match whole {
        Some(sum) => sum.to_string(),
        None => {
            let sum = a.cast_f64().unwrap_or_default() + b.cast_f64().unwrap_or_default();
            if !sum.is_finite() {
                return Err(Trouble::Argument("the sum is too large for a number".to_owned()));
            }
            sum.to_string()
        }
    };
    complete(events, call.key, call.version, |out| {
        put(out, r#""content":["#);
        put_text_block(out, &sum);
        put(out, "]");
        // Structured content came with 2025-06-18.
        if call.version >= ProtocolVersion::V2025_06_18 {
            put(out, r#","structuredContent":{"sum":"#);
            put(out, &sum);
            put(out, "}");
        }
    });
    Ok(())
}

/// What the schema of `json_schema_2020_12_tool` demands of its arguments.
fn check_contact(arguments: &BorrowedValue<'_>) -> Result<(), Trouble> {
    let known = ["name", "address", "contactMethod", "phone", "email"];
    let members = arguments.as_object().into_iter().flat_map(|members| members.keys());
    for name in members {
        if !known.contains(&name.as_ref()) {
            return Err(Trouble::Argument(format!("params.arguments.{name} is not expected")));
        }
    }
    for name in ["name", "contactMethod", "phone", "email"] {
        if arguments.get(name).is_some() {
            text(arguments, name)?;
        }
    }
    let by_phone = match arguments.get_str("contactMethod") {
        None | Some("email") => false,
        Some("phone") => true,
        Some(_) => {
            let why = "params.arguments.contactMethod must be phone or email";
            return Err(Trouble::Argument(why.to_owned()));
        }
    };
    text(arguments, if by_phone { "phone" } else { "email" }).map(|_| ())
}

/// Appends the members of the results that never change.
fn put_fixed(tool: FixedTool, out: &mut Vec<u8>) {
    put(out, r#""content":["#);
    match tool {
        FixedTool::Image => put_media_block(out, "image", "image/png", media::RED_PIXEL_PNG),
        FixedTool::Audio => put_media_block(out, "audio", "audio/wav", media::SILENCE_WAV),
        FixedTool::EmbeddedResource => put_embedded(
            out,
            "test://embedded-resource",
            "text/plain",
            "This is an embedded resource content.",
        ),
        FixedTool::MultipleContents => {
            put_text_block(out, "Multiple content types test:");
            put(out, ",");
            put_media_block(out, "image", "image/png", media::RED_PIXEL_PNG);
            put(out, ",");
            let json = r#"{"test":"data","value":123}"#;
            put_embedded(out, "test://mixed-content-resource", "application/json", json);
        }
        FixedTool::ResourceLink => {
            put(out, r#"{"type":"resource_link","uri":"#);
            put_string(out, resources::RESOURCES[0].uri);
            put(out, r#","name":"static-text","mimeType":"text/plain"}"#);
        }
        FixedTool::Changeable => put_text_block(out, "This tool comes and goes."),
        FixedTool::SimpleText => put_text_block(out, "This is a simple text response for testing."),
    }
    put(out, "]");
}

fn put_embedded(out: &mut Vec<u8>, uri: &str, mime: &str, text: &str) {
    put(out, r#"{"type":"resource","resource":{"uri":"#);
    put_string(out, uri);
    put(out, r#","mimeType":"#);
    put_string(out, mime);
    put(out, r#","text":"#);
    put_string(out, text);
    put(out, "}}");
}
