//! The keys of `[[upstream]]` and `[[route]]`.

use super::Unit::{Count, Milliseconds};
use super::{DAY, Key, Kind, MINUTE, integer, other};

/// Each may stand in every `[[upstream]]`.
pub(super) const UPSTREAM_KEYS: &[Key] = &[
    other(
        "upstream.name",
        Kind::Text,
        "",
        "Its name, 1 to 32 of the characters `a`-`z`, `0`-`9` and `-`; unique, and not `embedded`. Must be given. Prefixed names of tools begin with it and `__`.",
    ),
    other(
        "upstream.enabled",
        Kind::Boolean,
        "true",
        "`false` keeps the entry and does not use it.",
    ),
    other(
        "upstream.url",
        Kind::Text,
        "",
        "Its MCP endpoint, `http://` or `https://`, without user part or fragment. Give this or `command`.",
    ),
    other(
        "upstream.transport",
        Kind::Choice(&["auto", "streamable-http", "http-sse"]),
        "\"auto\"",
        "With `url`: `\"http-sse\"` is the transport of 2024-11-05. `\"auto\"` tries Streamable HTTP first, and HTTP+SSE where the server refuses it.",
    ),
    other(
        "upstream.headers",
        Kind::TextTable,
        "",
        "With `url`: headers for every request, with their values. A value that is a secret belongs in one of the next two keys. Headers that the gateway writes itself (`Host`, `Content-Type`, `Mcp-…` and the like) are refused.",
    ),
    other(
        "upstream.headers_from_env",
        Kind::TextTable,
        "",
        "With `url`: headers whose values are in environment variables of the gateway, such as `{ Authorization = \"CRM_AUTHORIZATION\" }`; the value is sent as it is, so it must hold `Bearer ` where that is wanted. It is read at start and at each reload.",
    ),
    other(
        "upstream.headers_from_file",
        Kind::TextTable,
        "",
        "With `url`: headers whose values are in files; one line end behind the value is ignored. They are read at start and at each reload.",
    ),
    other(
        "upstream.ca_file",
        Kind::Text,
        "",
        "With an `https` `url`: PEM file with certificates of authorities to trust beside the public ones.",
    ),
    integer(
        "upstream.connections_max",
        (1, 65_536, Count),
        "256",
        "With `url`: open connections of one shard. With so many busy, further requests wait for one.",
    ),
    integer(
        "upstream.connect_timeout_ms",
        (10, 5 * MINUTE, Milliseconds),
        "5000",
        "With `url`: time for name resolution, TCP and TLS together.",
    ),
    integer(
        "upstream.idle_connection_ms",
        (0, DAY, Milliseconds),
        "4000",
        "With `url`: an unused connection is closed after this. Stay below what the server allows, or requests meet a connection that is just being closed; Node.js allows 5 seconds.",
    ),
    other(
        "upstream.standing_stream",
        Kind::Boolean,
        "true",
        "With `url`: each session with the server keeps a GET stream open, for what the server sends by itself.",
    ),
    other(
        "upstream.command",
        Kind::TextList,
        "",
        "Program and arguments of a child process that speaks MCP on its standard streams. No shell is between, so nothing is expanded. Give this or `url`.",
    ),
    other(
        "upstream.env",
        Kind::TextTable,
        "",
        "With `command`: variables for the child, with their values.",
    ),
    other(
        "upstream.env_from",
        Kind::TextTable,
        "",
        "With `command`: variables for the child whose values are in variables of the gateway, such as `{ TOKEN = \"FILES_TOKEN\" }`. They are read at start and at each reload.",
    ),
    other(
        "upstream.directory",
        Kind::Text,
        "",
        "With `command`: where the child is started. Default: the gateway's own directory.",
    ),
    other(
        "upstream.sharing",
        Kind::Choice(&["session", "shared"]),
        "\"session\"",
        "With `command`: `\"session\"` starts a child for each client session, so clients can't meet each other's state; `\"shared\"` starts one for all.",
    ),
    integer(
        "upstream.children_max",
        (1, 10_000, Count),
        "64",
        "With `command` and `sharing = \"session\"`: children of this upstream on this node. More: the call is refused.",
    ),
    other(
        "upstream.protocol",
        Kind::Choice(&["auto", "legacy", "modern"]),
        "\"auto\"",
        "Which era of MCP is spoken with it: `\"legacy\"` is up to 2025-11-25, with sessions; `\"modern\"` is from 2026-07-28 on, stateless; `\"auto\"` finds out. Clients of either era can use upstreams of either.",
    ),
    other(
        "upstream.prefix",
        Kind::Choice(&["always", "on-conflict", "never"]),
        "\"on-conflict\"",
        "When the names of its tools and prompts begin with its own, as in `crm__list`: always, only where another upstream has the same name to offer, or never. With never, the first upstream of the file keeps a name that several have.",
    ),
    other(
        "upstream.tools.allow",
        Kind::TextList,
        "[\"*\"]",
        "Patterns for the tools that are offered, by the names the upstream gives them. `*` stands for any run of characters, `?` for one. At most 256.",
    ),
    other(
        "upstream.tools.deny",
        Kind::TextList,
        "[]",
        "Patterns for tools that are not offered, though they are allowed.",
    ),
    other(
        "upstream.pin",
        Kind::Boolean,
        "false",
        "Withholds a tool whose definition is no longer the one that was seen first, until somebody has looked at it: descriptions are read by models, and a changed one may carry instructions.",
    ),
    other(
        "upstream.modern_sessions",
        Kind::Choice(&["shared", "call"]),
        "\"shared\"",
        "Where calls of stateless (modern) clients go if the server wants sessions: one session for all of them, or one for each call.",
    ),
    integer(
        "upstream.in_flight_max",
        (1, 1_000_000, Count),
        "1024",
        "Requests of one shard that wait for this upstream's answer. More: the call is refused.",
    ),
    integer(
        "upstream.request_timeout_ms",
        (10, DAY, Milliseconds),
        "60000",
        "A request without an answer by then is cancelled and answered with an error. Each progress notification for it starts the time anew.",
    ),
    integer(
        "upstream.request_lifetime_ms",
        (10, 30 * DAY, Milliseconds),
        "3600000",
        "The same, whatever progress it shows. Not below `request_timeout_ms`.",
    ),
    integer(
        "upstream.idle_session_ms",
        (1_000, 30 * DAY, Milliseconds),
        "1800000",
        "A session with the server, and the child that belongs to it, ends after this without a request. The next request begins another.",
    ),
    integer(
        "upstream.breaker_failures",
        (1, 1_000, Count),
        "5",
        "After so many failures in a row (no connection, no answer in time, HTTP 5xx) calls are refused at once, so that nobody waits for a server that is down.",
    ),
    integer(
        "upstream.breaker_open_ms",
        (100, DAY, Milliseconds),
        "60000",
        "For how long. Then one request tries the server again.",
    ),
    integer(
        "upstream.refresh_ms",
        (1_000, DAY, Milliseconds),
        "300000",
        "How often its lists of tools, resources and prompts are fetched anew, even if it told of no change.",
    ),
];

/// Each may stand in every `[[route]]`.
pub(super) const ROUTE_KEYS: &[Key] = &[
    other(
        "route.path",
        Kind::Text,
        "",
        "Where clients find it: `/mcp/` and 1 to 32 of the characters `a`-`z`, `0`-`9` and `-`; unique. Must be given.",
    ),
    other(
        "route.upstreams",
        Kind::TextList,
        "",
        "Names of the upstreams it offers; `embedded` is the built-in server. Default: all.",
    ),
    other(
        "route.tools.allow",
        Kind::TextList,
        "[\"*\"]",
        "Patterns for the tools it offers, by the names clients see (`crm__list`, where that is the name), as in `upstream.tools.allow`.",
    ),
    other(
        "route.tools.deny",
        Kind::TextList,
        "[]",
        "Patterns for tools it does not offer, though they are allowed.",
    ),
];
