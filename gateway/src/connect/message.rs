//! What the client says: a line of standard input, told apart by how it travels on.
//!
//! A message keeps the text it came as, byte for byte; what is read out of it decides
//! about headers and routes only.
//!
//! Choice: a batch (2025-03-26) is taken apart. Its requests travel beside each other and
//! are answered one by one, which JSON-RPC allows a server and stdio clients understand.

use hyper::body::Bytes;
use shardgate_proto::jsonrpc::{self, Envelope, Fault, Id, Kind, Message, ScanLimits};

/// A request's id, as the client wrote it and as it compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId {
    raw: Vec<u8>,
    key: String,
}

impl RequestId {
    pub(super) fn new(id: Id<'_>) -> RequestId {
        // The quote keeps the string "1" apart from the number 1.
        let key = match jsonrpc::string(id.raw()) {
            Some(text) => format!("\"{text}"),
            None => String::from_utf8_lossy(id.raw()).into_owned(),
        };
        RequestId { raw: id.raw().to_vec(), key }
    }

    /// The id as JSON.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Equal for equal ids, however they are escaped.
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// A request of the client, or one that the bridge makes in its name.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) text: Bytes,
    pub(super) method: String,
    /// The raw `params`.
    pub(super) params: Option<Bytes>,
    /// What makes it a modern one.
    pub(super) modern: Option<Modern>,
}

/// What a modern message says in its body and repeats in headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Modern {
    /// `_meta["io.modelcontextprotocol/protocolVersion"]`
    pub(super) version: String,
    /// What `Mcp-Name` repeats.
    pub(super) name: Option<String>,
}

/// A notification of the client.
#[derive(Clone, Debug)]
pub(super) struct Notification {
    pub(super) text: Bytes,
    pub(super) method: String,
    /// `params.requestId` of `notifications/cancelled`.
    pub(super) cancels: Option<RequestId>,
    /// The revision that `_meta` names, if any.
    pub(super) version: Option<String>,
}

/// One message of the client.
#[derive(Clone, Debug)]
pub(super) enum ClientMessage {
    Request(Box<Request>),
    Notification(Notification),
    /// The answer to a request of the server.
    Answer(Bytes),
}

/// A text that is no message: the error to answer with.
pub(super) type Refused = Vec<u8>;

/// Reads a line. Each message of a batch is read or refused for itself.
pub(super) fn read(line: &Bytes) -> Vec<Result<ClientMessage, Refused>> {
    match jsonrpc::scan(line, &ScanLimits::default()) {
        Ok(Message::Single(envelope)) => vec![classify(line, &envelope).map_err(refuse)],
        Ok(Message::Batch(batch)) => batch
            .messages()
            .map(|message| message.and_then(|envelope| classify(line, &envelope)).map_err(refuse))
            .collect(),
        Err(fault) => vec![Err(refuse(fault))],
    }
}

fn refuse(fault: Fault<'_>) -> Refused {
    let mut error = Vec::new();
    let message = format!(
        "the bridge could not read a line of its standard input: {fault}; write one JSON-RPC \
         message per line"
    );
    jsonrpc::write_error(&mut error, fault.id.map(Id::raw), fault.code(), &message, None);
    error
}

fn classify<'a>(line: &Bytes, envelope: &Envelope<'a>) -> Result<ClientMessage, Fault<'a>> {
    let text = line.slice_ref(envelope.text());
    let method = envelope.method().into_owned();
    match envelope.kind() {
        Kind::Request(id) => Ok(ClientMessage::Request(Box::new(Request {
            id: RequestId::new(id),
            text,
            params: envelope.params().map(|params| line.slice_ref(params)),
            modern: modern(&method, envelope)?,
            method,
        }))),
        Kind::Notification => Ok(ClientMessage::Notification(Notification {
            text,
            cancels: match method.as_str() {
                "notifications/cancelled" => envelope.request_id()?.map(RequestId::new),
                _ => None,
            },
            version: envelope.protocol_version()?.map(String::from),
            method,
        })),
        Kind::Result(_) | Kind::Error { .. } => Ok(ClientMessage::Answer(text)),
    }
}

fn modern<'a>(method: &str, envelope: &Envelope<'a>) -> Result<Option<Modern>, Fault<'a>> {
    let Some(version) = envelope.protocol_version()? else { return Ok(None) };
    // MCP 2026-07-28, Streamable HTTP: what Mcp-Name repeats depends on the method.
    let name = match method {
        "tools/call" | "prompts/get" => envelope.name()?,
        "resources/read" => envelope.uri()?,
        "tasks/get" | "tasks/update" | "tasks/cancel" => envelope.task_id()?,
        _ => None,
    };
    Ok(Some(Modern { version: version.into_owned(), name: name.map(String::from) }))
}

impl Request {
    /// A request of a text that was a client's or is the bridge's own.
    pub(super) fn own(text: Vec<u8>) -> Option<Request> {
        match read(&text.into()).pop()?.ok()? {
            ClientMessage::Request(request) => Some(*request),
            ClientMessage::Notification(_) | ClientMessage::Answer(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &'static str) -> Result<ClientMessage, Refused> {
        let mut messages = read(&Bytes::from_static(text.as_bytes()));
        assert_eq!(messages.len(), 1, "{text}");
        messages.remove(0)
    }

    fn request(text: &'static str) -> Request {
        match one(text) {
            Ok(ClientMessage::Request(request)) => *request,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_era_is_seen_from_the_request() {
        let legacy =
            request(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#);
        assert_eq!(legacy.modern, None);
        let modern = request(
            r#"{"jsonrpc":"2.0","id":"x","method":"resources/read","params":{"uri":"a:b","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
        );
        let expected = Modern { version: "2026-07-28".to_owned(), name: Some("a:b".to_owned()) };
        assert_eq!(modern.modern, Some(expected));
        assert_eq!((modern.id.raw(), modern.id.key()), (br#""x""#.as_slice(), "\"x"));
    }

    #[test]
    fn ids_compare_by_what_they_mean() {
        let id = |text| request(text).id.key;
        let text = id(r#"{"jsonrpc":"2.0","id":"1","method":"ping"}"#);
        assert_eq!(text, id(r#"{"jsonrpc":"2.0","id":"\u0031","method":"ping"}"#));
        assert_ne!(text, id(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#));
    }

    #[test]
    fn a_cancellation_names_its_request() {
        let message =
            one(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#);
        let Ok(ClientMessage::Notification(notification)) = message else { panic!("{message:?}") };
        assert_eq!(notification.cancels.expect("named").key(), "7");
    }

    #[test]
    fn what_is_no_message_is_answered_with_the_reason() {
        for (text, code, id) in [
            ("hello", "-32700", "null"),
            ("{\"jsonrpc\":\"2.0\"", "-32700", "null"),
            ("{\"jsonrpc\":\"2.0\",\"id\":3}", "-32600", "3"),
            ("[]", "-32600", "null"),
        ] {
            let error = String::from_utf8(one(text).expect_err(text)).expect("text");
            let start = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":{code},");
            assert!(
                error.starts_with(&start) && error.contains("one JSON-RPC message per line"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_batch_is_taken_apart() {
        let batch =
            r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},7,{"jsonrpc":"2.0","id":2,"result":{}}]"#;
        let messages = read(&Bytes::from_static(batch.as_bytes()));
        assert!(matches!(
            messages.as_slice(),
            [Ok(ClientMessage::Request(_)), Err(_), Ok(ClientMessage::Answer(_))]
        ));
    }
}
