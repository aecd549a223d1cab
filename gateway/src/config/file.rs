//! From TOML text to a checked [`Config`], with problems that point at line, column and key.
//!
//! The text is read twice: once into a tree that knows where each value stands, for the
//! checks of names, kinds and ranges by the table of [`keys`]; then by serde into the types.
//!
//! Invariant: a line is quoted only if it holds no text that may be secret.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{EntryFaults, KeyPath};
use super::keys::{self, Kind, SECTIONS, Section};
use super::route::RouteTable;
use super::upstream_table::UpstreamTable;
use super::{Config, Overrides, RouteConfig, UpstreamConfig, validate};

/// A configuration file larger than this is taken for a mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read configuration file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is far too large to be a configuration.
    #[error("configuration file {path} has {bytes} bytes; more than {FILE_BYTES_MAX} are not read")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// How large it is.
        bytes: u64,
    },
    /// Something in it, or in the command line, is not right.
    #[error("{}", render(.name, .problems))]
    Invalid {
        /// The file's name, or what stands for it.
        name: String,
        /// What is wrong, in the order of the file; never empty.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file; `None` if it comes from the command line or from defaults.
    pub place: Option<Place>,
    /// The key, as `section.key`; `None` where the text is no TOML.
    pub key: Option<String>,
    /// A sentence for the reader.
    pub sentence: String,
}

/// A place in the file, for people: both numbers begin with 1, columns are characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
    /// The text of the line; empty if something in it may be secret.
    pub excerpt: String,
    /// How many characters are meant.
    pub width: usize,
}

pub(super) fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
    let Some(path) = path else {
        return parse("command line", "", overrides);
    };
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    parse(&path.display().to_string(), &text, overrides)
}

pub(super) fn parse(name: &str, text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
    let invalid = |problems| ConfigError::Invalid { name: name.to_owned(), problems };
    let tree = DeTable::parse(text).map_err(|error| {
        let place = error.span().map(|span| Place::of(text, &span).without_entries(text));
        let sentence = format!("the text is no TOML here: {}", error.message());
        invalid(vec![Problem { place, key: None, sentence }])
    })?;
    let source = Source { text, tree: tree.get_ref() };
    let mut problems = source.check_tree();
    if problems.is_empty() {
        problems = source.check_entries();
    }
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let mut config: Config = toml::from_str(text).map_err(|error| {
        let span = error.span();
        let place = span.as_ref().map(|span| source.place(span));
        let key = span.and_then(|span| source.key_around(&span));
        invalid(vec![Problem { place, key, sentence: error.message().to_owned() }])
    })?;
    config.lay_over(overrides);
    let problems = validate::contradictions(&config)
        .into_iter()
        .map(|(path, sentence)| source.problem_at(&path, sentence))
        .collect::<Vec<_>>();
    if problems.is_empty() { Ok(config) } else { Err(invalid(problems)) }
}

/// The sections that may repeat, as they are written. The others are of no interest here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entries {
    upstream: Vec<UpstreamTable>,
    route: Vec<RouteTable>,
}

/// The text, and its tree with places.
struct Source<'t> {
    text: &'t str,
    tree: &'t DeTable<'t>,
}

impl Source<'_> {
    /// Names, kinds and ranges.
    fn check_tree(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, value) in self.tree {
            let Some(section) = keys::section(name.get_ref()) else {
                let sentence = unknown_section(name.get_ref());
                problems.push(self.problem(name.span(), name.get_ref().to_string(), sentence));
                continue;
            };
            match entries_of(section, value) {
                Ok(entries) => {
                    for (index, table) in entries {
                        let entry = index.map(|index| (index, entry_name(table)));
                        self.check_table(section, entry, "", table, &mut problems);
                    }
                }
                Err(sentence) => {
                    problems.push(self.problem(value.span(), section.name.to_owned(), sentence));
                }
            }
        }
        problems.sort_by_key(|problem| problem.place.as_ref().map(|p| (p.line, p.column)));
        problems
    }

    /// The keys of one section, of one entry (index and name), or of a table within it (`within`, with its dot).
    fn check_table(
        &self,
        section: &'static Section,
        entry: Option<(usize, Option<&str>)>,
        within: &str,
        table: &DeTable<'_>,
        problems: &mut Vec<Problem>,
    ) {
        for (key, value) in table {
            let name = format!("{within}{}", key.get_ref());
            let shown = match entry {
                Some((index, called)) => {
                    KeyPath::of_entry(section.name, index, called, vec![name.clone()]).to_string()
                }
                None => format!("{}.{name}", section.name),
            };
            if let Some(known) = keys::find(&format!("{}.{name}", section.name)) {
                if let Some(sentence) = check_value(known.kind, value.get_ref()) {
                    problems.push(self.problem(value.span(), shown, sentence));
                }
            } else if keys::is_table(section.name, &name) {
                match value.get_ref().as_table() {
                    Some(inner) => {
                        self.check_table(section, entry, &format!("{name}."), inner, problems);
                    }
                    None => {
                        let sentence =
                            format!("is {}, but must be a table", kind_of(value.get_ref()));
                        problems.push(self.problem(value.span(), shown, sentence));
                    }
                }
            } else {
                problems.push(self.problem(key.span(), shown, unknown_key(section, &name)));
            }
        }
    }

    /// What the values of entries say.
    fn check_entries(&self) -> Vec<Problem> {
        // The kinds have been checked, so only a serde rule that the table of keys does not
        // know could fail here; the whole is read again with its place in a moment.
        let Ok(entries) = toml::from_str::<Entries>(self.text) else { return Vec::new() };
        let mut problems = Vec::new();
        for (index, table) in entries.upstream.into_iter().enumerate() {
            let name = table.name.clone();
            if let Err(faults) = UpstreamConfig::try_from(table) {
                problems.extend(self.entry_problems("upstream", index, name.as_deref(), faults));
            }
        }
        for (index, table) in entries.route.into_iter().enumerate() {
            let path = table.path.clone();
            if let Err(faults) = RouteConfig::try_from(table) {
                problems.extend(self.entry_problems("route", index, path.as_deref(), faults));
            }
        }
        problems.sort_by_key(|problem| problem.place.as_ref().map(|p| (p.line, p.column)));
        problems
    }

    fn entry_problems(
        &self,
        section: &'static str,
        index: usize,
        name: Option<&str>,
        faults: EntryFaults,
    ) -> impl Iterator<Item = Problem> {
        faults.0.into_iter().map(move |fault| {
            let path = KeyPath::of_entry(section, index, name, fault.keys);
            self.problem_at(&path, fault.sentence)
        })
    }

    fn problem_at(&self, path: &KeyPath, sentence: String) -> Problem {
        let place = self.span_of(path).map(|span| self.place(&span));
        Problem { place, key: Some(path.to_string()), sentence }
    }

    fn problem(&self, span: Range<usize>, key: String, sentence: String) -> Problem {
        Problem { place: Some(self.place(&span)), key: Some(key), sentence }
    }

    /// Where the value of `path` stands, if the file has it; within an entry, where as much
    /// of the path ends as the file has.
    fn span_of(&self, path: &KeyPath) -> Option<Range<usize>> {
        let mut value = self.tree.get(path.section())?;
        if let Some(index) = path.entry() {
            value = value.get_ref().as_array()?.get(index)?;
        }
        for key in path.keys() {
            match value.get_ref().as_table().and_then(|table| table.get(key.as_str())) {
                Some(inner) => value = inner,
                None if path.entry().is_some() => break,
                None => return None,
            }
        }
        Some(value.span())
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let place = Place::of(self.text, span);
        let line = line_around(self.text, span.start);
        let mut texts = Vec::new();
        for (name, value) in self.tree {
            collect_secrets(name.get_ref(), value, &mut texts);
        }
        if texts.iter().any(|text| text.start < line.end && line.start < text.end) {
            return Place { excerpt: String::new(), ..place };
        }
        place
    }

    /// The key whose value holds `span`.
    fn key_around(&self, span: &Range<usize>) -> Option<String> {
        self.tree.iter().find_map(|(section, keys)| {
            keys.get_ref().as_table()?.iter().find_map(|(key, value)| {
                let outer = value.span();
                (outer.start <= span.start && span.end <= outer.end)
                    .then(|| format!("{}.{}", section.get_ref(), key.get_ref()))
            })
        })
    }
}

/// The tables of a section, each with its index if there may be many.
fn entries_of<'t>(
    section: &Section,
    value: &'t Spanned<DeValue<'_>>,
) -> Result<Vec<(Option<usize>, &'t DeTable<'t>)>, String> {
    let (name, header) = (section.name, section.header());
    match (section.repeats, value.get_ref()) {
        (false, DeValue::Table(table)) => Ok(vec![(None, table)]),
        (true, DeValue::Array(items)) => items
            .iter()
            .enumerate()
            .map(|(index, item)| Some((Some(index), item.get_ref().as_table()?)))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| format!("each {name} is a section: write {header} and its keys below")),
        (true, DeValue::Table(_)) => {
            Err(format!("there may be many of these: write {header}, with two brackets"))
        }
        (false, DeValue::Array(_)) => {
            Err(format!("{name} stands once: write {header} and its keys on lines below"))
        }
        (true | false, _) => {
            Err(format!("{name} is a section: write {header} and its keys on lines below"))
        }
    }
}

/// What people call the entry.
fn entry_name<'t>(table: &'t DeTable<'_>) -> Option<&'t str> {
    ["name", "path"].iter().find_map(|key| table.get(*key)?.get_ref().as_str())
}

/// The places of texts that may be secret: those of keys that say so, and those of keys that
/// don't exist, for they may be mistyped.
fn collect_secrets(path: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<Range<usize>>) {
    if keys::find(path).is_some_and(|key| !key.may_be_secret()) {
        return;
    }
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                collect_secrets(&format!("{path}.{}", key.get_ref()), value, found);
            }
        }
        DeValue::Array(items) => items.iter().for_each(|item| collect_secrets(path, item, found)),
        DeValue::String(_) => found.push(value.span()),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// The bytes of the line that holds byte `at`.
fn line_around(text: &str, at: usize) -> Range<usize> {
    let at = at.min(text.len());
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
    start..end
}

/// `None` if the value has the right kind and lies within its range.
fn check_value(kind: Kind, value: &DeValue<'_>) -> Option<String> {
    let is_text_list =
        || value.as_array().is_some_and(|items| items.iter().all(|item| item.get_ref().is_str()));
    let fits = match kind {
        Kind::Integer { min, max, unit } => {
            let Some(integer) = value.as_integer() else {
                return Some(format!("is {}, but must be {kind}", describe(value)));
            };
            let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
            let in_range = number.is_some_and(|number| (min..=max).contains(&number));
            let is_shaped = !unit.wants_power_of_two() || number.is_some_and(u64::is_power_of_two);
            if in_range && is_shaped {
                return None;
            }
            return Some(format!("is {integer}, but must be {kind}"));
        }
        Kind::Boolean => value.is_bool(),
        Kind::Text => value.is_str(),
        Kind::TextList => is_text_list(),
        Kind::TextOrList => value.is_str() || is_text_list(),
        Kind::TextOrInteger => value.is_str() || value.is_integer(),
        Kind::Choice(words) => match value.as_str() {
            Some(text) if !words.contains(&text) => return Some(not_among(text, kind, words)),
            Some(_) | None => value.is_str(),
        },
        Kind::TextTable => match value.as_table() {
            Some(table) if table.values().all(|value| value.get_ref().is_str()) => true,
            Some(_) => {
                return Some(format!(
                    "is a table with something else than texts, but must be {kind}"
                ));
            }
            // Such values may be secret.
            None => return Some(format!("is {}, but must be {kind}", kind_of(value))),
        },
        Kind::NodeList => match value.as_array() {
            Some(nodes) => return nodes.iter().find_map(|node| not_a_node(node.get_ref())),
            None => false,
        },
    };
    (!fits).then(|| format!("is {}, but must be {kind}", describe(value)))
}

/// What is wrong with one node of a list.
fn not_a_node(value: &DeValue<'_>) -> Option<String> {
    const KEYS: [&str; 5] = ["id", "name", "address", "zone", "region"];
    let Some(table) = value.as_table() else {
        return Some(format!("has {} in it, but must be {}", kind_of(value), Kind::NodeList));
    };
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.get_ref().as_ref())) {
        let keys = KEYS.join(", ");
        return Some(format!("a node has no key {:?}; its keys are {keys}", unknown.get_ref()));
    }
    if let Some(missing) = KEYS[..3].iter().find(|key| !table.contains_key(**key)) {
        return Some(format!("a node needs its {missing}; it must be {}", Kind::NodeList));
    }
    let (id, texts) = KEYS.split_first().expect("there are keys");
    let range = Kind::Integer { min: 1, max: u64::from(u16::MAX), unit: keys::Unit::Count };
    let wrong_id = table.get(*id).and_then(|value| check_value(range, value.get_ref()));
    let wrong_text = || {
        texts.iter().find_map(|key| {
            let sentence = check_value(Kind::Text, table.get(*key)?.get_ref())?;
            Some(format!("{key} {sentence}"))
        })
    };
    wrong_id.map(|sentence| format!("id {sentence}")).or_else(wrong_text)
}

fn not_among(text: &str, kind: Kind, words: &[&'static str]) -> String {
    let hint = match nearest(text, words.iter().copied()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    format!("is the text {text:?}, but must be {kind}{hint}")
}

/// What sort of value it is, without the value.
fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => format!("the date {datetime}"),
        DeValue::Array(items) if items.iter().all(|item| item.get_ref().is_str()) => {
            "a list".to_owned()
        }
        DeValue::Array(_) => "a list with something else than texts".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn unknown_section(name: &str) -> String {
    let sections = SECTIONS.iter().map(|section| section.name);
    // Forgotten section headers are the commonest cause of a stray top-level key.
    let hint = match (nearest(name, sections.clone()), owner_of(name)) {
        (Some(near), _) => format!("did you mean {}?", header_of(near)),
        (None, Some(owner)) => format!("it belongs under {}", owner.header()),
        (None, None) => format!("the sections are {}", sections.collect::<Vec<_>>().join(", ")),
    };
    format!("there is no such section; {hint}")
}

fn unknown_key(section: &Section, name: &str) -> String {
    let here = || keys::all().filter(|key| key.section() == section.name).map(|key| key.name());
    if let Some(near) = nearest(name, here()) {
        return format!("there is no such key; did you mean {near}?");
    }
    if let Some(owner) = owner_of(name) {
        return format!("there is no such key here; it belongs under {}", owner.header());
    }
    let here = here().collect::<Vec<_>>().join(", ");
    format!("there is no such key; the keys of {} are {here}", section.header())
}

/// The section that has a key of this name.
fn owner_of(name: &str) -> Option<&'static Section> {
    keys::all().find(|key| key.name() == name).and_then(|key| keys::section(key.section()))
}

fn header_of(section: &str) -> String {
    keys::section(section).map(Section::header).unwrap_or_default()
}

/// The most similar word, if one is similar enough to be meant.
pub(super) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

impl Place {
    fn of(text: &str, span: &Range<usize>) -> Place {
        let start = span.start.min(text.len());
        let line = line_around(text, start);
        let end = span.end.clamp(start, line.end);
        Place {
            line: text[..line.start].matches('\n').count() + 1,
            column: text[line.start..start].chars().count() + 1,
            width: text[start..end].chars().count().max(1),
            excerpt: text[line].trim_end().to_owned(),
        }
    }

    /// Where the text is no TOML, nobody knows what a line is; so none is quoted from the
    /// first entry of upstreams on, however that word is spelled.
    fn without_entries(self, text: &str) -> Place {
        let begins_entries =
            |line: &str| line.trim_start().starts_with("[[") || line.contains("upstream");
        if text.lines().take(self.line).any(begins_entries) {
            return Place { excerpt: String::new(), ..self };
        }
        self
    }
}

fn render(name: &str, problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => format!("the configuration ({name}) has a problem:"),
        count => format!("the configuration ({name}) has {count} problems:"),
    };
    for problem in problems {
        text.push_str("\n\n");
        text.push_str(&problem.render(name));
    }
    text
}

impl Problem {
    fn render(&self, name: &str) -> String {
        let key = self.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        let Some(place) = &self.place else {
            return format!("{key}{}", self.sentence);
        };
        let Place { line, column, excerpt, width } = place;
        if excerpt.is_empty() {
            return format!("{name}:{line}:{column}: {key}{}", self.sentence);
        }
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs stay tabs, so that the mark stands below its word.
        let indent: String =
            excerpt.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let mark = "^".repeat(*width);
        format!(
            "{name}:{line}:{column}: {key}{}\n  {number} | {excerpt}\n  {gutter} | {indent}{mark}",
            self.sentence
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render("configuration"))
    }
}
