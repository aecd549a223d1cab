//! Links with mutual TLS, and who is kept out by it.
#![forbid(unsafe_code)]

mod nodes;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use nodes::{ECHO, HANG, Made, Node, made, run, until};
use shardgate_replicate::pki::{Authority, NodeRequest, Validity};
use shardgate_replicate::transport::{FRAME_BODY_BYTES_MAX, Frame, FrameClass, Security, Tls};
use shardgate_replicate_proto::identity::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn authority() -> Authority {
    Authority::create("test", Validity::days(10)).expect("an authority")
}

/// A certificate for `node-<id>`, for that id only.
fn request(id: u16) -> NodeRequest {
    NodeRequest {
        name: format!("node-{id}"),
        node: Some(NodeId(id)),
        addresses: vec!["127.0.0.1".to_owned()],
        validity: Validity::days(1),
    }
}

fn security(authority: &Authority, request: &NodeRequest) -> Security {
    let credentials = authority.issue(request).expect("sound").credentials().expect("sound");
    Security::Tls(Tls::new(&credentials, authority.cluster()).expect("sound"))
}

fn secured(id: u16, security: Security) -> Made {
    Made { security, ..made(id) }
}

fn node(authority: &Authority, id: u16) -> Made {
    secured(id, security(authority, &request(id)))
}

/// What `to` has said about somebody whom it did not let in.
async fn refusal(to: &Node) -> String {
    until("somebody is refused", || !to.asked.refused.borrow().is_empty()).await;
    to.asked.refused.borrow()[0].clone()
}

/// `from` calls `to`, and neither gets anywhere: what each of them says.
async fn refused(from: &mut Node, to: &Node) -> (String, String) {
    from.meets(to);
    let told = (from.failure().await, refusal(to).await);
    assert!(to.asked.connected.borrow().is_empty(), "nobody got in");
    told
}

fn contains(text: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn nodes_of_one_authority_ask_each_other() {
    run(async {
        let authority = authority();
        let mut a = node(&authority, 1).start().await;
        let b = node(&authority, 2).start().await;
        a.meets(&b);
        b.meets(&a);
        assert!(a.up().await.is_certified);
        let body = vec![5; FRAME_BODY_BYTES_MAX];
        assert_eq!(a.asks(&b, ECHO, &body).await.as_deref(), Ok(body.as_slice()));
        assert_eq!(b.asks(&a, ECHO, b"to a").await.as_deref(), Ok(b"to a".as_slice()));
        assert!(b.asked.connected.borrow()[0].is_certified);
    });
}

#[test]
fn a_node_of_another_authority_is_refused() {
    run(async {
        let (ours, theirs) = (authority(), authority());
        let b = node(&ours, 2).start().await;
        let mut a = node(&theirs, 1).start().await;
        let (a_says, b_says) = refused(&mut a, &b).await;
        contains(&a_says, &["not signed by the authority that it names", "made anew"]);
        contains(&b_says, &["it refuses this node in TLS's handshake", "DecryptError"]);
    });
}

/// The one that calls believes both authorities, as during a renewal; the other one does not.
#[test]
fn a_caller_of_an_unknown_authority_is_told_so() {
    run(async {
        let ours = authority();
        let theirs = Authority::create("else", Validity::days(10)).expect("an authority");
        let b = node(&ours, 2).start().await;
        let issued = theirs.issue(&request(1)).expect("sound");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut files = issued.write(directory.path()).expect("new files");
        files.authority = directory.path().join("both.pem");
        let both = format!("{}{}", ours.certificate_pem(), theirs.certificate_pem());
        std::fs::write(&files.authority, both).expect("written");
        let credentials = shardgate_replicate::pki::Credentials::load(&files).expect("sound");
        let tls = Security::Tls(Tls::new(&credentials, "test").expect("sound"));
        let mut a = secured(1, tls).start().await;
        let (a_says, b_says) = refused(&mut a, &b).await;
        contains(&a_says, &["it does not know the authority of this node's certificate"]);
        contains(&b_says, &["not signed by this cluster's authority"]);
    });
}

#[test]
fn an_expired_certificate_is_refused_whoever_shows_it() {
    run(async {
        let authority = authority();
        let now = SystemTime::now();
        let validity = Validity { from: now - DAY * 9, until: now - DAY };
        let expired = security(&authority, &NodeRequest { validity, ..request(1) });
        let b = node(&authority, 2).start().await;
        let mut a = secured(1, expired.clone()).start().await;
        let (a_says, b_says) = refused(&mut a, &b).await;
        contains(&a_says, &["this node's certificate is expired or not yet valid"]);
        contains(&b_says, &["the certificate expired on 20"]);

        let mut c = node(&authority, 3).start().await;
        let d = secured(1, expired).start().await;
        let (c_says, d_says) = refused(&mut c, &d).await;
        contains(&c_says, &["the certificate expired on 20", "shardgate pki issue"]);
        contains(&d_says, &["this node's certificate is expired or not yet valid"]);
    });
}

#[test]
fn a_certificate_that_is_renewed_is_used_without_a_restart() {
    run(async {
        let authority = authority();
        let now = SystemTime::now();
        let validity = Validity { from: now - DAY * 9, until: now - DAY };
        let expired = security(&authority, &NodeRequest { validity, ..request(1) });
        let b = node(&authority, 2).start().await;
        let mut a = secured(1, expired).start().await;
        a.meets(&b);
        a.failure().await;
        a.endpoint.renew_security(security(&authority, &request(1)));
        assert_eq!(a.up().await.node, b.id);
    });
}

#[test]
fn a_node_must_be_called_what_its_certificate_says() {
    run(async {
        let authority = authority();
        let b = node(&authority, 2).start().await;
        let mut a = secured(1, security(&authority, &request(3))).start().await;
        let (a_says, b_says) = refused(&mut a, &b).await;
        let why = "node 1 calls itself \"node-1\", but its certificate is for \"node-3\"";
        contains(&a_says, &["it refuses this node: ", why]);
        contains(&b_says, &[why]);
    });
}

#[test]
fn a_node_must_have_the_id_that_its_certificate_says() {
    run(async {
        let authority = authority();
        let b = node(&authority, 2).start().await;
        let other_id = NodeRequest { node: Some(NodeId(9)), ..request(1) };
        let mut a = secured(1, security(&authority, &other_id)).start().await;
        let (a_says, b_says) = refused(&mut a, &b).await;
        let why = "\"node-1\" calls itself node 1, but its certificate is for node 9";
        contains(&a_says, &[why]);
        contains(&b_says, &[why]);
        // The one that calls looks as closely.
        let mut c = node(&authority, 3).start().await;
        c.meets(&a);
        contains(&c.failure().await, &[why]);
    });
}

#[test]
fn a_plaintext_node_at_a_port_with_tls_is_told_so() {
    run(async {
        let b = node(&authority(), 2).start().await;
        let mut a = made(1).start().await;
        let (a_says, b_says) = refused(&mut a, &b).await;
        contains(&a_says, &["it refuses this node: this node speaks TLS only"]);
        contains(&b_says, &["this node speaks TLS only, and the other began without"]);
    });
}

#[test]
fn a_node_with_tls_at_a_plaintext_port_is_told_so() {
    run(async {
        let b = made(2).start().await;
        let mut a = node(&authority(), 1).start().await;
        let (a_says, b_says) = refused(&mut a, &b).await;
        contains(&a_says, &["it does not speak TLS; is it a node with insecure = true"]);
        contains(&b_says, &["this node runs with insecure = true, and the other began with TLS"]);
    });
}

/// Sends bytes to a node without any certificate, and reads until it hangs up.
async fn blurt(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.expect("it listens");
    tcp.write_all(bytes).await.expect("it takes them");
    let mut answer = Vec::new();
    // It may reset the connection behind its answer.
    let _ =
        tokio::time::timeout(HANG / 2, tcp.read_to_end(&mut answer)).await.expect("it hangs up");
    answer
}

#[test]
fn who_shows_no_certificate_gets_nothing_of_its_own_parsed() {
    run(async {
        let b = node(&authority(), 2).start().await;
        let damaged = {
            let body = vec![0xff; 64].into();
            let mut bytes = Frame { class: FrameClass::Hello, kind: 0, id: 0, body }.to_bytes();
            bytes[5] ^= 1;
            bytes
        };
        // A parser would complain about the header; the first byte alone was looked at.
        let answer = blurt(b.address, &damaged).await;
        contains(&String::from_utf8_lossy(&answer), &["this node speaks TLS only"]);
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[22, 3, 1, 0, 2, 1, 1], &[0; 64]] {
            let answer = blurt(b.address, bytes).await;
            assert!(answer.len() < 16, "an alert of TLS at most: {answer:?}");
        }
        until("all are refused", || b.asked.refused.borrow().len() == 4).await;
        contains(&b.asked.refused.borrow()[1], &["it does not speak TLS"]);
        assert!(b.asked.connected.borrow().is_empty());
    });
}
