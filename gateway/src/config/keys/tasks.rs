//! The keys of `[tasks]`.

use super::Unit::{Bytes, Count, Milliseconds};
use super::{DAY, Key, Kind, MIB, MINUTE, integer, other};

/// They stand once.
pub(super) const TASK_KEYS: &[Key] = &[
    other(
        "tasks.enabled",
        Kind::Boolean,
        "true",
        "Lets clients call any tool as a task, whether its server knows tasks or not: the call is answered at once with a task, and its result is kept. Without a cluster tasks are kept in memory, so they end with the process.",
    ),
    integer(
        "tasks.ttl_ms_default",
        (1_000, 30 * DAY, Milliseconds),
        "3600000",
        "How long a task is kept, counted from its creation, when its client asks for no time. What still runs by then is cancelled.",
    ),
    integer(
        "tasks.ttl_ms_max",
        (1_000, 30 * DAY, Milliseconds),
        "86400000",
        "The longest time a client can ask for; a longer one is shortened to this. Not below `ttl_ms_default`.",
    ),
    integer(
        "tasks.poll_interval_ms",
        (10, 10 * MINUTE, Milliseconds),
        "1000",
        "What clients are told to wait between two looks at a task.",
    ),
    integer(
        "tasks.result_bytes_max",
        (1_024, 64 * MIB, Bytes),
        "4194304",
        "The largest result that is kept. A task with a larger one fails and says so.",
    ),
    integer(
        "tasks.running_max",
        (1, 100_000, Count),
        "256",
        "Tasks that run on this node at the same time; further ones wait for their turn.",
    ),
    other(
        "tasks.modern_tools",
        Kind::TextList,
        "[]",
        "Patterns (`*`, `?`) of tools, by the names clients see. In MCP 2026-07-28 the server decides which calls become tasks: these do, if the client declares the extension `io.modelcontextprotocol/tasks`. Clients of 2025-11-25 ask for a task themselves, with any tool.",
    ),
    other(
        "tasks.modern_tools_after_input",
        Kind::TextList,
        "[]",
        "Patterns of tools that first ask their client for something and then take their time: a call becomes a task, as with `modern_tools`, when it brings the answers.",
    ),
    other(
        "tasks.required_tools",
        Kind::TextList,
        "[]",
        "Patterns of tools that can be called as tasks only; a plain call is refused. They need not be in `modern_tools` as well.",
    ),
];
