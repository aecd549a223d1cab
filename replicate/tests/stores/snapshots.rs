//! Snapshots are there whole or not at all, and what is read is what was written.

use std::path::{Path, PathBuf};

use shardgate_replicate::disk::{Disk, DiskFile, Failing, RealDisk, SimulatedDisk, read_whole};
use shardgate_replicate::snapshot_store::{
    CHUNK_BYTES_MAX, META_BYTES_MAX, SnapshotError, SnapshotInfo, SnapshotStore,
};

use crate::told;

fn dir() -> PathBuf {
    PathBuf::from("/data/snapshots")
}

fn open<D: Disk>(disk: &D, dir: &Path) -> SnapshotStore<D> {
    SnapshotStore::open(disk.clone(), dir, "harbour").expect("open the store")
}

fn info(index: u64) -> SnapshotInfo {
    SnapshotInfo { index, meta: format!("members at {index}").into_bytes() }
}

fn state(index: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64 * 7 + index) as u8).collect()
}

fn path(index: u64) -> PathBuf {
    dir().join(format!("{index:020}.snapshot"))
}

fn round_trip<D: Disk>(disk: &D, dir: &Path) {
    let store = open(disk, dir);
    assert_eq!(store.newest(None).expect("nothing is needed"), None);
    for (index, len) in [(5, 0), (9, 1), (12, CHUNK_BYTES_MAX), (40, 2 * CHUNK_BYTES_MAX + 77)] {
        store.save(&info(index), &state(index, len)).expect("save");
        let store = open(disk, dir);
        let found = store.newest(Some(index)).expect("read").expect("a snapshot");
        assert_eq!((found.info, found.bytes), (info(index), state(index, len)));
        assert!(found.passed_over.is_empty());
    }
    assert_eq!(store.indexes().expect("list"), [40, 12]);
    assert_eq!(disk.list(dir).expect("list").len(), 2);
}

#[test]
fn snapshots_are_read_as_they_were_written_and_the_last_two_kept() {
    round_trip(&SimulatedDisk::new(), &dir());
    let directory = tempfile::tempdir().expect("a temporary directory");
    round_trip(&RealDisk, &directory.path().join("snapshots"));
}

#[test]
fn a_snapshot_is_there_whole_or_not_at_all_whenever_power_fails() {
    let mut whole = 0;
    for seed in 0..400 {
        let disk = SimulatedDisk::new();
        let store = open(&disk, &dir());
        store.save(&info(1), &state(1, 3_000)).expect("save");
        disk.halt_after(seed % 13);
        let saved = store.save(&info(2), &state(2, 5_000));
        let disk = disk.crash(seed);
        let store = open(&disk, &dir());
        let found = store.newest(Some(1)).expect("read").expect("a snapshot");
        assert_eq!(found.passed_over, [""; 0]);
        assert!(found.info.index == 2 || saved.is_err(), "seed {seed}");
        let len = if found.info.index == 2 { 5_000 } else { 3_000 };
        assert_eq!(found.bytes, state(found.info.index, len), "seed {seed}");
        assert!(disk.list(&dir()).expect("list").iter().all(|name| name.ends_with(".snapshot")));
        whole += usize::from(found.info.index == 2);
    }
    assert!((50..350).contains(&whole), "{whole}");
}

#[test]
fn any_flipped_bit_of_a_snapshot_is_found_and_the_older_one_is_taken_if_it_reaches_the_log() {
    let disk = SimulatedDisk::new();
    let store = open(&disk, &dir());
    store.save(&info(10), &state(10, 50)).expect("save");
    store.save(&info(20), &state(20, 50)).expect("save");
    let len = read_whole(&disk.open(&path(20)).expect("open")).expect("read").len() as u64;
    for bit in 0..len * 8 {
        disk.flip_bit(&path(20), bit).expect("flip");
        let found = store.newest(Some(10)).expect("the older one reaches").expect("a snapshot");
        assert_eq!(found.info, info(10), "bit {bit}");
        let [reason] = &found.passed_over[..] else { panic!("{:?}", found.passed_over) };
        assert!(reason.contains("00020.snapshot is damaged: "), "{reason}");
        let text = told(&store.newest(Some(11)).expect_err("none reaches the log"));
        for part in ["reaches entry 11", reason, "`shardgate node remove`", "join anew"] {
            assert!(text.contains(part), "{text}");
        }
        disk.flip_bit(&path(20), bit).expect("flip it back");
    }
    assert_eq!(store.newest(Some(11)).expect("read").expect("a snapshot").info, info(20));
}

#[test]
fn a_snapshot_that_is_cut_or_has_more_after_its_end_is_damaged() {
    let disk = SimulatedDisk::new();
    let store = open(&disk, &dir());
    store.save(&info(3), &state(3, CHUNK_BYTES_MAX + 10)).expect("save");
    let file = disk.open(&path(3)).expect("open");
    let len = file.bytes_len().expect("its length");
    file.write_at(len, &[0]).expect("write");
    assert!(matches!(store.newest(Some(1)), Err(SnapshotError::None { .. })));
    for len in [len - 1, len - 9, CHUNK_BYTES_MAX as u64, 30, 19, 0] {
        file.set_len(len).expect("cut");
        let error = store.newest(Some(1)).expect_err("it is damaged");
        assert!(told(&error).contains("is damaged: "), "{}", told(&error));
    }
}

#[test]
fn a_full_disk_refuses_a_snapshot_and_keeps_the_one_before() {
    let disk = SimulatedDisk::new();
    let store = open(&disk, &dir());
    store.save(&info(1), &state(1, 1_000)).expect("save");
    disk.limit_bytes(Some(disk.bytes_used() + 700));
    let error = store.save(&info(2), &state(2, 1_000)).expect_err("no space");
    assert!(told(&error).contains("no space is left for a snapshot"), "{}", told(&error));
    assert_eq!(disk.list(&dir()).expect("list").len(), 1, "nothing unfinished is left");
    disk.limit_bytes(None);
    disk.fail(Failing::Sync, 0..1);
    store.save(&info(2), &state(2, 1_000)).expect_err("it can't be synced");
    assert_eq!(store.indexes().expect("list"), [1]);
    store.save(&info(2), &state(2, 1_000)).expect("there is space");
    assert_eq!(store.newest(None).expect("read").expect("a snapshot").info, info(2));
}

#[test]
fn snapshots_of_a_later_format_or_another_cluster_are_refused() {
    let disk = SimulatedDisk::new();
    open(&disk, &dir()).save(&info(7), &state(7, 100)).expect("save");
    let other = SnapshotStore::open(disk.clone(), dir(), "lighthouse").expect("open");
    let text = told(&other.newest(None).expect_err("another cluster's"));
    assert!(text.contains("is of cluster \"harbour\", and this node is of \"lighthouse\""));
    let file = disk.open(&path(7)).expect("open");
    let mut bytes = read_whole(&file).expect("read");
    bytes[8] = 2;
    let head = bytes[12] as usize;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[20..20 + head]);
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    file.write_at(0, &bytes).expect("write");
    let text = told(&open(&disk, &dir()).newest(None).expect_err("a later format"));
    assert!(text.contains("in format 2; this one knows formats up to 1. Start"), "{text}");
}

#[test]
fn a_snapshot_that_is_not_finished_leaves_nothing() {
    let disk = SimulatedDisk::new();
    let store = open(&disk, &dir());
    let mut writer = store.begin(&info(3)).expect("begin");
    writer.write(&state(3, 10)).expect("write");
    assert_eq!(disk.list(&dir()).expect("list").len(), 1);
    drop(writer);
    assert_eq!(disk.list(&dir()).expect("list").len(), 0);
    let large = SnapshotInfo { index: 1, meta: vec![0; META_BYTES_MAX + 1] };
    assert!(matches!(store.begin(&large), Err(SnapshotError::TooMuchMeta { .. })));
    let most = SnapshotInfo { index: 1, meta: vec![0; META_BYTES_MAX] };
    store.save(&most, b"").expect("save");
    assert_eq!(store.newest(None).expect("read").expect("a snapshot").info, most);
}
