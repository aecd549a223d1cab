//! Requests, answers and notices between nodes, without TLS.
#![forbid(unsafe_code)]

mod nodes;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use nodes::{ECHO, FAIL, HANG, LARGE, PANIC, WAIT, listener, made, run, until};
use shardgate_replicate::transport::{FRAME_BODY_BYTES_MAX, LinkError, LinkEvent, PeerIdentity};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};

#[test]
fn two_nodes_ask_each_other() {
    run(async {
        let (mut a, mut b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        b.meets(&a);
        let answer = a.asks(&b, ECHO, b"to b").await;
        assert_eq!(answer.as_deref(), Ok(b"to b".as_slice()));
        let answer = b.asks(&a, ECHO, b"to a").await;
        assert_eq!(answer.as_deref(), Ok(b"to a".as_slice()));
        let peer = a.up().await;
        assert_eq!((peer.node, peer.name.as_str()), (NodeId(2), "node-2"));
        assert_eq!(peer.incarnation, Incarnation(1));
        assert!(!peer.is_certified, "nothing proves it");
        assert_eq!(b.up().await.node, NodeId(1));
        assert_eq!(b.asked.connected.borrow()[0].node, NodeId(1));
    });
}

#[test]
fn answers_come_in_any_order_and_requests_begin_in_theirs() {
    run(async {
        let (a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        let slow = a.links.request(b.id, WAIT, Bytes::from_static(b"slow"), HANG);
        let quick = a.links.request(b.id, ECHO, Bytes::from_static(b"quick"), HANG);
        assert_eq!(quick.await.as_deref(), Ok(b"quick".as_slice()), "it overtakes");
        assert_eq!(*b.asked.order.borrow(), ["slow", "quick"]);
        b.asked.go_on.notify_one();
        assert_eq!(slow.await.as_deref(), Ok(b"slow".as_slice()));
    });
}

#[test]
fn ten_thousand_requests_go_out_before_the_first_answer() {
    run(async {
        let (a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        let asked: Vec<_> = (0..10_000_u32)
            .map(|number| {
                let body = Bytes::copy_from_slice(&number.to_le_bytes());
                a.links.request(b.id, ECHO, body, HANG)
            })
            .collect();
        assert_eq!(a.links.states()[0].requests, 10_000);
        for (number, answer) in (0..10_000_u32).zip(asked) {
            assert_eq!(answer.await.as_deref(), Ok(number.to_le_bytes().as_slice()));
        }
        let order = b.asked.order.borrow();
        let numbers = order.iter().map(|body| body.first_chunk().map(|it| u32::from_le_bytes(*it)));
        assert!(numbers.eq((0..10_000).map(Some)), "they began in their order");
    });
}

#[test]
fn bodies_up_to_the_bound_pass_and_longer_ones_are_refused_on_either_side() {
    run(async {
        let (a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        let body = vec![5; FRAME_BODY_BYTES_MAX];
        assert_eq!(a.asks(&b, ECHO, &body).await.as_deref(), Ok(body.as_slice()));
        let longer = vec![5; FRAME_BODY_BYTES_MAX + 1];
        let bytes = longer.len();
        assert_eq!(a.asks(&b, ECHO, &longer).await, Err(LinkError::TooLong { bytes }));
        let size = u32::try_from(bytes).expect("it fits").to_le_bytes();
        let why = a.asks(&b, LARGE, &size).await.expect_err("too long").to_string();
        assert!(why.contains("the answer of 8388609 bytes"), "{why}");
    });
}

#[test]
fn a_handler_that_cannot_says_so_and_one_that_panics_leaves_nobody_waiting() {
    run(async {
        let (a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        let why = a.asks(&b, FAIL, b"").await.expect_err("a sentence").to_string();
        assert_eq!(why, "node 2 answered: node-1 asked for the impossible");
        let why = a.asks(&b, PANIC, b"").await.expect_err("a sentence").to_string();
        assert!(why.ends_with("the request was given up: its handler failed"), "{why}");
        assert!(a.asks(&b, ECHO, b"").await.is_ok(), "the connection lives");
    });
}

#[test]
fn a_request_that_takes_too_long_is_given_up_and_its_late_answer_finds_nobody() {
    run(async {
        let (a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        let after = Duration::from_millis(20);
        let late = a.links.request(b.id, WAIT, Bytes::new(), after).await;
        let error = late.expect_err("nobody answers");
        assert_eq!(error, LinkError::Timeout { peer: b.id, after });
        assert!(error.is_outcome_unknown());
        assert_eq!(a.links.states()[0].requests, 0, "nothing waits any more");
        b.asked.go_on.notify_one();
        assert!(a.asks(&b, ECHO, b"").await.is_ok(), "the late answer did no harm");
    });
}

#[test]
fn notices_arrive_while_the_link_is_up_and_are_dropped_while_it_is_not() {
    run(async {
        let (mut a, b) = (made(1).start().await, made(2).start().await);
        assert!(!a.links.notify(b.id, 7, Bytes::new()), "no peer");
        a.meets(&b);
        assert!(!a.links.notify(b.id, 7, Bytes::new()), "not yet up");
        a.up().await;
        assert!(a.links.notify(b.id, 7, Bytes::from_static(b"alive")));
        until("the notice arrives", || !b.asked.notices.borrow().is_empty()).await;
        assert_eq!(*b.asked.notices.borrow(), [(a.id, 7, Bytes::from_static(b"alive"))]);
    });
}

#[test]
fn a_node_that_is_not_there_is_refused_at_once_and_found_when_it_comes() {
    run(async {
        let place = listener().await;
        let address = place.local_addr().expect("bound");
        drop(place);
        let mut a = made(1).start().await;
        a.links.set_peer(NodeId(2), &address.to_string());
        assert_eq!(a.event().await, LinkEvent::Refused(NodeId(2)));
        let down = a.links.request(NodeId(2), ECHO, Bytes::new(), HANG).await;
        let error = down.expect_err("nobody is there");
        assert!(error.to_string().contains("no node listens there"), "{error}");
        assert!(!error.is_outcome_unknown());
        let place = tokio::net::TcpListener::bind(address).await.expect("the port is free");
        let b = made(2).start_on(place);
        assert_eq!(a.up().await.node, b.id);
        assert!(a.asks(&b, ECHO, b"").await.is_ok());
    });
}

#[test]
fn a_node_that_dies_is_noticed_at_once_and_what_waits_for_it_fails() {
    run(async {
        let (mut a, mut b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        a.up().await;
        let waits = a.links.request(b.id, WAIT, Bytes::new(), HANG);
        until("it is asked", || b.asked.waiting.get() == 1).await;
        drop(b.serving.take());
        let error = waits.await.expect_err("nobody answers");
        assert!(matches!(error, LinkError::Closed { .. }), "{error}");
        assert!(error.is_outcome_unknown());
        let closed = a.event().await;
        assert!(matches!(closed, LinkEvent::Closed { is_sudden: true, .. }), "{closed:?}");
        assert_eq!(a.event().await, LinkEvent::Refused(b.id), "its port is closed");
    });
}

#[test]
fn a_peer_that_moves_is_followed() {
    run(async {
        let (mut a, b) = (made(1).start().await, made(2).start().await);
        let elsewhere = made(2).start().await;
        a.meets(&b);
        assert_eq!(a.up().await.address, b.address);
        a.meets(&b);
        a.links.set_peer(b.id, &elsewhere.address.to_string());
        let LinkEvent::Closed { is_sudden, .. } = a.event().await else { panic!("it must end") };
        assert!(!is_sudden, "this node wanted it");
        assert_eq!(a.up().await.address, elsewhere.address);
        assert!(a.asks(&elsewhere, ECHO, b"").await.is_ok());
        assert_eq!(elsewhere.asked.order.borrow().len(), 1);
    });
}

#[test]
fn a_peer_that_is_forgotten_is_asked_no_more() {
    run(async {
        let (mut a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        a.up().await;
        let waits = a.links.request(b.id, WAIT, Bytes::new(), HANG);
        a.links.forget_peer(b.id);
        assert!(matches!(waits.await, Err(LinkError::Closed { .. })));
        assert_eq!(a.asks(&b, ECHO, b"").await, Err(LinkError::UnknownPeer(b.id)));
        until("the connection is gone", || {
            b.serving.as_ref().is_some_and(|serving| serving.connected().is_empty())
        })
        .await;
    });
}

#[test]
fn whoever_is_at_an_address_says_who_it_is() {
    run(async {
        let (a, b) = (made(1).start().await, made(2).start().await);
        let peer = a.links.identify(&b.address.to_string()).await.expect("a node");
        assert_eq!((peer.node, peer.name.as_str()), (NodeId(2), "node-2"));
        let error = a.links.identify(&a.address.to_string()).await.expect_err("itself");
        assert!(error.to_string().contains("calls itself node 1, as this one does"), "{error}");
    });
}

#[test]
fn another_node_at_the_address_will_not_do() {
    run(async {
        let (mut a, b) = (made(1).start().await, made(2).start().await);
        a.links.set_peer(NodeId(3), &b.address.to_string());
        let why = a.failure().await;
        assert!(why.contains("there is node 2 (node-2) and not node 3"), "{why}");
    });
}

#[test]
fn nodes_of_two_clusters_refuse_each_other_with_a_sentence_on_both_sides() {
    run(async {
        let mut stranger = made(1);
        stranger.own.cluster = "other".to_owned();
        let (mut a, b) = (stranger.start().await, made(2).start().await);
        a.meets(&b);
        let why = a.failure().await;
        assert!(why.starts_with("it refuses this node: "), "{why}");
        assert!(why.contains("belongs to cluster \"other\", this node to \"test\""), "{why}");
        assert!(b.asked.connected.borrow().is_empty());
    });
}

#[test]
fn the_gate_is_asked_and_its_sentence_is_told() {
    run(async {
        let mut strict = made(2);
        strict.gate = Rc::new(|peer: &PeerIdentity, _: &[PeerIdentity]| {
            if peer.node == NodeId(1) {
                Err("it was removed from the cluster".to_owned())
            } else {
                Ok(())
            }
        });
        let (mut a, mut b) = (made(1).start().await, strict.start().await);
        a.meets(&b);
        let why = a.failure().await;
        let expected = "it refuses this node: node 1 (node-1) is refused: it was removed from the \
                        cluster";
        assert_eq!(why, expected);
        // The gate holds for those whom this node calls, too.
        b.meets(&a);
        let why = b.failure().await;
        assert_eq!(why, "node 1 (node-1) is refused: it was removed from the cluster");
    });
}

#[test]
fn a_later_life_takes_the_place_of_an_earlier_one() {
    run(async {
        let b = made(2).start().await;
        let mut first = made(1).start().await;
        first.meets(&b);
        first.up().await;
        let mut later = made(1);
        later.own.incarnation = Incarnation(2);
        let mut second = later.start().await;
        second.meets(&b);
        second.up().await;
        let why = first.failure().await;
        assert!(why.contains("a later process of node 1 (node-1) has connected"), "{why}");
        let why = first.failure().await;
        assert!(why.contains("has a second node been given its id?"), "{why}");
        assert!(second.asks(&b, ECHO, b"").await.is_ok());
    });
}

#[test]
fn a_node_that_is_disconnected_is_told_why() {
    run(async {
        let (mut a, b) = (made(1).start().await, made(2).start().await);
        a.meets(&b);
        a.up().await;
        let serving = b.serving.as_ref().expect("it serves");
        until("it is connected", || serving.connected().len() == 1).await;
        serving.disconnect(a.id, "it was removed from the cluster");
        let why = a.failure().await;
        assert_eq!(why, "the peer ended the connection: it was removed from the cluster");
    });
}
