//! What the server used while it was under load, seen from outside: processor time and
//! memory from `/proc`, and its own counters, if it shows any.
//!
//! The processes are those that hold the listening socket, so an nginx is its master and its
//! workers. Reading them takes some 20 µs a second; the server's metrics are asked for only
//! twice, when the measured time begins and ends, and on threads of their own, so that a
//! server that is too busy to answer holds nothing up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

mod metrics;
mod processes;

pub use self::metrics::{MetricsError, MetricsUrl};
use self::processes::{Processes, Used};
use crate::outcome::ServerFigures;
use crate::report::error_text;

/// How long an answer of the server's metrics is waited for when the run is over.
pub const METRICS_WAIT_MAX: Duration = Duration::from_secs(5);

/// Where to look for the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSource {
    /// The address under load; its listener is looked for on this machine.
    pub address: Option<SocketAddr>,
    /// `--server-pid`: this process, and those of its children that listen as well.
    pub pid: Option<u32>,
    /// `--metrics-url`.
    pub metrics: Option<MetricsUrl>,
}

/// Why the server cannot be watched as asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no such process.
    #[error("--server-pid {pid}: no such process on this machine")]
    NoSuchProcess {
        /// As it was given.
        pid: u32,
    },
}

/// The server during one run.
#[derive(Debug)]
pub struct ServerWatch {
    processes: Option<Processes>,
    metrics: Option<MetricsUrl>,
    resident_before_bytes: Option<u64>,
    last: Option<Mark>,
    begin: Option<Mark>,
    end: Option<Mark>,
    requests_at_begin: Option<Fetch>,
    requests_at_end: Option<Fetch>,
    remarks: Vec<String>,
}

/// An answer on its way.
type Fetch = Receiver<Result<BTreeMap<String, u64>, MetricsError>>;

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    used: Used,
}

/// What the server used since the lap before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lap {
    /// Processor time by time, if the server can be seen.
    pub cores: Option<f64>,
    /// Resident memory now.
    pub resident_bytes: Option<u64>,
}

impl ServerWatch {
    /// Finds the server; to be called before the first connection to it, as its memory
    /// without load is read here.
    pub fn open(source: &ServerSource, now: Instant) -> Result<ServerWatch, ServerError> {
        let processes = Processes::find(source)?;
        let mut remarks = Vec::new();
        if let (None, Some(address)) = (&processes, source.address) {
            remarks.push(format!(
                "No process that can be seen on this machine listens on {address}, so there are \
                 no figures of the server; if it runs here, name it with --server-pid."
            ));
        }
        let last = processes.as_ref().and_then(|found| found.mark(now));
        Ok(ServerWatch {
            processes,
            metrics: source.metrics.clone(),
            resident_before_bytes: last.map(|mark| mark.used.resident_bytes),
            last,
            begin: None,
            end: None,
            requests_at_begin: None,
            requests_at_end: None,
            remarks,
        })
    }

    /// The measured time begins.
    pub fn begin(&mut self, now: Instant) {
        self.begin = self.mark(now);
        self.requests_at_begin = self.fetch();
    }

    /// A second has passed.
    pub fn lap(&mut self, now: Instant) -> Lap {
        let mark = self.mark(now);
        let cores = match (self.last, mark) {
            (Some(last), Some(mark)) => mark.cores_since(&last),
            (Some(_) | None, _) => None,
        };
        self.last = mark.or(self.last);
        Lap { cores, resident_bytes: mark.map(|mark| mark.used.resident_bytes) }
    }

    /// The measured time ends; to be called while the connections are still open.
    pub fn end(&mut self, now: Instant) {
        self.end = self.mark(now);
        self.requests_at_end = self.fetch();
    }

    /// All that is known, `completed` being the requests of the measured time; none if
    /// nothing is. Waits for the server's metrics, twice [`METRICS_WAIT_MAX`] at most.
    pub fn figures(&mut self, completed: u64) -> Option<ServerFigures> {
        let pid = self.processes.as_ref().map(Processes::first_pid);
        let requests_by_shard = self.requests_by_shard();
        if pid.is_none() && requests_by_shard.is_empty() {
            return None;
        }
        let both = self.begin.zip(self.end);
        let used = both.map(|(begin, end)| end.used.cpu_us.saturating_sub(begin.used.cpu_us));
        let per_request = used.filter(|_| completed > 0).map(|us| us as f64 / completed as f64);
        Some(ServerFigures {
            pid,
            cores: both.and_then(|(begin, end)| end.cores_since(&begin)),
            cpu_us_per_request: per_request,
            resident_before_bytes: self.resident_before_bytes,
            resident_bytes: self.end.or(self.last).map(|mark| mark.used.resident_bytes),
            requests_by_shard,
        })
    }

    /// Whole sentences about what could not be seen; complete after [`ServerWatch::figures`].
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    fn mark(&self, now: Instant) -> Option<Mark> {
        self.processes.as_ref()?.mark(now)
    }

    fn fetch(&self) -> Option<Fetch> {
        let url = self.metrics.clone()?;
        let (answer, fetch) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("metrics".to_owned());
        // Without a thread the channel closes at once, and without a receiver nobody
        // wants the answer any more.
        let _ = thread.spawn(move || answer.send(url.requests_by_shard()));
        Some(fetch)
    }

    /// Requests between begin and end.
    fn requests_by_shard(&mut self) -> BTreeMap<String, u64> {
        let Some(url) = &self.metrics else { return BTreeMap::new() };
        let mut answer = |fetch: Option<Fetch>| {
            let answer = fetch?.recv_timeout(METRICS_WAIT_MAX);
            let answer = answer.unwrap_or(Err(MetricsError::Late));
            let told = |error: &MetricsError| {
                self.remarks.push(format!(
                    "The balance of the shards is not known: {url}: {}.",
                    error_text(error)
                ));
            };
            answer.inspect_err(told).ok()
        };
        let begin = answer(self.requests_at_begin.take());
        let end = answer(self.requests_at_end.take());
        let (Some(begin), Some(end)) = (begin, end) else { return BTreeMap::new() };
        end.into_iter()
            .map(|(shard, count)| {
                let before = begin.get(&shard).copied().unwrap_or_default();
                // A server that was started again counts from 0.
                (shard, count.checked_sub(before).unwrap_or(count))
            })
            .collect()
    }
}

impl Mark {
    fn cores_since(&self, earlier: &Mark) -> Option<f64> {
        let elapsed_us = self.at.checked_duration_since(earlier.at)?.as_micros() as f64;
        let used = self.used.cpu_us.saturating_sub(earlier.used.cpu_us) as f64;
        (elapsed_us > 0.0).then(|| used / elapsed_us)
    }
}

impl Processes {
    fn mark(&self, at: Instant) -> Option<Mark> {
        self.used().map(|used| Mark { at, used })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    /// Only a hang takes this long.
    const HANG: Duration = Duration::from_secs(30);

    /// Answers each connection with the next of these texts, and says so.
    fn metrics_server(answers: Vec<String>) -> (MetricsUrl, Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/metrics", listener.local_addr().expect("bound"));
        let (served, serving) = mpsc::channel();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 1_024];
                let _ = stream.read(&mut request);
                stream.write_all(answer.as_bytes()).expect("sent");
                let _ = served.send(());
            }
        });
        (url.parse().expect("a URL"), serving)
    }

    fn counted(zero: u64, one: u64) -> String {
        format!(
            "HTTP/1.1 200 OK\r\n\r\n\
             shardgate_requests_total{{shard=\"0\",method=\"ping\"}} {zero}\n\
             shardgate_requests_total{{shard=\"1\",method=\"ping\"}} {one}\n# EOF\n"
        )
    }

    /// Processor time of this process until it has used at least `ticks` of its clock.
    fn burn(watch: &ServerWatch, now: Instant, us: u64) {
        let begin = watch.mark(now).expect("this process").used.cpu_us;
        while watch.mark(now).expect("this process").used.cpu_us < begin + us {
            std::hint::black_box((0..100_000_u64).sum::<u64>());
        }
    }

    #[test]
    fn the_owner_of_the_listening_socket_is_found_and_measured() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().ok();
        let now = Instant::now();
        let source = ServerSource { address, ..ServerSource::default() };
        let mut watch = ServerWatch::open(&source, now).expect("it can be watched");
        watch.begin(now);
        burn(&watch, now, 50_000);
        // Time is passed in, so that the test does not depend on how long it took.
        let later = now + Duration::from_secs(1);
        let lap = watch.lap(later);
        assert!(lap.cores.is_some_and(|cores| cores >= 0.05), "{lap:?}");
        assert!(lap.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{lap:?}");
        watch.end(later);
        let figures = watch.figures(1_000).expect("seen");
        assert_eq!(figures.pid, Some(std::process::id()));
        assert!(figures.cores.is_some_and(|cores| cores >= 0.05), "{figures:?}");
        let per_request = figures.cpu_us_per_request.expect("known");
        assert!(per_request >= 50.0, "{figures:?}");
        assert!(figures.resident_before_bytes.is_some() && figures.resident_bytes.is_some());
        assert!(watch.remarks().is_empty(), "{:?}", watch.remarks());
    }

    #[test]
    fn nothing_completed_has_no_time_per_request() {
        let source = ServerSource { pid: Some(std::process::id()), ..ServerSource::default() };
        let now = Instant::now();
        let mut watch = ServerWatch::open(&source, now).expect("it can be watched");
        watch.begin(now);
        watch.end(now);
        let figures = watch.figures(0).expect("seen");
        assert_eq!((figures.cpu_us_per_request, figures.cores), (None, None));
    }

    #[test]
    fn a_server_that_is_not_seen_is_told_of() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().ok();
        drop(taken);
        let source = ServerSource { address, ..ServerSource::default() };
        let mut watch = ServerWatch::open(&source, Instant::now()).expect("no error");
        assert_eq!(watch.lap(Instant::now()), Lap::default());
        assert_eq!(watch.figures(1), None);
        assert!(watch.remarks()[0].contains("--server-pid"), "{:?}", watch.remarks());
    }

    #[test]
    fn a_pid_that_is_none_is_an_error() {
        let source = ServerSource { pid: Some(u32::MAX), ..ServerSource::default() };
        let message = ServerWatch::open(&source, Instant::now()).unwrap_err().to_string();
        assert_eq!(message, "--server-pid 4294967295: no such process on this machine");
    }

    #[test]
    fn the_balance_is_what_was_counted_in_between() {
        let (url, served) = metrics_server(vec![counted(100, 200), counted(1_100, 200)]);
        let source = ServerSource { metrics: Some(url), ..ServerSource::default() };
        let now = Instant::now();
        let mut watch = ServerWatch::open(&source, now).expect("it can be watched");
        watch.begin(now);
        // The answers come in the order of the questions.
        served.recv_timeout(HANG).expect("asked");
        watch.end(now);
        let figures = watch.figures(1).expect("known");
        let expected = [("0".to_owned(), 1_000), ("1".to_owned(), 0)];
        assert_eq!(figures.requests_by_shard, BTreeMap::from(expected));
        assert_eq!(figures.pid, None);
    }

    #[test]
    fn metrics_that_fail_are_told_of_and_cost_nothing_else() {
        let refusal = "HTTP/1.1 403 Forbidden\r\n\r\n";
        let (url, _) = metrics_server(vec![refusal.to_owned(), refusal.to_owned()]);
        let source = ServerSource {
            metrics: Some(url),
            pid: Some(std::process::id()),
            ..ServerSource::default()
        };
        let now = Instant::now();
        let mut watch = ServerWatch::open(&source, now).expect("it can be watched");
        watch.begin(now);
        watch.end(now);
        let figures = watch.figures(1).expect("the process is seen");
        assert!(figures.requests_by_shard.is_empty() && figures.pid.is_some());
        assert!(watch.remarks()[0].contains("403 Forbidden"), "{:?}", watch.remarks());
    }
}
