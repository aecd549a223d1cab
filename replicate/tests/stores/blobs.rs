//! Blobs are there whole or not at all, within their bounds, and checked when they are read.

use std::path::{Path, PathBuf};

use shardgate_replicate::blobs::{BLOB_BYTES_MAX, BlobError, BlobHash, Blobs, NotABlobHash};
use shardgate_replicate::disk::{Disk, DiskFile, RealDisk, SimulatedDisk};

use crate::told;

fn dir() -> PathBuf {
    PathBuf::from("/data/blobs")
}

fn open<D: Disk>(disk: &D, dir: &Path) -> Blobs<D> {
    Blobs::open(disk.clone(), dir, 10_000).expect("open the store")
}

fn life<D: Disk>(disk: &D, dir: &Path) {
    let mut blobs = open(disk, dir);
    let one = blobs.put(&[1; 3_000]).expect("store");
    let two = blobs.put(&[2; 4_000]).expect("store");
    assert_eq!(blobs.put(&[1; 3_000]).expect("store it again"), one);
    assert_eq!(one, BlobHash::of(&[1; 3_000]));
    for _ in 0..2 {
        assert_eq!(blobs.bytes_used(), 7_000);
        assert_eq!(blobs.read(one).expect("read"), Some(vec![1; 3_000]));
        assert_eq!(blobs.read(BlobHash([0; 32])).expect("read"), None);
        let mut wanted = [(one, 3_000), (two, 4_000)];
        wanted.sort_unstable();
        assert_eq!(blobs.iter().collect::<Vec<_>>(), wanted);
        blobs = open(disk, dir);
    }
    assert!(blobs.remove(one).expect("remove"));
    assert!(!blobs.remove(one).expect("it is gone"));
    let blobs = open(disk, dir);
    assert_eq!(
        (blobs.contains(one), blobs.contains(two), blobs.bytes_used()),
        (false, true, 4_000)
    );
}

#[test]
fn blobs_are_read_by_their_hash_listed_and_removed() {
    life(&SimulatedDisk::new(), &dir());
    let directory = tempfile::tempdir().expect("a temporary directory");
    life(&RealDisk, &directory.path().join("blobs"));
}

#[test]
fn a_stored_blob_survives_and_another_is_there_whole_or_not_at_all() {
    let mut whole = 0;
    for seed in 0..400 {
        let disk = SimulatedDisk::new();
        let mut blobs = open(&disk, &dir());
        let before = blobs.put(b"before").expect("store");
        disk.halt_after(seed % 7);
        let stored = blobs.put(&[7; 5_000]);
        let disk = disk.crash(seed);
        let mut blobs = open(&disk, &dir());
        assert_eq!(blobs.read(before).expect("read"), Some(b"before".to_vec()));
        let hash = BlobHash::of(&[7; 5_000]);
        let found = blobs.read(hash).expect("it is never damaged");
        assert!(found.is_some() || stored.is_err(), "seed {seed}");
        assert!(found.is_none_or(|bytes| bytes == [7; 5_000]), "seed {seed}");
        assert!(disk.list(&dir()).expect("list").iter().all(|name| name.ends_with(".blob")));
        whole += usize::from(blobs.contains(hash));
    }
    assert!((50..350).contains(&whole), "{whole}");
}

#[test]
fn a_damaged_blob_is_dropped_and_can_be_fetched_again() {
    let disk = SimulatedDisk::new();
    let mut blobs = open(&disk, &dir());
    let hash = blobs.put(&[1; 3_000]).expect("store");
    let path = dir().join(format!("{hash}.blob"));
    disk.flip_bit(&path, 12_345).expect("flip");
    let error = blobs.read(hash).expect_err("it is damaged");
    assert!(told(&error).contains("is to be fetched from a node that has it"), "{}", told(&error));
    assert_eq!((blobs.read(hash).expect("it is gone"), blobs.bytes_used()), (None, 0));
    let other = blobs.put_fetched(hash, &[2; 3_000]).expect_err("another one came");
    assert!(told(&other).starts_with(&format!("the payload {hash} was asked for, and ")));
    blobs.put_fetched(hash, &[1; 3_000]).expect("store");
    disk.open(&path).expect("open").set_len(10).expect("cut");
    assert!(matches!(blobs.read(hash), Err(BlobError::Damaged { .. })));
    blobs.put_fetched(hash, &[1; 3_000]).expect("store");
    disk.remove(&path).expect("remove it behind the store's back");
    assert!(matches!(blobs.read(hash), Err(BlobError::Damaged { .. })));
}

#[test]
fn a_full_store_and_a_full_disk_say_so_and_take_more_later() {
    let disk = SimulatedDisk::new();
    let mut blobs = open(&disk, &dir());
    let first = blobs.put(&[1; 6_000]).expect("store");
    let text = told(&blobs.put(&[2; 4_001]).expect_err("no more than 10,000"));
    assert!(text.contains("4001 bytes has no space in /data/blobs: 6000 of 10000 bytes are used"));
    disk.limit_bytes(Some(disk.bytes_used() + 100));
    let error = blobs.put(&[2; 4_000]).expect_err("the disk is full");
    assert!(matches!(error, BlobError::Full { source: Some(_), .. }), "{error:?}");
    assert_eq!(disk.list(&dir()).expect("list").len(), 1, "nothing unfinished is left");
    assert!(blobs.remove(first).expect("remove"));
    blobs.put(&[2; 4_000]).expect("there is space");
    let large = blobs.put(&vec![0; BLOB_BYTES_MAX + 1]).expect_err("too large");
    assert!(told(&large).contains("at most 67108864"), "{}", told(&large));
}

#[test]
fn the_text_of_a_hash_is_read_back_and_nothing_else_is() {
    let hash = BlobHash::of(b"");
    let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!((hash.to_string().as_str(), text.parse()), (text, Ok(hash)));
    for wrong in ["", &text[1..], &text.to_uppercase(), &text.replace('e', "g")] {
        assert_eq!(wrong.parse::<BlobHash>(), Err(NotABlobHash), "{wrong}");
    }
}
