//! `shardgate connect`: MCP on standard input and output for clients that know nothing
//! else, carried to a gateway over Streamable HTTP.
//!
//! Both eras travel side by side, as each message says itself: a legacy client's messages
//! belong to the session that its `initialize` opens (`session`, `standing`); a modern
//! client's requests stand for themselves (`mirror`).
//!
//! Invariants:
//! - Every request gets one answer, the server's or an error that says what went wrong
//!   (`failure`), unless the client has cancelled it.
//! - Standard output carries protocol messages only, one per line; people are told on
//!   standard error.
//! - Messages pass as they are. The bridge reads them and never writes them anew, except
//!   for line breaks between their tokens.
//! - Requests run beside each other. Notifications and answers of the client arrive in the
//!   order in which it wrote them, and nothing overtakes `initialize`.
//!
//! Limits: [`REQUESTS_MAX`], [`ONE_WAY_MAX`], [`INPUT_END_TIME_MAX`] and those of the
//! modules. Nothing here is on the gateway's data path: it is a process of its own, on one
//! thread of tokio with hyper as its client.

mod backoff;
mod endpoint;
mod events;
mod exchange;
mod failure;
mod http;
mod message;
mod mirror;
mod requests;
mod session;
mod standing;
mod stdio;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::HeaderMap;
use shardgate_proto::jsonrpc::{self, ErrorCode, ScanLimits};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::LocalSet;

pub use endpoint::{Endpoint, EndpointError};

use failure::Failure;
use http::Gateway;
use message::{ClientMessage, Notification};
use mirror::Mirrors;
use requests::Running;
use session::{Session, Sessions};
use stdio::{ClientGone, Input, MESSAGE_BYTES_MAX, Output};

/// Requests of the client that may run at a time. Each may need a connection, and a process
/// may often have no more than 1,024 descriptors.
pub const REQUESTS_MAX: usize = 512;
/// Notifications and answers that wait to be sent; reading stops when there are more.
pub const ONE_WAY_MAX: usize = 256;
/// How long requests may still run when standard input has ended. A client that wants to
/// go sooner sends a signal.
pub const INPUT_END_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a notification or an answer may take to be taken.
const ONE_WAY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long the last messages may take to be read by the client.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// Why the bridge could not work at all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No runtime, no thread or no signal handler.
    #[error("start the bridge")]
    Start(#[source] io::Error),
    /// The machine's certificates.
    #[error("read this machine's certificate authorities; SSL_CERT_FILE may name a file with them")]
    Certificates(#[source] io::Error),
}

/// Carries messages until standard input ends, the client is gone or a signal comes.
///
/// # Errors
/// [`ConnectError`]. That the gateway can't be reached is no error: requests are answered
/// with it, and later ones are tried again.
pub fn run(endpoint: Endpoint) -> Result<(), ConnectError> {
    if endpoint.exposes_headers() {
        tracing::warn!(
            "{endpoint} is plain HTTP: the given headers cross the network in clear text"
        );
    }
    let gateway = Gateway::new(endpoint).map_err(ConnectError::Certificates)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ConnectError::Start)?;
    let outcome = LocalSet::new().block_on(&runtime, carry(gateway));
    // A look-up of a name may still be running on a thread of the runtime.
    runtime.shutdown_background();
    outcome.map_err(ConnectError::Start)
}

async fn carry(gateway: Gateway) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let input = stdio::start_input()?;
    let (output, written) = Output::start()?;
    let (one_way, queue) = mpsc::channel(ONE_WAY_MAX);
    let bridge = Rc::new(Bridge::new(gateway, output));
    let sending = tokio::task::spawn_local(Rc::clone(&bridge).send_in_order(queue));
    tracing::info!("carrying messages between standard input and {}", bridge.gateway.url());
    let whole_input = async {
        bridge.read(input, one_way).await;
        tracing::info!("standard input has ended");
        let rest = async {
            // Both fail only if there is nobody left to do it for.
            let _ = bridge.end_listening().await;
            let _ = sending.await;
            bridge.running.none_left().await;
        };
        if tokio::time::timeout(INPUT_END_TIME_MAX, rest).await.is_err() {
            tracing::warn!("requests still run; they are given up");
        }
    };
    tokio::select! {
        () = whole_input => {}
        () = bridge.output.closed() => tracing::info!("standard output is closed"),
        _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
    }
    bridge.end(written).await;
    Ok(())
}

/// A notification, or an answer to the server.
enum OneWay {
    Notification(Notification),
    Answer(Bytes),
}

/// The state of the whole bridge; one thread owns it.
struct Bridge {
    gateway: Gateway,
    output: Output,
    running: Running,
    sessions: RefCell<Sessions>,
    /// Held while a lost session is replaced.
    renewal: Mutex<()>,
    mirrors: RefCell<Mirrors>,
    /// The revision of the latest modern request, for notifications that name none.
    modern_version: RefCell<Option<String>>,
    own_requests: Cell<u64>,
}

impl Bridge {
    fn new(gateway: Gateway, output: Output) -> Bridge {
        Bridge {
            gateway,
            output,
            running: Running::default(),
            sessions: RefCell::default(),
            renewal: Mutex::new(()),
            mirrors: RefCell::default(),
            modern_version: RefCell::default(),
            own_requests: Cell::new(0),
        }
    }

    /// Reads standard input to its end. Returns early if the client is gone.
    async fn read(
        self: &Rc<Self>,
        mut input: mpsc::Receiver<Input>,
        one_way: mpsc::Sender<OneWay>,
    ) {
        while let Some(input) = input.recv().await {
            let outcome = match input {
                Input::Line(line) => self.take_line(&line, &one_way).await,
                Input::TooLong => self.refuse_long_line().await,
            };
            if let Err(ClientGone) = outcome {
                return;
            }
        }
    }

    async fn take_line(
        self: &Rc<Self>,
        line: &Bytes,
        one_way: &mpsc::Sender<OneWay>,
    ) -> Result<(), ClientGone> {
        for message in message::read(line) {
            match message {
                Ok(ClientMessage::Request(request)) => self.take_request(*request).await?,
                Ok(ClientMessage::Notification(notification)) => {
                    self.take_notification(notification, one_way).await;
                }
                Ok(ClientMessage::Answer(text)) => queue(one_way, OneWay::Answer(text)).await,
                Err(error) => {
                    tracing::warn!("a line of standard input is no message; it was answered so");
                    self.output.send(&error).await?;
                }
            }
        }
        Ok(())
    }

    async fn refuse_long_line(&self) -> Result<(), ClientGone> {
        let message = format!(
            "a line of more than {} MiB was dropped, the most that the bridge carries; send \
             less in one message",
            MESSAGE_BYTES_MAX >> 20
        );
        tracing::warn!("{message}");
        let mut error = Vec::new();
        jsonrpc::write_error(&mut error, None, ErrorCode::PARSE_ERROR, &message, None);
        self.output.send(&error).await
    }

    async fn take_notification(
        self: &Rc<Self>,
        notification: Notification,
        one_way: &mpsc::Sender<OneWay>,
    ) {
        match (notification.method.as_str(), &notification.cancels) {
            ("notifications/initialized", _) => self.initialized(&notification).await,
            // MCP 2026-07-28, Streamable HTTP: closing the stream is the cancellation.
            (_, Some(id)) if self.running.cancel(id) => {}
            _ => queue(one_way, OneWay::Notification(notification)).await,
        }
    }

    /// Sends what has no answer, one after the other.
    async fn send_in_order(self: Rc<Self>, mut queue: mpsc::Receiver<OneWay>) {
        while let Some(one_way) = queue.recv().await {
            let sent = tokio::time::timeout(ONE_WAY_TIME_MAX, self.send_one_way(&one_way)).await;
            let failure = match sent {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let seconds = ONE_WAY_TIME_MAX.as_secs();
                    Failure::Slow { url: self.gateway.url(), seconds }
                }
            };
            match one_way {
                OneWay::Notification(notification) => {
                    tracing::warn!("{} did not arrive: {failure}", notification.method);
                }
                OneWay::Answer(_) => {
                    tracing::warn!("an answer of the client did not arrive: {failure}");
                }
            }
        }
    }

    async fn send_one_way(self: &Rc<Self>, one_way: &OneWay) -> Result<(), Failure> {
        let session = self.sessions.borrow().current();
        let (headers, text) = match one_way {
            OneWay::Answer(text) => (session.as_ref().map(Session::headers), text),
            OneWay::Notification(notification) => (
                Some(self.notification_headers(notification, session.as_ref())),
                &notification.text,
            ),
        };
        let sent = self.post_one_way(headers.unwrap_or_default(), text).await;
        let (Err(failure), Some(session)) = (&sent, session) else { return sent };
        if session.id.is_none() || !failure.is_session_lost() {
            return sent;
        }
        let renewed = self.renew(&session).await?;
        match one_way {
            OneWay::Notification(_) => self.post_one_way(renewed.headers(), text).await,
            // The question was asked in the session that is gone.
            OneWay::Answer(_) => sent,
        }
    }

    fn notification_headers(
        &self,
        notification: &Notification,
        session: Option<&Session>,
    ) -> HeaderMap {
        let latest = || self.modern_version.borrow().clone();
        let version = match (&notification.version, session) {
            (Some(version), _) => Some(version.clone()),
            (None, Some(session)) => return session.headers(),
            (None, None) => latest(),
        };
        let mut headers = HeaderMap::new();
        if let Some(version) = version {
            mirror::insert(&mut headers, "mcp-protocol-version", &version);
            mirror::insert(&mut headers, "mcp-method", &notification.method);
        }
        headers
    }

    /// POSTs what has no answer.
    async fn post_one_way(&self, headers: HeaderMap, text: &Bytes) -> Result<(), Failure> {
        let response = self.gateway.post(headers, text.clone()).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.gateway.read_refusal(response).await)
    }

    /// A message that nobody waits for. One that is none is dropped: standard output
    /// carries messages only.
    async fn pass_on(&self, text: &[u8]) -> Result<(), ClientGone> {
        match jsonrpc::scan(text, &ScanLimits::default()) {
            Ok(_) => self.output.send(text).await,
            Err(fault) => {
                tracing::warn!("the server sent something that is no message: {fault}");
                Ok(())
            }
        }
    }

    /// Ends what still runs, and the session, and waits until all is written.
    async fn end(self: Rc<Self>, written: oneshot::Receiver<()>) {
        let unanswered = self.running.give_up_all();
        let session = self.sessions.borrow_mut().take();
        if let Some(session) = session {
            self.delete(&session).await;
        }
        let flushed = async {
            for id in unanswered {
                // Fails only if standard output is closed.
                let _ = self.output.send(&Failure::Ending.answer(&id)).await;
            }
            self.output.finish().await;
            let _ = written.await;
        };
        if tokio::time::timeout(FLUSH_TIME_MAX, flushed).await.is_err() {
            tracing::warn!("the client does not read; the last messages are lost");
        }
    }
}

async fn queue(one_way: &mpsc::Sender<OneWay>, message: OneWay) {
    // The receiving task lives as long as the bridge reads.
    let _ = one_way.send(message).await;
}
