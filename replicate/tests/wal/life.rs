//! A log is written, read, cut at both ends and opened again, on a real disk and a simulated one.
use std::path::Path;

use shardgate_replicate::disk::{Disk, DiskFile, RealDisk, SimulatedDisk};
use shardgate_replicate::wal::{ENTRY_BYTES_MAX, Entry, Opaque, Wal, WalError};

use crate::logs::{dir, entry, open, position, told, vote};

/// Each test runs on both disks.
macro_rules! on_both_disks {
    ($($name:ident),* $(,)?) => {
        mod on_a_simulated_disk {
            use super::*;
            $(#[test] fn $name() { super::$name(&SimulatedDisk::new(), &dir()); })*
        }
        mod on_a_real_disk {
            use super::*;
            $(#[test] fn $name() {
                let directory = tempfile::tempdir().expect("a temporary directory");
                super::$name(&RealDisk, &directory.path().join("control-log"));
            })*
        }
    };
}

on_both_disks!(
    a_new_log_is_empty,
    what_was_appended_is_read_from_memory_and_from_the_disk_and_after_a_restart,
    the_vote_and_what_is_committed_survive_a_restart_and_the_removal_of_their_segment,
    truncated_entries_never_come_back,
    a_purge_removes_whole_segments_and_keeps_the_rest_readable,
    a_log_goes_on_after_a_purge_beyond_its_end,
    an_entry_that_does_not_follow_or_is_too_large_is_refused_and_nothing_is_written,
    a_torn_tail_is_cut_and_told,
    a_log_in_use_is_refused,
);

fn reopen<D: Disk>(wal: Wal<D>, disk: &D, dir: &Path) -> Wal<D> {
    drop(wal);
    let (wal, recovered) = open(disk, dir).expect("open the log again");
    assert_eq!((recovered.created, recovered.torn), (false, None));
    wal
}

fn read<D: Disk>(wal: &Wal<D>) -> Vec<Entry> {
    wal.entries(0..u64::MAX).expect("read all entries")
}

fn a_new_log_is_empty<D: Disk>(disk: &D, dir: &Path) {
    let (wal, recovered) = open(disk, dir).expect("create a log");
    assert!(recovered.created);
    let wal = reopen(wal, disk, dir);
    assert_eq!((read(&wal), wal.first_index()), (Vec::new(), None));
    assert_eq!((wal.state().vote, wal.state().last), (None, None));
}

fn what_was_appended_is_read_from_memory_and_from_the_disk_and_after_a_restart<D: Disk>(
    disk: &D,
    dir: &Path,
) {
    let (mut wal, _) = open(disk, dir).expect("create a log");
    let all: Vec<Entry> = (0..100).map(|index| entry(index, 1, 10 * index as usize)).collect();
    for batch in all.chunks(7) {
        wal.append_batch(batch).expect("append");
    }
    assert!(wal.size().1 > 10, "{:?}", wal.size());
    for _ in 0..2 {
        assert_eq!(read(&wal), all);
        assert_eq!(wal.entries(40..60).expect("read"), all[40..60]);
        assert_eq!(wal.entries(97..99).expect("read"), all[97..99]);
        assert_eq!(wal.entries(5..5).expect("read"), []);
        assert_eq!(wal.entries(100..200).expect("read"), []);
        assert_eq!(wal.state().last, Some(position(99, 1)));
        wal.sync().expect("sync");
        wal = reopen(wal, disk, dir);
    }
}

fn the_vote_and_what_is_committed_survive_a_restart_and_the_removal_of_their_segment<D: Disk>(
    disk: &D,
    dir: &Path,
) {
    let (mut wal, _) = open(disk, dir).expect("create a log");
    wal.save_vote(vote("term 1, node 2")).expect("vote");
    wal.save_committed(Opaque::new(b"entry 7")).expect("save what is committed");
    for index in 0..30 {
        wal.append_batch(&[entry(index, 1, 500)]).expect("append");
    }
    wal.purge(position(28, 1)).expect("purge");
    assert!(wal.size().1 <= 2, "{:?}", wal.size());
    let wal = reopen(wal, disk, dir);
    assert_eq!(wal.state().vote, Some(vote("term 1, node 2")));
    assert_eq!(wal.state().committed, Opaque::new(b"entry 7"));
    assert_eq!(read(&wal), [entry(29, 1, 500)]);
}

fn truncated_entries_never_come_back<D: Disk>(disk: &D, dir: &Path) {
    let (mut wal, _) = open(disk, dir).expect("create a log");
    let old: Vec<Entry> = (0..40).map(|index| entry(index, 1, 300)).collect();
    wal.append_batch(&old[..20]).expect("append");
    wal.append_batch(&old[20..]).expect("append");
    wal.truncate_after(Some(position(4, 1))).expect("truncate");
    assert_eq!((read(&wal), wal.state().last), (old[..5].to_vec(), Some(position(4, 1))));
    wal = reopen(wal, disk, dir);
    assert_eq!((read(&wal), wal.state().last), (old[..5].to_vec(), Some(position(4, 1))));
    wal.append_batch(&[entry(5, 2, 3)]).expect("append");
    let mut wanted = old[..5].to_vec();
    wanted.push(entry(5, 2, 3));
    assert_eq!(read(&wal), wanted);
    wal = reopen(wal, disk, dir);
    assert_eq!(read(&wal), wanted);
    wal.truncate_after(None).expect("truncate");
    assert_eq!(wal.state().last, None);
    wal = reopen(wal, disk, dir);
    assert_eq!((read(&wal), wal.state().last), (Vec::new(), None));
}

fn a_purge_removes_whole_segments_and_keeps_the_rest_readable<D: Disk>(disk: &D, dir: &Path) {
    let (mut wal, _) = open(disk, dir).expect("create a log");
    let all: Vec<Entry> = (1..60).map(|index| entry(index, 4, 200)).collect();
    for batch in all.chunks(3) {
        wal.append_batch(batch).expect("append");
    }
    let before = wal.size();
    wal.purge(position(30, 4)).expect("purge");
    let after = wal.size();
    assert!(after.0 + 5_000 < before.0 && after.1 <= 6, "{before:?} {after:?}");
    for _ in 0..2 {
        assert_eq!(read(&wal), all[30..]);
        assert_eq!(wal.first_index(), Some(31));
        assert_eq!(wal.state().purged, Some(position(30, 4)));
        wal = reopen(wal, disk, dir);
    }
    wal.purge(position(12, 4)).expect("a purge of what is gone");
    assert_eq!(wal.state().purged, Some(position(30, 4)));
    wal.purge(position(59, 4)).expect("purge all");
    wal = reopen(wal, disk, dir);
    assert_eq!((read(&wal), wal.state().last), (Vec::new(), Some(position(59, 4))));
    wal.append_batch(&[entry(60, 5, 1)]).expect("append");
    assert_eq!(read(&wal), [entry(60, 5, 1)]);
}

fn a_log_goes_on_after_a_purge_beyond_its_end<D: Disk>(disk: &D, dir: &Path) {
    let (mut wal, _) = open(disk, dir).expect("create a log");
    wal.append_batch(&[entry(0, 1, 10), entry(1, 1, 10)]).expect("append");
    wal.purge(position(500, 3)).expect("purge");
    for _ in 0..2 {
        assert_eq!((read(&wal), wal.state().last), (Vec::new(), Some(position(500, 3))));
        wal = reopen(wal, disk, dir);
    }
    wal.append_batch(&[entry(501, 3, 10)]).expect("append");
    wal = reopen(wal, disk, dir);
    assert_eq!(read(&wal), [entry(501, 3, 10)]);
}

fn an_entry_that_does_not_follow_or_is_too_large_is_refused_and_nothing_is_written<D: Disk>(
    disk: &D,
    dir: &Path,
) {
    let (mut wal, _) = open(disk, dir).expect("create a log");
    wal.append_batch(&[entry(7, 1, 10)]).expect("append");
    let hole = wal.append_batch(&[entry(8, 1, 1), entry(10, 1, 1)]).expect_err("a hole");
    assert_eq!(told(&hole), "entry 10 was appended where entry 9 belongs");
    let large = wal.append_batch(&[entry(8, 1, ENTRY_BYTES_MAX + 1)]).expect_err("too large");
    assert!(told(&large).contains("at most 16777216"), "{}", told(&large));
    assert_eq!(read(&wal), [entry(7, 1, 10)]);
    wal.append_batch(&[entry(8, 1, ENTRY_BYTES_MAX)]).expect("as large as may be");
    let wal = reopen(wal, disk, dir);
    assert_eq!(read(&wal), [entry(7, 1, 10), entry(8, 1, ENTRY_BYTES_MAX)]);
}

fn a_torn_tail_is_cut_and_told<D: Disk>(disk: &D, dir: &Path) {
    let (mut wal, _) = open(disk, dir).expect("create a log");
    wal.append_batch(&[entry(0, 1, 100), entry(1, 1, 100)]).expect("append");
    wal.sync().expect("sync");
    wal.append_batch(&[entry(2, 1, 100)]).expect("append");
    drop(wal);
    let path = dir.join("0000000000000001.wal");
    // The last record loses its end: the fill of 100 bytes is there in part only.
    let file = disk.open(&path).expect("the segment");
    let mut bytes = vec![0; file.bytes_len().expect("its length") as usize];
    file.read_at(0, &mut bytes).expect("read it");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("something");
    file.write_at(last as u64 - 20, &[0; 21]).expect("tear it");

    let (mut wal, recovered) = open(disk, dir).expect("open the torn log");
    let torn = recovered.torn.expect("a torn tail");
    assert_eq!((torn.path, recovered.entries), (path, 2));
    assert!((torn.offset as usize) < last, "{}", torn.offset);
    wal.append_batch(&[entry(2, 2, 4)]).expect("append");
    let wal = reopen(wal, disk, dir);
    assert_eq!(read(&wal), [entry(0, 1, 100), entry(1, 1, 100), entry(2, 2, 4)]);
}

fn a_log_in_use_is_refused<D: Disk>(disk: &D, dir: &Path) {
    let (wal, _) = open(disk, dir).expect("create a log");
    let error = open(disk, dir).expect_err("it is in use");
    assert!(matches!(error, WalError::InUse { .. }), "{error:?}");
    assert!(told(&error).contains("stop that one, or give this node a data directory"));
    drop(wal);
    open(disk, dir).expect("it is free again");
}
