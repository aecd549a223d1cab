//! Looks the names of tool servers up, and tells the shards what they stand for.
//!
//! Names are looked up at the start, every [`LOOKUP_PERIOD`], sooner while one is unknown,
//! and when the configuration was read anew. The system's resolver does it, on threads of
//! its own, so a name server that is silent delays nobody but who needs that name.
//!
//! Invariants:
//! - At most [`LOOKUPS_MAX`] lookups are under way, each for [`LOOKUP_TIME_MAX`] at most.
//! - A name that was known stays so when a later lookup fails.
//! - Every shard gets the newest table in the end, however full its mailbox is.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::endpoints::{Addresses, Endpoints, Host};

/// How often known names are looked up again: DNS can't be asked how long its answer holds.
pub const LOOKUP_PERIOD: Duration = Duration::from_secs(30);
/// The first pause while a name is unknown; it doubles up to [`LOOKUP_PERIOD`].
const UNKNOWN_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Lookups at a time, each of which keeps a thread busy.
pub const LOOKUPS_MAX: usize = 16;
/// A lookup is given up after this.
pub const LOOKUP_TIME_MAX: Duration = Duration::from_secs(20);
/// More addresses of a name are left out.
const ADDRESSES_MAX: usize = 16;
/// When a shard whose mailbox was full is tried again.
const DELIVERY_RETRY: Duration = Duration::from_millis(20);

/// Puts a table into a shard's mailbox; false if that is full.
type Deliver = Box<dyn Fn(u16, Arc<Endpoints>) -> bool + Send>;

/// What the lookups need.
pub struct ResolverSetup {
    endpoints: Endpoints,
    replaced: flume::Receiver<Endpoints>,
    shards: u16,
    deliver: Deliver,
}

impl ResolverSetup {
    /// `endpoints` is what so many shards have; what comes from `replaced` takes its place.
    /// The lookups end with `replaced`.
    pub(crate) fn new(
        endpoints: Endpoints,
        replaced: flume::Receiver<Endpoints>,
        shards: u16,
        deliver: Deliver,
    ) -> ResolverSetup {
        ResolverSetup { endpoints, replaced, shards, deliver }
    }
}

impl std::fmt::Debug for ResolverSetup {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ResolverSetup").field("shards", &self.shards).finish()
    }
}

/// Addresses, or a sentence.
type Found = Result<Vec<SocketAddr>, String>;

/// Looks names up until there is nobody to tell.
pub(super) async fn keep_resolved(setup: ResolverSetup) {
    let ResolverSetup { endpoints, replaced, shards, deliver } = setup;
    let mut names = Names::new(endpoints);
    let mut missing: Vec<u16> = Vec::new();
    let mut lookups: JoinSet<(Host, Found)> = JoinSet::new();
    let mut next_round = Instant::now();
    loop {
        while lookups.len() < LOOKUPS_MAX
            && let Some(host) = names.queue.pop_front()
        {
            lookups.spawn(look_up(host));
        }
        let is_idle = lookups.is_empty();
        let changed = tokio::select! {
            Some(done) = lookups.join_next() => {
                let changed = done.is_ok_and(|(host, found)| names.learn(&host, found));
                if lookups.is_empty() && names.queue.is_empty() {
                    next_round = Instant::now() + names.pause();
                }
                changed
            }
            table = replaced.recv_async() => {
                let Ok(table) = table else { return };
                lookups = JoinSet::new();
                names.replace(table);
                true
            }
            () = sleep_until(next_round), if is_idle => {
                names.begin_round();
                next_round = Instant::now() + names.pause();
                false
            }
            () = sleep(DELIVERY_RETRY), if !missing.is_empty() => false,
        };
        if changed {
            missing = (0..shards).collect();
        }
        if !missing.is_empty() {
            let table = Arc::new(names.endpoints.clone());
            missing.retain(|shard| !deliver(*shard, Arc::clone(&table)));
        }
    }
}

/// The names of a table, and what is known of them.
#[derive(Debug)]
struct Names {
    endpoints: Endpoints,
    queue: VecDeque<Host>,
    /// Why the last lookup of a name failed; what is logged once needs no repetition.
    failing: BTreeMap<Host, String>,
    unknown_pause: Duration,
}

impl Names {
    fn new(endpoints: Endpoints) -> Names {
        Names {
            endpoints,
            queue: VecDeque::new(),
            failing: BTreeMap::new(),
            unknown_pause: UNKNOWN_PAUSE_MIN,
        }
    }

    fn begin_round(&mut self) {
        self.queue = self.endpoints.names().into_iter().collect();
    }

    /// Takes a new table and begins with its names at once.
    fn replace(&mut self, mut table: Endpoints) {
        for host in table.names() {
            if let Some(addresses) = self.endpoints.addresses_of(&host) {
                table.learn(&host, addresses);
            }
        }
        self.endpoints = table;
        self.failing.clear();
        self.unknown_pause = UNKNOWN_PAUSE_MIN;
        self.begin_round();
    }

    /// True if that changes the table.
    fn learn(&mut self, host: &Host, found: Found) -> bool {
        match found {
            Ok(addresses) => {
                self.failing.remove(host);
                self.endpoints.learn(host, &Addresses::Known(addresses.into()))
            }
            Err(reason) => {
                let known = self.endpoints.addresses_of(host);
                let keeps = matches!(known, Some(Addresses::Known(_)));
                if self.failing.get(host) != Some(&reason) {
                    let host = host.name.as_str();
                    tracing::warn!(event = "resolve_failed", host, reason, keeps);
                }
                let sentence = format!("the name {} does not resolve: {reason}", host.name);
                self.failing.insert(host.clone(), reason);
                !keeps && self.endpoints.learn(host, &Addresses::Unknown(sentence.into()))
            }
        }
    }

    /// Until the next round.
    fn pause(&mut self) -> Duration {
        let unknown =
            |host| matches!(self.endpoints.addresses_of(host), Some(Addresses::Unknown(_)));
        if !self.failing.keys().any(unknown) {
            self.unknown_pause = UNKNOWN_PAUSE_MIN;
            return LOOKUP_PERIOD;
        }
        let pause = self.unknown_pause;
        self.unknown_pause = (pause * 2).min(LOOKUP_PERIOD);
        pause
    }
}

async fn look_up(host: Host) -> (Host, Found) {
    let found = timeout(LOOKUP_TIME_MAX, tokio::net::lookup_host((host.name.as_str(), host.port)));
    let found = match found.await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOKUP_TIME_MAX.as_secs())),
    };
    (host, found)
}

#[cfg(test)]
mod tests {
    use shardgate_proto::upstream::EndpointId;

    use super::*;
    use crate::endpoints::{Endpoint, TcpEndpoint};

    const SILENT: &str = "no answer";

    fn host(name: &str) -> Host {
        Host { name: name.to_owned(), port: 80 }
    }

    fn table(names: &[&str]) -> Endpoints {
        let mut table = Endpoints::default();
        for (id, name) in (0..).map(EndpointId).zip(names) {
            table.insert(id, Endpoint::Tcp(TcpEndpoint::new(host(name), None)));
        }
        table
    }

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 80).into()
    }

    fn known(names: &Names, name: &str) -> Option<Vec<SocketAddr>> {
        match names.endpoints.addresses_of(&host(name)) {
            Some(Addresses::Known(addresses)) => Some(addresses.to_vec()),
            Some(Addresses::Pending | Addresses::Unknown(_)) | None => None,
        }
    }

    #[test]
    fn literal_addresses_need_no_lookup() {
        let mut names = Names::new(table(&["192.0.2.7", "2001:db8::1", "a.example"]));
        names.begin_round();
        assert_eq!(names.queue, [host("a.example")]);
        assert_eq!(known(&names, "192.0.2.7"), Some(vec![address(7)]));
        assert_eq!(known(&names, "a.example"), None);
    }

    #[test]
    fn a_known_name_stays_known_when_a_lookup_fails() {
        let mut names = Names::new(table(&["a.example"]));
        let a = host("a.example");
        assert!(names.learn(&a, Err(SILENT.to_owned())));
        assert!(!names.learn(&a, Err(SILENT.to_owned())), "nothing new");
        assert!(matches!(names.endpoints.addresses_of(&a), Some(Addresses::Unknown(_))));
        assert!(names.learn(&a, Ok(vec![address(1)])));
        assert!(!names.learn(&a, Err(SILENT.to_owned())));
        assert_eq!(known(&names, "a.example"), Some(vec![address(1)]));
        assert!(names.learn(&a, Ok(vec![address(2), address(1)])), "the order counts");
    }

    #[test]
    fn an_unknown_name_is_looked_up_sooner_but_ever_less_often() {
        let mut names = Names::new(table(&["a.example", "b.example"]));
        names.learn(&host("a.example"), Ok(vec![address(1)]));
        assert_eq!(names.pause(), LOOKUP_PERIOD);
        names.learn(&host("b.example"), Err(SILENT.to_owned()));
        let pauses: Vec<u64> = (0..7).map(|_| names.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        names.learn(&host("b.example"), Ok(vec![address(2)]));
        assert_eq!(names.pause(), LOOKUP_PERIOD);
    }

    #[test]
    fn a_new_table_takes_over_what_is_known() {
        let mut names = Names::new(table(&["a.example"]));
        names.learn(&host("a.example"), Ok(vec![address(1)]));
        names.replace(table(&["b.example", "a.example"]));
        assert_eq!(known(&names, "a.example"), Some(vec![address(1)]));
        assert_eq!(names.queue, [host("a.example"), host("b.example")]);
    }

    /// RFC 6761, 6.3: "localhost" is never asked of a name server.
    #[tokio::test(start_paused = true)]
    async fn every_shard_gets_the_table_though_its_mailbox_was_full() {
        let (replace, replaced) = flume::bounded(1);
        let (took, taken) = flume::unbounded();
        let mut refusals = 3;
        let deliver = std::sync::Mutex::new(move |shard: u16, table: Arc<Endpoints>| {
            if shard == 1 && refusals > 0 {
                refusals -= 1;
                return false;
            }
            took.send((shard, table)).is_ok()
        });
        let deliver = Box::new(move |shard: u16, table: Arc<Endpoints>| {
            deliver.lock().is_ok_and(|mut deliver| (*deliver)(shard, table))
        });
        let setup = ResolverSetup::new(table(&["localhost"]), replaced, 2, deliver);
        let task = tokio::spawn(keep_resolved(setup));
        let mut shards = Vec::new();
        for _ in 0..2 {
            let (shard, table) = taken.recv_async().await.expect("a table");
            let localhost = table.addresses_of(&host("localhost"));
            assert!(matches!(localhost, Some(Addresses::Known(_))), "{localhost:?}");
            shards.push(shard);
        }
        assert_eq!(shards, [0, 1]);
        drop(replace);
        task.await.expect("it ends with its owner");
    }
}
