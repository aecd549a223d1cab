//! A stream reads the same however it is cut, and events survive being written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate_proto::sse::{
    Event, EventDecoder, Received, write_comment, write_event, write_priming_event,
};

const EVENT_BYTES_MAX: usize = 60;

type Seen = (Vec<u8>, Vec<u8>, Vec<u8>, Option<u64>);

/// The events, whether they ended in an error, and the last event id.
fn read<'p>(pieces: impl Iterator<Item = &'p [u8]>, bound: usize) -> (Vec<Seen>, bool, Vec<u8>) {
    let mut decoder = EventDecoder::new(bound);
    let mut all = Vec::new();
    for mut input in pieces {
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(Received::Event { id, name, data })) => {
                    assert!(name.len() + data.len() <= bound);
                    all.push((id.to_vec(), name.to_vec(), data.to_vec(), None));
                }
                Ok(Some(Received::Retry(retry_ms))) => {
                    all.push((Vec::new(), Vec::new(), Vec::new(), Some(retry_ms)));
                }
                Ok(None) => break,
                Err(_) => return (all, true, Vec::new()),
            }
        }
        assert!(input.is_empty());
    }
    let last = decoder.last_event_id().to_vec();
    (all, false, last)
}

/// A decoder gives back every line break as LF.
fn with_lf(data: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(data).replace("\r\n", "\n").replace('\r', "\n").into_bytes()
}

fn round_trip(data: &[u8], cut: usize) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (mut stream, mut wanted) = (Vec::new(), Vec::new());
    for (number, part) in text.split('|').enumerate() {
        let id = number.to_string();
        if number % 3 == 0 {
            write_comment(&mut stream, "");
            write_priming_event(&mut stream, &id, Some(7));
            wanted.push((Vec::new(), Vec::new(), Vec::new(), Some(7)));
            wanted.push((id.clone().into_bytes(), Vec::new(), Vec::new(), None));
        }
        let event = Event { id: Some(&id), data: part.as_bytes(), ..Event::default() };
        write_event(&mut stream, &event);
        wanted.push((id.into_bytes(), Vec::new(), with_lf(part.as_bytes()), None));
    }
    let (events, too_large, _) = read(stream.chunks(cut), usize::MAX);
    assert!(!too_large);
    assert_eq!(events, wanted);
}

fuzz_target!(|data: &[u8]| {
    let [cut, stream @ ..] = data else { return };
    let cut = usize::from(*cut) + 1;
    for bound in [EVENT_BYTES_MAX, usize::MAX] {
        let whole = read(std::iter::once(stream), bound);
        assert_eq!(read(stream.chunks(cut), bound), whole);
        assert_eq!(read(stream.chunks(1), bound), whole);
    }
    round_trip(stream, cut);
});
