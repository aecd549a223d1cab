//! What can be wrong with a message, and where.

use super::envelope::Id;

/// A JSON-RPC error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i32);

impl ErrorCode {
    /// The text is not JSON.
    pub const PARSE_ERROR: ErrorCode = ErrorCode(-32_700);
    /// The JSON is no message.
    pub const INVALID_REQUEST: ErrorCode = ErrorCode(-32_600);
    /// No such method.
    pub const METHOD_NOT_FOUND: ErrorCode = ErrorCode(-32_601);
    /// The method has no such parameters.
    pub const INVALID_PARAMS: ErrorCode = ErrorCode(-32_602);
    /// Our own failure.
    pub const INTERNAL_ERROR: ErrorCode = ErrorCode(-32_603);
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// Why a text is no message that can be handled.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Problem {
            $(#[doc = $text] $name,)*
        }

        impl Problem {
            /// The error code to answer with.
            pub const fn code(self) -> ErrorCode {
                match self { $(Problem::$name => ErrorCode::$code,)* }
            }

            /// What is wrong, for the client.
            pub const fn text(self) -> &'static str {
                match self { $(Problem::$name => $text,)* }
            }
        }
    };
}

problems! {
    End = PARSE_ERROR, "the text ends in the middle of a JSON value";
    ByteOrderMark = PARSE_ERROR, "the text starts with a byte order mark, which JSON texts must not have";
    Utf8 = PARSE_ERROR, "the text is not valid UTF-8";
    Value = PARSE_ERROR, "a JSON value was expected";
    Key = PARSE_ERROR, "a member name in quotes was expected";
    Colon = PARSE_ERROR, "a colon was expected behind a member name";
    CommaOrBrace = PARSE_ERROR, "a comma or the object's closing brace was expected";
    CommaOrBracket = PARSE_ERROR, "a comma or the array's closing bracket was expected";
    Escape = PARSE_ERROR, "a string holds an unknown escape sequence";
    ControlByte = PARSE_ERROR, "a string holds a control byte that is not escaped";
    Number = PARSE_ERROR, "a number is malformed";
    Trailing = PARSE_ERROR, "something follows the JSON value";
    Depth = PARSE_ERROR, "arrays and objects are nested deeper than this server accepts";
    TextLarge = PARSE_ERROR, "the text is larger than 4 GiB";
    NoObject = INVALID_REQUEST, "a message must be a JSON object";
    BatchEmpty = INVALID_REQUEST, "a batch must hold at least one message";
    BatchLarge = INVALID_REQUEST, "the batch holds more messages than this server accepts";
    Repeated = INVALID_REQUEST, "a member that decides how the message is routed occurs twice";
    Version = INVALID_REQUEST, "`jsonrpc` must be \"2.0\"";
    IdKind = INVALID_REQUEST, "`id` must be a string or an integer";
    IdLarge = INVALID_REQUEST, "`id` is longer than this server accepts";
    IdMissing = INVALID_REQUEST, "a response needs the `id` of its request";
    MethodKind = INVALID_REQUEST, "`method` must be a string of Unicode characters";
    MethodAndOutcome = INVALID_REQUEST, "`method` must not stand beside `result` or `error`";
    ResultAndError = INVALID_REQUEST, "`result` and `error` must not stand together";
    Nothing = INVALID_REQUEST, "a message needs `method`, `result` or `error`";
    ErrorKind = INVALID_REQUEST, "`error` must be an object with an integer `code` and a string `message`";
    // JSON-RPC 2.0, 4.2: "Parameters for the rpc call MUST be provided as a Structured value."
    ParamsKind = INVALID_REQUEST, "`params` must be an object";
    // By position is JSON-RPC, so the request as such is valid; but MCP defines
    // every method's params as an object.
    ParamsArray = INVALID_PARAMS, "`params` must be an object: MCP has no parameters by position";
    MetaKind = INVALID_PARAMS, "`params._meta` must be an object";
    TextKind = INVALID_PARAMS, "this parameter must be a string of Unicode characters";
    TokenKind = INVALID_PARAMS, "this parameter must be a string or an integer";
}

/// Why a message is refused, where, and to which request the answer belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} (at byte {at})", problem.text())]
pub struct Fault<'a> {
    /// What is wrong.
    pub problem: Problem,
    /// The byte of the body at which it is wrong.
    pub at: usize,
    /// The message's id, if it could be read. Answer with `null` otherwise.
    pub id: Option<Id<'a>>,
}

impl<'a> Fault<'a> {
    pub(super) const fn new(problem: Problem, at: usize) -> Fault<'a> {
        Fault { problem, at, id: None }
    }

    /// The error code to answer with.
    pub const fn code(&self) -> ErrorCode {
        self.problem.code()
    }

    /// Appends the whole error response.
    pub fn write(&self, out: &mut Vec<u8>) {
        let message = self.to_string();
        super::write::write_error(out, self.id.map(Id::raw), self.code(), &message, None);
    }
}

/// A fault found by the grammar alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    pub(super) problem: Problem,
    pub(super) at: usize,
}

impl From<Syntax> for Fault<'_> {
    fn from(syntax: Syntax) -> Self {
        Fault::new(syntax.problem, syntax.at)
    }
}
