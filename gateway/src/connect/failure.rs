//! Why a request has no answer of the server's, as the client is told.
//!
//! Each failure becomes a JSON-RPC error under the request's id. What the server itself
//! said in a JSON-RPC error is passed on unchanged.

use hyper::StatusCode;
use shardgate_proto::jsonrpc::{self, ErrorCode};

use super::message::RequestId;
use super::stdio::MESSAGE_BYTES_MAX;

/// JSON-RPC 2.0, 5.1: the range for errors of an implementation. Ours are told apart by text.
const BRIDGE_ERROR: ErrorCode = ErrorCode(-32_000);
/// As servers answer for a session they don't know (any more).
const SESSION_LOST: ErrorCode = ErrorCode(-32_001);

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(
        "the gateway at {url} can't be reached: {cause}. Is it running, and is the URL right? Later requests are tried again"
    )]
    Unreachable { url: String, cause: String },
    #[error(
        "the connection to {url} broke before the answer was there: {cause}. The request may or may not have been carried out"
    )]
    Broken { url: String, cause: String },
    #[error("{url} answered with HTTP status {status}{}{}", colon(text), advice(*status))]
    Refused { url: String, status: StatusCode, text: String, error: Option<Vec<u8>> },
    #[error(
        "{url} answered with something else than an MCP message ({what}); is that the URL of an MCP server?"
    )]
    Foreign { url: String, what: String },
    #[error("the answer of {url} is larger than the {} MiB that the bridge passes on", MESSAGE_BYTES_MAX >> 20)]
    TooLarge { url: String },
    #[error("{url} ended the stream of this request without an answer")]
    NoAnswer { url: String },
    #[error(
        "the session at {url} ended while this request ran, perhaps by a restart of the gateway. The request may or may not have been carried out; send it again"
    )]
    SessionLost { url: String },
    #[error(
        "the session at {url} has ended and no new one could take its place: {cause}. Initialize again, or restart the client"
    )]
    NotRenewed { url: String, cause: String },
    #[error("{url} did not answer within {seconds} s")]
    Slow { url: String, seconds: u64 },
    #[error("the bridge ends because its standard input has ended")]
    Ending,
    #[error("another request with this id is still running; ids must be unique")]
    RepeatedId,
    #[error(
        "{max} requests are running already, the most that the bridge keeps; send this one later"
    )]
    TooMany { max: usize },
}

fn colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ". If it wants a token, give one with --header-env Authorization=VARIABLE"
        }
        StatusCode::NOT_FOUND => ". Is the URL's path right?",
        _ if status.is_redirection() => ". Redirects are not followed; give the final URL",
        _ => "",
    }
}

impl Failure {
    /// The error response to this request.
    pub(super) fn answer(&self, id: &RequestId) -> Vec<u8> {
        let mut text = Vec::new();
        if let Failure::Refused { error: Some(error), .. } = self {
            jsonrpc::write_error_response(&mut text, Some(id.raw()), error);
            return text;
        }
        let data = self.data();
        let message = self.to_string();
        jsonrpc::write_error(&mut text, Some(id.raw()), self.code(), &message, data.as_deref());
        text
    }

    /// The code of the server's own JSON-RPC error, if it sent one.
    pub(super) fn server_code(&self) -> Option<i32> {
        let Failure::Refused { error: Some(error), .. } = self else { return None };
        std::str::from_utf8(jsonrpc::member(error, "code")?).ok()?.parse().ok()
    }

    /// True if the server said that it doesn't know the session.
    pub(super) fn is_session_lost(&self) -> bool {
        // MCP 2025-11-25, transports: a terminated session is answered with 404. So is an
        // unknown method in the modern era, and by some servers in the older one.
        matches!(self, Failure::SessionLost { .. })
            || matches!(self, Failure::Refused { status: StatusCode::NOT_FOUND, .. })
                && self.server_code() != Some(ErrorCode::METHOD_NOT_FOUND.0)
    }

    fn code(&self) -> ErrorCode {
        match self {
            Failure::SessionLost { .. } | Failure::NotRenewed { .. } => SESSION_LOST,
            Failure::RepeatedId => ErrorCode::INVALID_REQUEST,
            Failure::Unreachable { .. }
            | Failure::Broken { .. }
            | Failure::Refused { .. }
            | Failure::Foreign { .. }
            | Failure::TooLarge { .. }
            | Failure::NoAnswer { .. }
            | Failure::Slow { .. }
            | Failure::Ending
            | Failure::TooMany { .. } => BRIDGE_ERROR,
        }
    }

    fn data(&self) -> Option<Vec<u8>> {
        let Failure::Refused { status, .. } = self else { return None };
        Some(format!("{{\"httpStatus\":{}}}", status.as_u16()).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> RequestId {
        let text = br#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#.to_vec();
        super::super::message::Request::own(text).expect("a request").id
    }

    fn refused(status: u16, text: &str, error: Option<&str>) -> Failure {
        Failure::Refused {
            url: "http://host/mcp".to_owned(),
            status: StatusCode::from_u16(status).expect("a status"),
            text: text.to_owned(),
            error: error.map(|error| error.as_bytes().to_vec()),
        }
    }

    #[test]
    fn the_servers_own_error_is_passed_on() {
        let failure = refused(400, "ignored", Some(r#"{"code":-32020,"message":"m","data":[1]}"#));
        let answer = String::from_utf8(failure.answer(&id())).expect("text");
        assert_eq!(
            answer,
            r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32020,"message":"m","data":[1]}}"#
        );
        assert_eq!(failure.server_code(), Some(-32020));
    }

    #[test]
    fn a_status_is_told_with_its_text_and_a_way_out() {
        let answer = refused(401, "who are you?", None).answer(&id());
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        let message = answer["error"]["message"].as_str().expect("a message");
        for part in ["http://host/mcp", "401 Unauthorized", "who are you?", "--header-env"] {
            assert!(message.contains(part), "{part} is missing in {message}");
        }
        assert_eq!(answer["error"]["code"], -32_000);
        assert_eq!(answer["error"]["data"]["httpStatus"], 401);
    }

    #[test]
    fn a_404_ends_a_session_unless_it_is_about_the_method() {
        assert!(refused(404, "", None).is_session_lost());
        assert!(refused(404, "", Some(r#"{"code":-32001,"message":""}"#)).is_session_lost());
        assert!(!refused(404, "", Some(r#"{"code":-32601,"message":""}"#)).is_session_lost());
        assert!(!refused(400, "", None).is_session_lost());
    }
}
