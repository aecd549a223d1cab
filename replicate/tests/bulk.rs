//! Bulk transfers between nodes.
#![forbid(unsafe_code)]

mod nodes;

use std::time::Duration;

use bytes::Bytes;
use nodes::{ECHO, FAIL, Node, WAIT, made, run, until};
use shardgate_replicate::pki::{Authority, NodeRequest, Validity};
use shardgate_replicate::transport::{
    BULK_PART_BYTES, BULKS_MAX, BulkError, Frame, FrameClass, Hello, PROTOCOL_MAX, PROTOCOL_MIN,
    Purpose, Security, Supply, Tls,
};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that are different everywhere.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

fn supply(bytes: &[u8]) -> Supply {
    let source = Box::new(std::io::Cursor::new(bytes.to_vec()));
    Supply { length: bytes.len() as u64, head: Bytes::from_static(b"what it is"), source }
}

async fn two() -> (Node, Node) {
    let (a, b) = (made(1).start().await, made(2).start().await);
    a.meets(&b);
    (a, b)
}

#[test]
fn what_is_sent_arrives_whole_with_its_progress() {
    run(async {
        let (a, b) = two().await;
        for length in [0, 1, BULK_PART_BYTES, 5 * BULK_PART_BYTES + 3] {
            let sent = bytes(length);
            let mut progress = Vec::new();
            let answer =
                a.links.send_bulk(b.id, 9, supply(&sent), |sent| progress.push(sent)).await;
            assert_eq!(answer.expect("it arrives"), "it is safe");
            assert_eq!(progress.len(), length.div_ceil(BULK_PART_BYTES));
            assert!(progress.is_sorted() && progress.last().is_none_or(|it| *it == length as u64));
            let (kind, head, received) = b.asked.received.borrow_mut().remove(0);
            assert_eq!((kind, head.as_ref()), (9, b"what it is".as_slice()));
            assert!(received == sent, "{length} bytes came as {}", received.len());
        }
    });
}

#[test]
fn what_is_fetched_arrives_whole() {
    run(async {
        let (a, b) = two().await;
        let length = 3 * BULK_PART_BYTES as u64 + 1;
        let wanted = Bytes::copy_from_slice(&length.to_le_bytes());
        let mut incoming = a.links.fetch_bulk(b.id, 9, wanted).await.expect("it is there");
        assert_eq!((incoming.length(), incoming.head().as_ref()), (length, b"sevens".as_slice()));
        let mut all = Vec::new();
        while let Some(part) = incoming.next().await.expect("it arrives") {
            all.extend_from_slice(&part);
        }
        assert!(all.len() as u64 == length && all.iter().all(|byte| *byte == 7));
        assert_eq!(incoming.received(), length);
        assert!(matches!(incoming.next().await, Ok(None)), "the end stays the end");
    });
}

#[test]
fn transfers_pass_through_tls() {
    run(async {
        let authority = Authority::create("test", Validity::days(1)).expect("an authority");
        let secured = |id: u16| {
            let request = NodeRequest {
                name: format!("node-{id}"),
                node: None,
                addresses: Vec::new(),
                validity: Validity::days(1),
            };
            let credentials = authority.issue(&request).and_then(|issued| issued.credentials());
            let tls = Tls::new(&credentials.expect("sound"), "test").expect("sound");
            nodes::Made { security: Security::Tls(tls), ..made(id) }
        };
        let (a, b) = (secured(1).start().await, secured(2).start().await);
        a.meets(&b);
        let sent = bytes(2_000_000);
        a.links.send_bulk(b.id, 9, supply(&sent), |_| {}).await.expect("it arrives");
        assert!(b.asked.received.borrow()[0].2 == sent);
    });
}

#[test]
fn requests_pass_while_a_transfer_is_held_up() {
    run(async {
        let (a, b) = two().await;
        let sent = bytes(40 << 20);
        let sending = a.links.send_bulk(b.id, WAIT, supply(&sent), |_| {});
        let asking = async {
            until("the transfer has begun", || b.asked.waiting.get() == 1).await;
            assert!(a.asks(&b, ECHO, b"meanwhile").await.is_ok());
            b.asked.go_on.notify_one();
        };
        let (answer, ()) = tokio::join!(sending, asking);
        assert_eq!(answer.expect("it arrives"), "it is safe");
        assert!(b.asked.received.borrow()[0].2 == sent);
    });
}

#[test]
fn a_receiver_that_does_not_want_it_says_why_in_the_middle() {
    run(async {
        let (a, b) = two().await;
        let error = a.links.send_bulk(b.id, FAIL, supply(&bytes(64 << 20)), |_| {}).await;
        let error = error.expect_err("it is turned away");
        let expected = "the peer gave the transfer up: node-1 may not send 262144 bytes";
        assert_eq!(error.to_string(), expected);
    });
}

#[test]
fn a_source_that_is_shorter_than_announced_is_told_to_both() {
    run(async {
        let (a, b) = two().await;
        let mut short = supply(&bytes(1_000));
        short.length = 1_001;
        let error = a.links.send_bulk(b.id, 9, short, |_| {}).await.expect_err("it is short");
        assert!(matches!(error, BulkError::SourceShort { got: 1_000, announced: 1_001 }));
        until("the receiver knows", || !b.asked.broken.borrow().is_empty()).await;
        assert!(b.asked.broken.borrow()[0].contains("broke off"), "{:?}", b.asked.broken);
        assert!(b.asked.received.borrow().is_empty());

        let wanted = Bytes::copy_from_slice(&1_000_u64.to_le_bytes());
        let mut incoming = a.links.fetch_bulk(b.id, FAIL, wanted).await.expect("it begins");
        let error = loop {
            match incoming.next().await {
                Ok(part) => assert!(part.is_some(), "it is short"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("ends after 999 bytes, 1000 were announced"), "{error}");
    });
}

#[test]
fn what_a_peer_does_not_have_is_told() {
    run(async {
        let (a, b) = two().await;
        let error = a.links.fetch_bulk(b.id, 9, Bytes::new()).await.expect_err("nothing");
        assert_eq!(error.to_string(), "the peer gave the transfer up: node-1 asked for nothing");
        let nobody = a.links.fetch_bulk(NodeId(7), 9, Bytes::new()).await.expect_err("nobody");
        assert!(matches!(nobody, BulkError::UnknownPeer));
    });
}

#[test]
fn a_transfer_that_stands_still_is_given_up() {
    run(async {
        let mut hasty = made(1);
        hasty.settings.bulk_stalled_after = Duration::from_millis(50);
        let (a, b) = (hasty.start().await, made(2).start().await);
        a.meets(&b);
        let error = a.links.send_bulk(b.id, WAIT, supply(&bytes(64 << 20)), |_| {}).await;
        let error = error.expect_err("nobody reads");
        assert!(matches!(error, BulkError::Stalled(_)), "{error}");
    });
}

#[test]
fn only_so_many_transfers_are_served_at_once() {
    run(async {
        let (a, b) = two().await;
        let held = supply_all(&a, &b, BULKS_MAX);
        let meanwhile = async {
            until("all are under way", || b.asked.waiting.get() == BULKS_MAX).await;
            let error = a.links.send_bulk(b.id, 9, supply(b"one more"), |_| {}).await;
            let error = error.expect_err("there are enough");
            assert!(error.to_string().contains("16 bulk transfers are under way"), "{error}");
            b.asked.go_on.notify_waiters();
        };
        let (all, ()) = tokio::join!(held, meanwhile);
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        assert!(a.links.send_bulk(b.id, 9, supply(b"one more"), |_| {}).await.is_ok());
    });
}

async fn supply_all(a: &Node, b: &Node, count: usize) -> Vec<Result<Bytes, BulkError>> {
    let mut sending: Vec<_> = (0..count)
        .map(|_| Box::pin(a.links.send_bulk(b.id, WAIT, supply(b"held"), |_| {})))
        .collect();
    let mut answers = Vec::new();
    std::future::poll_fn(|context| {
        sending.retain_mut(|sending| match sending.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            std::task::Poll::Pending => true,
        });
        if sending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answers
}

/// A connection for a transfer of which the test writes every frame.
async fn by_hand(to: &Node) -> TcpStream {
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        cluster: "test".to_owned(),
        node: NodeId(1),
        name: "node-1".to_owned(),
        incarnation: Incarnation(1),
        software: "1".to_owned(),
        purpose: Purpose::Bulk,
    };
    let mut tcp = TcpStream::connect(to.address).await.expect("it listens");
    let body = postcard::to_allocvec(&hello).expect("in memory");
    put(&mut tcp, FrameClass::Hello, 0, &body).await;
    tcp
}

async fn put(tcp: &mut TcpStream, class: FrameClass, id: u64, body: &[u8]) {
    let frame = Frame { class, kind: 9, id, body: Bytes::copy_from_slice(body) };
    tcp.write_all(&frame.to_bytes()).await.expect("it takes them");
}

#[test]
fn what_came_through_differently_is_not_believed() {
    run(async {
        let b = made(2).start().await;
        let cases: [(u64, &[u8], [u8; 32], &str); 3] = [
            (5, b"12345", [0; 32], "another SHA-256"),
            (6, b"12345", [0; 32], "5 bytes came of 6"),
            (4, b"12345", [0; 32], "5 bytes came of 4"),
        ];
        for (length, part, hash, expected) in cases {
            let mut tcp = by_hand(&b).await;
            put(&mut tcp, FrameClass::BulkHead, length, b"").await;
            put(&mut tcp, FrameClass::BulkPart, 0, part).await;
            put(&mut tcp, FrameClass::BulkEnd, 0, &hash).await;
            let mut answer = Vec::new();
            // It may reset the connection behind its answer.
            let _ = tcp.read_to_end(&mut answer).await;
            let text = String::from_utf8_lossy(&answer);
            assert!(text.contains(expected), "{text}");
            let broken = b.asked.broken.borrow_mut().pop();
            assert!(broken.is_some_and(|why| why.contains(expected)), "{expected}");
        }
        assert!(b.asked.received.borrow().is_empty());
    });
}
