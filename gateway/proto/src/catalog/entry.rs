//! One definition out of a server's list.
//!
//! Invariants: the text of an [`Entry`] is one JSON object on one line. It is the server's,
//! but for a `type` that an input schema lacks. Two things in it may be written
//! differently for clients: its name, and an output schema that legacy clients choke on.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::ListKind;
use super::definition::{DefinitionHash, definition_hash};
use super::mirrored::{BadMirror, mirrored_parameters};
use crate::jsonrpc::{Cursor, DEPTH_MAX, member, string, write_string};
use crate::upstream::HeaderParameter;

/// The longest name or URI. A cursor carries one, and so does every call.
pub const KEY_BYTES_MAX: usize = 2_048;

/// Whether a tool may or must be called as a task (MCP 2025-11-25, `execution.taskSupport`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskSupport {
    /// Nothing is said. Its server then takes no such call, but the gateway may make a task
    /// of an ordinary one.
    #[default]
    Unsaid,
    /// It must not.
    Forbidden,
    /// It may.
    Optional,
    /// It must.
    Required,
}

/// Why a definition is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// It is a number, a text or the like.
    #[error("it is not an object")]
    NoObject,
    /// A member that names it is missing, empty or no text.
    #[error("it has no {0:?} that is a text")]
    NoText(&'static str),
    /// A member that decides what it is stands there twice; parsers differ in which they take.
    #[error("it has {0:?} more than once")]
    Repeated(&'static str),
    /// Its name or URI has more than [`KEY_BYTES_MAX`] bytes.
    #[error("its {member:?} has {bytes} bytes, more than the {KEY_BYTES_MAX} allowed")]
    KeyLong {
        /// Which member.
        member: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// It has more bytes than [`ListingLimits::entry_bytes_max`](super::ListingLimits).
    #[error("it has {bytes} bytes, more than the {max} allowed")]
    Long {
        /// How long it is.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// MCP, Tool: `inputSchema` is an object whose `type` is `object`. Strict clients
    /// refuse a whole list for one that is not. (One without any `type` is given that one.)
    #[error("its inputSchema is not an object schema with \"type\":\"object\"")]
    InputSchema,
    /// MCP 2026-07-28, tools: clients MUST exclude a tool whose `x-mcp-header` breaks the rules.
    #[error("its x-mcp-header is invalid: {0}")]
    Mirror(#[from] BadMirror),
    /// The server listed something of this name before.
    #[error("the server lists its name more than once")]
    Duplicate,
}

/// What the gateway wants to know of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ToolFacts {
    pub(super) header_parameters: Box<[HeaderParameter]>,
    pub(super) read_only: bool,
    pub(super) idempotent: bool,
    pub(super) task_support: TaskSupport,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name or URI, unescaped.
    pub(super) key: Arc<str>,
    /// The definition on one line.
    pub(super) text: Box<[u8]>,
    /// Where in the text the key's raw value stands.
    key_at: Range<usize>,
    /// What legacy clients do not get: a member with one of its commas.
    pub(super) modern_only: Option<Range<usize>>,
    /// Where the value of `execution` stands.
    execution_at: Range<usize>,
    /// Of tools only.
    pub(super) facts: ToolFacts,
    pub(super) hash: DefinitionHash,
}

impl TaskSupport {
    /// The word of the protocol; nothing is said where that is the default.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskSupport::Unsaid | TaskSupport::Forbidden => "forbidden",
            TaskSupport::Optional => "optional",
            TaskSupport::Required => "required",
        }
    }
}

/// For whom a definition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Clients of the modern era.
    Modern,
    /// Clients of the legacy era.
    Legacy,
    /// Those of 2025-11-25, who are told whether the tool can be called as a task.
    Tasks(TaskSupport),
}

impl Entry {
    /// Reads one element of a list.
    pub(super) fn read(kind: ListKind, raw: &[u8]) -> Result<Entry, BadEntry> {
        let mut text = Vec::with_capacity(raw.len());
        minify(raw, &mut text);
        let members = Members::find(&text, kind)?;
        let key = members.key(&text, kind)?;
        let (mut facts, mut modern_only) = (ToolFacts::default(), None);
        if kind == ListKind::Tools {
            if let Some(at) = members.schema_without_type(&text) {
                return Entry::read(kind, &with_object_type(&text, at));
            }
            facts = members.tool_facts(&text)?;
            modern_only = members.modern_only(&text);
        }
        if kind.key_member() != "name" && members.name.text(&text).is_none() {
            return Err(BadEntry::NoText("name"));
        }
        let key_at = members.key.value;
        let execution_at = members.execution.value;
        let hash = definition_hash(&text);
        let text = text.into_boxed_slice();
        Ok(Entry { key, text, key_at, modern_only, execution_at, facts, hash })
    }

    /// Appends the definition with `exposed` for its name.
    pub(super) fn write_as(&self, exposed: &str, audience: Audience, out: &mut Vec<u8>) {
        let mut name = Vec::new();
        if *exposed != *self.key {
            write_string(&mut name, exposed);
        }
        let name = (!name.is_empty()).then_some((self.key_at.clone(), name));
        let cut = match audience {
            Audience::Modern => None,
            Audience::Legacy | Audience::Tasks(_) => self.modern_only.clone(),
        };
        let support = match audience {
            Audience::Tasks(support) if support != self.facts.task_support => {
                Some(self.execution_as(support))
            }
            Audience::Tasks(_) | Audience::Modern | Audience::Legacy => None,
        };
        let mut edits = [name, cut.map(|cut| (cut, Vec::new())), support];
        edits.sort_by_key(|edit| edit.as_ref().map_or(usize::MAX, |(place, _)| place.start));
        let mut written = 0;
        for (place, instead) in edits.into_iter().flatten() {
            out.extend_from_slice(&self.text[written..place.start]);
            out.extend_from_slice(&instead);
            written = place.end;
        }
        out.extend_from_slice(&self.text[written..]);
    }

    /// What `execution` has to be for a tool of this support, and in place of what.
    fn execution_as(&self, support: TaskSupport) -> (Range<usize>, Vec<u8>) {
        let said = format!("{{\"taskSupport\":\"{}\"}}", support.as_str());
        if self.execution_at.is_empty() {
            // Before the brace that ends the definition, which has other members.
            let end = self.text.len() - 1;
            return (end..end, format!(",\"execution\":{said}").into_bytes());
        }
        (self.execution_at.clone(), said.into_bytes())
    }
}

/// Where a member stands in a definition; empty if there is none.
#[derive(Default)]
struct Found {
    /// With its quotes.
    name: Range<usize>,
    value: Range<usize>,
}

impl Found {
    fn raw<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        text.get(self.value.clone()).filter(|raw| !raw.is_empty())
    }

    /// The value as a text that is not empty.
    fn text<'a>(&self, text: &'a [u8]) -> Option<Cow<'a, str>> {
        self.raw(text).and_then(string).filter(|string| !string.is_empty())
    }
}

/// The members of a definition that are looked at.
#[derive(Default)]
struct Members {
    key: Found,
    name: Found,
    input_schema: Found,
    output_schema: Found,
    annotations: Found,
    execution: Found,
}

impl Members {
    fn find(text: &[u8], kind: ListKind) -> Result<Members, BadEntry> {
        let mut members = Members::default();
        let mut repeated = None;
        let mut cursor = Cursor::new(text, DEPTH_MAX).map_err(|_| BadEntry::NoObject)?;
        if cursor.peek(0) != Some(b'{') {
            return Err(BadEntry::NoObject);
        }
        let walked = cursor.members(0, 1, |cursor, name, at| {
            let end = cursor.skip_value(at, 1)?;
            let known = cursor.spelled(name, |name| {
                [
                    kind.key_member(),
                    "name",
                    "inputSchema",
                    "outputSchema",
                    "annotations",
                    "execution",
                ]
                .into_iter()
                .find(|known| known.as_bytes() == name)
            });
            let Some(known) = known else { return Ok(end) };
            let place = members.place(kind, known);
            if !place.value.is_empty() {
                repeated = Some(known);
            }
            *place = Found { name: name.start - 1..name.end + 1, value: at..end };
            Ok(end)
        });
        let walked = walked.and_then(|end| cursor.finish(end));
        match repeated {
            _ if walked.is_err() => Err(BadEntry::NoObject),
            Some(member) => Err(BadEntry::Repeated(member)),
            None => Ok(members),
        }
    }

    fn place(&mut self, kind: ListKind, known: &str) -> &mut Found {
        match known {
            _ if known == kind.key_member() => &mut self.key,
            "inputSchema" => &mut self.input_schema,
            "outputSchema" => &mut self.output_schema,
            "annotations" => &mut self.annotations,
            "execution" => &mut self.execution,
            _ => &mut self.name,
        }
    }

    fn key(&self, text: &[u8], kind: ListKind) -> Result<Arc<str>, BadEntry> {
        let member = kind.key_member();
        let key = self.key.text(text).ok_or(BadEntry::NoText(member))?;
        if key.len() > KEY_BYTES_MAX {
            return Err(BadEntry::KeyLong { member, bytes: key.len() });
        }
        Ok(Arc::from(&*key))
    }

    /// Where the inside of an input schema begins that does not say what type it is.
    fn schema_without_type(&self, text: &[u8]) -> Option<usize> {
        let schema = self.input_schema.raw(text)?;
        let typeless = schema.starts_with(b"{") && member(schema, "type").is_none();
        typeless.then_some(self.input_schema.value.start + 1)
    }

    fn tool_facts(&self, text: &[u8]) -> Result<ToolFacts, BadEntry> {
        let schema = self.input_schema.raw(text).ok_or(BadEntry::InputSchema)?;
        if !is_object_schema(schema) {
            return Err(BadEntry::InputSchema);
        }
        let annotations = self.annotations.raw(text);
        let hint = |name| annotations.and_then(|hints| member(hints, name)) == Some(b"true");
        // MCP, ToolAnnotations: idempotentHint is meaningful only where readOnlyHint is
        // false; what changes nothing can be called again in any case.
        let read_only = hint("readOnlyHint");
        Ok(ToolFacts {
            header_parameters: mirrored_parameters(schema)?,
            read_only,
            idempotent: read_only || hint("idempotentHint"),
            task_support: self.task_support(text),
        })
    }

    /// MCP 2025-11-25, Tool: `outputSchema` is "currently restricted to type: "object" at the
    /// root level", and strict clients refuse a whole list for one that is not. From
    /// 2026-07-28 on it may be any schema.
    fn modern_only(&self, text: &[u8]) -> Option<Range<usize>> {
        let schema = self.output_schema.raw(text)?;
        if is_object_schema(schema) {
            return None;
        }
        let (start, end) = (self.output_schema.name.start, self.output_schema.value.end);
        // The text is on one line: commas stand next to the member.
        if text[start - 1] == b',' {
            Some(start - 1..end)
        } else {
            Some(start..end + usize::from(text[end] == b','))
        }
    }

    fn task_support(&self, text: &[u8]) -> TaskSupport {
        let execution = self.execution.raw(text);
        let said = execution.and_then(|execution| member(execution, "taskSupport"));
        match said.and_then(string).as_deref() {
            Some("optional") => TaskSupport::Optional,
            Some("required") => TaskSupport::Required,
            // MCP 2025-11-25, ToolExecution: "forbidden" is what holds where nothing is said,
            // but only who says it has thought of it.
            None if said.is_none() => TaskSupport::Unsaid,
            Some(_) | None => TaskSupport::Forbidden,
        }
    }
}

fn is_object_schema(schema: &[u8]) -> bool {
    member(schema, "type").and_then(string).as_deref() == Some("object")
}

/// A definition whose input schema, the inside of which begins at `at`, says that it is
/// for an object. Arguments always are one, but strict clients insist on reading it.
fn with_object_type(text: &[u8], at: usize) -> Vec<u8> {
    let (before, behind) = text.split_at(at);
    let comma: &[u8] = if behind.starts_with(b"}") { b"" } else { b"," };
    [before, br#""type":"object""#, comma, behind].concat()
}

/// Appends JSON text without the white space between its tokens. Definitions go into
/// lists that must be one line: stdio and event streams end messages at line breaks.
fn minify(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        match byte {
            b'"' => {
                let end = string_end(raw, at);
                out.extend_from_slice(&raw[at..end]);
                at = end;
                continue;
            }
            b' ' | b'\t' | b'\n' | b'\r' => {}
            other => out.push(*other),
        }
        at += 1;
    }
}

/// Behind the closing quote of the string that begins at `start`.
fn string_end(raw: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = raw.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        let found = at + found;
        if raw[found] == b'"' {
            return found + 1;
        }
        at = found + 2;
    }
    raw.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn bad(kind: ListKind, raw: &str) -> BadEntry {
        Entry::read(kind, raw.as_bytes()).expect_err("must be left out")
    }

    #[test]
    fn a_definition_becomes_one_line() {
        let raw = "{ \"name\" : \"a b\",\n\t\"description\":\"x \\\" \\\\\",\r\n \"inputSchema\":{\"type\":\"object\"} }";
        let entry = Entry::read(ListKind::Tools, raw.as_bytes()).expect("a tool");
        let line = r#"{"name":"a b","description":"x \" \\","inputSchema":{"type":"object"}}"#;
        assert_eq!(&*entry.text, line.as_bytes());
        assert_eq!(&*entry.key, "a b");
    }

    #[test]
    fn only_the_name_is_rewritten() {
        let raw = br#"{"title":"name","name":"\u0061","inputSchema":{"type":"object","name":"a"}}"#;
        let entry = Entry::read(ListKind::Tools, raw).expect("a tool");
        let mut out = Vec::new();
        entry.write_as("s__a\"", Audience::Legacy, &mut out);
        let wanted =
            br#"{"title":"name","name":"s__a\"","inputSchema":{"type":"object","name":"a"}}"#;
        assert_eq!(out, wanted);
        out.clear();
        entry.write_as("a", Audience::Legacy, &mut out);
        assert_eq!(out, raw);
    }

    #[test]
    fn an_input_schema_gets_the_type_it_lacks() {
        let read = |schema: &str| {
            let raw = format!(r#"{{"inputSchema":{schema},"name":"a"}}"#);
            let entry = Entry::read(ListKind::Tools, raw.as_bytes()).expect("a tool");
            String::from_utf8(entry.text.into_vec()).expect("UTF-8")
        };
        assert_eq!(read("{ }"), r#"{"inputSchema":{"type":"object"},"name":"a"}"#);
        let wanted = r#"{"inputSchema":{"type":"object","properties":{}},"name":"a"}"#;
        assert_eq!(read(r#"{"properties":{}}"#), wanted);
    }

    #[test]
    fn legacy_clients_get_no_output_schema_of_another_type() {
        let written = |raw: &str, exposed: &str, era| {
            let entry = Entry::read(ListKind::Tools, raw.as_bytes()).expect("a tool");
            let mut out = Vec::new();
            entry.write_as(exposed, era, &mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        let input = r#""inputSchema":{"type":"object"}"#;
        let cut = format!(r#"{{"name":"b",{input}}}"#);
        let array = r#""outputSchema":{"type":"array"}"#;
        for raw in [
            format!(r#"{{{array},"name":"a",{input}}}"#),
            format!(r#"{{"name":"a",{array},{input}}}"#),
            format!(r#"{{"name":"a",{input},{array}}}"#),
        ] {
            assert_eq!(written(&raw, "b", Audience::Legacy), cut);
            assert_eq!(written(&raw, "a", Audience::Modern), raw);
            assert_eq!(written(&raw, "b", Audience::Modern), raw.replace(r#""a""#, r#""b""#));
        }
        let object = format!(r#"{{"name":"a",{input},"outputSchema":{{"type":"object"}}}}"#);
        assert_eq!(written(&object, "a", Audience::Legacy), object);
    }

    #[test]
    fn clients_that_know_tasks_are_told_how_a_tool_can_be_called() {
        let written = |raw: &str, support| {
            let entry = Entry::read(ListKind::Tools, raw.as_bytes()).expect("a tool");
            let mut out = Vec::new();
            entry.write_as("b", Audience::Tasks(support), &mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        let with =
            |rest: &str| format!(r#"{{"name":"b","inputSchema":{{"type":"object"}}{rest}}}"#);
        let said = |word: &str| format!(r#","execution":{{"taskSupport":"{word}"}}"#);
        let plain = with("").replace(r#""b""#, r#""a""#);
        assert_eq!(written(&plain, TaskSupport::Optional), with(&said("optional")));
        assert_eq!(written(&plain, TaskSupport::Required), with(&said("required")));
        assert_eq!(written(&plain, TaskSupport::Unsaid), with(""));
        let array = with(r#","outputSchema":{"type":"array"}"#);
        assert_eq!(written(&array, TaskSupport::Optional), with(&said("optional")));
        for already in ["optional", "required", "forbidden"] {
            let raw = with(&said(already));
            assert_eq!(written(&raw, TaskSupport::Required), with(&said("required")), "{already}");
        }
        let empty = with(r#","execution":{}"#);
        assert_eq!(written(&empty, TaskSupport::Optional), with(&said("optional")));
    }

    #[test]
    fn each_fault_is_told() {
        for raw in ["1", "[]", "null", "\"name\"", ""] {
            assert_eq!(bad(ListKind::Prompts, raw), BadEntry::NoObject, "{raw}");
        }
        for raw in ["{}", r#"{"name":1}"#, r#"{"name":""}"#, r#"{"name":"\ud800"}"#] {
            assert_eq!(bad(ListKind::Prompts, raw), BadEntry::NoText("name"), "{raw}");
        }
        assert_eq!(bad(ListKind::Resources, r#"{"name":"a"}"#), BadEntry::NoText("uri"));
        assert_eq!(bad(ListKind::Resources, r#"{"uri":"a:b"}"#), BadEntry::NoText("name"));
        assert_eq!(bad(ListKind::Templates, r#"{"name":"a"}"#), BadEntry::NoText("uriTemplate"));
        let twice = r#"{"name":"a","n\u0061me":"b"}"#;
        assert_eq!(bad(ListKind::Prompts, twice), BadEntry::Repeated("name"));
        let long = format!(r#"{{"name":"{}"}}"#, "a".repeat(KEY_BYTES_MAX + 1));
        let bytes = KEY_BYTES_MAX + 1;
        assert_eq!(bad(ListKind::Prompts, &long), BadEntry::KeyLong { member: "name", bytes });
        for schema in ["", r#","inputSchema":true"#, r#","inputSchema":{"type":"array"}"#] {
            let raw = format!(r#"{{"name":"a"{schema}}}"#);
            assert_eq!(bad(ListKind::Tools, &raw), BadEntry::InputSchema, "{raw}");
        }
    }

    #[test]
    fn hints_and_task_support_are_read() {
        let facts = |members: &str| {
            let raw = format!(r#"{{"name":"a","inputSchema":{{"type":"object"}},{members}}}"#);
            Entry::read(ListKind::Tools, raw.as_bytes()).expect("a tool").facts
        };
        assert_eq!(facts(r#""title":"x""#), ToolFacts::default());
        let read_only = facts(r#""annotations":{"readOnlyHint":true}"#);
        assert!(read_only.read_only && read_only.idempotent);
        let again = facts(r#""annotations":{"idempotentHint":true,"readOnlyHint":false}"#);
        assert!(!again.read_only && again.idempotent);
        let sloppy = facts(r#""annotations":{"readOnlyHint":"true"}"#);
        assert!(!sloppy.read_only && !sloppy.idempotent);
        let support = |said: &str| facts(&format!(r#""execution":{{"taskSupport":{said}}}"#));
        assert_eq!(support(r#""optional""#).task_support, TaskSupport::Optional);
        assert_eq!(support(r#""required""#).task_support, TaskSupport::Required);
        assert_eq!(support("7").task_support, TaskSupport::Forbidden);
        assert_eq!(support(r#""forbidden""#).task_support, TaskSupport::Forbidden);
        assert_eq!(facts(r#""execution":{"x":1}"#).task_support, TaskSupport::Unsaid);
    }
}
