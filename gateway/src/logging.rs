//! Logging to standard error: for people on a terminal, JSON lines otherwise.
//!
//! Invariants:
//! - In the JSON format every line of standard error is one JSON object, panics included.
//! - The event with `"event":"ready"` comes once, when clients are served; scripts wait for it.
//!
//! Limit: a line is written by the thread that logs it, so shards log what is rare only.

use std::io::{self, IsTerminal};

use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::config::{Log, LogFormat};
use crate::control::NodeFacts;

/// How events look, after `auto` was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One line for people.
    Human {
        /// Whether with colours.
        colours: bool,
    },
    /// One JSON object per line.
    Json,
}

impl Style {
    /// Decides by the configuration and by what standard error is.
    pub fn of(format: LogFormat) -> Style {
        let is_terminal = io::stderr().is_terminal();
        // https://no-color.org: any value but the empty one turns colours off.
        let wants_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Style::decide(format, is_terminal, is_terminal && !wants_plain)
    }

    fn decide(format: LogFormat, is_terminal: bool, colours: bool) -> Style {
        match format {
            LogFormat::Human => Style::Human { colours },
            LogFormat::Auto if is_terminal => Style::Human { colours },
            LogFormat::Auto | LogFormat::Json => Style::Json,
        }
    }
}

/// Sends all events, and panics, to standard error from now on.
///
/// # Errors
/// Logging was started before.
pub fn start(log: &Log) -> Result<Style, SetGlobalDefaultError> {
    let style = Style::of(log.format);
    tracing::subscriber::set_global_default(subscriber(log, style, io::stderr))?;
    if style == Style::Json {
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(style)
}

/// Tells that clients are served. All fields are strings, so that scripts need no cases.
pub fn log_ready(facts: &NodeFacts) {
    tracing::info!(
        event = "ready",
        listen = facts.listen_text(),
        admin = facts.admin.to_string(),
        node = facts.node,
        shards = facts.shards.len().to_string(),
        upstreams = facts.upstreams.join(","),
        version = facts.version,
        "clients are served"
    );
}

fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let payload = panic.payload_as_str().unwrap_or("a payload that is no text");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    tracing::error!(event = "panic", thread, location, "{payload}");
}

fn subscriber<W>(log: &Log, style: Style, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match style {
        Style::Human { colours } => layer.with_ansi(colours).with_target(false).boxed(),
        Style::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(log.level.targets().clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic while locked").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: &Log, style: Style, write: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(log, style, move || writer.clone());
        tracing::subscriber::with_default(subscriber, write);
        let bytes = lines.0.lock().expect("no panic while locked").clone();
        String::from_utf8(bytes).expect("logs are text")
    }

    #[test]
    fn the_ready_line_is_flat_json_with_strings() {
        let facts = NodeFacts::for_tests();
        let text = logged(&Log::default(), Style::Json, || log_ready(&facts));
        let line: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
        for (field, value) in [
            ("event", "ready"),
            ("listen", "127.0.0.1:8080,[::1]:8080"),
            ("admin", "127.0.0.1:9090"),
            ("node", "gw-1"),
            ("shards", "2"),
            ("upstreams", ""),
            ("version", env!("CARGO_PKG_VERSION")),
            ("level", "INFO"),
        ] {
            assert_eq!(line[field], value, "{field} in {text}");
        }
        assert!(text.ends_with("}\n") && text.lines().count() == 1);
    }

    #[test]
    fn levels_filter_by_module_and_lines_for_people_are_plain_without_a_terminal() {
        let level = "warn,shardgate=debug".parse().expect("levels");
        let log = Log { level, ..Log::default() };
        let text = logged(&log, Style::Human { colours: false }, || {
            tracing::debug!(count = 3, "seen");
            tracing::trace!("not seen");
            tracing::info!(target: "elsewhere", "not seen");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("DEBUG") && text.contains("seen") && text.contains("count=3"));
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn auto_means_people_on_a_terminal_and_programs_otherwise() {
        assert_eq!(Style::decide(LogFormat::Auto, true, true), Style::Human { colours: true });
        assert_eq!(Style::decide(LogFormat::Auto, false, false), Style::Json);
        assert_eq!(Style::decide(LogFormat::Json, true, true), Style::Json);
        assert_eq!(Style::decide(LogFormat::Human, false, false), Style::Human { colours: false });
    }
}
