//! Definitions that someone has looked at: a tool that has changed since is quarantined.
//!
//! A tool's description is an instruction to the model that reads it, so a server can
//! change what a model does by changing a description after it was approved.
//!
//! The text form has one pin a line, `<hash> <server> <tool>`, the last two as JSON
//! strings, sorted; `#` begins a comment line.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::definition::DefinitionHash;
use crate::jsonrpc::{string, walk_elements, write_string};

/// What pins do to a server's tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pinning {
    /// Nothing.
    #[default]
    Off,
    /// A pinned tool that has changed is quarantined; one that is not pinned passes.
    Changed,
    /// Whatever is not pinned as it is, is quarantined.
    Strict,
}

/// Approved definitions by server and bare tool name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    servers: BTreeMap<String, BTreeMap<String, DefinitionHash>>,
}

/// The text of a line that is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pins, line {line}: expected a hash of 64 hex digits and two JSON strings, found {text:?}")]
pub struct BadPins {
    /// Counted from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
}

impl Pins {
    /// No pins.
    pub fn new() -> Pins {
        Pins::default()
    }

    /// Approves a definition.
    pub fn insert(&mut self, server: &str, tool: &str, hash: DefinitionHash) {
        self.servers.entry(server.to_owned()).or_default().insert(tool.to_owned(), hash);
    }

    /// Forgets what was approved of a server.
    pub fn remove_server(&mut self, server: &str) {
        self.servers.remove(server);
    }

    /// The approved definition of a tool.
    pub fn approved(&self, server: &str, tool: &str) -> Option<DefinitionHash> {
        self.servers.get(server)?.get(tool).copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.servers.values().map(BTreeMap::len).sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if a tool is to be quarantined.
    pub(super) fn objects(
        &self,
        pinning: Pinning,
        server: &str,
        tool: &str,
        hash: DefinitionHash,
    ) -> bool {
        match pinning {
            Pinning::Off => false,
            Pinning::Changed => self.approved(server, tool).is_some_and(|pin| pin != hash),
            Pinning::Strict => self.approved(server, tool) != Some(hash),
        }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// Names the first line that is no pin.
    pub fn parse(text: &str) -> Result<Pins, BadPins> {
        let mut pins = Pins::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (server, tool, hash) =
                parse_line(line).ok_or(BadPins { line: at + 1, text: line.to_owned() })?;
            pins.insert(&server, &tool, hash);
        }
        Ok(pins)
    }

    /// Writes the text form: equal pins give equal text.
    pub fn write(&self) -> String {
        let mut out = Vec::new();
        for (server, tools) in &self.servers {
            for (tool, hash) in tools {
                out.extend_from_slice(hash.to_string().as_bytes());
                out.push(b' ');
                write_string(&mut out, server);
                out.push(b' ');
                write_string(&mut out, tool);
                out.push(b'\n');
            }
        }
        String::from_utf8(out).expect("escaped strings stay UTF-8")
    }
}

fn parse_line(line: &str) -> Option<(String, String, DefinitionHash)> {
    let (hash, names) = line.split_once(' ')?;
    let hash = DefinitionHash::parse(hash)?;
    // A space parts the names, but they may hold some themselves.
    let mut spaces = names.match_indices(' ');
    let (server, tool) = spaces
        .find_map(|(at, _)| Some((one_string(&names[..at])?, one_string(&names[at + 1..])?)))?;
    Some((server, tool, hash))
}

/// What a text says that is one JSON string and nothing else.
fn one_string(text: &str) -> Option<String> {
    let array = format!("[{text}]");
    let mut elements = Vec::new();
    let whole = walk_elements(array.as_bytes(), |element| elements.push(element));
    match elements.as_slice() {
        [element] if whole => string(element).map(Cow::into_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_as_written() {
        let mut pins = Pins::new();
        for (server, tool, byte) in [("b", "x", 1), ("a", "with \"quote\\", 2), ("a", "é\n#", 3)] {
            pins.insert(server, tool, DefinitionHash([byte; 32]));
        }
        let text = pins.write();
        assert_eq!(text.lines().count(), 3);
        assert_eq!(Pins::parse(&format!("# approved\n\n{text}")), Ok(pins));
    }

    #[test]
    fn a_broken_line_is_named() {
        let hash = DefinitionHash([7; 32]);
        for line in [
            "x".to_owned(),
            hash.to_string(),
            format!("{hash} \"a\""),
            format!("{hash} \"a\" b"),
            format!("{hash} \"a\" \"b\" \"c\""),
            format!("{hash} \"a\" \"b\", \"c\""),
            format!("{hash} \"a\" 1"),
        ] {
            let bad = Pins::parse(&format!("#\n{line}\n")).expect_err(&line);
            assert_eq!(bad, BadPins { line: 2, text: line });
        }
    }

    #[test]
    fn pinning_decides_what_a_pin_means() {
        let mut pins = Pins::new();
        let (old, new) = (DefinitionHash([1; 32]), DefinitionHash([2; 32]));
        pins.insert("s", "t", old);
        let table = [
            (Pinning::Off, "t", new, false),
            (Pinning::Changed, "t", old, false),
            (Pinning::Changed, "t", new, true),
            (Pinning::Changed, "u", new, false),
            (Pinning::Strict, "t", old, false),
            (Pinning::Strict, "t", new, true),
            (Pinning::Strict, "u", new, true),
        ];
        for (pinning, tool, hash, wanted) in table {
            assert_eq!(pins.objects(pinning, "s", tool, hash), wanted, "{pinning:?} {tool}");
        }
    }
}
