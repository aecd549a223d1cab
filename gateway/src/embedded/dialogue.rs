//! Scripts that ask the client for input, written once for both eras.
//!
//! A script knows which questions it asks in which round and what the answers
//! lead to. How questions travel is not its concern: as server requests in the
//! legacy era (`conversations`), as `input_required` in the modern one
//! (`input_required`).
//!
//! Invariant: what a script does depends only on its subject, the round, what it
//! carried over and the answers, so any shard and any node can go on with it.

use shardgate_proto::mcp::version::ProtocolVersion;

use super::KEPT_TEXT_BYTES_MAX;
use super::answers::{Fault, quoted};
use super::client::ClientCapabilities;
use super::scan::{self, DEPTH_MAX};

/// Which dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Sampling,
    Elicitation,
    Defaults,
    Enums,
    StreamingElicitation,
    MissingCapability,
    UserName,
    Capital,
    Roots,
    RequestState,
    MultipleInputs,
    MultiRound,
    TamperedState,
    Capabilities,
    PromptContext,
    ConfirmDelete,
    MultiInput,
    TaskAfterInput,
}

/// What kind of request carries a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuestionKind {
    Sampling,
    Elicitation,
    Roots,
}

impl QuestionKind {
    /// The request's method.
    pub(super) fn method(self) -> &'static str {
        match self {
            QuestionKind::Sampling => "sampling/createMessage",
            QuestionKind::Elicitation => "elicitation/create",
            QuestionKind::Roots => "roots/list",
        }
    }

    /// The capability a client needs to be asked so.
    pub(super) fn capability(self) -> ClientCapabilities {
        match self {
            QuestionKind::Sampling => ClientCapabilities::SAMPLING,
            QuestionKind::Elicitation => ClientCapabilities::ELICITATION,
            QuestionKind::Roots => ClientCapabilities::ROOTS,
        }
    }
}

/// One question of a round.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Names the question in `inputRequests`.
    pub(super) key: &'static str,
    pub(super) kind: QuestionKind,
    /// The JSON text of the request's `params`.
    pub(super) params: String,
    /// Fields an accepted form must have.
    required: &'static [&'static str],
}

/// One answer, checked against its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The form's outcome; `content` is the raw JSON object, if accepted.
    Elicited { action: String, content: Option<String> },
    /// The model's text.
    Sampled(String),
    /// The addresses of the roots.
    Roots(Vec<String>),
}

/// Where the answers of a round lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// Another round, with what must be remembered for it.
    NextRound { carried: String },
    /// The tool's text.
    Text(String),
    /// The prompt's context.
    Context(String),
    /// Goes on as a task that greets this name.
    GreetingTask(String),
}

/// The longest text a script carries from round to round.
pub(super) const CARRIED_BYTES_MAX: usize = 1_024;

impl Script {
    /// True if it goes on, or begins, as a task of this server's where the client knows tasks.
    pub(super) fn becomes_a_task(self) -> bool {
        match self {
            Script::ConfirmDelete | Script::MultiInput | Script::TaskAfterInput => true,
            Script::Sampling
            | Script::Elicitation
            | Script::Defaults
            | Script::Enums
            | Script::StreamingElicitation
            | Script::MissingCapability
            | Script::UserName
            | Script::Capital
            | Script::Roots
            | Script::RequestState
            | Script::MultipleInputs
            | Script::MultiRound
            | Script::TamperedState
            | Script::Capabilities
            | Script::PromptContext => false,
        }
    }

    /// The argument the script needs, if it needs one.
    pub(super) fn subject(self) -> Option<&'static str> {
        match self {
            Script::Sampling => Some("prompt"),
            Script::Elicitation => Some("message"),
            Script::ConfirmDelete => Some("filename"),
            Script::Defaults
            | Script::Enums
            | Script::StreamingElicitation
            | Script::MissingCapability
            | Script::UserName
            | Script::Capital
            | Script::Roots
            | Script::RequestState
            | Script::MultipleInputs
            | Script::MultiRound
            | Script::TamperedState
            | Script::Capabilities
            | Script::PromptContext
            | Script::MultiInput
            | Script::TaskAfterInput => None,
        }
    }

    /// True if a retry must bring back the state that went out with the questions.
    pub(super) fn needs_state(self) -> bool {
        matches!(
            self,
            Script::RequestState
                | Script::MultipleInputs
                | Script::MultiRound
                | Script::TamperedState
        )
    }

    /// True if only those questions are asked that the client declares support for.
    pub(super) fn asks_by_capability(self) -> bool {
        self == Script::Capabilities
    }

    /// The questions of a round.
    pub(super) fn questions(
        self,
        round: u8,
        subject: &str,
        version: ProtocolVersion,
    ) -> Vec<Question> {
        match (self, round) {
            (Script::Sampling, _) => vec![sample("sampling", subject, 100)],
            (Script::MissingCapability, _) => vec![sample("sampling", "Say hello.", 100)],
            (Script::Capital, _) => {
                vec![sample("capital_question", "What is the capital of France?", 100)]
            }
            (Script::Elicitation, _) => {
                vec![elicit("user", subject, USER_SCHEMA, &["username", "email"])]
            }
            (Script::Defaults, _) => {
                let schema = if version >= ProtocolVersion::V2025_11_25 {
                    DEFAULTS_SCHEMA
                } else {
                    PLAIN_SCHEMA
                };
                vec![elicit("profile", "Please review and update the form.", schema, &[])]
            }
            (Script::Enums, _) => vec![elicit("choices", "Please choose.", ENUMS_SCHEMA, &[])],
            (Script::StreamingElicitation | Script::RequestState | Script::TamperedState, _) => {
                vec![elicit("confirm", "Please confirm", OK_SCHEMA, &["ok"])]
            }
            (Script::UserName | Script::TaskAfterInput, _) => vec![ask_name()],
            (Script::Roots, _) => vec![list_roots()],
            (Script::MultipleInputs, _) => {
                vec![ask_name(), sample("greeting", "Generate a greeting", 50), list_roots()]
            }
            (Script::Capabilities, _) => vec![
                elicit("user_name", "What is your name?", NAME_SCHEMA, &["name"]),
                sample("greeting", "Generate a greeting", 50),
                list_roots(),
            ],
            (Script::MultiRound, 0) => {
                vec![elicit("step1", "Step 1: What is your name?", NAME_SCHEMA, &["name"])]
            }
            (Script::MultiRound, _) => {
                let message = "Step 2: What is your favorite color?";
                vec![elicit("step2", message, COLOR_SCHEMA, &["color"])]
            }
            (Script::PromptContext, _) => {
                let message = "What context should the prompt use?";
                vec![elicit("user_context", message, CONTEXT_SCHEMA, &["context"])]
            }
            (Script::ConfirmDelete, _) => {
                let message = format!("Delete {subject}?");
                vec![elicit("confirm", &message, CONFIRM_SCHEMA, &[])]
            }
            (Script::MultiInput, _) => vec![
                elicit("first", "What is the first name?", NAME_SCHEMA, &[]),
                elicit("second", "What is the second name?", NAME_SCHEMA, &[]),
            ],
        }
    }

    /// What a round's answers, in the order of the questions asked, lead to.
    pub(super) fn conclude(
        self,
        round: u8,
        subject: &str,
        carried: &str,
        answers: &[Answer],
    ) -> Conclusion {
        let first = answers.first();
        let field = |name: &str| first.and_then(|answer| answer.field(name));
        let text = match self {
            Script::Sampling | Script::MissingCapability | Script::Capital => {
                format!("LLM response: {}", first.map_or_else(String::new, Answer::describe))
            }
            Script::Elicitation => {
                format!("User response: {}", first.map_or_else(String::new, Answer::describe))
            }
            Script::Defaults | Script::Enums | Script::StreamingElicitation => format!(
                "Elicitation completed: {}",
                first.map_or_else(String::new, Answer::describe)
            ),
            Script::UserName => match field("name") {
                Some(name) => format!("Hello, {name}!"),
                None => "The user gave no name.".to_owned(),
            },
            Script::TaskAfterInput => match field("name") {
                Some(name) => return Conclusion::GreetingTask(name),
                None => "The user gave no name.".to_owned(),
            },
            Script::PromptContext => {
                return Conclusion::Context(
                    field("context").unwrap_or_else(|| "none given".to_owned()),
                );
            }
            Script::RequestState | Script::TamperedState => {
                format!("state-ok: {}", first.map_or_else(String::new, Answer::describe))
            }
            Script::MultiRound if round == 0 => {
                let mut carried = field("name").unwrap_or_else(|| "nobody".to_owned());
                truncate(&mut carried, CARRIED_BYTES_MAX);
                return Conclusion::NextRound { carried };
            }
            Script::MultiRound => {
                let color = field("color").unwrap_or_else(|| "no color".to_owned());
                format!("{carried} likes {color}.")
            }
            Script::ConfirmDelete => return Conclusion::Text(deletion(subject, first)),
            Script::Roots | Script::MultipleInputs | Script::Capabilities | Script::MultiInput => {
                if answers.is_empty() {
                    "The client declares nothing that could be asked for.".to_owned()
                } else {
                    answers.iter().map(Answer::describe).collect::<Vec<_>>().join("; ")
                }
            }
        };
        Conclusion::Text(text)
    }
}

/// What became of a file that nobody deletes.
pub(super) fn deletion(subject: &str, answer: Option<&Answer>) -> String {
    let agreed = answer.is_some_and(|answer| match answer {
        Answer::Elicited { action, content } => {
            action == "accept"
                && content
                    .as_deref()
                    .and_then(|content| scan::member(content.as_bytes(), "confirm"))
                    .is_some_and(|confirm| confirm == b"true")
        }
        Answer::Sampled(_) | Answer::Roots(_) => false,
    });
    if agreed { format!("Deleted {subject} (not really).") } else { format!("Kept {subject}.") }
}

impl Question {
    /// Checks and reads the client's result for this question.
    pub(super) fn read(&self, result: &[u8]) -> Result<Answer, Fault> {
        let wrong = |what: &str| {
            Fault::InvalidParams(format!("the response to {:?} must {what}", self.key))
        };
        if !scan::is_object(result) {
            return Err(wrong("be an object"));
        }
        if result.len() > KEPT_TEXT_BYTES_MAX || !scan::is_shallow(result) {
            let max = format!("have at most {KEPT_TEXT_BYTES_MAX} bytes and {DEPTH_MAX} levels");
            return Err(wrong(&max));
        }
        match self.kind {
            QuestionKind::Elicitation => {
                let action = scan::member(result, "action")
                    .and_then(scan::unescape)
                    .filter(|action| matches!(action.as_str(), "accept" | "decline" | "cancel"))
                    .ok_or_else(|| wrong("have action accept, decline or cancel"))?;
                if action != "accept" {
                    return Ok(Answer::Elicited { action, content: None });
                }
                let content = scan::member(result, "content").unwrap_or(b"{}");
                if !scan::is_object(content) {
                    return Err(wrong("have an object as content"));
                }
                for field in self.required {
                    if scan::member(content, field).is_none() {
                        return Err(wrong(&format!("have content.{field}")));
                    }
                }
                let content = String::from_utf8_lossy(content).into_owned();
                Ok(Answer::Elicited { action, content: Some(content) })
            }
            QuestionKind::Sampling => {
                let text = sampled_text(result).ok_or_else(|| wrong("have content with a type"))?;
                Ok(Answer::Sampled(text))
            }
            QuestionKind::Roots => {
                let roots = scan::member(result, "roots").unwrap_or_default().to_vec();
                read_roots(roots).map(Answer::Roots).ok_or_else(|| wrong("have roots, each a uri"))
            }
        }
    }
}

/// The text of a `CreateMessageResult`; other content is named by its type.
fn sampled_text(result: &[u8]) -> Option<String> {
    let content = scan::member(result, "content")?;
    // From 2025-11-25 on the content may be a list of blocks.
    if content.first() == Some(&b'[') {
        let mut bytes = content.to_vec();
        let blocks = simd_json::to_owned_value(&mut bytes).ok()?;
        use simd_json::prelude::*;
        let texts: Vec<&str> =
            blocks.as_array()?.iter().filter_map(|block| block.get_str("text")).collect();
        return Some(texts.join("\n"));
    }
    let kind = scan::member(content, "type").and_then(scan::unescape)?;
    let text = scan::member(content, "text").and_then(scan::unescape);
    Some(text.unwrap_or_else(|| format!("[{kind}]")))
}

fn read_roots(mut roots: Vec<u8>) -> Option<Vec<String>> {
    use simd_json::prelude::*;
    let roots = simd_json::to_owned_value(&mut roots).ok()?;
    roots.as_array()?.iter().map(|root| root.get_str("uri").map(str::to_owned)).collect()
}

impl Answer {
    /// In words, for a tool's text.
    pub(super) fn describe(&self) -> String {
        match self {
            Answer::Elicited { action, content } => {
                format!("action={action}, content={}", content.as_deref().unwrap_or("{}"))
            }
            Answer::Sampled(text) => text.clone(),
            Answer::Roots(uris) => format!("roots: {}", uris.join(", ")),
        }
    }

    /// A string field of an accepted form.
    fn field(&self, name: &str) -> Option<String> {
        match self {
            Answer::Elicited { content: Some(content), .. } => {
                scan::member(content.as_bytes(), name).and_then(scan::unescape)
            }
            Answer::Elicited { content: None, .. } | Answer::Sampled(_) | Answer::Roots(_) => None,
        }
    }
}

fn truncate(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

fn elicit(
    key: &'static str,
    message: &str,
    schema: &str,
    required: &'static [&'static str],
) -> Question {
    let params = format!(r#"{{"message":{},"requestedSchema":{schema}}}"#, quoted(message));
    Question { key, kind: QuestionKind::Elicitation, params, required }
}

fn sample(key: &'static str, prompt: &str, tokens_max: u32) -> Question {
    let params = format!(
        r#"{{"messages":[{{"role":"user","content":{{"type":"text","text":{}}}}}],"maxTokens":{tokens_max}}}"#,
        quoted(prompt)
    );
    Question { key, kind: QuestionKind::Sampling, params, required: &[] }
}

fn list_roots() -> Question {
    let params = "{}".to_owned();
    Question { key: "client_roots", kind: QuestionKind::Roots, params, required: &[] }
}

fn ask_name() -> Question {
    elicit("user_name", "What is your name?", NAME_SCHEMA, &["name"])
}

const NAME_SCHEMA: &str =
    r#"{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}"#;
const COLOR_SCHEMA: &str =
    r#"{"type":"object","properties":{"color":{"type":"string"}},"required":["color"]}"#;
const CONTEXT_SCHEMA: &str =
    r#"{"type":"object","properties":{"context":{"type":"string"}},"required":["context"]}"#;
const OK_SCHEMA: &str =
    r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"]}"#;
const CONFIRM_SCHEMA: &str =
    r#"{"type":"object","properties":{"confirm":{"type":"boolean"}},"required":["confirm"]}"#;
const USER_SCHEMA: &str = r#"{"type":"object","properties":{"username":{"type":"string","description":"User's response"},"email":{"type":"string","description":"User's email address"}},"required":["username","email"]}"#;
const DEFAULTS_SCHEMA: &str = r#"{"type":"object","properties":{"name":{"type":"string","description":"Name","default":"John Doe"},"age":{"type":"integer","description":"Age","default":30},"score":{"type":"number","description":"Score","default":95.5},"status":{"type":"string","description":"Status","enum":["active","inactive","pending"],"default":"active"},"verified":{"type":"boolean","description":"Verified","default":true}},"required":[]}"#;
/// The same form without defaults, which 2025-06-18 knows for booleans only.
const PLAIN_SCHEMA: &str = r#"{"type":"object","properties":{"name":{"type":"string","description":"Name"},"age":{"type":"integer","description":"Age"},"score":{"type":"number","description":"Score"},"status":{"type":"string","description":"Status","enum":["active","inactive","pending"]},"verified":{"type":"boolean","description":"Verified","default":true}},"required":[]}"#;
const ENUMS_SCHEMA: &str = r#"{"type":"object","properties":{"untitledSingle":{"type":"string","enum":["option1","option2","option3"]},"titledSingle":{"type":"string","oneOf":[{"const":"value1","title":"First Option"},{"const":"value2","title":"Second Option"},{"const":"value3","title":"Third Option"}]},"legacyEnum":{"type":"string","enum":["opt1","opt2","opt3"],"enumNames":["Option One","Option Two","Option Three"]},"untitledMulti":{"type":"array","items":{"type":"string","enum":["option1","option2","option3"]}},"titledMulti":{"type":"array","items":{"anyOf":[{"const":"value1","title":"First Choice"},{"const":"value2","title":"Second Choice"},{"const":"value3","title":"Third Choice"}]}}},"required":[]}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_against_their_question() {
        let name = ask_name();
        for bad in [
            "12345",
            "null",
            "{}",
            r#"{"action":"maybe"}"#,
            r#"{"action":"accept"}"#,
            r#"{"action":"accept","content":7}"#,
            r#"{"action":"accept","content":{"other":1}}"#,
        ] {
            assert!(name.read(bad.as_bytes()).is_err(), "{bad}");
        }
        let good = name.read(br#"{"action":"accept","content":{"name":"Al\"ice"}}"#).expect("good");
        assert_eq!(
            Script::UserName.conclude(0, "", "", &[good]),
            Conclusion::Text("Hello, Al\"ice!".to_owned())
        );
        let declined = name.read(br#"{"action":"decline"}"#).expect("a refusal is an answer");
        assert_eq!(
            Script::UserName.conclude(0, "", "", &[declined]),
            Conclusion::Text("The user gave no name.".to_owned())
        );
    }

    #[test]
    fn sampling_results_in_every_shape() {
        let question = sample("q", "?", 1);
        let read = |result: &str| question.read(result.as_bytes());
        assert_eq!(
            read(r#"{"role":"assistant","model":"m","content":{"type":"text","text":"Hi"}}"#).ok(),
            Some(Answer::Sampled("Hi".to_owned()))
        );
        assert_eq!(
            read(r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#).ok(),
            Some(Answer::Sampled("a\nb".to_owned()))
        );
        assert_eq!(
            read(r#"{"content":{"type":"image"}}"#).ok(),
            Some(Answer::Sampled("[image]".to_owned()))
        );
        assert!(read(r#"{"content":1}"#).is_err());
    }

    #[test]
    fn roots_need_addresses() {
        let question = list_roots();
        assert_eq!(
            question.read(br#"{"roots":[{"uri":"file:///a"},{"uri":"file:///b"}]}"#).ok(),
            Some(Answer::Roots(vec!["file:///a".to_owned(), "file:///b".to_owned()]))
        );
        assert!(question.read(br#"{"roots":[{"name":"a"}]}"#).is_err());
        assert!(question.read(br#"{}"#).is_err());
    }

    #[test]
    fn questions_are_json() {
        for round in [0, 1] {
            for question in Script::MultiRound.questions(round, "", ProtocolVersion::V2026_07_28) {
                assert!(simd_json::to_owned_value(&mut question.params.into_bytes()).is_ok());
            }
        }
    }
}
