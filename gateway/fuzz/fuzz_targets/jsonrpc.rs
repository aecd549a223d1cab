//! The scanner accepts what serde_json accepts, and its ranges lie where serde_json finds the same values.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use shardgate_proto::jsonrpc::{Envelope, ErrorCode, Message, Problem, ScanLimits, scan, unescape};

/// The grammar by serde_json. `IgnoredAny` has no recursion limit and no range of numbers.
fn is_json(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The members of an object in order, repeated ones included.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

fn members(text: &[u8]) -> Option<Vec<(String, Value)>> {
    serde_json::Deserializer::from_slice(text).deserialize_map(Members).ok()
}

fn parsed(raw: Option<&[u8]>) -> Option<Value> {
    raw.map(|raw| serde_json::from_slice(raw).expect("a range lies on a whole value"))
}

fn text_value(text: Option<Cow<'_, str>>) -> Option<Value> {
    text.map(|text| Value::String(text.into_owned()))
}

/// serde_json refuses lone surrogates and huge numbers; such messages are left out.
fn check(envelope: &Envelope<'_>) {
    let Some(top) = members(envelope.text()) else { return };
    let find = |name: &str| {
        let mut found = top.iter().filter(|(written, _)| written == name);
        let value = found.next().map(|(_, value)| value.clone());
        assert!(found.next().is_none(), "{name} is repeated");
        value
    };
    assert_eq!(find("jsonrpc"), Some(Value::from("2.0")));
    if let Some(id) = envelope.id() {
        assert_eq!(parsed(Some(id.raw())), find("id"));
    }
    let method = find("method").unwrap_or_else(|| Value::from(""));
    assert_eq!(Value::from(envelope.method()), method);
    assert_eq!(parsed(envelope.params()), find("params"));
    assert_eq!(parsed(envelope.result()), find("result"));
    assert_eq!(parsed(envelope.error()), find("error"));
    let Some(params) = find("params") else { return };
    for (name, found) in [
        ("name", envelope.name()),
        ("uri", envelope.uri()),
        ("cursor", envelope.cursor()),
        ("taskId", envelope.task_id()),
    ] {
        match found {
            Ok(text) => assert_eq!(text_value(text).as_ref(), params.get(name)),
            Err(fault) => {
                assert_eq!(fault.code(), ErrorCode::INVALID_PARAMS);
                assert!(!params[name].is_string());
            }
        }
    }
    assert_eq!(parsed(envelope.meta()).as_ref(), params.get("_meta"));
    let meta = params.get("_meta").cloned().unwrap_or_default();
    if let Ok(version) = envelope.protocol_version() {
        let wanted = meta.get("io.modelcontextprotocol/protocolVersion");
        assert_eq!(text_value(version).as_ref(), wanted);
    }
    let capabilities = meta.get("io.modelcontextprotocol/clientCapabilities");
    assert_eq!(parsed(envelope.client_capabilities()).as_ref(), capabilities);
}

fuzz_target!(|data: &[u8]| {
    let limits = ScanLimits::default();
    let found = scan(data, &limits);
    let accepted = match &found {
        Ok(_) => true,
        Err(fault) => {
            assert!(fault.at <= data.len());
            fault.code() != ErrorCode::PARSE_ERROR
        }
    };
    let too_deep = matches!(&found, Err(fault) if fault.problem == Problem::Depth);
    if too_deep {
        assert!(depth(data) > limits.depth_max);
    } else {
        assert_eq!(accepted, is_json(data), "{found:?}");
    }
    match &found {
        Ok(Message::Single(envelope)) => check(envelope),
        Ok(Message::Batch(batch)) => {
            for message in batch.messages() {
                match message {
                    Ok(envelope) => check(&envelope),
                    Err(fault) => assert_ne!(fault.code(), ErrorCode::PARSE_ERROR),
                }
            }
        }
        Err(_) => {}
    }
    if let Ok(wanted) = serde_json::from_slice::<String>(data) {
        let raw = data.trim_ascii();
        assert_eq!(unescape(&raw[1..raw.len() - 1]).as_deref(), Some(wanted.as_str()));
    }
});
