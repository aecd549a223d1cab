//! Prompts and the completion of their arguments.

use shardgate_proto::mcp::version::ProtocolVersion;

use super::answers::{Fault, put, put_media_block, put_string, put_text_block};
use super::{media, resources, scan};

/// What a prompt yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prompt {
    Simple,
    WithArguments,
    WithResource,
    WithImage,
    /// Asks for input first.
    AfterInput,
    Changeable,
}

/// A prompt's entry in the list.
pub(super) struct PromptSpec {
    pub(super) name: &'static str,
    pub(super) prompt: Prompt,
    title: &'static str,
    description: &'static str,
    arguments: &'static [(&'static str, &'static str)],
}

const fn prompt(
    name: &'static str,
    prompt: Prompt,
    title: &'static str,
    description: &'static str,
    arguments: &'static [(&'static str, &'static str)],
) -> PromptSpec {
    PromptSpec { name, prompt, title, description, arguments }
}

/// Every prompt but the one that comes and goes.
#[rustfmt::skip]
pub(super) static PROMPTS: &[PromptSpec] = &[
    prompt("test_simple_prompt", Prompt::Simple, "Simple", "A prompt without arguments.", &[]),
    prompt("test_prompt_with_arguments", Prompt::WithArguments, "With arguments", "A prompt with two arguments.", &[("arg1", "First test argument"), ("arg2", "Second test argument")]),
    prompt("test_prompt_with_embedded_resource", Prompt::WithResource, "With a resource", "A prompt that embeds a resource.", &[("resourceUri", "URI of the resource to embed")]),
    prompt("test_prompt_with_image", Prompt::WithImage, "With an image", "A prompt that carries an image.", &[]),
    prompt("test_input_required_result_prompt", Prompt::AfterInput, "After input", "A prompt that asks for its context.", &[]),
];

/// The prompt that `test_trigger_prompt_change` adds and removes.
pub(super) static CHANGEABLE_PROMPT: PromptSpec = prompt(
    "test_changeable_prompt",
    Prompt::Changeable,
    "Changeable",
    "Is there after every odd call of test_trigger_prompt_change.",
    &[],
);

/// The prompt with this name; the changeable one only if it is there now.
pub(super) fn find(name: &str, changeable: bool) -> Option<&'static PromptSpec> {
    PROMPTS
        .iter()
        .find(|spec| spec.name == name)
        .or_else(|| (changeable && name == CHANGEABLE_PROMPT.name).then_some(&CHANGEABLE_PROMPT))
}

impl PromptSpec {
    /// Appends the prompt's definition as `version` knows it.
    pub(super) fn write(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put(out, r#"{"name":"#);
        put_string(out, self.name);
        if version >= ProtocolVersion::V2025_06_18 {
            put(out, r#","title":"#);
            put_string(out, self.title);
        }
        put(out, r#","description":"#);
        put_string(out, self.description);
        for (at, (name, description)) in self.arguments.iter().enumerate() {
            put(out, if at == 0 { r#","arguments":["# } else { "," });
            put(out, r#"{"name":"#);
            put_string(out, name);
            put(out, r#","description":"#);
            put_string(out, description);
            put(out, r#","required":true}"#);
        }
        if !self.arguments.is_empty() {
            put(out, "]");
        }
        put(out, "}");
    }

    /// Reads the prompt's arguments in their order: all are required strings.
    pub(super) fn read_arguments(&self, params: Option<&[u8]>) -> Result<Vec<String>, Fault> {
        let given = params.and_then(|params| scan::member(params, "arguments"));
        if given.is_some_and(|given| !scan::is_object(given)) {
            return Err(Fault::InvalidParams("params.arguments must be an object".to_owned()));
        }
        self.arguments
            .iter()
            .map(|(name, _)| {
                given
                    .and_then(|given| scan::member(given, name))
                    .and_then(scan::unescape)
                    .ok_or_else(|| {
                        Fault::InvalidParams(format!("params.arguments.{name} must be a string"))
                    })
            })
            .collect()
    }

    /// Appends the `messages` member. `AfterInput` takes the context as its argument.
    pub(super) fn write_messages(&self, arguments: &[String], out: &mut Vec<u8>) {
        put(out, r#""messages":["#);
        match self.prompt {
            Prompt::Simple => message(out, |out| {
                put_text_block(out, "This is a simple prompt for testing.");
            }),
            Prompt::WithArguments => message(out, |out| {
                let [first, second] = arguments else { return put_text_block(out, "") };
                let text = format!("Prompt with arguments: arg1='{first}', arg2='{second}'");
                put_text_block(out, &text);
            }),
            Prompt::WithResource => {
                message(out, |out| put_resource(out, &arguments[0]));
                put(out, ",");
                message(out, |out| {
                    put_text_block(out, "Please process the embedded resource above.");
                });
            }
            Prompt::WithImage => {
                message(out, |out| {
                    put_media_block(out, "image", "image/png", media::RED_PIXEL_PNG);
                });
                put(out, ",");
                message(out, |out| put_text_block(out, "Please analyze the image above."));
            }
            Prompt::AfterInput => message(out, |out| {
                let context = arguments.first().map_or("", String::as_str);
                put_text_block(out, &format!("Answer in this context: {context}"));
            }),
            Prompt::Changeable => message(out, |out| {
                put_text_block(out, "This prompt comes and goes.");
            }),
        }
        put(out, "]");
    }
}

fn message(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    put(out, r#"{"role":"user","content":"#);
    content(out);
    put(out, "}");
}

fn put_resource(out: &mut Vec<u8>, uri: &str) {
    put(out, r#"{"type":"resource","resource":{"uri":"#);
    put_string(out, uri);
    put(out, r#","mimeType":"text/plain","text":"Embedded resource content for testing."}}"#);
}

/// The most values a completion answer may carry
/// (MCP 2025-11-25, completion: "Must not exceed 100 items").
const COMPLETION_VALUES_MAX: usize = 100;

/// What is offered for any argument: names that start differently.
const WORDS: [&str; 8] =
    ["paris", "park", "party", "test", "testValue1", "testValue2", "tokyo", "vienna"];

const IDS: [&str; 5] = ["1", "12", "123", "42", "7"];

/// Appends the `completion` member for `completion/complete`.
pub(super) fn write_completion(
    params: Option<&[u8]>,
    changeable: bool,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let params = params.unwrap_or_default();
    let text = |keys: &[&str]| {
        scan::path(params, keys).and_then(scan::unescape).ok_or_else(|| {
            Fault::InvalidParams(format!("params.{} must be a string", keys.join(".")))
        })
    };
    let argument = text(&["argument", "name"])?;
    let typed = text(&["argument", "value"])?;
    let candidates = match text(&["ref", "type"])?.as_str() {
        "ref/prompt" => of_prompt(&text(&["ref", "name"])?, &argument, changeable)?,
        "ref/resource" => of_resource(&text(&["ref", "uri"])?, &argument)?,
        other => {
            return Err(Fault::InvalidParams(format!(
                "params.ref.type must be ref/prompt or ref/resource, not {other:?}"
            )));
        }
    };
    let values: Vec<&str> =
        candidates.into_iter().filter(|value| value.starts_with(typed.as_str())).collect();
    put(out, r#""completion":{"values":["#);
    for (at, value) in values.iter().take(COMPLETION_VALUES_MAX).enumerate() {
        if at > 0 {
            put(out, ",");
        }
        put_string(out, value);
    }
    put(out, r#"],"total":"#);
    super::answers::put_number(out, values.len());
    put(out, r#","hasMore":"#);
    put(out, if values.len() > COMPLETION_VALUES_MAX { "true}" } else { "false}" });
    Ok(())
}

fn of_prompt(name: &str, argument: &str, changeable: bool) -> Result<Vec<&'static str>, Fault> {
    let spec =
        find(name, changeable).ok_or_else(|| Fault::UnknownPrompt { name: name.to_owned() })?;
    if !spec.arguments.iter().any(|(known, _)| *known == argument) {
        return Err(Fault::InvalidParams(format!(
            "params.argument.name: prompt {name} has no argument {argument:?}"
        )));
    }
    if spec.prompt == Prompt::WithResource {
        return Ok(resources::RESOURCES.iter().map(|resource| resource.uri).collect());
    }
    Ok(WORDS.to_vec())
}

fn of_resource(uri: &str, argument: &str) -> Result<Vec<&'static str>, Fault> {
    if uri != resources::TEMPLATE {
        return Err(Fault::InvalidParams(format!(
            "params.ref.uri: there is no resource template {uri:?}"
        )));
    }
    if argument != "id" {
        return Err(Fault::InvalidParams(format!(
            "params.argument.name: the template has no variable {argument:?}"
        )));
    }
    Ok(IDS.to_vec())
}
