//! Reads the configuration again while the gateway runs: on SIGHUP, and when its file changes.
//!
//! The file is looked at once a second instead of being watched by inotify: replacing it by
//! rename, writing it in place, exchanging a symbolic link above it and network file systems
//! all look the same to `stat`, and nothing has to be set up again after any of them.
//!
//! Invariants:
//! - A configuration that is not usable changes nothing, and says why in the log.
//! - What is handed on differs from what runs only in `[[upstream]]` and `[[route]]`; other
//!   changes are named in a warning and wait for a restart.
//! - A changed file is read only when it has stayed the same from one look to the next, for
//!   it may be half written.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::Signal;

use crate::config::{Config, ConfigOrigin};

/// How often the file is looked at.
pub const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// What reloading needs.
#[derive(Debug)]
pub struct ReloadSetup {
    /// From where the configuration came.
    pub origin: ConfigOrigin,
    /// What the gateway was started with.
    pub running: Config,
    /// Where a usable configuration goes, whole. While it is full, no further one is read.
    pub accepted: flume::Sender<Config>,
}

/// How many reloads there were, shared with the metrics.
#[derive(Clone, Debug, Default)]
pub struct ReloadCounts {
    accepted: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl ReloadCounts {
    /// Those that were usable.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Those that were not.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Looks and listens for ever.
pub(super) async fn watch(setup: ReloadSetup, counts: ReloadCounts, mut hangups: Signal) {
    let ReloadSetup { origin, running, accepted } = setup;
    let mut reloader = Reloader::new(origin, running, counts);
    loop {
        let config = match tokio::time::timeout(LOOK_PERIOD, hangups.recv()).await {
            Ok(Some(())) => reloader.hang_up(),
            Ok(None) => return,
            Err(_) => reloader.look(),
        };
        if let Some(config) = config
            && accepted.send_async(config).await.is_err()
        {
            tracing::warn!("a new configuration came while the gateway ends");
        }
    }
}

/// Decides when to read the file and what to make of it.
#[derive(Debug)]
struct Reloader {
    origin: ConfigOrigin,
    running: Config,
    counts: ReloadCounts,
    // What the file looked like at the last look, and when it was last read.
    seen: Option<Stamp>,
    read: Option<Stamp>,
}

impl Reloader {
    fn new(origin: ConfigOrigin, running: Config, counts: ReloadCounts) -> Reloader {
        // Nothing counts as read yet: the file may have changed since the gateway read it.
        Reloader { origin, running, counts, seen: None, read: None }
    }

    /// One look at the file. `Some` if there is something new to run with.
    fn look(&mut self) -> Option<Config> {
        // Who replaces a file may remove it first, so a missing one is waited for.
        let stamp = Stamp::of(self.origin.path.as_deref()?)?;
        if self.read.as_ref() == Some(&stamp) {
            return None;
        }
        if self.seen.as_ref() != Some(&stamp) {
            self.seen = Some(stamp);
            return None;
        }
        self.read = Some(stamp);
        let running = self.running.clone();
        self.reload(false).filter(|config| *config != running)
    }

    /// Somebody asks for it. The result is handed on even if the file is the same, for
    /// secrets may have changed where they are kept.
    fn hang_up(&mut self) -> Option<Config> {
        let Some(path) = self.origin.path.as_deref() else {
            tracing::warn!("SIGHUP: the gateway was started without a configuration file");
            return None;
        };
        self.read = Stamp::of(path);
        self.reload(true)
    }

    fn reload(&mut self, is_asked_for: bool) -> Option<Config> {
        let new = match self.origin.load_usable() {
            Ok(new) => new,
            Err(reason) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    event = "config_refused",
                    reason,
                    "the new configuration is not usable; the old one stays"
                );
                return None;
            }
        };
        let waiting = needs_restart(&self.running, &new);
        let next = take_over(&self.running, &new);
        if next == self.running && waiting.is_empty() && !is_asked_for {
            tracing::debug!("the configuration file was written anew, but says the same");
            return None;
        }
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            tracing::warn!(event = "restart_needed", keys, "needs a restart: {keys}");
        }
        tracing::info!(
            event = "config_reloaded",
            upstreams = next.upstream.len(),
            routes = next.route.len(),
            "the configuration was read anew"
        );
        self.running = next.clone();
        Some(next)
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    // Changes even where a tool restores the time of the last modification.
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let facts = std::fs::metadata(path).ok()?;
        Some(Stamp {
            file: (facts.dev(), facts.ino()),
            bytes: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
    }
}

/// The sections that change while the gateway runs.
const LIVE_SECTIONS: [&str; 2] = ["upstream", "route"];

/// What runs, with the new upstreams and routes.
fn take_over(running: &Config, new: &Config) -> Config {
    let mut next = running.clone();
    next.upstream = new.upstream.clone();
    next.route = new.route.clone();
    // Whether the embedded server is there would otherwise follow from the number of upstreams.
    if next.embedded_enabled() != running.embedded_enabled() {
        next.embedded.enabled = Some(running.embedded_enabled());
    }
    next
}

/// The keys of all other sections that differ.
fn needs_restart(running: &Config, new: &Config) -> Vec<String> {
    const EMBEDDED: &str = "embedded.enabled";
    let (running_keys, new_keys) = (fixed_keys(running), fixed_keys(new));
    let mut differing: BTreeSet<String> = running_keys
        .symmetric_difference(&new_keys)
        .map(|(path, _)| path.clone())
        .filter(|path| path != EMBEDDED)
        .collect();
    if running.embedded_enabled() != new.embedded_enabled() {
        differing.insert(EMBEDDED.to_owned());
    }
    differing.into_iter().collect()
}

/// Path and value, as TOML text, of every key that needs a restart.
fn fixed_keys(config: &Config) -> BTreeSet<(String, String)> {
    let sections = toml::Table::try_from(config).unwrap_or_default();
    let fixed = sections.iter().filter(|(name, _)| !LIVE_SECTIONS.contains(&name.as_str()));
    fixed
        .flat_map(|(section, keys)| {
            let keys = keys.as_table().into_iter().flatten();
            keys.map(move |(key, value)| (format!("{section}.{key}"), value.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Overrides;

    const ONE: &str = "[node]\nname = \"n\"\n[[upstream]]\nname = \"a\"\nurl = \"http://a/\"\n";

    /// A reloader with its own file; its first look has been taken.
    struct Bench {
        directory: tempfile::TempDir,
        reloader: Reloader,
    }

    impl Bench {
        fn new(text: &str) -> Bench {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("gw.toml");
            std::fs::write(&path, text).expect("written");
            let origin = ConfigOrigin { path: Some(path), overrides: Overrides::default() };
            let running = origin.load().expect("a sound file");
            let reloader = Reloader::new(origin, running, ReloadCounts::default());
            Bench { directory, reloader }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("gw.toml")
        }

        /// As tools do that replace a file whole.
        fn replace(&self, text: &str) {
            let other = self.directory.path().join("gw.toml.new");
            std::fs::write(&other, text).expect("written");
            std::fs::rename(&other, self.path()).expect("renamed");
        }

        /// Two looks: the file is as it was at the last one.
        fn settle(&mut self) -> Option<Config> {
            assert!(self.reloader.look().is_none(), "nothing is read at the first sight");
            self.reloader.look()
        }

        fn counts(&self) -> (u64, u64) {
            (self.reloader.counts.accepted(), self.reloader.counts.refused())
        }
    }

    #[test]
    fn a_new_upstream_is_handed_on_once_the_file_is_still() {
        let mut bench = Bench::new(ONE);
        assert!(bench.settle().is_none(), "nothing has changed since the start");
        bench.replace(&format!("{ONE}[[upstream]]\nname = \"b\"\nurl = \"http://b/\"\n"));
        let config = bench.settle().expect("a new configuration");
        assert_eq!(config.upstream.len(), 2);
        assert!(bench.settle().is_none(), "and only once");
        assert_eq!(bench.counts(), (1, 0));
    }

    #[test]
    fn a_change_between_start_and_first_look_is_found() {
        let mut bench = Bench::new(ONE);
        bench.replace(&ONE.replace("http://a/", "http://b/"));
        assert!(bench.settle().is_some());
    }

    #[test]
    fn a_file_that_still_grows_or_is_gone_is_waited_for() {
        let mut bench = Bench::new(ONE);
        std::fs::write(bench.path(), "[[upstream]]\nna").expect("written");
        assert!(bench.reloader.look().is_none());
        let whole = ONE.replace("http://a/", "http://longer.example/");
        std::fs::write(bench.path(), whole).expect("written");
        assert!(bench.reloader.look().is_none());
        assert!(bench.reloader.look().is_some());
        std::fs::remove_file(bench.path()).expect("removed");
        assert!(bench.settle().is_none());
        assert_eq!(bench.counts(), (1, 0));
    }

    #[test]
    fn a_bad_file_is_refused_once_and_the_old_one_stays() {
        let mut bench = Bench::new(ONE);
        bench.replace("[[upstream]]\nname = \"a\"\n");
        assert!(bench.settle().is_none());
        assert!(bench.settle().is_none());
        assert_eq!(bench.counts(), (0, 1));
        assert_eq!(bench.reloader.running.upstream.len(), 1);
        bench.replace(&format!(
            "{ONE}headers_from_env = {{ X = \"SHARDGATE_TEST_NO_SUCH_VARIABLE\" }}\n"
        ));
        assert!(bench.settle().is_none(), "a value is missing");
        assert_eq!(bench.counts(), (0, 2));
    }

    #[test]
    fn a_hang_up_reads_the_same_file_again() {
        let mut bench = Bench::new(ONE);
        assert_eq!(bench.reloader.hang_up().as_ref(), Some(&bench.reloader.running));
        assert!(bench.settle().is_none(), "what was read needs no look");
        let mut without = Bench::new(ONE);
        without.reloader.origin.path = None;
        assert!(without.reloader.hang_up().is_none());
    }

    #[test]
    fn what_can_not_change_is_named_and_stays() {
        let mut bench = Bench::new("[limits]\nheartbeat_ms = 5000\n");
        let text =
            format!("{ONE}[limits]\nheartbeat_ms = 6000\n[listen]\nallowed_hosts = [\"x\"]\n");
        bench.replace(&text);
        let new = bench.reloader.origin.load().expect("sound");
        let expected =
            ["embedded.enabled", "limits.heartbeat_ms", "listen.allowed_hosts", "node.name"];
        assert_eq!(needs_restart(&bench.reloader.running, &new), expected);
        let config = bench.settle().expect("the upstream is new");
        assert_eq!(config.upstream.len(), 1);
        assert_eq!(config.limits.heartbeat_ms, 5000);
        assert!(config.embedded_enabled(), "it was on at the start, so it stays on");
        assert_eq!(needs_restart(&config, &new), expected, "told again at the next reload");
    }
}
