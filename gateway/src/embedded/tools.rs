//! The table of tools: names, texts, schemas and the revisions that know them.
//!
//! Invariant: the first tool accepts empty arguments, because the conformance
//! suite calls whichever tool is listed first with none.
//! Invariant: a schema here is one line of valid JSON and is passed on byte for byte.

use std::borrow::Cow;

use shardgate_proto::catalog::{TaskOffer, TaskSupport};
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{HeaderParameter, HeaderParameterKind};

use super::answers::{put, put_string};
use super::dialogue::Script;
use super::media;

/// What a tool does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Echo,
    Add,
    Greet,
    AlwaysFails,
    JsonSchema,
    HeaderParameters,
    ChangeTools,
    ChangePrompts,
    ChangeResources,
    Fixed(FixedTool),
    Timed(TimedTool),
    Job(JobTool),
    Dialogue(Script),
}

/// Tools whose result never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FixedTool {
    SimpleText,
    Image,
    Audio,
    EmbeddedResource,
    MultipleContents,
    ResourceLink,
    Changeable,
}

/// Tools that take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimedTool {
    Sleep,
    Logging,
    Progress,
    LongRunning,
    Reconnection,
    UpdateResource,
}

/// Tools that become tasks where the client knows tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobTool {
    SlowCompute,
    Failing,
    ProtocolError,
}

/// A tool's entry in the table.
pub(super) struct ToolSpec {
    pub(super) name: &'static str,
    pub(super) tool: Tool,
    title: &'static str,
    description: &'static str,
    input_schema: &'static str,
    hints: Hints,
    since: ProtocolVersion,
    legacy_only: bool,
}

/// What `annotations` tells of a tool.
#[derive(Clone, Copy)]
enum Hints {
    /// Reads only and depends on nothing outside.
    Pure,
    /// Changes the server's own state; calling it again changes it again.
    Changes,
    /// Asks the user or the model behind the client.
    Asks,
}

impl Hints {
    fn json(self) -> &'static str {
        match self {
            Hints::Pure => r#"{"readOnlyHint":true,"idempotentHint":true,"openWorldHint":false}"#,
            Hints::Changes => {
                r#"{"readOnlyHint":false,"destructiveHint":false,"idempotentHint":false,"openWorldHint":false}"#
            }
            Hints::Asks => r#"{"readOnlyHint":true,"openWorldHint":true}"#,
        }
    }
}

static HEADER_PARAMETERS: [HeaderParameter; 3] = [
    HeaderParameter {
        argument: Cow::Borrowed("region"),
        inner: Vec::new(),
        header: Cow::Borrowed("Region"),
        kind: HeaderParameterKind::String,
    },
    HeaderParameter {
        argument: Cow::Borrowed("priority"),
        inner: Vec::new(),
        header: Cow::Borrowed("Priority"),
        kind: HeaderParameterKind::Integer,
    },
    HeaderParameter {
        argument: Cow::Borrowed("verbose"),
        inner: Vec::new(),
        header: Cow::Borrowed("Verbose"),
        kind: HeaderParameterKind::Boolean,
    },
];

/// The arguments of `tool` that a modern client mirrors into headers
/// (MCP 2026-07-28, Streamable HTTP: custom headers from tool parameters).
pub(super) fn header_parameters(tool: &str) -> &'static [HeaderParameter] {
    match find(tool) {
        Some(ToolSpec { tool: Tool::HeaderParameters, .. }) => &HEADER_PARAMETERS,
        Some(_) | None => &[],
    }
}

/// The tool with this name, whatever the revision.
pub(super) fn find(name: &str) -> Option<&'static ToolSpec> {
    TOOLS.iter().find(|spec| spec.name == name)
}

impl ToolSpec {
    /// True if clients of this revision may see and call the tool.
    pub(super) fn is_known_in(&self, version: ProtocolVersion) -> bool {
        version >= self.since && !(self.legacy_only && version.era() == Era::Modern)
    }

    /// Whether calling it twice does no more than calling it once.
    pub(super) fn is_idempotent(&self) -> bool {
        match self.hints {
            Hints::Pure | Hints::Asks => true,
            Hints::Changes => false,
        }
    }

    /// Tasks of the gateway's are calls of the modern era, which not all tools are in.
    pub(super) fn task_support(&self) -> TaskSupport {
        if self.legacy_only { TaskSupport::Forbidden } else { TaskSupport::Unsaid }
    }

    /// Appends `execution`, for clients that may call tools as tasks of the gateway's.
    fn write_execution(&self, offer: &TaskOffer, out: &mut Vec<u8>) {
        let support = offer.support(self.name, self.task_support());
        put(out, r#","execution":{"taskSupport":""#);
        put(out, support.as_str());
        put(out, r#""}"#);
    }

    /// Appends the tool's definition as `version` knows it.
    pub(super) fn write(
        &self,
        version: ProtocolVersion,
        tasks: Option<&TaskOffer>,
        out: &mut Vec<u8>,
    ) {
        put(out, r#"{"name":"#);
        put_string(out, self.name);
        if version >= ProtocolVersion::V2025_06_18 {
            put(out, r#","title":"#);
            put_string(out, self.title);
        }
        put(out, r#","description":"#);
        put_string(out, self.description);
        if version >= ProtocolVersion::V2025_11_25 && self.tool == Tool::Fixed(FixedTool::Image) {
            put(out, r#","icons":["#);
            media::put_icon(out);
            put(out, "]");
        }
        put(out, r#","inputSchema":"#);
        put(out, self.input_schema);
        if version >= ProtocolVersion::V2025_06_18 && self.tool == Tool::Add {
            put(out, r#","outputSchema":"#);
            put(out, ADD_OUTPUT);
        }
        if version >= ProtocolVersion::V2025_03_26 {
            put(out, r#","annotations":"#);
            put(out, self.hints.json());
        }
        if version == ProtocolVersion::V2025_11_25
            && let Some(offer) = tasks
        {
            self.write_execution(offer, out);
        }
        put(out, "}");
    }
}

const NOTHING: &str = r#"{"type":"object","properties":{},"additionalProperties":false}"#;
const MESSAGE: &str = r#"{"type":"object","properties":{"message":{"type":"string","description":"The text"}},"required":["message"]}"#;
const PROMPT: &str = r#"{"type":"object","properties":{"prompt":{"type":"string","description":"The prompt for the model"}},"required":["prompt"]}"#;
const ADD_INPUT: &str = r#"{"type":"object","properties":{"a":{"type":"number","description":"First summand"},"b":{"type":"number","description":"Second summand"}},"required":["a","b"]}"#;
const ADD_OUTPUT: &str =
    r#"{"type":"object","properties":{"sum":{"type":"number"}},"required":["sum"]}"#;
const SLEEP_INPUT: &str = r#"{"type":"object","properties":{"ms":{"type":"integer","minimum":0,"maximum":3600000,"description":"How long, in milliseconds"}},"required":["ms"]}"#;
const LONG_INPUT: &str = r#"{"type":"object","properties":{"duration_ms":{"type":"integer","minimum":0,"maximum":3600000,"description":"How long in all, in milliseconds"},"steps":{"type":"integer","minimum":1,"maximum":1000,"description":"How many progress reports"}}}"#;
const UPDATE_INPUT: &str = r#"{"type":"object","properties":{"times":{"type":"integer","minimum":1,"maximum":1000,"description":"How many updates"},"interval_ms":{"type":"integer","minimum":0,"maximum":3600000,"description":"Time between two updates, in milliseconds"}}}"#;
const NAME_INPUT: &str = r#"{"type":"object","properties":{"name":{"type":"string","description":"Whom to greet"}},"required":["name"]}"#;
const SLOW_INPUT: &str = r#"{"type":"object","properties":{"seconds":{"type":"integer","minimum":0,"maximum":3600,"description":"How long it takes"},"label":{"type":"string","description":"A name that comes back in the result"}},"required":["seconds"]}"#;
const FILE_INPUT: &str = r#"{"type":"object","properties":{"filename":{"type":"string","description":"The file that would be deleted; nothing is"}},"required":["filename"]}"#;
const HEADER_INPUT: &str = r#"{"type":"object","properties":{"region":{"type":"string","description":"Mirrored as Mcp-Param-Region","x-mcp-header":"Region"},"priority":{"type":"integer","description":"Mirrored as Mcp-Param-Priority","x-mcp-header":"Priority"},"verbose":{"type":"boolean","description":"Mirrored as Mcp-Param-Verbose","x-mcp-header":"Verbose"},"note":{"type":"string","description":"Not mirrored"}},"required":["region"]}"#;
/// The schema the suite wants to see unchanged (SEP-1613, SEP-2106).
const FULL_SCHEMA: &str = r##"{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","$defs":{"address":{"$anchor":"addressDef","type":"object","properties":{"street":{"type":"string"},"city":{"type":"string"}}}},"properties":{"name":{"type":"string"},"address":{"$ref":"#/$defs/address"},"contactMethod":{"type":"string","enum":["phone","email"]},"phone":{"type":"string"},"email":{"type":"string"}},"allOf":[{"anyOf":[{"required":["phone"]},{"required":["email"]}]}],"if":{"properties":{"contactMethod":{"const":"phone"}},"required":["contactMethod"]},"then":{"required":["phone"]},"else":{"required":["email"]},"additionalProperties":false}"##;

const FIRST: ProtocolVersion = ProtocolVersion::V2024_11_05;
const MARCH: ProtocolVersion = ProtocolVersion::V2025_03_26;
const JUNE: ProtocolVersion = ProtocolVersion::V2025_06_18;
const MODERN: ProtocolVersion = ProtocolVersion::V2026_07_28;

const fn spec(
    name: &'static str,
    tool: Tool,
    title: &'static str,
    description: &'static str,
    input_schema: &'static str,
    hints: Hints,
) -> ToolSpec {
    ToolSpec {
        name,
        tool,
        title,
        description,
        input_schema,
        hints,
        since: FIRST,
        legacy_only: false,
    }
}

const fn pure(
    name: &'static str,
    tool: Tool,
    title: &'static str,
    description: &'static str,
    input_schema: &'static str,
) -> ToolSpec {
    spec(name, tool, title, description, input_schema, Hints::Pure)
}

const fn changes(
    name: &'static str,
    tool: Tool,
    title: &'static str,
    description: &'static str,
) -> ToolSpec {
    spec(name, tool, title, description, NOTHING, Hints::Changes)
}

const fn asks(
    name: &'static str,
    script: Script,
    title: &'static str,
    description: &'static str,
    input_schema: &'static str,
) -> ToolSpec {
    spec(name, Tool::Dialogue(script), title, description, input_schema, Hints::Asks)
}

const fn since(version: ProtocolVersion, spec: ToolSpec) -> ToolSpec {
    ToolSpec { since: version, ..spec }
}

/// Every tool in the order of listing, but for the one that comes and goes.
#[rustfmt::skip]
pub(super) static TOOLS: &[ToolSpec] = &[
    pure("test_simple_text", Tool::Fixed(FixedTool::SimpleText), "Simple text", "Returns a fixed text.", NOTHING),
    pure("echo", Tool::Echo, "Echo", "Returns the message it is given.", MESSAGE),
    pure("add", Tool::Add, "Add", "Adds two numbers.", ADD_INPUT),
    pure("sleep", Tool::Timed(TimedTool::Sleep), "Sleep", "Answers after the given time.", SLEEP_INPUT),
    pure("test_image_content", Tool::Fixed(FixedTool::Image), "Image content", "Returns a one-pixel PNG.", NOTHING),
    since(MARCH, pure("test_audio_content", Tool::Fixed(FixedTool::Audio), "Audio content", "Returns a short WAV.", NOTHING)),
    pure("test_embedded_resource", Tool::Fixed(FixedTool::EmbeddedResource), "Embedded resource", "Returns a resource inside the result.", NOTHING),
    pure("test_multiple_content_types", Tool::Fixed(FixedTool::MultipleContents), "Mixed content", "Returns text, an image and a resource.", NOTHING),
    since(JUNE, pure("test_resource_link", Tool::Fixed(FixedTool::ResourceLink), "Resource link", "Returns a link to a resource.", NOTHING)),
    pure("test_error_handling", Tool::AlwaysFails, "Tool error", "Always reports a tool error.", NOTHING),
    pure("test_tool_with_logging", Tool::Timed(TimedTool::Logging), "Logging", "Sends three log messages while it runs.", NOTHING),
    pure("test_logging_tool", Tool::Timed(TimedTool::Logging), "Logging, if wanted", "Sends log messages only if the client asked for a log level.", NOTHING),
    pure("test_tool_with_progress", Tool::Timed(TimedTool::Progress), "Progress", "Reports progress three times while it runs.", NOTHING),
    pure("long_running", Tool::Timed(TimedTool::LongRunning), "Long-running", "Runs for a given time and reports progress at every step.", LONG_INPUT),
    ToolSpec { legacy_only: true, ..pure("test_reconnection", Tool::Timed(TimedTool::Reconnection), "Reconnection", "Ends its stream before the result, to be fetched by reconnecting.", NOTHING) },
    asks("test_sampling", Script::Sampling, "Sampling", "Has the client's model answer a prompt.", PROMPT),
    since(JUNE, asks("test_elicitation", Script::Elicitation, "Elicitation", "Asks the user for a name and an address.", MESSAGE)),
    since(JUNE, asks("test_elicitation_sep1034_defaults", Script::Defaults, "Elicitation with defaults", "Asks the user with a default for every kind of field.", NOTHING)),
    since(ProtocolVersion::V2025_11_25, asks("test_elicitation_sep1330_enums", Script::Enums, "Elicitation with choices", "Asks the user with every kind of choice.", NOTHING)),
    since(JUNE, asks("test_streaming_elicitation", Script::StreamingElicitation, "Elicitation on a stream", "Asks the user for a confirmation.", NOTHING)),
    asks("test_missing_capability", Script::MissingCapability, "Needs sampling", "Needs a client that can sample.", NOTHING),
    pure("json_schema_2020_12_tool", Tool::JsonSchema, "JSON Schema 2020-12", "Tool with JSON Schema 2020-12 features", FULL_SCHEMA),
    pure("test_x_mcp_header", Tool::HeaderParameters, "Mirrored arguments", "Returns arguments that are mirrored into headers.", HEADER_INPUT),
    changes("test_trigger_tool_change", Tool::ChangeTools, "Change the tool list", "Adds or removes the tool test_changeable_tool."),
    changes("test_trigger_prompt_change", Tool::ChangePrompts, "Change the prompt list", "Adds or removes the prompt test_changeable_prompt."),
    changes("test_trigger_resource_change", Tool::ChangeResources, "Change the resource list", "Adds or removes the resource test://changeable-resource."),
    spec("test_trigger_resource_update", Tool::Timed(TimedTool::UpdateResource), "Update a resource", "Updates test://watched-resource, once or several times.", UPDATE_INPUT, Hints::Changes),
    since(JUNE, asks("test_input_required_result_elicitation", Script::UserName, "Input: elicitation", "Asks for a name and greets.", NOTHING)),
    asks("test_input_required_result_sampling", Script::Capital, "Input: sampling", "Asks the model for a capital.", NOTHING),
    asks("test_input_required_result_list_roots", Script::Roots, "Input: roots", "Asks for the client's roots.", NOTHING),
    since(JUNE, asks("test_input_required_result_request_state", Script::RequestState, "Input: state", "Asks for a confirmation and checks the returned state.", NOTHING)),
    since(JUNE, asks("test_input_required_result_multiple_inputs", Script::MultipleInputs, "Input: three at once", "Asks user, model and client at once.", NOTHING)),
    since(JUNE, asks("test_input_required_result_multi_round", Script::MultiRound, "Input: two rounds", "Asks twice, one after the other.", NOTHING)),
    since(JUNE, asks("test_input_required_result_tampered_state", Script::TamperedState, "Input: guarded state", "Asks for a confirmation under a state that must come back unchanged.", NOTHING)),
    asks("test_input_required_result_capabilities", Script::Capabilities, "Input: by capability", "Asks only for what the client declares.", NOTHING),
    pure("greet", Tool::Greet, "Greet", "Greets by name.", NAME_INPUT),
    since(MODERN, pure("slow_compute", Tool::Job(JobTool::SlowCompute), "Slow computation", "Takes the given time; runs as a task where the client knows tasks.", SLOW_INPUT)),
    since(MODERN, pure("failing_job", Tool::Job(JobTool::Failing), "Failing job", "A task that ends in a tool error.", NOTHING)),
    since(MODERN, pure("protocol_error_job", Tool::Job(JobTool::ProtocolError), "Broken job", "A task that ends in a protocol error.", NOTHING)),
    since(MODERN, asks("confirm_delete", Script::ConfirmDelete, "Confirm a deletion", "Asks before it pretends to delete a file.", FILE_INPUT)),
    since(MODERN, asks("multi_input", Script::MultiInput, "Two inputs", "Asks for two inputs at once.", NOTHING)),
    since(MODERN, asks("test_tool_with_task", Script::TaskAfterInput, "Input, then a task", "Asks for a name, then goes on as a task.", NOTHING)),
];

/// The tool that `test_trigger_tool_change` adds and removes.
pub(super) static CHANGEABLE_TOOL: ToolSpec = pure(
    "test_changeable_tool",
    Tool::Fixed(FixedTool::Changeable),
    "Changeable",
    "Is there after every odd call of test_trigger_tool_change.",
    NOTHING,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_json_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for spec in TOOLS.iter().chain([&CHANGEABLE_TOOL]) {
            assert!(names.insert(spec.name), "{} is listed twice", spec.name);
            assert!(
                spec.name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
            );
            for version in ProtocolVersion::ALL {
                let mut out = Vec::new();
                spec.write(version, Some(&TaskOffer::default()), &mut out);
                assert!(simd_json::to_owned_value(&mut out).is_ok(), "{} {version}", spec.name);
            }
        }
    }

    #[test]
    fn header_parameters_belong_to_one_tool() {
        assert_eq!(header_parameters("test_x_mcp_header").len(), 3);
        assert!(header_parameters("echo").is_empty());
        assert!(header_parameters("nobody").is_empty());
    }

    #[test]
    fn older_revisions_do_not_see_newer_tools() {
        let audio = find("test_audio_content").expect("listed");
        assert!(!audio.is_known_in(ProtocolVersion::V2024_11_05));
        assert!(audio.is_known_in(ProtocolVersion::V2025_03_26));
        let reconnection = find("test_reconnection").expect("listed");
        assert!(reconnection.is_known_in(ProtocolVersion::V2025_11_25));
        assert!(!reconnection.is_known_in(ProtocolVersion::V2026_07_28));
    }
}
