//! Requests to the gateway over HTTP, and their answers up to the first byte of the body.
//!
//! Connections are kept and shared by hyper's client. Nothing here knows sessions.
//!
//! Invariant: redirects are not followed; the headers with tokens go to the given host only.
//! Limits: [`CONNECT_TIME_MAX`], [`REFUSAL_BYTES_MAX`]. There is no limit on how long an
//! answer may take: a tool may run for hours.

use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use shardgate_proto::jsonrpc::{self, Message, ScanLimits};

use super::endpoint::Endpoint;
use super::failure::Failure;
use super::stdio::MESSAGE_BYTES_MAX;

/// How long a connection may take to be made.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How much of a refusal's body is read.
pub(super) const REFUSAL_BYTES_MAX: usize = 256 * 1024;
/// How much of a refusal's text is shown.
const REFUSAL_TEXT_MAX: usize = 500;
/// A connection that is silent for so long is asked whether it still stands, so that a
/// stream to a machine that vanished ends.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
/// Shorter than servers usually keep an idle connection, so that none is used which is
/// just being closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(5);

/// The gateway, seen from here.
#[derive(Debug)]
pub(super) struct Gateway {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Endpoint,
    url: String,
}

impl Gateway {
    /// Fails if TLS is asked for and this machine's certificates can't be read.
    pub(super) fn new(endpoint: Endpoint) -> io::Result<Gateway> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIME_MAX));
        tcp.set_keepalive(Some(KEEPALIVE_TIME));
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&endpoint)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .build(connector);
        let url = endpoint.to_string();
        Ok(Gateway { client, endpoint, url })
    }

    /// The URL as it is shown.
    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    /// POSTs a message.
    pub(super) async fn post(
        &self,
        mut headers: HeaderMap,
        message: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let json = HeaderValue::from_static("application/json");
        let both = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(header::CONTENT_TYPE, json);
        headers.insert(header::ACCEPT, both);
        self.send(Method::POST, headers, message).await
    }

    /// Opens or resumes a stream.
    pub(super) async fn stream(
        &self,
        mut headers: HeaderMap,
    ) -> Result<Response<Incoming>, Failure> {
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        self.send(Method::GET, headers, Bytes::new()).await
    }

    /// Ends a session.
    pub(super) async fn delete(&self, headers: HeaderMap) -> Result<Response<Incoming>, Failure> {
        self.send(Method::DELETE, headers, Bytes::new()).await
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.endpoint.uri().clone();
        *request.headers_mut() = headers;
        request.headers_mut().extend(self.endpoint.headers().clone());
        self.client.request(request).await.map_err(|error| {
            let (url, cause) = (self.url(), cause(&error));
            if error.is_connect() {
                Failure::Unreachable { url, cause }
            } else {
                Failure::Broken { url, cause }
            }
        })
    }

    /// Reads the body of a message.
    pub(super) async fn read_message(&self, body: Incoming) -> Result<Bytes, Failure> {
        let read = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
        read.map(|body| body.to_bytes()).map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Failure::TooLarge { url: self.url() };
            }
            Failure::Broken { url: self.url(), cause: cause(error.as_ref()) }
        })
    }

    /// Reads what a status other than 2xx says.
    pub(super) async fn read_refusal(&self, response: Response<Incoming>) -> Failure {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Failure::Refused {
            url: self.url(),
            status: head.status,
            error: server_error(&body),
            text: refusal_text(head.status, &head.headers, &body),
        }
    }
}

/// What hyper and the layers below say, without hyper's own first words.
pub(super) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source().or(Some(error));
    while let Some(error) = next {
        let text = error.to_string();
        // Some layers repeat what the one below them says.
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// The provider is named, so that no other crate's choice can get in its way. Without TLS
/// the machine's certificates need not be readable.
fn tls(endpoint: &Endpoint) -> io::Result<rustls::ClientConfig> {
    let provider = rustls::crypto::ring::default_provider();
    let builder = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    if endpoint.uri().scheme_str() == Some("https") {
        return Ok(builder.with_native_roots()?.with_no_client_auth());
    }
    Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// The raw JSON-RPC error object of a body that is one.
fn server_error(body: &[u8]) -> Option<Vec<u8>> {
    match jsonrpc::scan(body, &ScanLimits::default()).ok()? {
        Message::Single(envelope) => envelope.error().map(<[u8]>::to_vec),
        Message::Batch(_) => None,
    }
}

fn refusal_text(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let shown = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut parts = Vec::new();
    if let Some(challenge) = shown(header::WWW_AUTHENTICATE) {
        parts.push(challenge.to_owned());
    }
    if let Some(location) = shown(header::LOCATION).filter(|_| status.is_redirection()) {
        parts.push(format!("it points to {location}"));
    }
    let is_text = shown(header::CONTENT_TYPE).is_none_or(|kind| !kind.contains("html"));
    let text = String::from_utf8_lossy(body);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if is_text && !text.is_empty() {
        parts.push(text.chars().take(REFUSAL_TEXT_MAX).collect());
    }
    parts.join("; ")
}
