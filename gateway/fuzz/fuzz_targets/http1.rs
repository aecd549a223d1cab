//! Requests must come out the same however their bytes are cut.
//!
//! The first byte chooses the limits, the second how the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate_proto::http1::{Decoded, Limits, Phase, Request, RequestDecoder};

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Request(Vec<u8>),
    Refused(&'static str, u16),
}

fn limits(choice: u8) -> Limits {
    if choice.is_multiple_of(2) {
        return Limits::default();
    }
    Limits {
        head_bytes_max: 120,
        request_line_bytes_max: 40,
        headers_max: 4,
        body_bytes_max: 24,
        chunk_line_bytes_max: 8,
        chunk_extensions_bytes_max: 10,
        trailer_bytes_max: 20,
    }
}

/// All that can be seen of a request, in one text.
fn seen(request: &Request<'_>, limits: &Limits) -> Seen {
    let head = &request.head;
    assert!(head.block().ends_with(b"\r\n\r\n") && head.block().len() <= limits.head_bytes_max);
    assert!(request.body.len() <= limits.body_bytes_max);
    assert!(head.headers().count() <= limits.headers_max);
    assert!(head.path().starts_with(b"/"));
    let lines: Vec<_> = head.headers().collect();
    let text = format!(
        "{:?} {} {:?} {:?} {:?} {:?} {:?} {lines:?} {:?} {} {:?}",
        head.method(),
        head.method_text(),
        head.version(),
        head.persistence(),
        head.path(),
        head.query(),
        head.authority(),
        head.mcp_session_id(),
        head.accepts("application/json"),
        request.body,
    );
    Seen::Request(text.into_bytes())
}

/// Decodes `pieces`; every piece with an odd number in `pushed` goes in through `push_back`.
fn decode<'p>(pieces: impl Iterator<Item = &'p [u8]>, pushed: bool, limits: &Limits) -> Vec<Seen> {
    let mut decoder = RequestDecoder::new();
    let mut all = Vec::new();
    for (number, piece) in pieces.enumerate() {
        let mut input = piece.to_vec();
        if pushed && number % 2 == 1 {
            decoder.push_back(&input);
            input.clear();
        }
        let mut from = 0;
        loop {
            let given = input.len() - from;
            match decoder.decode(&mut input[from..], limits) {
                Decoded::Request { request, consumed } => {
                    assert!(consumed <= given);
                    all.push(seen(&request, limits));
                    from += consumed;
                }
                Decoded::NeedMore | Decoded::SendContinue => break,
                Decoded::Refused(refusal) => {
                    assert_eq!(decoder.phase(), Phase::Refused);
                    all.push(Seen::Refused(refusal.reason, refusal.status.0));
                    break;
                }
            }
        }
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let [choice, cut, stream @ ..] = data else { return };
    let limits = limits(*choice);
    let whole = decode(std::iter::once(stream), false, &limits);
    let size = usize::from(*cut) + 1;
    assert_eq!(decode(stream.chunks(size), false, &limits), whole, "cut every {size} bytes");
    assert_eq!(decode(stream.chunks(size), true, &limits), whole, "pushed back, {size} bytes");
    assert_eq!(decode(stream.chunks(1), false, &limits), whole, "byte by byte");
});
