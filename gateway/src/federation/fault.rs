//! What a client is told when it is not its tool server that answers.

use shardgate_proto::jsonrpc::{self, ErrorCode};
use shardgate_proto::upstream::{CallKey, Events};

/// The code of every error about a tool server that can't be reached or doesn't answer.
pub(super) const UPSTREAM: i32 = -32000;

/// Servers without lists that one message names.
const SILENT_TOLD_MAX: usize = 3;

/// Why a call has no answer of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    message: String,
    retry_after_ms: Option<u64>,
}

impl Refusal {
    /// Too many calls are under way.
    pub(super) fn full(server: &str, max: usize) -> Refusal {
        Refusal {
            message: format!(
                "tool server {server} has {max} calls under way, which is its limit \
                 (upstream.in_flight_max); try again after 1 s"
            ),
            retry_after_ms: Some(1_000),
        }
    }

    /// The breaker is open.
    pub(super) fn broken(server: &str, trouble: Option<&str>, after_ms: u64) -> Refusal {
        let trouble = trouble.unwrap_or("it did not answer");
        let after_ms = after_ms.max(1);
        Refusal {
            message: format!(
                "tool server {server} is not asked at present, as it failed several times in a \
                 row ({trouble}); try again after {} s",
                after_ms.div_ceil(1_000)
            ),
            retry_after_ms: Some(after_ms),
        }
    }

    /// The call failed on its way.
    pub(super) fn failed(server: &str, why: &str) -> Refusal {
        Refusal { message: format!("tool server {server}: {why}"), retry_after_ms: None }
    }

    /// No list has a name, but the lists of these servers could not be had. With each: why.
    pub(super) fn unlisted(missing: &str, silent: &[(&str, Option<&str>)]) -> Refusal {
        let mut message = missing.to_owned();
        for (server, trouble) in silent.iter().take(SILENT_TOLD_MAX) {
            let trouble = trouble.unwrap_or("it has not answered yet");
            message.push_str(&format!("; tool server {server}, which may have it: {trouble}"));
        }
        if let Some(more @ 1..) = silent.len().checked_sub(SILENT_TOLD_MAX) {
            message.push_str(&format!("; and {more} more"));
        }
        Refusal { message, retry_after_ms: None }
    }

    /// Appends the JSON text of the `error` object.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let data = self.retry_after_ms.map(|ms| format!("{{\"retryAfterMs\":{ms}}}"));
        let data = data.as_ref().map(String::as_bytes);
        jsonrpc::write_error_object(out, ErrorCode(UPSTREAM), &self.message, data);
    }
}

/// Ends a call with an error of the gateway's own.
pub(super) fn refuse(events: &mut Events, call: CallKey, code: i32, message: &str) {
    events.error(call, code, |out| {
        jsonrpc::write_error_object(out, ErrorCode(code), message, None);
    });
}
