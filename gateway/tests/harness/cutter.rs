//! A TCP relay that breaks its connections on command.
//!
//! A real client is pointed at the relay; whoever opens a connection to the
//! relay's second port breaks every relayed connection at that moment and gets
//! back one line with their number. New connections are relayed again. The relay
//! also notes the session id it sees, for clients that don't tell theirs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A running relay. It lives as long as the runtime it was started on.
pub(crate) struct Cutter {
    /// Where clients connect.
    pub(crate) relay: SocketAddr,
    /// Where a cut is asked for.
    pub(crate) control: SocketAddr,
    cut: Arc<watch::Sender<u64>>,
    open: Arc<AtomicUsize>,
    session_id: Arc<OnceLock<String>>,
}

impl Cutter {
    /// Starts a relay to `target` on the current runtime.
    pub(crate) async fn start(target: SocketAddr) -> Cutter {
        let relay = TcpListener::bind("127.0.0.1:0").await.expect("bind the relay");
        let control = TcpListener::bind("127.0.0.1:0").await.expect("bind the relay's control");
        let addresses = (relay.local_addr(), control.local_addr());
        let cut = Arc::new(watch::channel(0).0);
        let open = Arc::new(AtomicUsize::new(0));
        let session_id = Arc::new(OnceLock::new());
        let shared = Shared { cut: Arc::clone(&cut), open: Arc::clone(&open), session_id };
        let session_id = Arc::clone(&shared.session_id);
        tokio::spawn(accept_clients(relay, target, shared));
        tokio::spawn(accept_orders(control, Arc::clone(&cut), Arc::clone(&open)));
        Cutter {
            relay: addresses.0.expect("a bound listener has an address"),
            control: addresses.1.expect("a bound listener has an address"),
            cut,
            open,
            session_id,
        }
    }

    /// The first `Mcp-Session-Id` that the gateway sent through the relay.
    pub(crate) fn session_id(&self) -> Option<String> {
        self.session_id.get().cloned()
    }

    /// The URL that leads through the relay.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.relay)
    }

    /// Breaks every relayed connection; says how many there were.
    pub(crate) fn cut(&self) -> usize {
        let open = self.open.load(Ordering::SeqCst);
        self.cut.send_modify(|round| *round += 1);
        open
    }
}

/// What every relayed connection has of the relay.
#[derive(Clone)]
struct Shared {
    cut: Arc<watch::Sender<u64>>,
    open: Arc<AtomicUsize>,
    session_id: Arc<OnceLock<String>>,
}

async fn accept_clients(listener: TcpListener, target: SocketAddr, shared: Shared) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            let Ok(server) = TcpStream::connect(target).await else { return };
            shared.open.fetch_add(1, Ordering::SeqCst);
            relay(client, server, &mut cut, &shared.session_id).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn relay(
    client: TcpStream,
    server: TcpStream,
    cut: &mut watch::Receiver<u64>,
    session_id: &OnceLock<String>,
) {
    // Small messages must not wait for each other.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let upwards = async {
        let copied = copy(&mut from_client, &mut to_server).await;
        // A half-close travels on; if the peer is gone there is nobody to tell.
        let _ = to_server.shutdown().await;
        copied.is_ok()
    };
    let mut downwards = Downwards { from: from_server, to: to_client };
    let is_cut = tokio::select! {
        _ = async { tokio::join!(upwards, downwards.copy(session_id)) } => false,
        changed = cut.changed() => changed.is_ok(),
    };
    if is_cut {
        // A broken network sends no orderly close: both sides see a reset.
        let _ = downwards.to.as_ref().set_zero_linger();
        let _ = downwards.from.as_ref().set_zero_linger();
    }
}

/// The way from the gateway to the client.
struct Downwards {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
}

impl Downwards {
    async fn copy(&mut self, session_id: &OnceLock<String>) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = self.from.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            if let Some(id) = find_session_id(&buffer[..count]) {
                session_id.get_or_init(|| id);
            }
            if self.to.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        // See `relay`: if the peer is gone there is nobody to tell.
        let _ = self.to.shutdown().await;
    }
}

/// The id in a response head. The head of an answer to initialize is small and comes whole.
fn find_session_id(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\r\n\r\n").next()?;
    head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("mcp-session-id").then(|| value.trim().to_owned())
    })
}

async fn accept_orders(
    listener: TcpListener,
    cut: Arc<watch::Sender<u64>>,
    open: Arc<AtomicUsize>,
) {
    while let Ok((mut peer, _)) = listener.accept().await {
        let count = open.load(Ordering::SeqCst);
        cut.send_modify(|round| *round += 1);
        // The one who asked may be gone already.
        let _ = peer.write_all(format!("{count}\n").as_bytes()).await;
    }
}
