//! Status codes and the reasons for which a request is refused.
//!
//! Every refusal ends its connection: where the bytes of a request cannot be
//! trusted, nobody can say where the next one begins.

use std::fmt;

/// An HTTP status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u16);

impl Status {
    /// 200
    pub const OK: Status = Status(200);
    /// 202
    pub const ACCEPTED: Status = Status(202);
    /// 204
    pub const NO_CONTENT: Status = Status(204);
    /// 400
    pub const BAD_REQUEST: Status = Status(400);
    /// 401
    pub const UNAUTHORIZED: Status = Status(401);
    /// 403
    pub const FORBIDDEN: Status = Status(403);
    /// 404
    pub const NOT_FOUND: Status = Status(404);
    /// 405
    pub const METHOD_NOT_ALLOWED: Status = Status(405);
    /// 406
    pub const NOT_ACCEPTABLE: Status = Status(406);
    /// 408
    pub const REQUEST_TIMEOUT: Status = Status(408);
    /// 409
    pub const CONFLICT: Status = Status(409);
    /// 413
    pub const CONTENT_TOO_LARGE: Status = Status(413);
    /// 414
    pub const URI_TOO_LONG: Status = Status(414);
    /// 415
    pub const UNSUPPORTED_MEDIA_TYPE: Status = Status(415);
    /// 417
    pub const EXPECTATION_FAILED: Status = Status(417);
    /// 429
    pub const TOO_MANY_REQUESTS: Status = Status(429);
    /// 431
    pub const HEADERS_TOO_LARGE: Status = Status(431);
    /// 500
    pub const INTERNAL_SERVER_ERROR: Status = Status(500);
    /// 501
    pub const NOT_IMPLEMENTED: Status = Status(501);
    /// 502
    pub const BAD_GATEWAY: Status = Status(502);
    /// 503
    pub const SERVICE_UNAVAILABLE: Status = Status(503);
    /// 504
    pub const GATEWAY_TIMEOUT: Status = Status(504);
    /// 505
    pub const VERSION_NOT_SUPPORTED: Status = Status(505);

    /// The reason phrase of RFC 9110, 15 (and RFC 6585); empty for codes not used here.
    pub const fn phrase(self) -> &'static str {
        match self.0 {
            200 => "OK",
            202 => "Accepted",
            204 => "No Content",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            406 => "Not Acceptable",
            408 => "Request Timeout",
            409 => "Conflict",
            413 => "Content Too Large",
            414 => "URI Too Long",
            415 => "Unsupported Media Type",
            417 => "Expectation Failed",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            _ => "",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// Why a client's bytes are no request we serve. The connection ends with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request refused with {status}: {text}")]
pub struct Refusal {
    /// The status of the answer.
    pub status: Status,
    /// One word for metrics and logs, such as `bare_lf`. Stable.
    pub reason: &'static str,
    /// A sentence for the client: what was wrong and what to send instead.
    pub text: &'static str,
}

macro_rules! refusals {
    ($($name:ident = $status:ident, $reason:literal, $text:literal;)*) => {
        impl Refusal {
            $(pub(crate) const $name: Refusal =
                Refusal { status: Status::$status, reason: $reason, text: $text };)*
        }
    };
}

refusals! {
    TLS = BAD_REQUEST, "tls",
        "this listener speaks plain HTTP, but a TLS handshake arrived: use http:// in the URL, or a listener with TLS";
    HTTP2 = BAD_REQUEST, "http2",
        "this listener speaks HTTP/1.1, but an HTTP/2 preface arrived: switch prior-knowledge HTTP/2 off in the client";
    NOT_HTTP = BAD_REQUEST, "not_http",
        "the first byte starts no HTTP method: send an HTTP/1.1 request";
    EMPTY_LINES = BAD_REQUEST, "empty_lines",
        "more than one empty line stands before the request line";
    REQUEST_LINE = BAD_REQUEST, "request_line",
        "the request line is not `METHOD TARGET HTTP/1.1` with single spaces";
    REQUEST_LINE_LONG = URI_TOO_LONG, "request_line_long",
        "the request line is longer than this server accepts: send data in the body";
    HTTP09 = VERSION_NOT_SUPPORTED, "http09",
        "the request line names no HTTP version: HTTP/1.1 and HTTP/1.0 are served";
    VERSION = VERSION_NOT_SUPPORTED, "version",
        "this HTTP version is not served here: use HTTP/1.1 or HTTP/1.0";
    TARGET = BAD_REQUEST, "target",
        "the request target must be an absolute path or an http(s) URL in visible ASCII without a fragment";
    TARGET_HOST = BAD_REQUEST, "target_host",
        "the authority of the request target differs from the Host header";
    BARE_LF = BAD_REQUEST, "bare_lf",
        "a line of the head ends with LF alone: end lines with CRLF";
    CONTROL_BYTE = BAD_REQUEST, "control_byte",
        "the head holds a control byte (a bare CR, NUL or the like)";
    FOLDED = BAD_REQUEST, "folded",
        "a header line starts with white space: folded lines are obsolete, send each field on one line";
    HEADER_NAME = BAD_REQUEST, "header_name",
        "a header line has no valid name directly followed by a colon";
    HEADER_VALUE = BAD_REQUEST, "header_value",
        "a header that decides how the request is handled holds bytes outside ASCII";
    HEAD_LARGE = HEADERS_TOO_LARGE, "head_large",
        "the header block is larger than this server accepts";
    HEADERS_MANY = HEADERS_TOO_LARGE, "headers_many",
        "the request has more header fields than this server accepts";
    REPEATED = BAD_REQUEST, "repeated_header",
        "a header field that may stand only once is repeated";
    HOST_MISSING = BAD_REQUEST, "host_missing",
        "an HTTP/1.1 request needs a Host header";
    HOST = BAD_REQUEST, "host",
        "the Host header is no `host` or `host:port`";
    LENGTH = BAD_REQUEST, "content_length",
        "Content-Length must be one decimal number";
    LENGTH_AND_CHUNKED = BAD_REQUEST, "length_and_chunked",
        "Content-Length and Transfer-Encoding must not stand together";
    CODING = NOT_IMPLEMENTED, "transfer_coding",
        "the only transfer coding served is `chunked`";
    CODING_1_0 = BAD_REQUEST, "transfer_coding_1_0",
        "Transfer-Encoding does not exist in HTTP/1.0: send Content-Length";
    EXPECTATION = EXPECTATION_FAILED, "expectation",
        "the only expectation served is `100-continue`";
    BODY_LARGE = CONTENT_TOO_LARGE, "body_large",
        "the body is larger than this server accepts";
    CHUNK = BAD_REQUEST, "chunk",
        "the chunked body is malformed: each chunk is its size in hex, CRLF, that many bytes, CRLF";
    CHUNK_LINE_LONG = BAD_REQUEST, "chunk_line_long",
        "a chunk-size line or the chunk extensions are longer than this server accepts";
    TRAILER_LARGE = HEADERS_TOO_LARGE, "trailer_large",
        "the trailer fields are larger or more than this server accepts";
}
