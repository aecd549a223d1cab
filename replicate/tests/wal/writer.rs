//! The thread that writes a log.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use shardgate_replicate::disk::{Failing, SimulatedDisk};
use shardgate_replicate::wal::{Done, Entry, Health, Wal, Writer, WriterConfig};

use crate::logs::{dir, entry, open, position, told, vote};

/// Only a hang takes so long.
const HANG: Duration = Duration::from_secs(60);

type Answer = (&'static str, io::Result<()>);

struct Log {
    disk: SimulatedDisk,
    writer: Writer<SimulatedDisk>,
    answers: Receiver<Answer>,
    answer: Sender<Answer>,
}

impl Log {
    fn new(wal: Wal<SimulatedDisk>, disk: &SimulatedDisk) -> Log {
        let (answer, answers) = mpsc::channel();
        let retry = Duration::from_millis(1);
        let config = WriterConfig { retry, idle: retry, ..WriterConfig::default() };
        let writer = Writer::start(wal, config).expect("start the thread");
        Log { disk: disk.clone(), writer, answers, answer }
    }

    fn create() -> Log {
        let disk = SimulatedDisk::new();
        let (wal, _) = open(&disk, &dir()).expect("create a log");
        Log::new(wal, &disk)
    }

    fn done(&self, name: &'static str) -> Done {
        let answer = self.answer.clone();
        Box::new(move |outcome| answer.send((name, outcome)).expect("the test listens"))
    }

    fn append(&self, name: &'static str, entries: Vec<Entry>) {
        self.writer.append(entries, self.done(name)).expect("they follow the last");
    }

    fn next(&self) -> Answer {
        self.answers.recv_timeout(HANG).expect("an answer")
    }

    fn expect_done(&self, names: &[&str]) {
        for name in names {
            let (answered, outcome) = self.next();
            assert_eq!(answered, *name);
            outcome.expect(name);
        }
    }

    fn read(&self) -> Vec<Entry> {
        self.writer.reader().entries(0..u64::MAX, usize::MAX).expect("read all entries")
    }

    /// Fills the disk, so that whatever is appended from now on waits.
    fn fill(&self) {
        self.disk.limit_bytes(Some(0));
        let next = self.writer.state().last.map_or(0, |last| last.index + 1);
        // Larger than what is kept free.
        self.append("blocked", vec![entry(next, 1, 20_000)]);
        let began = Instant::now();
        while !matches!(self.writer.health(), Health::Full(_)) {
            assert!(began.elapsed() < HANG, "{:?}", self.writer.health());
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_was_answered_survives_a_crash_at_once() {
    for seed in 0..50 {
        let log = Log::create();
        log.append("entries", vec![entry(0, 1, 300), entry(1, 1, 300)]);
        log.writer.save_vote(vote("me"), log.done("vote"));
        log.writer.truncate_after(Some(position(0, 1)), log.done("truncation"));
        log.append("entry", vec![entry(1, 2, 10)]);
        log.expect_done(&["entries", "vote", "truncation", "entry"]);
        let disk = log.disk.crash(seed);
        let (wal, _) = open(&disk, &dir()).expect("open after the crash");
        assert_eq!(wal.state().vote, Some(vote("me")));
        let entries = wal.entries(0..9).expect("read");
        assert_eq!(entries, [entry(0, 1, 300), entry(1, 2, 10)]);
    }
}

#[test]
fn entries_are_read_before_they_are_written_and_calls_that_queue_share_a_sync() {
    let log = Log::create();
    log.fill();
    let syncs = log.disk.counts().syncs;
    let mut wanted = vec![entry(0, 1, 20_000)];
    for index in 1..500 {
        log.append("entry", vec![entry(index, 1, 8)]);
        wanted.push(entry(index, 1, 8));
    }
    log.writer.truncate_after(Some(position(400, 1)), log.done("truncation"));
    log.writer.save_vote(vote("they"), log.done("vote"));
    wanted.truncate(401);
    assert_eq!(log.read(), wanted);
    assert_eq!(log.writer.state().vote, Some(vote("they")));
    assert!(matches!(log.answers.try_recv(), Err(mpsc::TryRecvError::Empty)));

    log.disk.limit_bytes(None);
    log.expect_done(&["blocked"]);
    log.expect_done(&["entry"; 499]);
    log.expect_done(&["truncation", "vote"]);
    let syncs = log.disk.counts().syncs - syncs;
    assert!(syncs < 10, "{syncs} syncs for 502 calls");
    assert_eq!((log.read(), log.writer.health()), (wanted, Health::Well));
}

#[test]
fn entries_that_still_wait_are_read_when_others_were_written_meanwhile() {
    let log = Log::create();
    log.fill();
    log.writer.save_vote(vote("me"), log.done("vote"));
    log.append("waits", vec![entry(1, 1, 90_000)]);
    // Space for the first of the two.
    log.disk.limit_bytes(Some(log.disk.bytes_used() + 80_000));
    log.expect_done(&["blocked", "vote"]);
    log.append("waits too", vec![entry(2, 1, 10)]);
    assert_eq!(log.read(), [entry(0, 1, 20_000), entry(1, 1, 90_000), entry(2, 1, 10)]);
    log.disk.limit_bytes(None);
    log.expect_done(&["waits", "waits too"]);
    assert_eq!(log.read(), [entry(0, 1, 20_000), entry(1, 1, 90_000), entry(2, 1, 10)]);
}

#[test]
fn older_entries_are_read_from_the_disk_and_no_more_than_asked_for() {
    let log = Log::create();
    let all: Vec<Entry> = (0..200).map(|index| entry(index, 1, 100)).collect();
    for batch in all.chunks(9) {
        log.append("entries", batch.to_vec());
    }
    log.expect_done(&["entries"; 23]);
    let reader = log.writer.reader();
    assert_eq!(log.read(), all);
    assert_eq!(reader.entries(10..50, 1_000).expect("read").len(), 6);
    assert_eq!(reader.entries(197..300, 1_000).expect("read"), all[197..]);
    assert_eq!(reader.entries(60..70, 1).expect("read"), all[60..61]);
    log.writer.purge(position(150, 1), log.done("purge"));
    assert_eq!(log.read(), all[151..]);
    log.expect_done(&["purge"]);
    assert_eq!(log.read(), all[151..]);
    assert_eq!(reader.entries(0..10, 1_000).expect("read"), []);
}

#[test]
fn a_purge_makes_space_for_what_waits_before_it() {
    let log = Log::create();
    let all: Vec<Entry> = (0..180).map(|index| entry(index, 1, 400)).collect();
    for batch in all.chunks(30) {
        log.append("entries", batch.to_vec());
        log.expect_done(&["entries"]);
    }
    let (wal, disk) = {
        let Log { disk, writer, .. } = log;
        drop(writer);
        (open(&disk, &dir()).expect("open again").0, disk)
    };
    let log = Log::new(wal, &disk);
    // Space for what is kept free of a segment, not for what waits.
    disk.limit_bytes(Some(disk.bytes_used() + 1_000));
    log.append("waits", vec![entry(180, 1, 20_000)]);
    log.writer.purge(position(179, 1), log.done("purge"));
    log.expect_done(&["purge", "waits"]);
    assert_eq!(log.read(), [entry(180, 1, 20_000)]);
}

#[test]
fn a_failed_sync_fails_all_that_waits_for_it_and_all_that_comes_later() {
    let log = Log::create();
    log.append("before", vec![entry(0, 1, 10)]);
    log.expect_done(&["before"]);
    log.disk.fail(Failing::Sync, 0..1);
    log.append("lost", vec![entry(1, 1, 10)]);
    let (name, outcome) = log.next();
    assert_eq!((name, outcome.is_err()), ("lost", true));
    log.writer.save_vote(vote("me"), log.done("vote"));
    let (name, outcome) = log.next();
    let error = outcome.expect_err("nothing is written any more");
    assert_eq!(name, "vote");
    assert!(told(&error).contains("sync"), "{}", told(&error));
    assert!(matches!(log.writer.health(), Health::Failed(_)));
    // Reads go on.
    assert_eq!(log.read(), [entry(0, 1, 10), entry(1, 1, 10)]);
    let disk = log.disk.crash(1);
    let (wal, _) = open(&disk, &dir()).expect("open after the crash");
    assert_eq!(wal.entries(0..9).expect("read"), [entry(0, 1, 10)]);
}

#[test]
fn a_writer_that_is_dropped_writes_what_is_queued_and_refuses_what_has_no_space() {
    let log = Log::create();
    for index in 0..20 {
        log.append("entry", vec![entry(index, 1, 10)]);
    }
    let Log { disk, writer, answers, answer } = log;
    drop(writer);
    drop(answer);
    assert_eq!(answers.iter().filter(|(_, outcome)| outcome.is_ok()).count(), 20);

    let (wal, _) = open(&disk, &dir()).expect("open again");
    let log = Log::new(wal, &disk);
    log.fill();
    let Log { writer, answers, answer, .. } = log;
    drop(writer);
    drop(answer);
    let outcomes: Vec<Answer> = answers.iter().collect();
    let [("blocked", Err(error))] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(answers.recv_timeout(HANG).err(), Some(RecvTimeoutError::Disconnected));
}
