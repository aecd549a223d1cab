//! `[[upstream]]` as it stands in the file, and its way to [`UpstreamConfig`].
//!
//! Names, kinds and ranges have been checked by the table of keys before; what is checked
//! here is what the values say. All that is wrong is collected.
//!
//! Invariant: no sentence repeats the value of a header, of a variable or of a URL.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault::EntryFaults;
use super::header;
use super::hidden::HiddenText;
use super::pattern::{NameFilter, NamePattern, PATTERNS_MAX};
use super::upstream::{
    HeaderConfig, HttpTransport, HttpUpstream, ModernSessions, Prefix, Sharing, StdioUpstream,
    UpstreamConfig, UpstreamKind, UpstreamLimits, UpstreamName, UpstreamProtocol, ValueSource,
};
use super::url::HttpUrl;

/// Keys that mean something only beside `url`.
pub(super) const HTTP_ONLY: [&str; 9] = [
    "transport",
    "headers",
    "headers_from_env",
    "headers_from_file",
    "ca_file",
    "connections_max",
    "connect_timeout_ms",
    "idle_connection_ms",
    "standing_stream",
];
/// Keys that mean something only beside `command`.
pub(super) const STDIO_ONLY: [&str; 5] =
    ["env", "env_from", "directory", "sharing", "children_max"];

const CONNECTIONS_MAX: usize = 256;
const CONNECT_TIMEOUT_MS: u64 = 5_000;
const IDLE_CONNECTION_MS: u64 = 4_000;
const CHILDREN_MAX: usize = 64;
const LIMITS: UpstreamLimits = UpstreamLimits::DEFAULT;

type Texts = BTreeMap<String, String>;
type HiddenTexts = BTreeMap<String, HiddenText>;

/// One entry of the file, each key as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UpstreamTable {
    pub(super) name: Option<String>,
    enabled: Option<bool>,
    url: Option<HiddenText>,
    transport: Option<HttpTransport>,
    headers: Option<HiddenTexts>,
    headers_from_env: Option<Texts>,
    headers_from_file: Option<Texts>,
    ca_file: Option<PathBuf>,
    connections_max: Option<usize>,
    connect_timeout_ms: Option<u64>,
    idle_connection_ms: Option<u64>,
    standing_stream: Option<bool>,
    command: Option<Vec<String>>,
    env: Option<HiddenTexts>,
    env_from: Option<Texts>,
    directory: Option<PathBuf>,
    sharing: Option<Sharing>,
    children_max: Option<usize>,
    protocol: Option<UpstreamProtocol>,
    prefix: Option<Prefix>,
    tools: Option<FilterTable>,
    pin: Option<bool>,
    modern_sessions: Option<ModernSessions>,
    in_flight_max: Option<usize>,
    request_timeout_ms: Option<u64>,
    request_lifetime_ms: Option<u64>,
    idle_session_ms: Option<u64>,
    breaker_failures: Option<u32>,
    breaker_open_ms: Option<u64>,
    refresh_ms: Option<u64>,
}

/// `tools = { allow = […], deny = […] }`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FilterTable {
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

impl TryFrom<UpstreamTable> for UpstreamConfig {
    type Error = EntryFaults;

    fn try_from(table: UpstreamTable) -> Result<UpstreamConfig, EntryFaults> {
        let mut faults = EntryFaults::default();
        let name = faults.check(&["name"], name(table.name.as_deref()));
        let kind = kind(&table, &mut faults);
        let tools = filter(table.tools.as_ref(), &mut faults);
        let limits = limits(&table, &mut faults);
        let (Some(name), Some(kind), true) = (name, kind, faults.0.is_empty()) else {
            return Err(faults);
        };
        Ok(UpstreamConfig {
            name,
            enabled: table.enabled.unwrap_or(true),
            kind,
            protocol: table.protocol.unwrap_or_default(),
            prefix: table.prefix.unwrap_or_default(),
            tools,
            pin: table.pin.unwrap_or(false),
            modern_sessions: table.modern_sessions.unwrap_or_default(),
            limits,
        })
    }
}

fn name(text: Option<&str>) -> Result<UpstreamName, String> {
    let text = text.ok_or_else(|| {
        "an upstream needs a name, such as name = \"files\": routes and prefixed tools use it"
            .to_owned()
    })?;
    if text == UpstreamName::EMBEDDED {
        return Err(format!("{text:?} is the name of the built-in server; choose another"));
    }
    text.parse()
}

fn kind(table: &UpstreamTable, faults: &mut EntryFaults) -> Option<UpstreamKind> {
    match (&table.command, &table.url) {
        (Some(command), None) => {
            refuse_unfit(table, &HTTP_ONLY, "url", "command", faults);
            stdio(table, command, faults).map(UpstreamKind::Stdio)
        }
        (None, Some(url)) => {
            refuse_unfit(table, &STDIO_ONLY, "command", "url", faults);
            http(table, url, faults).map(UpstreamKind::Http)
        }
        (Some(_), Some(_)) => {
            let sentence = "command is given as well, but an upstream is either a child process \
                            or a URL; make two entries of it";
            faults.add(&["url"], sentence);
            None
        }
        (None, None) => {
            let sentence = "neither command nor url is given: say what to start, such as \
                            command = [\"program\", \"argument\"], or what to connect to, such \
                            as url = \"https://host/mcp\"";
            faults.add(&[], sentence);
            None
        }
    }
}

/// An option that can't have an effect is a misunderstanding.
fn refuse_unfit(
    table: &UpstreamTable,
    unfit: &[&'static str],
    wanted: &str,
    given: &str,
    faults: &mut EntryFaults,
) {
    // What is not set is not serialised, so the keys of this are those of the file.
    let written = toml::Table::try_from(table).unwrap_or_default();
    for key in unfit.iter().filter(|key| written.contains_key(**key)) {
        faults.add(&[key], format!("goes with {wanted}, but this upstream has {given}; remove it"));
    }
}

fn http(table: &UpstreamTable, url: &HiddenText, faults: &mut EntryFaults) -> Option<HttpUpstream> {
    let url = faults.check(&["url"], HttpUrl::parse(url.reveal()));
    let headers = headers(table, faults);
    let transport = table.transport.unwrap_or_default();
    let is_modern = table.protocol == Some(UpstreamProtocol::Modern);
    if transport == HttpTransport::HttpSse && is_modern {
        let sentence = "\"http-sse\" is a transport of 2024-11-05, which no modern server has; \
                        remove transport or protocol = \"modern\"";
        faults.add(&["transport"], sentence);
    }
    let is_plain = url.as_ref().is_some_and(|url| url.scheme() == super::url::Scheme::Http);
    if is_plain && table.ca_file.is_some() {
        faults.add(&["ca_file"], "is for https, but the URL begins with http:// and uses no TLS");
    }
    Some(HttpUpstream {
        url: url?,
        transport,
        headers,
        ca_file: table.ca_file.clone(),
        connections_max: table.connections_max.unwrap_or(CONNECTIONS_MAX),
        connect_timeout_ms: table.connect_timeout_ms.unwrap_or(CONNECT_TIMEOUT_MS),
        idle_connection_ms: table.idle_connection_ms.unwrap_or(IDLE_CONNECTION_MS),
        standing_stream: table.standing_stream.unwrap_or(true),
    })
}

fn headers(table: &UpstreamTable, faults: &mut EntryFaults) -> Vec<HeaderConfig> {
    let mut headers: Vec<HeaderConfig> = Vec::new();
    let given = plain(&table.headers)
        .map(|(name, value)| ("headers", name, value))
        .chain(variables(&table.headers_from_env).map(|(n, v)| ("headers_from_env", n, v)))
        .chain(files(&table.headers_from_file).map(|(n, v)| ("headers_from_file", n, v)));
    for (key, name, value) in given {
        let at = [key, name.as_str()];
        faults.check(&at, header::check_name(name));
        faults.check(&at, check_source(&value, header::check_value));
        if headers.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
            faults.add(&at, "is given twice: names of headers don't differ by case; remove one");
        }
        headers.push(HeaderConfig { name: name.clone(), value });
    }
    if headers.len() > header::HEADERS_MAX {
        let sentence =
            format!("{} headers are given, but at most {}", headers.len(), header::HEADERS_MAX);
        faults.add(&["headers"], sentence);
    }
    headers
}

fn stdio(
    table: &UpstreamTable,
    command: &[String],
    faults: &mut EntryFaults,
) -> Option<StdioUpstream> {
    let has_nul = command.iter().any(|word| word.contains('\0'));
    let words = command.split_first().filter(|(program, _)| !program.is_empty() && !has_nul);
    let Some((program, arguments)) = words else {
        let sentence = "must begin with the program to start, such as [\"program\", \
                        \"argument\"], and hold no NUL";
        faults.add(&["command"], sentence);
        return None;
    };
    let sharing = table.sharing.unwrap_or_default();
    if sharing == Sharing::Shared && table.children_max.is_some() {
        let sentence = "is for sharing = \"session\"; a shared child is the only one";
        faults.add(&["children_max"], sentence);
    }
    if table.directory.as_ref().is_some_and(|directory| directory.as_os_str().is_empty()) {
        faults.add(&["directory"], "is empty; remove it to start in the gateway's directory");
    }
    let children_max = match sharing {
        Sharing::Session => table.children_max.unwrap_or(CHILDREN_MAX),
        Sharing::Shared => 1,
    };
    Some(StdioUpstream {
        program: program.clone(),
        arguments: arguments.to_vec(),
        env: environment(table, faults),
        directory: table.directory.clone(),
        sharing,
        children_max,
    })
}

fn environment(table: &UpstreamTable, faults: &mut EntryFaults) -> Vec<(String, ValueSource)> {
    let mut variables_of_child: Vec<(String, ValueSource)> = Vec::new();
    let given = plain(&table.env)
        .map(|(name, value)| ("env", name, value))
        .chain(variables(&table.env_from).map(|(name, value)| ("env_from", name, value)));
    for (key, name, value) in given {
        let at = [key, name.as_str()];
        if name.is_empty() || name.contains(['=', '\0']) {
            faults.add(&at, "is no name of a variable: it must not be empty or hold '=' or NUL");
        }
        faults.check(&at, check_source(&value, check_variable));
        if variables_of_child.iter().any(|(other, _)| other == name) {
            faults.add(&at, "is given in env as well; remove one");
        }
        variables_of_child.push((name.clone(), value));
    }
    variables_of_child
}

/// What an environment can't hold.
pub(super) fn check_variable(value: &str) -> Result<(), String> {
    if value.contains('\0') {
        return Err("has a NUL in its value, which no environment can hold".to_owned());
    }
    Ok(())
}

fn check_source(
    source: &ValueSource,
    check_text: impl Fn(&str) -> Result<(), String>,
) -> Result<(), String> {
    match source {
        ValueSource::Plain(text) => check_text(text.reveal()),
        ValueSource::Variable(name) if name.is_empty() || name.contains(['=', '\0']) => {
            Err(format!("{name:?} is no name of an environment variable"))
        }
        ValueSource::File(path) if path.as_os_str().is_empty() => {
            Err("names no file: the path is empty".to_owned())
        }
        ValueSource::Variable(_) | ValueSource::File(_) => Ok(()),
    }
}

fn plain(texts: &Option<HiddenTexts>) -> impl Iterator<Item = (&String, ValueSource)> {
    texts.iter().flatten().map(|(name, text)| (name, ValueSource::Plain(text.clone())))
}

fn variables(texts: &Option<Texts>) -> impl Iterator<Item = (&String, ValueSource)> {
    texts.iter().flatten().map(|(name, text)| (name, ValueSource::Variable(text.clone())))
}

fn files(texts: &Option<Texts>) -> impl Iterator<Item = (&String, ValueSource)> {
    texts.iter().flatten().map(|(name, text)| (name, ValueSource::File(text.into())))
}

fn limits(table: &UpstreamTable, faults: &mut EntryFaults) -> UpstreamLimits {
    let limits = UpstreamLimits {
        in_flight_max: table.in_flight_max.unwrap_or(LIMITS.in_flight_max),
        request_timeout_ms: table.request_timeout_ms.unwrap_or(LIMITS.request_timeout_ms),
        request_lifetime_ms: table.request_lifetime_ms.unwrap_or(LIMITS.request_lifetime_ms),
        idle_session_ms: table.idle_session_ms.unwrap_or(LIMITS.idle_session_ms),
        breaker_failures: table.breaker_failures.unwrap_or(LIMITS.breaker_failures),
        breaker_open_ms: table.breaker_open_ms.unwrap_or(LIMITS.breaker_open_ms),
        refresh_ms: table.refresh_ms.unwrap_or(LIMITS.refresh_ms),
    };
    let UpstreamLimits { request_timeout_ms: timeout, request_lifetime_ms: lifetime, .. } = limits;
    if lifetime < timeout {
        // Told at the key that is written; the other one is a default.
        let key = if table.request_lifetime_ms.is_some() {
            "request_lifetime_ms"
        } else {
            "request_timeout_ms"
        };
        let sentence =
            format!("request_lifetime_ms = {lifetime} is below request_timeout_ms = {timeout}");
        faults.add(&[key], sentence);
    }
    limits
}

/// The filter, or the default after noting what is wrong with it.
pub(super) fn filter(table: Option<&FilterTable>, faults: &mut EntryFaults) -> NameFilter {
    let mut filter = NameFilter::default();
    let Some(table) = table else { return filter };
    for (key, texts, patterns) in
        [("allow", &table.allow, &mut filter.allow), ("deny", &table.deny, &mut filter.deny)]
    {
        let Some(texts) = texts else { continue };
        if texts.len() > PATTERNS_MAX {
            let sentence =
                format!("{} patterns are given, but at most {PATTERNS_MAX}", texts.len());
            faults.add(&["tools", key], sentence);
        }
        let parsed = texts.iter().map(|text| faults.check(&["tools", key], text.parse()));
        *patterns = parsed.flatten().collect();
    }
    if filter.allow.is_empty() && table.allow.as_ref().is_some_and(Vec::is_empty) {
        let sentence = "the list is empty, so no tool would be offered; [\"*\"] allows all";
        faults.add(&["tools", "allow"], sentence);
    }
    filter
}

impl From<&NameFilter> for FilterTable {
    fn from(filter: &NameFilter) -> FilterTable {
        let texts =
            |patterns: &[NamePattern]| Some(patterns.iter().map(ToString::to_string).collect());
        FilterTable { allow: texts(&filter.allow), deny: texts(&filter.deny) }
    }
}

impl From<UpstreamConfig> for UpstreamTable {
    fn from(config: UpstreamConfig) -> UpstreamTable {
        let limits = config.limits;
        let table = UpstreamTable {
            name: Some(config.name.into()),
            enabled: Some(config.enabled),
            protocol: Some(config.protocol),
            prefix: Some(config.prefix),
            tools: Some((&config.tools).into()),
            pin: Some(config.pin),
            modern_sessions: Some(config.modern_sessions),
            in_flight_max: Some(limits.in_flight_max),
            request_timeout_ms: Some(limits.request_timeout_ms),
            request_lifetime_ms: Some(limits.request_lifetime_ms),
            idle_session_ms: Some(limits.idle_session_ms),
            breaker_failures: Some(limits.breaker_failures),
            breaker_open_ms: Some(limits.breaker_open_ms),
            refresh_ms: Some(limits.refresh_ms),
            ..UpstreamTable::default()
        };
        match config.kind {
            UpstreamKind::Http(http) => with_http(table, http),
            UpstreamKind::Stdio(stdio) => with_stdio(table, stdio),
        }
    }
}

fn with_http(table: UpstreamTable, http: HttpUpstream) -> UpstreamTable {
    let mut by_source = BySource::default();
    http.headers.into_iter().for_each(|header| by_source.add(header.name, header.value));
    UpstreamTable {
        url: Some(HiddenText::new(http.url.reveal())),
        transport: Some(http.transport),
        headers: some(by_source.plain),
        headers_from_env: some(by_source.variables),
        headers_from_file: some(by_source.files),
        ca_file: http.ca_file,
        connections_max: Some(http.connections_max),
        connect_timeout_ms: Some(http.connect_timeout_ms),
        idle_connection_ms: Some(http.idle_connection_ms),
        standing_stream: Some(http.standing_stream),
        ..table
    }
}

fn with_stdio(table: UpstreamTable, stdio: StdioUpstream) -> UpstreamTable {
    let mut by_source = BySource::default();
    stdio.env.into_iter().for_each(|(name, value)| by_source.add(name, value));
    let mut command = vec![stdio.program];
    command.extend(stdio.arguments);
    UpstreamTable {
        command: Some(command),
        env: some(by_source.plain),
        env_from: some(by_source.variables),
        directory: stdio.directory,
        sharing: Some(stdio.sharing),
        children_max: (stdio.sharing == Sharing::Session).then_some(stdio.children_max),
        ..table
    }
}

#[derive(Default)]
struct BySource {
    plain: HiddenTexts,
    variables: Texts,
    files: Texts,
}

impl BySource {
    fn add(&mut self, name: String, source: ValueSource) {
        match source {
            ValueSource::Plain(text) => drop(self.plain.insert(name, text)),
            ValueSource::Variable(variable) => drop(self.variables.insert(name, variable)),
            ValueSource::File(path) => {
                drop(self.files.insert(name, path.to_string_lossy().into_owned()));
            }
        }
    }
}

fn some<T>(map: BTreeMap<String, T>) -> Option<BTreeMap<String, T>> {
    (!map.is_empty()).then_some(map)
}
