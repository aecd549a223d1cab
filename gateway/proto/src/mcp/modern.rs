//! The modern era's rules for one request: headers against body, `_meta`, statuses.
//!
//! MCP 2026-07-28, Streamable HTTP: every request carries its context in
//! `params._meta`, mirrored in headers so that intermediaries can route without
//! reading bodies. Whoever reads the body must check that the two agree.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::jsonrpc::write_string;
use crate::mcp::version::{Era, ProtocolVersion};
use crate::upstream::{HeaderParameter, HeaderParameterKind};

/// JSON-RPC: the text isn't JSON.
pub const PARSE_ERROR: i32 = -32700;
/// JSON-RPC: the message isn't a valid request.
pub const INVALID_REQUEST: i32 = -32600;
/// JSON-RPC: no such method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// JSON-RPC: the parameters are wrong.
pub const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC: the server failed.
pub const INTERNAL_ERROR: i32 = -32603;
/// MCP 2026-07-28: a header is missing or disagrees with the body.
pub const HEADER_MISMATCH: i32 = -32020;
/// MCP 2026-07-28: the client lacks a capability the call needs.
pub const MISSING_CLIENT_CAPABILITY: i32 = -32021;
/// MCP 2026-07-28: the revision isn't spoken here.
pub const UNSUPPORTED_VERSION: i32 = -32022;
/// The session is unknown or has ended (as the SDKs' servers answer it).
pub const SESSION_NOT_FOUND: i32 = -32001;
/// A limit of the gateway is reached; the message names it.
pub const LIMIT_REACHED: i32 = -32000;

/// What a request's headers say, as received.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModernHeaders<'a> {
    /// `MCP-Protocol-Version`.
    pub version: Option<&'a [u8]>,
    /// `Mcp-Method`.
    pub method: Option<&'a [u8]>,
    /// `Mcp-Name`.
    pub name: Option<&'a [u8]>,
}

/// What a request's body says.
#[derive(Clone, Copy, Debug)]
pub struct ModernBody<'a> {
    /// `method`.
    pub method: &'a str,
    /// `_meta["io.modelcontextprotocol/protocolVersion"]`, if it is a string.
    pub version: Option<&'a str>,
    /// Whether `_meta["io.modelcontextprotocol/clientCapabilities"]` is an object.
    pub has_client_capabilities: bool,
    /// `params.name`.
    pub name: Option<&'a str>,
    /// `params.uri`.
    pub uri: Option<&'a str>,
    /// `params.taskId`.
    pub task_id: Option<&'a str>,
}

/// A refused request: what to answer. `data` is JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// JSON-RPC code.
    pub code: i32,
    /// What was wrong and what to do.
    pub message: Cow<'static, str>,
    /// `error.data`, if any.
    pub data: Option<String>,
}

impl Refusal {
    /// An `Mcp-Param-*` header stands more than once.
    pub fn repeated(header: &str) -> Refusal {
        Refusal::mismatch(format!("header Mcp-Param-{header} stands more than once"))
    }

    fn mismatch(message: String) -> Refusal {
        Refusal { status: 400, code: HEADER_MISMATCH, message: message.into(), data: None }
    }
}

/// True if a request belongs to the modern era: its `_meta` names a revision, or
/// its header names one that has no sessions.
pub fn is_modern(header_version: Option<&[u8]>, body_version: Option<&str>) -> bool {
    body_version.is_some()
        || header_version
            .and_then(ProtocolVersion::parse)
            .is_some_and(|version| version.era() == Era::Modern)
}

/// Methods of the legacy era that the modern one took away.
pub fn is_withdrawn(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "ping"
            | "logging/setLevel"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "tasks/list"
            | "tasks/result"
    )
}

/// Checks a request's version, `_meta`, method and headers, in the order in
/// which the errors matter: agreement, version, context, method, mirrored headers.
pub fn check(headers: &ModernHeaders<'_>, body: &ModernBody<'_>) -> Result<(), Refusal> {
    check_version(headers.version, body)?;
    if is_withdrawn(body.method) {
        return Err(Refusal {
            status: 404,
            code: METHOD_NOT_FOUND,
            message: format!("{} does not exist in {}", body.method, ProtocolVersion::V2026_07_28)
                .into(),
            data: None,
        });
    }
    check_mirrored("Mcp-Method", headers.method, body.method)?;
    if let Some(expected) = mirrored_name(body) {
        check_mirrored("Mcp-Name", headers.name, expected)?;
    }
    Ok(())
}

/// The HTTP status of an answer that carries this JSON-RPC error
/// (MCP 2026-07-28, Streamable HTTP, error responses).
pub fn status_of_error(code: i32) -> u16 {
    match code {
        METHOD_NOT_FOUND => 404,
        HEADER_MISMATCH | MISSING_CLIENT_CAPABILITY | UNSUPPORTED_VERSION => 400,
        PARSE_ERROR | INVALID_REQUEST => 400,
        _ => 200,
    }
}

fn check_version(header: Option<&[u8]>, body: &ModernBody<'_>) -> Result<(), Refusal> {
    let Some(version) = body.version else {
        return Err(missing_meta("io.modelcontextprotocol/protocolVersion (a string)"));
    };
    match header {
        None => {
            return Err(Refusal::mismatch(format!(
                "header MCP-Protocol-Version is missing; it must repeat the body's {version}"
            )));
        }
        Some(header) if header != version.as_bytes() => {
            return Err(Refusal::mismatch(format!(
                "header MCP-Protocol-Version is {} but the body says {version}",
                String::from_utf8_lossy(header)
            )));
        }
        Some(_) => {}
    }
    if ProtocolVersion::parse(version.as_bytes()).is_none_or(|version| version.era() != Era::Modern)
    {
        return Err(unsupported(version));
    }
    if !body.has_client_capabilities {
        return Err(missing_meta("io.modelcontextprotocol/clientCapabilities (an object)"));
    }
    Ok(())
}

/// Checks a notification, which names its method in a header like a request. It has no
/// answer that would depend on the revision, so `_meta` may say none; if it does, the
/// header must agree.
pub fn check_notification(
    header_version: Option<&[u8]>,
    header_method: Option<&[u8]>,
    body_version: Option<&str>,
    body_method: &str,
) -> Result<(), Refusal> {
    if let Some(version) = body_version
        && header_version.is_some_and(|header| header != version.as_bytes())
    {
        return Err(Refusal::mismatch(format!(
            "header MCP-Protocol-Version disagrees with the body, which says {version}"
        )));
    }
    check_mirrored("Mcp-Method", header_method, body_method)
}

fn missing_meta(key: &str) -> Refusal {
    Refusal {
        status: 400,
        code: INVALID_PARAMS,
        message: format!("params._meta must carry {key} in every request of this revision").into(),
        data: None,
    }
}

fn unsupported(requested: &str) -> Refusal {
    let mut data = b"{\"supported\":[".to_vec();
    write_string(&mut data, ProtocolVersion::V2026_07_28.as_str());
    data.extend_from_slice(b"],\"requested\":");
    write_string(&mut data, requested);
    data.push(b'}');
    Refusal {
        status: 400,
        code: UNSUPPORTED_VERSION,
        message: "this protocol version is not supported without a session; older revisions \
                  are opened by initialize"
            .into(),
        data: Some(String::from_utf8_lossy(&data).into_owned()),
    }
}

/// What `Mcp-Name` mirrors, for the methods that have one.
fn mirrored_name<'a>(body: &ModernBody<'a>) -> Option<&'a str> {
    match body.method {
        "tools/call" | "prompts/get" => body.name,
        "resources/read" => body.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => body.task_id,
        _ => None,
    }
}

fn check_mirrored(
    header: &'static str,
    value: Option<&[u8]>,
    expected: &str,
) -> Result<(), Refusal> {
    let Some(value) = value else {
        return Err(Refusal::mismatch(format!("header {header} is missing; the body asks for it")));
    };
    match decode_value(value) {
        Some(decoded) if *decoded == *expected.as_bytes() => Ok(()),
        Some(_) => Err(Refusal::mismatch(format!("header {header} disagrees with the body"))),
        None => Err(Refusal::mismatch(format!("header {header} is not valid base64 inside =?…?="))),
    }
}

/// Undoes the encoding of header values that HTTP can't carry plainly:
/// `=?base64?…?=`. Anything else stands for itself. `None`: broken base64.
pub fn decode_value(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let encoded = value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?="));
    match encoded {
        None => Some(Cow::Borrowed(value)),
        Some(text) => BASE64.decode(text).ok().map(Cow::Owned),
    }
}

/// The header value that mirrors `text`: plain where HTTP can carry it, else in base64.
/// The inverse of [`decode_value`].
pub fn encode_value(text: &str) -> Cow<'_, str> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !text.starts_with(' ')
        && !text.ends_with(' ')
        && !text.starts_with("=?");
    if plain {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("=?base64?{}?=", BASE64.encode(text)))
    }
}

/// The header value that mirrors an argument, given as raw JSON; `None` if there is none
/// to send: `null`, or a value of another kind than the tool declares.
pub fn encode_parameter(kind: HeaderParameterKind, argument: &[u8]) -> Option<String> {
    match kind {
        HeaderParameterKind::String => {
            Some(encode_value(&crate::jsonrpc::string(argument)?).into_owned())
        }
        HeaderParameterKind::Boolean => {
            matches!(argument, b"true" | b"false").then(|| text_of(argument))
        }
        HeaderParameterKind::Integer => Some(integer(argument)?.to_string()),
    }
}

fn text_of(ascii: &[u8]) -> String {
    String::from_utf8_lossy(ascii).into_owned()
}

/// Checks one `Mcp-Param-*` header against the argument it mirrors. `argument`
/// is the argument's raw JSON text, `None` if it is absent.
pub fn check_parameter(
    parameter: &HeaderParameter,
    header: Option<&[u8]>,
    argument: Option<&[u8]>,
) -> Result<(), Refusal> {
    let name = &parameter.header;
    let argument = argument.filter(|text| *text != b"null");
    let (header, argument) = match (header, argument) {
        (None, None) => return Ok(()),
        (None, Some(_)) => {
            return Err(Refusal::mismatch(format!(
                "header Mcp-Param-{name} is missing; the tool mirrors argument {} in it",
                parameter.argument
            )));
        }
        (Some(_), None) => {
            return Err(Refusal::mismatch(format!(
                "header Mcp-Param-{name} is set but argument {} is not",
                parameter.argument
            )));
        }
        (Some(header), Some(argument)) => (header, argument),
    };
    let decoded = decode_value(header).ok_or_else(|| {
        Refusal::mismatch(format!("header Mcp-Param-{name} is not valid base64 inside =?…?="))
    })?;
    if mirrors(parameter.kind, &decoded, argument) {
        Ok(())
    } else {
        Err(Refusal::mismatch(format!("header Mcp-Param-{name} disagrees with the body")))
    }
}

fn mirrors(kind: HeaderParameterKind, header: &[u8], argument: &[u8]) -> bool {
    match kind {
        HeaderParameterKind::String => {
            crate::jsonrpc::string(argument).is_some_and(|text| text.as_bytes() == header)
        }
        HeaderParameterKind::Boolean => header == argument,
        HeaderParameterKind::Integer => {
            integer(header).is_some_and(|value| integer(argument) == Some(value))
        }
    }
}

/// An integer as JSON may spell it: `7`, `7.0`, `7e0`. Beyond 2^53 only digits are exact.
fn integer(text: &[u8]) -> Option<i128> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(value) = text.parse::<i128>() {
        return Some(value);
    }
    let value = text.parse::<f64>().ok()?;
    (value.fract() == 0.0 && value.abs() < EXACT_MAX).then_some(value as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers<'a>() -> ModernHeaders<'a> {
        ModernHeaders {
            version: Some(b"2026-07-28"),
            method: Some(b"tools/call"),
            name: Some(b"echo"),
        }
    }

    fn body<'a>() -> ModernBody<'a> {
        ModernBody {
            method: "tools/call",
            version: Some("2026-07-28"),
            has_client_capabilities: true,
            name: Some("echo"),
            uri: None,
            task_id: None,
        }
    }

    #[track_caller]
    fn refused(headers: ModernHeaders<'_>, body: ModernBody<'_>, status: u16, code: i32) {
        let refusal = check(&headers, &body).expect_err("must be refused");
        assert_eq!((refusal.status, refusal.code), (status, code), "{}", refusal.message);
    }

    #[test]
    fn a_complete_request_passes() {
        assert_eq!(check(&headers(), &body()), Ok(()));
    }

    #[test]
    fn each_fault_has_its_code() {
        refused(headers(), ModernBody { version: None, ..body() }, 400, INVALID_PARAMS);
        let no_capabilities = ModernBody { has_client_capabilities: false, ..body() };
        refused(headers(), no_capabilities, 400, INVALID_PARAMS);
        refused(ModernHeaders { version: None, ..headers() }, body(), 400, HEADER_MISMATCH);
        let other_version = ModernBody { version: Some("v999.0.0"), ..body() };
        refused(headers(), other_version, 400, HEADER_MISMATCH);
        let both = ModernHeaders { version: Some(b"v999.0.0"), ..headers() };
        refused(both, other_version, 400, UNSUPPORTED_VERSION);
        refused(ModernHeaders { method: None, ..headers() }, body(), 400, HEADER_MISMATCH);
        let upper = ModernHeaders { method: Some(b"TOOLS/CALL"), ..headers() };
        refused(upper, body(), 400, HEADER_MISMATCH);
        refused(ModernHeaders { name: None, ..headers() }, body(), 400, HEADER_MISMATCH);
        let other = ModernHeaders { name: Some(b"wrong"), ..headers() };
        refused(other, body(), 400, HEADER_MISMATCH);
        for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe"] {
            let gone = ModernHeaders { method: Some(method.as_bytes()), ..headers() };
            refused(gone, ModernBody { method, ..body() }, 404, METHOD_NOT_FOUND);
        }
    }

    #[test]
    fn an_unsupported_version_says_what_is_supported() {
        let headers = ModernHeaders { version: Some(b"v\"9"), ..headers() };
        let refusal = check(&headers, &ModernBody { version: Some("v\"9"), ..body() });
        assert_eq!(
            refusal.expect_err("unsupported").data.as_deref(),
            Some(r#"{"supported":["2026-07-28"],"requested":"v\"9"}"#)
        );
    }

    #[test]
    fn values_decode_only_inside_both_markers() {
        let decode = |text: &'static str| decode_value(text.as_bytes()).map(Cow::into_owned);
        assert_eq!(decode("=?base64?SGVsbG8=?="), Some(b"Hello".to_vec()));
        assert_eq!(decode("=?base64?SGVsbG8?="), None);
        assert_eq!(decode("=?base64?SGVs!!!bG8=?="), None);
        assert_eq!(decode("SGVsbG8="), Some(b"SGVsbG8=".to_vec()));
        assert_eq!(decode("=?base64?SGVsbG8="), Some(b"=?base64?SGVsbG8=".to_vec()));
        assert_eq!(decode("=?BASE64?SGVsbG8=?="), Some(b"=?BASE64?SGVsbG8=?=".to_vec()));
    }

    #[test]
    fn parameters_mirror_by_kind() {
        let parameter = |kind| HeaderParameter {
            argument: "region".into(),
            inner: Vec::new(),
            header: "Region".into(),
            kind,
        };
        let check = |kind, header: Option<&str>, argument: Option<&str>| {
            let header = header.map(str::as_bytes);
            check_parameter(&parameter(kind), header, argument.map(str::as_bytes)).is_ok()
        };
        use HeaderParameterKind::{Boolean, Integer, String};
        assert!(check(String, Some("a b"), Some(r#""a b""#)));
        assert!(check(String, Some("=?base64?w6k=?="), Some(r#""\u00e9""#)));
        assert!(!check(String, Some("a"), Some(r#""b""#)));
        assert!(!check(String, None, Some(r#""b""#)));
        assert!(!check(String, Some("b"), None));
        assert!(check(String, None, Some("null")));
        assert!(check(String, None, None));
        assert!(check(Boolean, Some("true"), Some("true")));
        assert!(!check(Boolean, Some("True"), Some("true")));
        assert!(check(Integer, Some("7"), Some("7")));
        assert!(check(Integer, Some("7"), Some("7.0")));
        assert!(!check(Integer, Some("7"), Some("8")));
        assert!(!check(Integer, Some("x"), Some("x")));
        assert!(!check(Integer, Some("9007199254740993"), Some("9007199254740992")));
        assert!(!check(Integer, Some("1e400"), Some("1e999")));
    }
}
