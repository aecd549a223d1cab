//! One question to the admin server of a running gateway.
//!
//! The client is hyper's, which the admin server brings along anyway: one request over plain
//! TCP, with a bound on time and size.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// Connecting, asking and reading together may take so long.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// A larger answer is none of ours: 1,024 shards need less than 1 MiB.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Question<'a> {
    pub(super) path: &'a str,
    /// JSON to be posted; without it the question is a GET.
    pub(super) body: Option<String>,
}

/// An answer, and the text it came as.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) report: T,
    pub(super) json: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error(
        "{given:?} is no address of an admin server: write IP:PORT or http://HOST:PORT, such as 127.0.0.1:9090"
    )]
    Address { given: String },
    #[error(
        "no gateway can be reached at {url}; is it running? `shardgate serve` starts one, and \
         --admin or SHARDGATE_ADMIN says where its admin server is"
    )]
    Unreachable {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{url} did not answer within {} s; the process may be stopped or overloaded, or \
         something else listens there",
        ANSWER_TIME_MAX.as_secs()
    )]
    Slow { url: String },
    #[error("what listens at {url} does not answer like an admin server; --admin says where it is")]
    Http {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{url} answered {status}: {body}")]
    Refused { url: String, status: StatusCode, body: String },
    #[error(
        "{url} answered something else than the report; is that the admin server, and of \
         the same version as this program ({})?",
        env!("CARGO_PKG_VERSION")
    )]
    Report {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("set up the client")]
    Runtime(#[source] std::io::Error),
}

/// Asks the admin server at this address or URL for a report.
pub(super) fn fetch<T: DeserializeOwned>(
    admin: &str,
    question: &Question<'_>,
) -> Result<Answer<T>, AdminError> {
    let mut json = fetch_text(admin, question)?;
    let report = serde_json::from_str(&json).map_err(|source| AdminError::Report {
        url: format!("http://{admin}{}", question.path),
        source,
    })?;
    json.push('\n');
    Ok(Answer { report, json })
}

/// Asks the admin server at this address or URL; its answer may be anything.
pub(super) fn fetch_text(admin: &str, question: &Question<'_>) -> Result<String, AdminError> {
    let authority = authority(admin)?;
    let url = format!("http://{authority}{}", question.path);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AdminError::Runtime)?;
    let asked = runtime.block_on(async {
        tokio::time::timeout(ANSWER_TIME_MAX, ask(&authority, &url, question)).await
    });
    let (status, body) = asked.unwrap_or_else(|_| Err(AdminError::Slow { url: url.clone() }))?;
    let text = String::from_utf8_lossy(&body).into_owned();
    if status != StatusCode::OK {
        return Err(AdminError::Refused { url, status, body: text.trim_end().to_owned() });
    }
    Ok(text)
}

/// `HOST:PORT` of an address or an `http` URL without a path.
fn authority(given: &str) -> Result<String, AdminError> {
    let wrong = || AdminError::Address { given: given.to_owned() };
    let authority = given.strip_prefix("http://").unwrap_or(given).trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    match port.parse::<u16>() {
        Ok(port) if is_host && port != 0 => Ok(authority.to_owned()),
        Ok(_) | Err(_) => Err(wrong()),
    }
}

async fn ask(
    authority: &str,
    url: &str,
    question: &Question<'_>,
) -> Result<(StatusCode, Bytes), AdminError> {
    let http = |source: Box<dyn std::error::Error + Send + Sync>| AdminError::Http {
        url: url.to_owned(),
        source,
    };
    let stream = TcpStream::connect(authority)
        .await
        .map_err(|source| AdminError::Unreachable { url: url.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http(error.into()))?;
    tokio::spawn(connection);
    let (method, body) = match &question.body {
        Some(body) => (Method::POST, body.clone()),
        None => (Method::GET, String::new()),
    };
    let request = Request::builder()
        .method(method)
        .uri(question.path)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| http(error.into()))?;
    let response = sender.send_request(request).await.map_err(|error| http(error.into()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok((status, body.map_err(http)?.to_bytes()))
}
