//! Peers that misbehave, say nothing, read nothing or are no nodes at all. The test writes their
//! frames itself.
#![forbid(unsafe_code)]

mod nodes;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use nodes::{ECHO, HANG, WAIT, listener, made, run, until};
use shardgate_replicate::transport::{
    Decoder, FRAME_BODY_BYTES_MAX, Frame, FrameClass, HANDLED_AT_ONCE_MAX, HANDSHAKES_MAX, Hello,
    LinkError, LinkEvent, PROTOCOL_MAX, PROTOCOL_MIN, Purpose, REQUESTS_MAX,
    REQUESTS_QUEUED_BYTES_MAX,
};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One side of a connection, by hand.
struct ByHand {
    tcp: TcpStream,
    decoder: Decoder,
}

fn hello(id: u16) -> Frame {
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        cluster: "test".to_owned(),
        node: NodeId(id),
        name: format!("node-{id}"),
        incarnation: Incarnation(1),
        software: "1".to_owned(),
        purpose: Purpose::Messages,
    };
    let body = postcard::to_allocvec(&hello).expect("in memory").into();
    Frame { class: FrameClass::Hello, kind: 0, id: 0, body }
}

fn frame(class: FrameClass, id: u64, body: &'static [u8]) -> Frame {
    Frame { class, kind: ECHO, id, body: Bytes::from_static(body) }
}

impl ByHand {
    fn new(tcp: TcpStream) -> ByHand {
        ByHand { tcp, decoder: Decoder::new(FRAME_BODY_BYTES_MAX) }
    }

    /// Calls a node, and is known to it as node 9.
    async fn call(address: SocketAddr) -> ByHand {
        let mut by_hand = ByHand::new(TcpStream::connect(address).await.expect("it listens"));
        by_hand.put(&hello(9)).await;
        assert_eq!(by_hand.next().await.map(|frame| frame.class), Some(FrameClass::Hello));
        by_hand
    }

    /// Is called by a node, which then knows it as node 9.
    async fn be_called(listener: &TcpListener) -> ByHand {
        let (tcp, _) = listener.accept().await.expect("a connection");
        let mut by_hand = ByHand::new(tcp);
        assert_eq!(by_hand.next().await.map(|frame| frame.class), Some(FrameClass::Hello));
        by_hand.put(&hello(9)).await;
        by_hand
    }

    async fn put(&mut self, frame: &Frame) {
        self.tcp.write_all(&frame.to_bytes()).await.expect("it takes them");
    }

    /// The next frame, or the end.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("a node writes sound frames") {
                return Some(frame);
            }
            // A reset is an end, too.
            if self.tcp.read_buf(self.decoder.buffer()).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The sentence with which the node ends the connection.
    async fn farewell(&mut self) -> String {
        loop {
            match self.next().await {
                Some(frame) if frame.class == FrameClass::Rejection => {
                    return String::from_utf8_lossy(&frame.body).into_owned();
                }
                Some(_) => {}
                None => panic!("it ended without a word"),
            }
        }
    }
}

/// A way to send something that no node sends, and the sentence that it ends in.
type Misdeed = (&'static str, fn() -> Vec<u8>, &'static str);

const MISDEEDS: [Misdeed; 6] = [
    ("garbage", || vec![0x55; 100], "is no frame of Shardgate's"),
    ("text", || b"GET / HTTP/1.1\r\n\r\n".to_vec(), "it begins with \"GE\""),
    (
        "a damaged header",
        || {
            let mut bytes = frame(FrameClass::Request, 1, b"body").to_bytes();
            bytes[9] ^= 4;
            bytes
        },
        "a frame's header came damaged",
    ),
    (
        "a damaged body",
        || {
            let mut bytes = frame(FrameClass::Request, 1, b"body").to_bytes();
            *bytes.last_mut().expect("a body") ^= 1;
            bytes
        },
        "a frame's body of 4 bytes came damaged",
    ),
    ("a second hello", || hello(9).to_bytes(), "a frame of class Hello has no place here"),
    (
        "a bulk transfer",
        || frame(FrameClass::BulkPart, 1, b"").to_bytes(),
        "a frame of class BulkPart has no place here",
    ),
];

#[test]
fn a_caller_that_misbehaves_is_dropped_with_a_sentence() {
    run(async {
        let node = made(1).start().await;
        for (what, bytes, expected) in MISDEEDS {
            let mut peer = ByHand::call(node.address).await;
            peer.put(&frame(FrameClass::Request, 7, b"first")).await;
            assert_eq!(peer.next().await.map(|frame| frame.id), Some(7), "{what}");
            peer.tcp.write_all(&bytes()).await.expect("it takes them");
            let why = peer.farewell().await;
            assert!(why.contains(expected), "{what}: {why}");
            until("the node says so too", || {
                node.asked.disconnected.borrow().last().is_some_and(|why| why.contains(expected))
            })
            .await;
        }
        assert_eq!(node.asked.order.borrow().len(), MISDEEDS.len(), "nothing else was handled");
    });
}

#[test]
fn one_who_is_called_and_misbehaves_is_dropped_with_a_sentence() {
    run(async {
        let mut node = made(1).start().await;
        let listener = listener().await;
        node.links.set_peer(NodeId(9), &listener.local_addr().expect("bound").to_string());
        for (what, bytes, expected) in MISDEEDS {
            let mut peer = ByHand::be_called(&listener).await;
            peer.tcp.write_all(&bytes()).await.expect("it takes them");
            let said = peer.farewell();
            let why = node.failure().await;
            // A client has no use for requests either.
            assert!(why.contains(expected), "{what}: {why}");
            let said = said.await;
            assert!(said.contains(expected), "{what}: {said}");
        }
    });
}

#[test]
fn a_hello_that_is_none_is_refused() {
    run(async {
        let node = made(1).start().await;
        let cases = [
            (frame(FrameClass::Request, 1, b"no hello first"), "a frame of class Request"),
            (frame(FrameClass::Hello, 0, b"\xff\xff"), "the first frame is no hello"),
        ];
        for (first, expected) in cases {
            let mut peer = ByHand::new(TcpStream::connect(node.address).await.expect("it listens"));
            peer.put(&first).await;
            let why = peer.farewell().await;
            assert!(why.contains(expected), "{why}");
        }
        let mut peer = ByHand::new(TcpStream::connect(node.address).await.expect("it listens"));
        let large = Frame { body: vec![0; 5_000].into(), ..hello(9) };
        peer.put(&large).await;
        let why = peer.farewell().await;
        assert!(why.contains("a body of 5000 bytes came where 4096 are the most"), "{why}");
        assert!(node.asked.order.borrow().is_empty());
    });
}

#[test]
fn one_who_says_nothing_is_hung_up_on() {
    run(async {
        let mut hasty = made(1);
        hasty.settings.handshake_timeout = Duration::from_millis(20);
        let mut node = hasty.start().await;
        let mut silent = TcpStream::connect(node.address).await.expect("it listens");
        assert_eq!(silent.read(&mut [0; 8]).await.expect("an end"), 0);
        until("it is told", || !node.asked.refused.borrow().is_empty()).await;
        assert_eq!(node.asked.refused.borrow()[0], "no hello came within 20 ms");

        let listener = listener().await;
        node.links.set_peer(NodeId(9), &listener.local_addr().expect("bound").to_string());
        let why = node.failure().await;
        assert_eq!(why, "it did not answer within 20 ms (TLS and hello)");
    });
}

#[test]
fn many_who_say_nothing_keep_no_node_out() {
    run(async {
        let (mut a, b) = (made(1).start().await, made(2).start().await);
        let mut silent = Vec::new();
        for _ in 0..HANDSHAKES_MAX + 10 {
            silent.push(TcpStream::connect(b.address).await.expect("it listens"));
        }
        let oldest = silent[0].read(&mut [0; 8]).await;
        assert!(oldest.is_ok_and(|count| count == 0), "the oldest has to go");
        a.meets(&b);
        assert_eq!(a.up().await.node, b.id);
        assert!(a.asks(&b, ECHO, b"").await.is_ok());
    });
}

#[test]
fn a_peer_that_reads_nothing_fills_its_queue_and_is_given_up() {
    run(async {
        let mut hasty = made(1);
        hasty.settings.unacknowledged_max = Duration::from_millis(200);
        let mut node = hasty.start().await;
        let listener = listener().await;
        node.links.set_peer(NodeId(9), &listener.local_addr().expect("bound").to_string());
        let _deaf = ByHand::be_called(&listener).await;
        node.up().await;
        let body = Bytes::from(vec![1; 1 << 20]);
        let mut waiting = Vec::new();
        // All of this happens before anything can be written.
        let full = loop {
            let mut asked = Box::pin(node.links.request(NodeId(9), ECHO, body.clone(), HANG));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match asked.as_mut().poll(&mut context) {
                std::task::Poll::Pending => waiting.push(asked),
                std::task::Poll::Ready(answer) => break answer.expect_err("nobody answers"),
            }
        };
        assert_eq!(waiting.len(), REQUESTS_QUEUED_BYTES_MAX / body.len() - 1);
        assert!(matches!(full, LinkError::Full { limit: "64 MiB not yet sent", .. }), "{full}");
        assert!(node.links.notify(NodeId(9), 1, Bytes::new()), "notices have their own room");
        let closed = node.event().await;
        assert!(matches!(closed, LinkEvent::Closed { is_sudden: true, .. }), "{closed:?}");
        for asked in waiting {
            assert!(matches!(asked.await, Err(LinkError::Closed { .. })));
        }
        assert_eq!(node.links.states()[0].queued_bytes, 0, "nothing is kept for it");
    });
}

#[test]
fn a_peer_that_answers_nothing_is_asked_only_so_much() {
    run(async {
        let mut node = made(1).start().await;
        let listener = listener().await;
        node.links.set_peer(NodeId(9), &listener.local_addr().expect("bound").to_string());
        let _dumb = ByHand::be_called(&listener).await;
        node.up().await;
        let ask = || node.links.request(NodeId(9), ECHO, Bytes::new(), HANG);
        let waiting: Vec<_> = (0..REQUESTS_MAX).map(|_| ask()).collect();
        let full = ask().await.expect_err("enough");
        assert!(matches!(full, LinkError::Full { .. }), "{full}");
        drop(waiting);
        assert_eq!(node.links.states()[0].requests, 0, "who stops waiting frees the room");
    });
}

#[test]
fn a_request_that_is_given_up_before_it_was_written_is_never_sent() {
    run(async {
        let (mut a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        a.up().await;
        let given_up = a.links.request(b.id, ECHO, Bytes::from_static(b"never mind"), HANG);
        let meant = a.links.request(b.id, ECHO, Bytes::from_static(b"this"), HANG);
        drop(given_up);
        assert_eq!(meant.await.as_deref(), Ok(b"this".as_slice()));
        assert_eq!(*b.asked.order.borrow(), ["this"]);
    });
}

#[test]
fn a_node_handles_only_so_many_requests_of_a_peer_at_once() {
    run(async {
        let (a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        let count = HANDLED_AT_ONCE_MAX + 100;
        let asked: Vec<_> =
            (0..count).map(|_| a.links.request(b.id, WAIT, Bytes::new(), HANG)).collect();
        until("it is busy", || b.asked.waiting.get() == HANDLED_AT_ONCE_MAX).await;
        // What came behind them is not even begun.
        assert_eq!(b.asked.order.borrow().len(), HANDLED_AT_ONCE_MAX);
        b.asked.go_on.notify_waiters();
        until("the rest has begun", || b.asked.waiting.get() == count).await;
        b.asked.go_on.notify_waiters();
        for answer in asked {
            assert!(answer.await.is_ok());
        }
    });
}

/// What hangs in a handler counts against the peer, whatever connection it came by.
#[test]
fn requests_that_hang_are_not_forgotten_with_their_connection() {
    run(async {
        let node = made(1).start().await;
        let mut first = ByHand::call(node.address).await;
        for id in 0..HANDLED_AT_ONCE_MAX as u64 {
            let mut request = frame(FrameClass::Request, id, b"");
            request.kind = WAIT;
            first.put(&request).await;
        }
        until("it is busy", || node.asked.waiting.get() == HANDLED_AT_ONCE_MAX).await;
        // Its end lies behind frames that are not read: it is noticed by the next connection.
        drop(first);
        let mut second = ByHand::call(node.address).await;
        second.put(&frame(FrameClass::Request, 5, b"later")).await;
        until("it is connected", || node.asked.connected.borrow().len() == 2).await;
        until("the first is gone", || {
            *node.asked.disconnected.borrow() == ["node 9 (node-9) has connected again"]
        })
        .await;
        assert_eq!(node.asked.order.borrow().len(), HANDLED_AT_ONCE_MAX, "there is no room");
        node.asked.go_on.notify_one();
        assert_eq!(second.next().await.map(|frame| frame.id), Some(5), "now there is");
    });
}

#[test]
fn a_connection_that_ends_in_a_frame_is_told_from_one_that_ends_between_two() {
    run(async {
        let node = made(1).start().await;
        let mut peer = ByHand::call(node.address).await;
        let bytes = frame(FrameClass::Request, 1, b"body").to_bytes();
        peer.tcp.write_all(&bytes[..bytes.len() - 1]).await.expect("it takes them");
        drop(peer);
        until("it is told", || node.asked.disconnected.borrow().len() == 1).await;
        drop(ByHand::call(node.address).await);
        until("it is told", || node.asked.disconnected.borrow().len() == 2).await;
        let told = node.asked.disconnected.borrow();
        assert_eq!(told[0], "the peer closed the connection in the middle of a frame");
        assert_eq!(told[1], "the peer closed the connection");
    });
}
