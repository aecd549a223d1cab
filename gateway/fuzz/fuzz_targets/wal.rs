//! A segment of the log may hold anything: reading it ends, and what is cut off changes nothing
//! before the cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate_replicate::wal::decode_segment;

fuzz_target!(|data: &[u8]| {
    let Ok(segment) = decode_segment(data) else { return };
    assert!(segment.end <= data.len());
    let again = decode_segment(&data[..segment.end]).expect("its header is the same");
    assert_eq!((again.end, again.has_leftover), (segment.end, false));
    assert_eq!(again.records, segment.records);
    assert!(again.synced <= segment.synced);
});
