//! Both sides of TLS in memory: every byte of the server's is under the test's control.

use std::io::{Read, Write};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use shardgate_proto::upstream::LinkEnd;

use super::session::Step;
use super::*;

/// Bytes that a test sends at once when it does not cut them up.
const ALL: usize = usize::MAX;

struct Bench {
    client: Arc<TlsClient>,
    server: Arc<ServerConfig>,
}

impl Bench {
    fn new() -> Bench {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root").der().clone();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["tools.example".to_owned()]).expect("a name");
        let leaf = params.signed_by(&key, &issuer).expect("a certificate");
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("default versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("the key fits");
        let system = SystemRoots(Arc::new(RootCertStore::empty()));
        let client = TlsClient::new("tools.example", &[root], &system).expect("a name");
        Bench { client: Arc::new(client), server: Arc::new(server) }
    }

    fn connect(&self) -> Pair {
        let mut to_server = Vec::new();
        let client = TlsSession::begin(&self.client, &mut to_server).expect("TLS begins");
        let server = ServerConnection::new(Arc::clone(&self.server)).expect("a server");
        Pair { client, server, to_server, plaintext: Vec::new(), heard: Vec::new() }
    }
}

struct Pair {
    client: TlsSession,
    server: ServerConnection,
    to_server: Vec<u8>,
    /// What the client decrypted.
    plaintext: Vec<u8>,
    /// What the server decrypted.
    heard: Vec<u8>,
}

impl Pair {
    /// What the server answers to all that was sent to it.
    fn answer(&mut self) -> Vec<u8> {
        let sent = std::mem::take(&mut self.to_server);
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).expect("room");
            // A refusal of the server's shows in what it sends.
            let _ = self.server.process_new_packets();
            // Ends by an error where no more has come.
            let _ = self.server.reader().read_to_end(&mut self.heard);
        }
        let mut answer = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut answer).expect("memory");
        }
        answer
    }

    /// Gives the client these bytes, so many at a time, up to the end of the connection.
    fn receive(&mut self, bytes: &[u8], at_a_time: usize) -> Step {
        let mut all = Step::default();
        for part in bytes.chunks(at_a_time.min(bytes.len()).max(1)) {
            let step = self.client.receive(part, &mut self.plaintext, &mut self.to_server);
            all.opened |= step.opened;
            all.end = step.end;
            if all.end.is_some() {
                break;
            }
        }
        all
    }

    fn shake_hands(&mut self, at_a_time: usize) {
        let answer = self.answer();
        let step = self.receive(&answer, at_a_time);
        assert_eq!(step, Step { opened: true, end: None });
        let tickets = self.answer();
        assert_eq!(self.receive(&tickets, at_a_time), Step::default());
    }

    fn say(&mut self, text: &[u8]) -> Vec<u8> {
        self.server.writer().write_all(text).expect("room");
        self.answer()
    }
}

fn sentence(step: &Step) -> &str {
    match &step.end {
        Some(LinkEnd::Unreachable(why) | LinkEnd::Broken(why)) => why,
        Some(LinkEnd::Closed) | None => panic!("no failure: {step:?}"),
    }
}

#[test]
fn halves_of_records_are_waited_for() {
    for at_a_time in [1, 7, ALL] {
        let bench = Bench::new();
        let mut pair = bench.connect();
        pair.shake_hands(at_a_time);
        let Pair { client, to_server, .. } = &mut pair;
        client.send(&[7; 100_000], to_server);
        let answer = pair.say(&[8; 10_000]);
        assert_eq!(pair.heard, [7; 100_000]);
        assert_eq!(pair.receive(&answer, at_a_time), Step::default());
        assert_eq!(pair.plaintext, [8; 10_000]);
    }
}

#[test]
fn the_second_handshake_resumes_the_first() {
    let bench = Bench::new();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut pair = bench.connect();
        pair.shake_hands(ALL);
        assert_eq!(pair.server.alpn_protocol(), None, "a server may know no ALPN");
        kinds.push(pair.server.handshake_kind());
    }
    assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
}

#[test]
fn a_closure_alert_ends_the_link_in_order_and_a_bare_close_does_not() {
    let bench = Bench::new();
    let mut pair = bench.connect();
    assert!(matches!(pair.client.cut(), LinkEnd::Unreachable(_)));
    pair.shake_hands(ALL);
    assert!(matches!(pair.client.cut(), LinkEnd::Broken(_)));
    let mut bytes = pair.say(b"last");
    pair.server.send_close_notify();
    bytes.extend(pair.answer());
    bytes.extend_from_slice(b"ignored");
    assert_eq!(pair.receive(&bytes, ALL), Step { opened: false, end: Some(LinkEnd::Closed) });
    assert_eq!(pair.plaintext, b"last");
}

#[test]
fn our_close_tells_the_server() {
    let bench = Bench::new();
    let mut pair = bench.connect();
    pair.shake_hands(ALL);
    let Pair { client, to_server, .. } = &mut pair;
    client.close(to_server);
    let mut rest = pair.to_server.as_slice();
    pair.server.read_tls(&mut rest).expect("room");
    assert!(pair.server.process_new_packets().expect("an alert").peer_has_closed());
}

#[test]
fn a_changed_byte_anywhere_ends_the_link_with_a_sentence() {
    let bench = Bench::new();
    let mut pair = bench.connect();
    let length = pair.answer().len();
    for at in 0..length {
        let mut pair = bench.connect();
        let mut answer = pair.answer();
        let Some(byte) = answer.get_mut(at) else { continue };
        *byte ^= 0x55;
        let step = pair.receive(&answer, ALL);
        // A longer record is waited for, and some bytes mean nothing; then the server
        // refuses what the client says, or all is well.
        if step.end.is_some() {
            assert!(!sentence(&step).is_empty(), "byte {at}: {step:?}");
        }
        assert!(pair.plaintext.is_empty(), "byte {at}");
    }
    let mut pair = bench.connect();
    pair.shake_hands(ALL);
    let mut bytes = pair.say(b"secret");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let step = pair.receive(&bytes, ALL);
    assert!(matches!(step.end, Some(LinkEnd::Broken(_))), "{step:?}");
    assert!(pair.plaintext.is_empty());
}

#[test]
fn what_is_no_tls_is_shown_short_and_escaped() {
    let bench = Bench::new();
    let mut pair = bench.connect();
    let step = pair.receive(b"SSH-2.0-\x1b[31mdropbear", ALL);
    assert!(sentence(&step).contains("\"SSH-2.0-\\x1b[31mdro\""), "{step:?}");
}

#[test]
fn a_host_that_no_certificate_could_bear_is_refused() {
    let system = SystemRoots(Arc::new(RootCertStore::empty()));
    assert!(TlsClient::new("two..dots", &[], &system).is_err());
    for host in ["192.0.2.1", "2001:db8::1", "tools.example", "with_underscore.example"] {
        assert!(TlsClient::new(host, &[], &system).is_ok(), "{host}");
    }
}

#[test]
fn a_missing_root_store_is_named() {
    let bench = Bench::new();
    let system = SystemRoots(Arc::new(RootCertStore::empty()));
    let client = TlsClient::new("tools.example", &[], &system).expect("a name");
    let mut pair = Bench { client: Arc::new(client), server: bench.server }.connect();
    let answer = pair.answer();
    let step = pair.receive(&answer, ALL);
    assert!(sentence(&step).contains("this machine has no root certificates"), "{step:?}");
    // The server is told too, by an alert.
    assert!(!pair.to_server.is_empty());
}
