//! From TOML text to a checked [`Config`], with problems that point at line, column and key.
//!
//! The text is read twice: once into a tree that knows where each value stands, for the
//! checks of names, kinds and ranges by [`KEYS`]; then by serde into the types.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, Kind, SECTIONS, find};
use super::{Config, Overrides, validate};

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
    /// The text of the line.
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
        let place = error.span().map(|span| Place::of(text, &span));
        let sentence = format!("the text is no TOML here: {}", error.message());
        invalid(vec![Problem { place, key: None, sentence }])
    })?;
    let source = Source { text, tree: tree.get_ref() };
    let problems = source.check_tree();
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let mut config: Config = toml::from_str(text).map_err(|error| {
        let span = error.span();
        let place = span.as_ref().map(|span| Place::of(text, span));
        let key = span.and_then(|span| source.key_around(&span));
        invalid(vec![Problem { place, key, sentence: error.message().to_owned() }])
    })?;
    config.lay_over(overrides);
    let problems = validate::contradictions(&config)
        .into_iter()
        .map(|(key, sentence)| Problem {
            place: source.place_of(key),
            key: Some(key.to_owned()),
            sentence,
        })
        .collect::<Vec<_>>();
    if problems.is_empty() { Ok(config) } else { Err(invalid(problems)) }
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
        for (section, value) in self.tree {
            let name: &str = section.get_ref();
            if !SECTIONS.iter().any(|(known, _)| *known == name) {
                let sentence = unknown_section(name);
                problems.push(self.problem(section.span(), name.to_owned(), sentence));
                continue;
            }
            let Some(keys) = value.get_ref().as_table() else {
                let sentence =
                    format!("{name} is a section: write [{name}] and its keys on lines below");
                problems.push(self.problem(value.span(), name.to_owned(), sentence));
                continue;
            };
            for (key, value) in keys {
                problems.extend(self.check_key(name, key, value));
            }
        }
        problems.sort_by_key(|problem| problem.place.as_ref().map(|p| (p.line, p.column)));
        problems
    }

    fn check_key(
        &self,
        section: &str,
        key: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Problem> {
        let path = format!("{section}.{}", key.get_ref());
        let Some(known) = find(&path) else {
            let sentence = unknown_key(section, key.get_ref());
            return Some(self.problem(key.span(), path, sentence));
        };
        let sentence = check_value(known.kind, value.get_ref())?;
        Some(self.problem(value.span(), path, sentence))
    }

    fn problem(&self, span: Range<usize>, key: String, sentence: String) -> Problem {
        Problem { place: Some(Place::of(self.text, &span)), key: Some(key), sentence }
    }

    /// Where the value of `path` stands, if the file has it.
    fn place_of(&self, path: &str) -> Option<Place> {
        let (section, key) = path.split_once('.')?;
        let value = self.tree.get(section)?.get_ref().as_table()?.get(key)?;
        Some(Place::of(self.text, &value.span()))
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
    };
    (!fits).then(|| format!("is {}, but must be {kind}", describe(value)))
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
    let sections = SECTIONS.iter().map(|(section, _)| *section);
    // Forgotten section headers are the commonest cause of a stray top-level key.
    let owner = KEYS.iter().find(|key| key.name() == name);
    let hint = match (owner, nearest(name, sections.clone())) {
        (Some(key), _) => format!("it belongs under [{}]", key.section()),
        (None, Some(near)) => format!("did you mean [{near}]?"),
        (None, None) => format!("the sections are {}", sections.collect::<Vec<_>>().join(", ")),
    };
    format!("there is no such section; {hint}")
}

fn unknown_key(section: &str, name: &str) -> String {
    let here = KEYS.iter().filter(|key| key.section() == section).map(|key| key.name());
    if let Some(near) = nearest(name, here.clone()) {
        return format!("there is no such key; did you mean {near}?");
    }
    if let Some(key) = KEYS.iter().find(|key| key.name() == name) {
        return format!("there is no such key here; it belongs under [{}]", key.section());
    }
    let here = here.collect::<Vec<_>>().join(", ");
    format!("there is no such key; the keys of [{section}] are {here}")
}

/// The most similar word, if one is similar enough to be meant.
fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

impl Place {
    fn of(text: &str, span: &Range<usize>) -> Place {
        let start = span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let end = span.end.clamp(start, line_end);
        Place {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            excerpt: text[line_start..line_end].trim_end().to_owned(),
            width: text[start..end].chars().count().max(1),
        }
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
