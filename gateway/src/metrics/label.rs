//! The label values of the metrics: closed sets, so that every counter is a slot of a fixed array.
//!
//! Invariant: nothing a client sends becomes a label. What isn't known counts as `other`.

/// A closed set of label values, each with its text and its slot.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value in the order of its slots.
            pub const ALL: &[$name] = &[$($name::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = $name::ALL.len();

            /// The label's text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }

            /// The slot in an array of [`Self::COUNT`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// What a client asked for: a JSON-RPC method, or an HTTP method that carries none.
    Method {
        /// `initialize`
        Initialize => "initialize",
        /// `server/discover`
        Discover => "server/discover",
        /// `ping`
        Ping => "ping",
        /// `tools/list`
        ToolsList => "tools/list",
        /// `tools/call`
        ToolsCall => "tools/call",
        /// `resources/list`
        ResourcesList => "resources/list",
        /// `resources/templates/list`
        ResourceTemplatesList => "resources/templates/list",
        /// `resources/read`
        ResourcesRead => "resources/read",
        /// `resources/subscribe`
        ResourcesSubscribe => "resources/subscribe",
        /// `resources/unsubscribe`
        ResourcesUnsubscribe => "resources/unsubscribe",
        /// `prompts/list`
        PromptsList => "prompts/list",
        /// `prompts/get`
        PromptsGet => "prompts/get",
        /// `completion/complete`
        Complete => "completion/complete",
        /// `logging/setLevel`
        SetLevel => "logging/setLevel",
        /// `subscriptions/listen`
        Listen => "subscriptions/listen",
        /// Any `tasks/…`
        Tasks => "tasks",
        /// Any notification of a client.
        Notification => "notification",
        /// A client's reply to a server's request.
        Response => "response",
        /// A JSON-RPC batch (MCP 2025-03-26), counted once.
        Batch => "batch",
        /// HTTP GET: a standing or resumed stream.
        StreamGet => "GET",
        /// HTTP DELETE: the end of a session.
        SessionDelete => "DELETE",
        /// `/healthz` and `/readyz`.
        Probe => "probe",
        /// Anything else, also what could not be read.
        Other => "other",
    }
}

impl Method {
    /// The label of a JSON-RPC request's method.
    pub fn of(method: &str) -> Method {
        match method {
            "tools/call" => Method::ToolsCall,
            "tools/list" => Method::ToolsList,
            "initialize" => Method::Initialize,
            "server/discover" => Method::Discover,
            "ping" => Method::Ping,
            "resources/list" => Method::ResourcesList,
            "resources/templates/list" => Method::ResourceTemplatesList,
            "resources/read" => Method::ResourcesRead,
            "resources/subscribe" => Method::ResourcesSubscribe,
            "resources/unsubscribe" => Method::ResourcesUnsubscribe,
            "prompts/list" => Method::PromptsList,
            "prompts/get" => Method::PromptsGet,
            "completion/complete" => Method::Complete,
            "logging/setLevel" => Method::SetLevel,
            "subscriptions/listen" => Method::Listen,
            other if other.starts_with("tasks/") => Method::Tasks,
            other if other.starts_with("notifications/") => Method::Notification,
            _ => Method::Other,
        }
    }

    /// In which latency histogram it is recorded.
    pub const fn group(self) -> Group {
        match self {
            Method::ToolsCall => Group::Call,
            Method::ToolsList
            | Method::ResourcesList
            | Method::ResourceTemplatesList
            | Method::PromptsList => Group::List,
            Method::ResourcesRead | Method::PromptsGet | Method::Complete => Group::Read,
            Method::Initialize
            | Method::Discover
            | Method::SessionDelete
            | Method::StreamGet
            | Method::Listen => Group::Session,
            Method::Ping
            | Method::ResourcesSubscribe
            | Method::ResourcesUnsubscribe
            | Method::SetLevel
            | Method::Tasks
            | Method::Notification
            | Method::Response
            | Method::Batch
            | Method::Probe
            | Method::Other => Group::Other,
        }
    }
}

labels! {
    /// Methods that share a latency histogram: one each would cost too much cache.
    Group {
        /// `tools/call`
        Call => "call",
        /// The four lists.
        List => "list",
        /// `resources/read`, `prompts/get`, `completion/complete`.
        Read => "read",
        /// What opens, resumes or ends sessions and streams, up to the first byte of the answer.
        Session => "session",
        /// All the rest.
        Other => "other",
    }
}

labels! {
    /// The HTTP status of an answer.
    Status {
        /// 200
        S200 => "200",
        /// 202
        S202 => "202",
        /// 204
        S204 => "204",
        /// 400
        S400 => "400",
        /// 401
        S401 => "401",
        /// 403
        S403 => "403",
        /// 404
        S404 => "404",
        /// 405
        S405 => "405",
        /// 406
        S406 => "406",
        /// 408
        S408 => "408",
        /// 409
        S409 => "409",
        /// 413
        S413 => "413",
        /// 415
        S415 => "415",
        /// 417
        S417 => "417",
        /// 421
        S421 => "421",
        /// 429
        S429 => "429",
        /// 431
        S431 => "431",
        /// 500
        S500 => "500",
        /// 501
        S501 => "501",
        /// 502
        S502 => "502",
        /// 503
        S503 => "503",
        /// 504
        S504 => "504",
        /// 505
        S505 => "505",
        /// Any other.
        Other => "other",
    }
}

impl Status {
    /// The label of a status code.
    pub const fn of(code: u16) -> Status {
        match code {
            200 => Status::S200,
            202 => Status::S202,
            204 => Status::S204,
            400 => Status::S400,
            401 => Status::S401,
            403 => Status::S403,
            404 => Status::S404,
            405 => Status::S405,
            406 => Status::S406,
            408 => Status::S408,
            409 => Status::S409,
            413 => Status::S413,
            415 => Status::S415,
            417 => Status::S417,
            421 => Status::S421,
            429 => Status::S429,
            431 => Status::S431,
            500 => Status::S500,
            501 => Status::S501,
            502 => Status::S502,
            503 => Status::S503,
            504 => Status::S504,
            505 => Status::S505,
            _ => Status::Other,
        }
    }
}

labels! {
    /// The kind of a JSON-RPC error that was answered.
    RpcError {
        /// -32700
        Parse => "parse",
        /// -32600
        InvalidRequest => "invalid_request",
        /// -32601
        MethodNotFound => "method_not_found",
        /// -32602
        InvalidParams => "invalid_params",
        /// -32603
        Internal => "internal",
        /// -32001: the session is unknown or has ended.
        Session => "session",
        /// -32020 (MCP 2026-07-28): headers don't match the body.
        HeaderMismatch => "header_mismatch",
        /// -32021 (MCP 2026-07-28): the client lacks a capability.
        MissingCapability => "missing_capability",
        /// -32022 (MCP 2026-07-28): the revision is not spoken here.
        UnsupportedVersion => "unsupported_version",
        /// -32099 to -32000 otherwise.
        Server => "server",
        /// What the tool server defines itself.
        Application => "application",
    }
}

impl RpcError {
    /// The label of an error code.
    pub const fn of(code: i32) -> RpcError {
        match code {
            -32700 => RpcError::Parse,
            -32600 => RpcError::InvalidRequest,
            -32601 => RpcError::MethodNotFound,
            -32602 => RpcError::InvalidParams,
            -32603 => RpcError::Internal,
            -32001 => RpcError::Session,
            -32020 => RpcError::HeaderMismatch,
            -32021 => RpcError::MissingCapability,
            -32022 => RpcError::UnsupportedVersion,
            // JSON-RPC 2.0, 5.1: "-32000 to -32099 reserved for implementation-defined server-errors".
            -32099..=-32000 => RpcError::Server,
            _ => RpcError::Application,
        }
    }
}

labels! {
    /// A limit that refused or ended something, by its name in the configuration.
    Limit {
        /// A message was too large.
        MessageBytes => "message_bytes_max",
        /// A header block was too large.
        HeaderBytes => "header_bytes_max",
        /// A message was nested too deeply.
        JsonDepth => "json_depth_max",
        /// A session had too many requests in flight.
        InFlightPerSession => "in_flight_per_session_max",
        /// A session had too many streams.
        StreamsPerSession => "streams_per_session_max",
        /// The node had too many sessions.
        Sessions => "sessions_max",
        /// The node had too many connections.
        Connections => "connections_max",
        /// A session was idle for too long.
        IdleSession => "idle_session_ms",
        /// A connection was idle for too long.
        IdleConnection => "idle_connection_ms",
        /// Headers came too slowly.
        HeaderTimeout => "header_timeout_ms",
        /// A body came too slowly.
        BodyTimeout => "body_timeout_ms",
        /// A stream's reader was too slow.
        SlowReader => "slow_reader_bytes_max",
        /// The mesh to another shard was full. No key: the runtime fixes it.
        MeshDepth => "mesh_depth_max",
    }
}

labels! {
    /// Why a connection ended.
    Closed {
        /// The client closed it.
        Peer => "peer",
        /// It was reset, or another error of the network.
        Reset => "reset",
        /// The gateway closed it after an answer, as HTTP wants it.
        Local => "local",
        /// It was idle.
        Idle => "idle",
        /// Headers or body came too slowly.
        Timeout => "timeout",
        /// What it sent was no HTTP.
        Malformed => "malformed",
        /// Its reader was too slow.
        SlowReader => "slow_reader",
        /// A limit refused it.
        Limit => "limit",
        /// The node drains.
        Drain => "drain",
        /// Its handling panicked.
        Panic => "panic",
    }
}

labels! {
    /// What happened to a session.
    SessionEvent {
        /// Opened by `initialize`.
        Created => "created",
        /// Ended by the client.
        Deleted => "deleted",
        /// Ended for idleness.
        Expired => "expired",
        /// A stream was resumed by `Last-Event-ID`.
        Resumed => "resumed",
    }
}

labels! {
    /// What happened to SSE events.
    StreamEvent {
        /// Written to an open stream.
        Sent => "sent",
        /// Written again after a resumption.
        Replayed => "replayed",
        /// Asked for and no longer there, or for a call whose client has gone.
        Dropped => "dropped",
    }
}

labels! {
    /// What went over the mesh to other shards.
    MeshEvent {
        /// A request or answer was sent to another shard.
        Forwarded => "forwarded",
        /// A connection was moved to another shard.
        Moved => "moved",
        /// A connection arrived from another shard.
        Adopted => "adopted",
        /// The mesh was full.
        Full => "full",
    }
}

labels! {
    /// How a call of a client to a tool server ended.
    CallOutcome {
        /// The server answered with a result.
        Result => "result",
        /// The server answered with an error.
        Error => "error",
        /// It could not be reached, or the connection or child ended before the answer.
        Unreachable => "unreachable",
        /// It did not answer in time.
        Timeout => "timeout",
        /// What it answered was no MCP, or it refused or ended the session.
        Protocol => "protocol",
        /// It was not asked, as its breaker was open.
        Breaker => "breaker",
        /// It was not asked, as too much was under way.
        Full => "full",
        /// Its client gave it up.
        Cancelled => "cancelled",
    }
}

labels! {
    /// What became of a session with a tool server.
    SessionFate {
        /// It could be used.
        Opened => "opened",
        /// The server forgot it.
        Expired => "expired",
        /// It could not be opened, or broke.
        Failed => "failed",
    }
}

labels! {
    /// How the reading of a tool server's lists went.
    ReadingResult {
        /// All were read.
        Worked => "worked",
        /// Not all.
        Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_texts_agree() {
        for (slot, method) in Method::ALL.iter().enumerate() {
            assert_eq!(method.index(), slot);
        }
        for name in ["tools/call", "resources/templates/list", "subscriptions/listen", "ping"] {
            assert_eq!(Method::of(name).as_str(), name);
        }
        assert_eq!(Method::of("tasks/get"), Method::Tasks);
        assert_eq!(Method::of("notifications/cancelled"), Method::Notification);
        // A client must not choose a label.
        assert_eq!(Method::of("GET"), Method::Other);
        assert_eq!(Method::of("x\"} 1"), Method::Other);
    }

    #[test]
    fn codes_have_labels() {
        for status in Status::ALL {
            let of_its_text = status.as_str().parse().map_or(Status::Other, Status::of);
            assert_eq!(of_its_text, *status);
        }
        assert_eq!(Status::of(418), Status::Other);
        assert_eq!(RpcError::of(-32001), RpcError::Session);
        assert_eq!(RpcError::of(-32099), RpcError::Server);
        assert_eq!(RpcError::of(-32100), RpcError::Application);
        assert_eq!(RpcError::of(7), RpcError::Application);
    }

    #[test]
    fn limits_have_the_names_of_the_configuration() {
        for limit in Limit::ALL.iter().filter(|limit| **limit != Limit::MeshDepth) {
            let path = format!("limits.{}", limit.as_str());
            assert!(crate::config::keys::find(&path).is_some(), "{path}");
        }
    }
}
