//! Tool servers behind TLS: those that can be trusted, and every sort that can't.
//!
//! A front of rustls stands before another gateway with its embedded server; bad fronts
//! speak TLS wrongly or not at all. Beside it each gateway has a second tool server by
//! plain HTTP, which must go on working.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use harness::HANG;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, Session, call, modern, text_of};
use harness::wire::Wire;

/// An authority and its PEM file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities are told apart by their names.
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let root = params.self_signed(&key).expect("a root");
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.pem"));
        std::fs::write(&file, root.pem()).expect("write the root");
        Authority { issuer: Issuer::new(params, key), file }
    }

    /// A server's side of TLS with a certificate for this name.
    fn server(
        &self,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
        change: impl FnOnce(&mut CertificateParams),
    ) -> ServerConfig {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key fits")
    }
}

/// Decrypts what comes and forwards it to `target`.
async fn front(config: ServerConfig, target: SocketAddr) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // The gateway's refusal is what the test looks at.
            let Ok(mut inside) = acceptor.accept(stream).await else { return };
            let mut outside = TcpStream::connect(target).await.expect("the target listens");
            let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
        }
    })
    .await
}

/// Answers a handshake's beginning with these bytes, and then hangs or closes.
async fn babble(answer: &'static [u8], hangs: bool, open: watch::Sender<usize>) -> SocketAddr {
    serve(move |mut stream| {
        let open = open.clone();
        open.send_modify(|open| *open += 1);
        async move {
            babble_to(&mut stream, answer, hangs).await;
            open.send_modify(|open| *open -= 1);
        }
    })
    .await
}

async fn babble_to(stream: &mut TcpStream, answer: &[u8], hangs: bool) {
    let mut hello = [0; 5];
    let _ = stream.read_exact(&mut hello).await;
    let _ = stream.write_all(answer).await;
    if hangs {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    // Closing with unread bytes would reset the connection.
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

async fn serve<F, D>(handle: F) -> SocketAddr
where
    F: Fn(TcpStream) -> D + Send + 'static,
    D: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

/// A gateway with the upstream `secure`, and `plain` beside it.
fn gateway(url: &str, lines: &str, plain: &Gateway) -> Gateway {
    let config = format!(
        "[[upstream]]\nname = \"secure\"\nurl = \"{url}\"\nprefix = \"always\"\n{lines}\n\
         [[upstream]]\nname = \"plain\"\nurl = \"{}\"\nprefix = \"always\"\n",
        plain.url()
    );
    Launch::default().config(&config).start()
}

fn trusting(authority: &Authority) -> String {
    format!("ca_file = \"{}\"", authority.file.display())
}

async fn echo_modern(gateway: &Gateway, tool: &str, message: &str) -> Value {
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let params = json!({ "name": tool, "arguments": { "message": message } });
    let post = modern(1, "tools/call", params);
    wire.ask(&post.bytes(gateway.listen)).await.expect("an answer").json()
}

async fn echo_legacy(gateway: &Gateway, tool: &str, message: &str) -> Value {
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let session = Session::open_on(&mut wire, gateway.listen, LEGACY).await.expect("a session");
    let message = call(1, tool, &json!({ "message": message }));
    session.ask(&mut wire, &message).await.expect("an answer").json()
}

#[tokio::test]
async fn a_server_that_ca_file_vouches_for_is_used_in_both_eras() {
    let plain = Gateway::start();
    let authority = Authority::new("tls-good");
    // Several records long, so that parts of records come.
    let long = "0123456789abcdef".repeat(20_000);
    for version in [&TLS12, &TLS13] {
        let config = authority.server("127.0.0.1", &[version], |_| {});
        let front = front(config, plain.listen).await;
        let gateway = gateway(&format!("https://{front}/mcp"), &trusting(&authority), &plain);
        for message in ["short", &long] {
            let answer = echo_modern(&gateway, "secure__echo", message).await;
            assert_eq!(text_of(&answer), Some(message), "modern, {version:?}");
            let answer = echo_legacy(&gateway, "secure__echo", message).await;
            assert_eq!(text_of(&answer), Some(message), "legacy, {version:?}");
        }
    }
}

#[tokio::test]
async fn a_name_is_looked_up_and_stands_in_the_certificate() {
    let plain = Gateway::start();
    let authority = Authority::new("tls-named");
    let config = authority.server("localhost", &[&TLS13], |_| {});
    let front = front(config, plain.listen).await;
    let url = format!("https://localhost:{}/mcp", front.port());
    let gateway = gateway(&url, &trusting(&authority), &plain);
    let answer = echo_modern(&gateway, "secure__echo", "by name").await;
    assert_eq!(text_of(&answer), Some("by name"), "{answer}");
}

/// The client is told of the upstream and the cause, and the gateway goes on.
async fn assert_refused(url: &str, lines: &str, plain: &Gateway, causes: &[&str]) -> Gateway {
    let mut gateway = gateway(url, lines, plain);
    for _ in 0..2 {
        let answer = echo_modern(&gateway, "secure__echo", "m").await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("tool server secure"), "{url}: {answer}");
        for cause in causes {
            assert!(message.contains(cause), "{url}: {cause:?} is missing in: {message}");
        }
        let answer = echo_legacy(&gateway, "secure__echo", "m").await;
        assert_eq!(answer["error"]["code"], -32000, "{url}: {answer}");
    }
    let answer = echo_modern(&gateway, "plain__echo", "on").await;
    assert_eq!(text_of(&answer), Some("on"), "{url}: {answer}");
    gateway.assert_running();
    gateway
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_refused() {
    let plain = Gateway::start();
    let (authority, other) = (Authority::new("tls-ours"), Authority::new("tls-other"));
    let ours = trusting(&authority);
    let cases: [(ServerConfig, &[&str]); 4] = [
        (other.server("127.0.0.1", &[&TLS13], |_| {}), &["unknown issuer", "ca_file"]),
        (other.server("127.0.0.1", &[&TLS12], |_| {}), &["unknown issuer", "ca_file"]),
        (
            authority.server("other.example", &[&TLS13], |_| {}),
            &["not for 127.0.0.1", "but for other.example"],
        ),
        (
            authority.server("127.0.0.1", &[&TLS13], |params| {
                params.not_before = date_time_ymd(2019, 1, 1);
                params.not_after = date_time_ymd(2020, 1, 31);
            }),
            &["expired on Fri, 31 Jan 2020"],
        ),
    ];
    for (config, causes) in cases {
        let front = front(config, plain.listen).await;
        assert_refused(&format!("https://{front}/mcp"), &ours, &plain, causes).await;
    }
}

#[tokio::test]
async fn a_server_with_no_protocol_in_common_is_named() {
    let plain = Gateway::start();
    let authority = Authority::new("tls-alpn");
    let mut config = authority.server("127.0.0.1", &[&TLS13], |_| {});
    config.alpn_protocols = vec![b"h2".to_vec()];
    let front = front(config, plain.listen).await;
    let causes = ["refused the TLS handshake (NoApplicationProtocol)", "http/1.1"];
    assert_refused(&format!("https://{front}/mcp"), &trusting(&authority), &plain, &causes).await;
}

#[tokio::test]
async fn what_is_no_tls_is_named() {
    let plain = Gateway::start();
    let url = format!("https://{}/mcp", plain.listen);
    assert_refused(&url, "", &plain, &["does not speak TLS", "HTTP/1.1 400", "use http://"]).await;
    let garbage: &[u8] = &[22, 3, 3, 0, 8, 2, 0, 0, 4, 0xde, 0xad, 0xbe, 0xef];
    let cases: [(&[u8], bool, &[&str]); 4] = [
        (garbage, false, &["makes no sense"]),
        (&[22, 3, 3, 0], false, &["closed the connection during the TLS handshake"]),
        (b"", false, &["closed the connection instead of answering", "use http://"]),
        (&[22, 3, 3, 0, 200, 2], true, &["no connection to 127.0.0.1", " ms"]),
    ];
    for (answer, hangs, causes) in cases {
        let (open, mut opened) = watch::channel(0);
        let address = babble(answer, hangs, open).await;
        let url = format!("https://{address}/mcp");
        let mut gateway = assert_refused(&url, "connect_timeout_ms = 700", &plain, causes).await;
        // What was given up is closed, while the gateway goes on.
        let closed = timeout(HANG, opened.wait_for(|open| *open == 0)).await;
        assert!(closed.is_ok_and(|closed| closed.is_ok()), "{url}: connections stay open");
        gateway.assert_running();
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_delays_nobody() {
    let plain = Gateway::start();
    let causes = ["no-such-host.invalid does not resolve"];
    // RFC 6761, 6.4: names below "invalid" never resolve.
    assert_refused("https://no-such-host.invalid/mcp", "", &plain, &causes).await;
}

#[test]
fn a_ca_file_that_is_no_use_is_told_at_the_start() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let missing = directory.join("no-such-root.pem");
    let empty = directory.join("empty-root.pem");
    std::fs::write(&empty, "# nothing\n").expect("write");
    for (path, cause) in [(missing, "can't be read"), (empty, "no certificate is in it")] {
        let config = directory.join("tls-bad-ca.toml");
        let path = path.display().to_string();
        let text = format!(
            "[[upstream]]\nname = \"secure\"\nurl = \"https://127.0.0.1:1/\"\nca_file = \"{path}\"\n"
        );
        std::fs::write(&config, text).expect("write");
        let output = Command::new(env!("CARGO_BIN_EXE_shardgate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .output()
            .expect("run shardgate");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        for part in ["upstream secure: ca_file", path.as_str(), cause] {
            assert!(stderr.contains(part), "{part:?} is missing in: {stderr}");
        }
    }
}
