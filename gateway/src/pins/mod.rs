//! Which definitions of pinned upstreams' tools are approved, and since when one differs.
//!
//! The first definition that is seen of a tool is approved, and written to a file, so that
//! it holds over restarts. One that differs later is quarantined by every shard's catalog
//! until somebody approves it. Shards tell what they have read; the control thread keeps the
//! file and tells all shards what holds.
//!
//! Invariants:
//! - The file is replaced whole: after a crash it is the old one or the new one.
//! - Shards never wait here. A sighting that finds the queue full comes again with the
//!   next reading.
//!
//! Limit: [`SIGHTINGS_MAX`] sightings wait.

mod file;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shardgate_proto::catalog::{DefinitionHash, Pins};

pub use file::PinsFileError;
pub use report::{ApproveRequest, Approved, PinReport, PinState, PinnedTool};

/// Sightings that may wait for the control thread.
pub const SIGHTINGS_MAX: usize = 1024;

/// A shard that could not be told is told again after so long.
const RETRY: Duration = Duration::from_millis(100);

/// What a shard has read of a pinned upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The upstream's name.
    pub upstream: String,
    /// Bare names of all its tools, and their definitions.
    pub tools: Vec<(String, DefinitionHash)>,
}

/// Puts what holds into a shard's mailbox without blocking; false if that is full.
pub type DeliverPins = Box<dyn Fn(u16, Arc<Pins>) -> bool + Send + Sync>;

/// Why nothing was approved.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    /// Nothing of this name is known.
    #[error(
        "no tool like that has been listed by a pinned upstream; `shardgate catalog list` shows what was"
    )]
    Unknown,
    /// It could not be written down.
    #[error(transparent)]
    File(#[from] PinsFileError),
}

/// All that is known of pinned tools.
pub struct PinBook {
    path: PathBuf,
    shards: u16,
    deliver: DeliverPins,
    // Held for moments, and never by a shard.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pins: Arc<Pins>,
    /// What upstreams listed last.
    seen: BTreeMap<String, BTreeMap<String, DefinitionHash>>,
    /// Shards that do not know the latest.
    untold: Vec<u16>,
}

impl std::fmt::Debug for PinBook {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PinBook").field("path", &self.path).finish_non_exhaustive()
    }
}

impl PinBook {
    /// A book over what its file holds.
    pub fn new(path: PathBuf, pins: Arc<Pins>, shards: u16, deliver: DeliverPins) -> PinBook {
        let state = State { pins, ..State::default() };
        PinBook { path, shards, deliver, state: Mutex::new(state) }
    }

    /// What the file of approved definitions holds; nothing if there is none.
    ///
    /// # Errors
    /// It can't be read, or is none.
    pub fn read(path: &std::path::Path) -> Result<Pins, PinsFileError> {
        file::read(path)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what an upstream listed. What is new is approved.
    fn see(&self, sighting: Sighting) {
        let Sighting { upstream, tools } = sighting;
        let mut state = self.state();
        let mut pins = Pins::clone(&state.pins);
        let mut fresh = 0;
        let before = state.seen.remove(&upstream).unwrap_or_default();
        for (tool, hash) in &tools {
            match pins.approved(&upstream, tool) {
                None => {
                    pins.insert(&upstream, tool, *hash);
                    fresh += 1;
                    tracing::info!(event = "tool_pinned", upstream, tool, hash = %hash);
                }
                Some(approved) if approved != *hash && before.get(tool) != Some(hash) => {
                    tracing::warn!(
                        event = "tool_quarantined",
                        upstream,
                        tool,
                        approved = %approved,
                        found = %hash,
                        "the tool's definition has changed; it is withheld until it is approved: \
                         shardgate catalog approve {upstream} {tool}"
                    );
                }
                Some(_) => {}
            }
        }
        state.seen.insert(upstream, tools.into_iter().collect());
        if fresh == 0 {
            return;
        }
        if let Err(error) = file::write(&self.path, &pins) {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(
                event = "pins_not_written",
                %error,
                cause,
                "what is approved holds until the gateway ends, no longer"
            );
        }
        self.publish(&mut state, pins);
    }

    /// Approves what was seen last of an upstream's tool, of all its tools, or of all
    /// tools; returns what had to be.
    ///
    /// # Errors
    /// See [`ApproveError`].
    pub fn approve(&self, which: &ApproveRequest) -> Result<Approved, ApproveError> {
        let mut state = self.state();
        let mut pins = Pins::clone(&state.pins);
        let (mut known, mut tools) = (false, Vec::new());
        for (upstream, seen) in &state.seen {
            for (tool, hash) in seen.iter().filter(|(tool, _)| which.means(upstream, tool)) {
                known = true;
                if pins.approved(upstream, tool) != Some(*hash) {
                    pins.insert(upstream, tool, *hash);
                    tools.push((upstream.clone(), tool.clone()));
                }
            }
        }
        if !known && which.upstream.is_some() {
            return Err(ApproveError::Unknown);
        }
        if !tools.is_empty() {
            file::write(&self.path, &pins)?;
            for (upstream, tool) in &tools {
                tracing::info!(event = "tool_approved", upstream, tool);
            }
            self.publish(&mut state, pins);
        }
        Ok(Approved { tools })
    }

    /// Forgets what was seen of upstreams that are pinned no more.
    pub(crate) fn keep_only(&self, upstreams: &[String]) {
        self.state().seen.retain(|upstream, _| upstreams.contains(upstream));
    }

    /// Everything, for people.
    pub fn report(&self) -> PinReport {
        let state = self.state();
        report::report(&self.path, &state.pins, &state.seen)
    }

    /// By upstream, how many tools are quarantined.
    pub fn quarantined(&self) -> Vec<(String, u64)> {
        let state = self.state();
        let differs = |upstream: &str, tool: &str, hash: &DefinitionHash| {
            state.pins.approved(upstream, tool).is_some_and(|approved| approved != *hash)
        };
        let count = |(upstream, tools): (&String, &BTreeMap<String, DefinitionHash>)| {
            let changed = tools.iter().filter(|(tool, hash)| differs(upstream, tool, hash));
            (upstream.clone(), changed.count() as u64)
        };
        state.seen.iter().map(count).collect()
    }

    fn publish(&self, state: &mut State, pins: Pins) {
        state.pins = Arc::new(pins);
        state.untold = (0..self.shards).collect();
        self.tell(state);
    }

    fn tell(&self, state: &mut State) {
        let pins = Arc::clone(&state.pins);
        state.untold.retain(|shard| !(self.deliver)(*shard, Arc::clone(&pins)));
    }
}

/// Takes sightings in for ever, and tells shards whose mailbox was full again.
pub(crate) async fn keep(book: Arc<PinBook>, sightings: flume::Receiver<Sighting>) {
    loop {
        match tokio::time::timeout(RETRY, sightings.recv_async()).await {
            Ok(Ok(sighting)) => book.see(sighting),
            Ok(Err(flume::RecvError::Disconnected)) => return,
            Err(_) => {
                let mut state = book.state();
                if !state.untold.is_empty() {
                    book.tell(&mut state);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: DefinitionHash = DefinitionHash([1; 32]);
    const NEW: DefinitionHash = DefinitionHash([2; 32]);

    struct Bench {
        directory: tempfile::TempDir,
        book: PinBook,
        told: flume::Receiver<(u16, Arc<Pins>)>,
    }

    impl Bench {
        fn new() -> Bench {
            let directory = tempfile::tempdir().expect("a directory");
            let (told_to, told) = flume::bounded(2);
            let deliver: DeliverPins =
                Box::new(move |shard, pins| told_to.try_send((shard, pins)).is_ok());
            let path = directory.path().join("pins");
            let book = PinBook::new(path, Arc::default(), 2, deliver);
            Bench { directory, book, told }
        }

        fn see(&self, tool: &str, hash: DefinitionHash) {
            let tools = vec![(tool.to_owned(), hash)];
            self.book.see(Sighting { upstream: "crm".to_owned(), tools });
        }

        fn written(&self) -> Pins {
            PinBook::read(&self.directory.path().join("pins")).expect("sound")
        }
    }

    fn which(upstream: Option<&str>, tool: Option<&str>) -> ApproveRequest {
        let text = |name: Option<&str>| name.map(str::to_owned);
        ApproveRequest { upstream: text(upstream), tool: text(tool) }
    }

    #[test]
    fn the_first_definition_holds_until_another_is_approved() {
        let bench = Bench::new();
        assert!(bench.written().is_empty(), "there is no file yet");
        bench.see("find", OLD);
        assert_eq!(bench.written().approved("crm", "find"), Some(OLD));
        assert_eq!(bench.told.drain().count(), 2, "both shards");
        bench.see("find", NEW);
        assert_eq!(bench.written().approved("crm", "find"), Some(OLD));
        assert_eq!(bench.told.drain().count(), 0, "nothing else holds now");
        assert_eq!(bench.book.quarantined(), [("crm".to_owned(), 1)]);
        let approved = bench.book.approve(&which(Some("crm"), Some("find"))).expect("known");
        assert_eq!(approved.tools, [("crm".to_owned(), "find".to_owned())]);
        assert_eq!(bench.written().approved("crm", "find"), Some(NEW));
        let (_, pins) = bench.told.recv().expect("told at once");
        assert_eq!(pins.approved("crm", "find"), Some(NEW));
        assert_eq!(bench.book.quarantined(), [("crm".to_owned(), 0)]);
    }

    #[test]
    fn what_was_never_listed_can_not_be_approved() {
        let bench = Bench::new();
        bench.see("find", OLD);
        for (upstream, tool) in [("crm", Some("lose")), ("other", None)] {
            let refused = bench.book.approve(&which(Some(upstream), tool));
            assert!(matches!(refused, Err(ApproveError::Unknown)), "{upstream} {tool:?}");
        }
        assert!(bench.book.approve(&which(None, None)).expect("all").tools.is_empty());
    }

    #[test]
    fn a_shard_with_a_full_mailbox_is_told_later() {
        let bench = Bench::new();
        bench.see("find", OLD);
        bench.see("lose", OLD);
        assert_eq!(bench.told.drain().count(), 2, "the second news found no room");
        let mut state = bench.book.state();
        assert_eq!(state.untold, [0, 1]);
        bench.book.tell(&mut state);
        let told: Vec<_> = bench.told.drain().collect();
        assert!(told.iter().all(|(_, pins)| pins.len() == 2) && told.len() == 2);
        assert!(state.untold.is_empty());
    }

    #[test]
    fn a_file_that_can_not_be_written_is_told_and_nothing_approved() {
        let bench = Bench::new();
        let nowhere = bench.directory.path().join("no/such/directory/pins");
        let book = PinBook { path: nowhere, ..bench.book };
        let see = |hash| {
            let tools = vec![("find".to_owned(), hash)];
            book.see(Sighting { upstream: "crm".to_owned(), tools });
        };
        see(OLD);
        see(NEW);
        let refused = book.approve(&which(None, None));
        assert!(matches!(refused, Err(ApproveError::File(_))), "{refused:?}");
        assert_eq!(book.quarantined(), [("crm".to_owned(), 1)]);
    }
}
