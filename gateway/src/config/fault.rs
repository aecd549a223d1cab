//! Which key a sentence about the configuration means.

use std::fmt;

/// A key of the file: `section.key`, or `section[n].key` in a section that may repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyPath {
    section: &'static str,
    entry: Option<Entry>,
    keys: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    index: usize,
    name: Option<String>,
}

impl KeyPath {
    /// A key of entry `index`, which counts from 0, of a section that may repeat. `name` is
    /// what people call the entry; no keys mean the entry itself.
    pub(super) fn of_entry(
        section: &'static str,
        index: usize,
        name: Option<&str>,
        keys: Vec<String>,
    ) -> KeyPath {
        let entry = Some(Entry { index, name: name.map(str::to_owned) });
        KeyPath { section, entry, keys }
    }

    pub(super) fn section(&self) -> &'static str {
        self.section
    }

    /// The index of the entry, from 0, in a section that may repeat.
    pub(super) fn entry(&self) -> Option<usize> {
        self.entry.as_ref().map(|entry| entry.index)
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }
}

impl From<&'static str> for KeyPath {
    /// `section.key`, or `section.table.key`
    fn from(path: &'static str) -> KeyPath {
        let (section, key) = path.split_once('.').unwrap_or((path, ""));
        let keys =
            if key.is_empty() { Vec::new() } else { key.split('.').map(str::to_owned).collect() };
        KeyPath { section, entry: None, keys }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.section)?;
        if let Some(entry) = &self.entry {
            // As lines do, entries count from 1 for people.
            write!(formatter, "[{}]", entry.index + 1)?;
        }
        for key in &self.keys {
            write!(formatter, ".{key}")?;
        }
        match self.entry.as_ref().and_then(|entry| entry.name.as_ref()) {
            Some(name) => write!(formatter, " ({name})"),
            None => Ok(()),
        }
    }
}

/// What is wrong within one entry of a section that may repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryFault {
    /// The key, or the path to it through tables; empty if the entry as a whole is meant.
    pub(super) keys: Vec<String>,
    /// A sentence for the reader, which never repeats a value that may be secret.
    pub(super) sentence: String,
}

/// Collects what is wrong with an entry, so that all of it is told at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EntryFaults(pub(super) Vec<EntryFault>);

impl EntryFaults {
    pub(super) fn add(&mut self, keys: &[&str], sentence: impl Into<String>) {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        self.0.push(EntryFault { keys, sentence: sentence.into() });
    }

    /// The value, or `None` after noting what is wrong with it.
    pub(super) fn check<T>(&mut self, keys: &[&str], value: Result<T, String>) -> Option<T> {
        value.map_err(|sentence| self.add(keys, sentence)).ok()
    }
}

impl fmt::Display for EntryFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{}: {}", fault.keys.join("."), fault.sentence)?;
        }
        Ok(())
    }
}
