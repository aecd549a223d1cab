//! A full disk: appends fail cleanly, the rest goes on, and so do appends once there is space.

use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shardgate_replicate::disk::{Disk, RealDisk, SimulatedDisk};
use shardgate_replicate::wal::{Config, Entry, Wal, WalError};

use crate::logs::{config, dir, entry, owner, position, told, vote};

fn fill<D: Disk>(wal: &mut Wal<D>, written: &mut Vec<Entry>, len: usize) -> WalError {
    loop {
        let next = entry(written.len() as u64, 1, len);
        match wal.append_batch(std::slice::from_ref(&next)) {
            Ok(()) => written.push(next),
            Err(error) => return error,
        }
        assert!(written.len() < 100_000, "the disk is never full");
    }
}

#[test]
fn on_a_full_disk_votes_and_purges_go_on_and_reads_too_and_appends_once_there_is_space() {
    let disk = SimulatedDisk::new();
    let open = |disk: &SimulatedDisk| {
        let config = Config { segment_bytes: 60_000, ..config() };
        Wal::open(disk.clone(), dir(), owner(), config).expect("open the log").0
    };
    let mut wal = open(&disk);
    disk.limit_bytes(Some(200_000));
    let mut written = Vec::new();
    let error = fill(&mut wal, &mut written, 150);
    assert!(error.is_full(), "{error:?}");
    let text = told(&error);
    for part in
        ["/data/control-log", "no space is left", "reads go on", "as soon as there is space"]
    {
        assert!(text.contains(part), "{text}");
    }
    wal.sync().expect("what was written is synced");
    assert_eq!(wal.entries(0..u64::MAX).expect("read"), written);
    for number in 0..100 {
        wal.save_vote(vote(&number.to_string())).expect("a vote has its place kept free");
        wal.sync().expect("sync");
    }
    assert!(fill(&mut wal, &mut written, 150).is_full());
    drop(wal);
    let disk = disk.crash(5);
    let mut wal = open(&disk);
    assert_eq!(wal.entries(0..u64::MAX).expect("read"), written);
    assert_eq!(wal.state().vote, Some(vote("99")));

    let last = written.len() as u64 - 1;
    wal.purge(position(last - 3, 1)).expect("a purge has its place kept free");
    let next = entry(last + 1, 1, 150);
    wal.append_batch(std::slice::from_ref(&next)).expect("the purge made space");
    wal.sync().expect("sync");
    let disk = disk.crash(6);
    let wal = open(&disk);
    written.push(next);
    assert_eq!(wal.entries(0..u64::MAX).expect("read"), written[last as usize - 2..]);
}

const INSIDE: &str = "SHARDGATE_TEST_INSIDE_A_LIMIT";

/// The kernel's own refusals, by a limit on the size of files. A process that exceeds it is
/// killed by a signal unless it ignores that, which only its parent can arrange without unsafe
/// code: so the test runs itself again.
#[test]
fn the_kernels_refusal_to_write_is_a_full_disk_and_ends_when_the_limit_does() {
    if std::env::var_os(INSIDE).is_some() {
        return within_a_limit();
    }
    let name = "full::the_kernels_refusal_to_write_is_a_full_disk_and_ends_when_the_limit_does";
    let this = std::env::current_exe().expect("this program");
    let script = r#"trap "" XFSZ; exec "$0" --exact "$1" --nocapture"#;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(this).arg(name).env(INSIDE, "1");
    let output = shell.output().expect("run this test again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn within_a_limit() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dir = directory.path().join("control-log");
    let config = || Config { fill_bytes: 10_000, recent_bytes: 0, ..Config::default() };
    let (mut wal, _) = Wal::open(RealDisk, &dir, owner(), config()).expect("create a log");
    let free = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(333_333), maximum: free.maximum })
        .expect("limit the size of files");
    let mut written = Vec::new();
    let error = fill(&mut wal, &mut written, 1_000);
    assert!(error.is_full(), "{error:?}");
    assert!(written.len() > 200, "{}", written.len());
    wal.save_vote(vote("me")).expect("a vote has its place kept free");
    wal.sync().expect("sync");
    assert_eq!(wal.entries(0..u64::MAX).expect("read"), written);
    setrlimit(Resource::Fsize, free).expect("take the limit away");
    for index in written.len()..written.len() + 100 {
        let next = entry(index as u64, 1, 1_000);
        wal.append_batch(std::slice::from_ref(&next)).expect("there is space again");
        written.push(next);
    }
    wal.sync().expect("sync");
    drop(wal);
    let (wal, recovered) = Wal::open(RealDisk, &dir, owner(), config()).expect("open again");
    assert_eq!(recovered.torn, None);
    assert_eq!(wal.entries(0..u64::MAX).expect("read"), written);
    assert_eq!(wal.state().vote, Some(vote("me")));
}
