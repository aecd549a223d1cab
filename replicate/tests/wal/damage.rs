//! Logs that are not what was written are refused, with what to do.

use std::path::PathBuf;

use proptest::prelude::*;
use shardgate_replicate::disk::{Disk, DiskFile, SimulatedDisk, read_whole};
use shardgate_replicate::wal::{
    Chain, Entry, HEADER_BYTES, Header, LogState, Owner, Record, Wal, WalError, decode_segment,
};

use crate::logs::{config, dir, entry, open, owner, position, told, vote};

fn segment(number: u64) -> PathBuf {
    dir().join(format!("{number:016}.wal"))
}

/// A log of three segments or more, all synced, and noted to be.
fn written() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let (mut wal, _) = open(&disk, &dir()).expect("create a log");
    wal.save_vote(vote("term 1")).expect("vote");
    for index in 0..24 {
        wal.append_batch(&[entry(index, 1, 200)]).expect("append");
    }
    wal.sync().expect("sync");
    wal.mark().expect("mark");
    assert!(wal.size().1 >= 3, "{:?}", wal.size());
    drop(wal);
    disk
}

fn refusal(disk: &SimulatedDisk) -> WalError {
    open(disk, &dir()).map(|(_, recovered)| recovered).expect_err("the log is refused")
}

fn bytes(disk: &SimulatedDisk, number: u64) -> Vec<u8> {
    read_whole(&disk.open(&segment(number)).expect("the segment")).expect("read it")
}

fn newest(disk: &SimulatedDisk) -> u64 {
    let names = disk.list(&dir()).expect("list the log");
    let newest = names.iter().rev().find_map(|name| name.strip_suffix(".wal")?.parse().ok());
    newest.expect("a segment")
}

/// Where records end.
fn used(bytes: &[u8]) -> usize {
    decode_segment(bytes).expect("a segment").end
}

#[test]
fn any_flipped_bit_of_what_was_synced_is_found_and_the_log_refused() {
    for number in 1..=newest(&written()) {
        let len = used(&bytes(&written(), number));
        // The mark, last in the newest, says that the rest was synced; of itself nothing does.
        let len = if number == newest(&written()) { len - 32 } else { len };
        for byte in (0..len).step_by(3) {
            let disk = written();
            disk.flip_bit(&segment(number), 8 * byte as u64 + byte as u64 % 8).expect("flip");
            if is_padding(&bytes(&written(), number), byte) {
                open(&disk, &dir()).expect("what is between records means nothing");
                continue;
            }
            let error = refusal(&disk);
            assert!(matches!(error, WalError::Damaged { .. }), "byte {byte}: {error:?}");
            let text = told(&error);
            assert!(text.contains(&format!("{number:016}.wal is damaged at byte")), "{text}");
            for way_out in ["`shardgate node remove`", "move /data/control-log away"] {
                assert!(text.contains(way_out), "{text}");
            }
        }
    }
}

fn is_padding(bytes: &[u8], byte: usize) -> bool {
    let segment = decode_segment(bytes).expect("a segment");
    let of =
        segment.records.iter().find(|standing| (standing.offset..standing.end).contains(&byte));
    of.is_some_and(|standing| {
        let len = u32::from_le_bytes(bytes[standing.offset + 8..][..4].try_into().expect("4"));
        byte >= standing.offset + 32 + len as usize
    })
}

#[test]
fn a_refused_log_is_left_as_it_was() {
    let disk = written();
    disk.flip_bit(&segment(2), 8 * 400).expect("flip");
    let before: Vec<Vec<u8>> = (1..=newest(&disk)).map(|number| bytes(&disk, number)).collect();
    refusal(&disk);
    let after: Vec<Vec<u8>> = (1..=newest(&disk)).map(|number| bytes(&disk, number)).collect();
    assert_eq!(before, after);
}

#[test]
fn zeros_where_something_was_synced_are_damage_and_no_torn_tail() {
    let disk = written();
    let newest = newest(&disk);
    let end = used(&bytes(&disk, newest));
    let file = disk.open(&segment(newest)).expect("the segment");
    file.write_at(end as u64 - 32 - 256, &[0; 256]).expect("lose a piece");
    assert!(matches!(refusal(&disk), WalError::Damaged { .. }));
}

#[test]
fn damage_found_while_reading_old_entries_is_an_error_of_that_read() {
    let disk = SimulatedDisk::new();
    let (mut wal, _) = open(&disk, &dir()).expect("create a log");
    let all: Vec<Entry> = (0..20).map(|index| entry(index, 1, 200)).collect();
    wal.append_batch(&all[..10]).expect("append");
    wal.append_batch(&all[10..]).expect("append");
    disk.flip_bit(&segment(1), 8 * 700).expect("flip");
    let error = wal.entries(0..10).expect_err("one of them is damaged");
    assert!(matches!(error, WalError::Damaged { .. }), "{error:?}");
    assert_eq!(wal.entries(10..20).expect("the others are not"), all[10..]);
}

#[test]
fn a_missing_segment_is_named() {
    for missing in 1..=newest(&written()) {
        let disk = written();
        disk.remove(&segment(missing)).expect("remove");
        let error = refusal(&disk);
        assert!(matches!(error, WalError::Missing { .. }), "{error:?}");
        let text = told(&error);
        assert!(text.starts_with(&format!("{} is missing", segment(missing).display())), "{text}");
        assert!(text.contains("`shardgate node remove`"), "{text}");
    }
    let disk = written();
    for number in 1..=newest(&disk) {
        disk.remove(&segment(number)).expect("remove");
    }
    // A node that begins anew with an empty log would forget whom it voted for.
    assert!(matches!(refusal(&disk), WalError::Missing { .. }));
}

#[test]
fn the_log_of_another_node_or_cluster_is_refused() {
    for other in
        [Owner { node: 4, ..owner() }, Owner { cluster: "lighthouse".to_owned(), ..owner() }]
    {
        let disk = written();
        let opened = Wal::open(disk.clone(), dir(), other.clone(), config());
        let text = told(&opened.map(|(_, recovered)| recovered).expect_err("it is another's"));
        assert!(text.contains("belongs to node 3 of cluster \"harbour\""), "{text}");
        assert!(text.contains(&format!("this is {other}")), "{text}");
        assert!(text.contains("a data directory of its own"), "{text}");
    }
}

#[test]
fn segments_of_two_logs_in_one_directory_are_refused() {
    let disk = written();
    let elsewhere = PathBuf::from("/data/other");
    let other = Owner { node: 9, ..owner() };
    drop(Wal::open(disk.clone(), &elsewhere, other, config()).expect("another log"));
    let strange = read_whole(&disk.open(&elsewhere.join("0000000000000001.wal")).expect("open"));
    let next = newest(&disk) + 1;
    let file = disk.create(&segment(next)).expect("create");
    file.write_at(0, &strange.expect("read")).expect("write");
    let text = told(&refusal(&disk));
    assert!(text.contains("belongs to node 9 of cluster \"harbour\""), "{text}");
}

#[test]
fn a_segment_under_another_ones_name_is_refused() {
    let disk = written();
    let aside = dir().join("aside");
    for (from, to) in [(segment(1), aside.clone()), (segment(2), segment(1)), (aside, segment(2))] {
        disk.rename(&from, &to).expect("rename");
    }
    let text = told(&refusal(&disk));
    assert!(text.contains("another segment under this one's name"), "{text}");
}

#[test]
fn a_log_of_a_later_format_is_refused_and_not_called_damaged() {
    let disk = written();
    let file = disk.open(&segment(1)).expect("open");
    let mut header = bytes(&disk, 1)[..HEADER_BYTES].to_vec();
    header[8] = 2;
    header[16..20].fill(0);
    let checksum = crc32c::crc32c(&header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    file.write_at(0, &header).expect("write");
    let error = refusal(&disk);
    assert!(matches!(error, WalError::Newer { found: 2, .. }), "{error:?}");
    assert!(told(&error).contains("formats up to 1. Start the later version again"));
}

#[test]
fn what_a_client_wrote_is_never_taken_for_a_record() {
    // Another log's record, whole, as the payload of an entry that a crash tore: it says that
    // much was synced, but not with this log's salt.
    let mut forged = Vec::new();
    let mut chain = Chain { salt: 0xBAD, previous: 0, sequence: 1_000 };
    chain.write(&Record::Mark, 999, &mut forged);
    let disk = SimulatedDisk::new();
    let (mut wal, _) = open(&disk, &dir()).expect("create a log");
    wal.append_batch(&[entry(0, 1, 64)]).expect("append");
    wal.sync().expect("sync");
    let start = used(&bytes(&disk, 1));
    // The payload begins where no record may begin, so the forgery tries every place.
    let payload: Vec<u8> = (0..16)
        .flat_map(|shift| {
            let mut piece = vec![1; shift];
            piece.extend_from_slice(&forged);
            piece
        })
        .collect();
    wal.append_batch(&[Entry { payload: payload.into(), ..entry(1, 1, 0) }]).expect("append");
    drop(wal);
    disk.flip_bit(&segment(1), 8 * (start as u64 + 33)).expect("tear it");
    let (wal, recovered) = open(&disk, &dir()).expect("a torn tail is no damage");
    assert!(recovered.torn.is_some());
    assert_eq!(wal.entries(0..9).expect("read"), [entry(0, 1, 64)]);
}

#[test]
fn a_record_that_does_not_refer_to_the_one_before_is_not_taken() {
    let mut header = Header { owner: owner(), number: 1, first_sequence: 1, salt: 7, checksum: 0 };
    let mut segment = Vec::new();
    header.write(&mut segment);
    let mut chain = Chain { salt: 7, previous: header.checksum, sequence: 1 };
    chain.write(&Record::Base(LogState::default()), 0, &mut segment);
    let after_base = (segment.len(), chain);
    chain.write(&Record::Vote(vote("old")), 1, &mut segment);
    chain.write(&Record::Purge(position(3, 1)), 1, &mut segment);
    assert_eq!(decode_segment(&segment).expect("a segment").records.len(), 3);
    // Another vote of the same length takes the place of the first: what followed that one, and
    // was never taken back, must not follow this one.
    let (place, mut chain) = after_base;
    let mut other = Vec::new();
    chain.write(&Record::Vote(vote("new")), 1, &mut other);
    segment[place..place + other.len()].copy_from_slice(&other);
    let decoded = decode_segment(&segment).expect("a segment");
    assert_eq!((decoded.records.len(), decoded.has_leftover), (2, true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_decoder_panic(noise in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = decode_segment(&noise);
    }

    #[test]
    fn a_segment_with_noise_in_it_gives_only_records_that_were_written(
        at in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 1..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = bytes(&written(), 1);
        let written = decode_segment(&whole).expect("a segment").records;
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + noise.len());
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        bytes.truncate(cut.index(bytes.len()).max(bytes.len() / 2));
        if let Ok(segment) = decode_segment(&bytes) {
            let mut found = segment.records.iter().map(|standing| &standing.record);
            prop_assert!(found.all(|record| written.iter().any(|it| it.record == *record)));
        }
    }
}
