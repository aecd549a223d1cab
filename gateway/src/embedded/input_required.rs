//! Multi round trips of the modern era: the sealed `requestState`.
//!
//! The server keeps nothing between two rounds. What it has to remember travels
//! in `requestState`, sealed with a keyed hash over the request it belongs to, so
//! any shard and any node with the same key can go on, and nobody else can forge,
//! alter or reuse it for another tool or other arguments.
//!
//! Limits: a state lives for [`STATE_TTL_MS`] and is at most
//! [`STATE_CHARS_MAX`] characters long.

use std::hash::Hasher as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use simd_json::BorrowedValue;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::answers::{Fault, put, put_modern_meta, put_string};
use super::dialogue::{CARRIED_BYTES_MAX, Question};

/// How long a client may take for its answer.
pub(crate) const STATE_TTL_MS: u64 = 600_000;

/// The longest state that is looked at.
pub(crate) const STATE_CHARS_MAX: usize = (HEAD_BYTES + CARRIED_BYTES_MAX + SEAL_BYTES) * 4 / 3 + 3;

const FORMAT: u8 = 1;
/// Format, round and expiry.
const HEAD_BYTES: usize = 1 + 1 + 8;
const SEAL_BYTES: usize = 16;

/// What a dialogue remembers between two rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DialogueState {
    /// Which round was asked.
    pub(crate) round: u8,
    /// What the script carries over.
    pub(crate) carried: String,
}

/// The request a state belongs to: method, name and arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    hash: u128,
}

/// Seals and opens states.
#[derive(Clone, Copy)]
pub(crate) struct StateSeal {
    key: [u8; 16],
}

impl std::fmt::Debug for StateSeal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is secret.
        formatter.write_str("StateSeal")
    }
}

impl StateSeal {
    pub(crate) fn new(key: [u8; 16]) -> StateSeal {
        StateSeal { key }
    }

    /// Binds a state to a request. Arguments count by value: order of members and blanks don't.
    pub(crate) fn bind(
        &self,
        method: &str,
        name: &str,
        arguments: Option<&BorrowedValue<'_>>,
    ) -> Binding {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(b"request");
        hash_text(&mut hasher, method);
        hash_text(&mut hasher, name);
        if let Some(arguments) = arguments {
            hash_value(&mut hasher, arguments);
        }
        Binding { hash: hasher.finish128().as_u128() }
    }

    /// The state as it goes to the client.
    pub(crate) fn seal(&self, state: &DialogueState, binding: Binding, now_unix_ms: u64) -> String {
        assert!(state.carried.len() <= CARRIED_BYTES_MAX, "scripts cut what they carry");
        let mut bytes = Vec::with_capacity(HEAD_BYTES + state.carried.len() + SEAL_BYTES);
        bytes.extend_from_slice(&[FORMAT, state.round]);
        bytes.extend_from_slice(&now_unix_ms.saturating_add(STATE_TTL_MS).to_be_bytes());
        bytes.extend_from_slice(state.carried.as_bytes());
        let mark = self.mark(&bytes, binding);
        bytes.extend_from_slice(&mark);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The state as it comes back, or why it is refused.
    pub(crate) fn open(
        &self,
        text: &str,
        binding: Binding,
        now_unix_ms: u64,
    ) -> Result<DialogueState, Fault> {
        let refused = |why: &str| Fault::InvalidParams(format!("params.requestState {why}"));
        if text.len() > STATE_CHARS_MAX {
            return Err(refused("is longer than any state of this server"));
        }
        let foreign = "is not a state this server gave out for this request";
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused(foreign))?;
        if bytes.len() < HEAD_BYTES + SEAL_BYTES {
            return Err(refused(foreign));
        }
        let (body, mark) = bytes.split_at(bytes.len() - SEAL_BYTES);
        if !equal_in_constant_time(mark, &self.mark(body, binding)) || body[0] != FORMAT {
            return Err(refused(foreign));
        }
        let expiry = body[2..HEAD_BYTES].try_into().map(u64::from_be_bytes).unwrap_or_default();
        if now_unix_ms > expiry {
            return Err(refused("has expired; call again without it"));
        }
        let carried = String::from_utf8(body[HEAD_BYTES..].to_vec());
        let carried = carried.map_err(|_| refused(foreign))?;
        Ok(DialogueState { round: body[1], carried })
    }

    /// A mark over other bytes, for task ids.
    pub(crate) fn short_mark(&self, label: &str, bytes: &[u8]) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hash_text(&mut hasher, label);
        hasher.write(bytes);
        hasher.finish128().h1.to_be_bytes()
    }

    fn mark(&self, body: &[u8], binding: Binding) -> [u8; SEAL_BYTES] {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(b"state");
        hasher.write(&binding.hash.to_be_bytes());
        hasher.write(body);
        hasher.finish128().as_u128().to_be_bytes()
    }
}

/// True if both are equal, without telling by its time where they differ.
pub(crate) fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

fn hash_text(hasher: &mut SipHasher24, text: &str) {
    hasher.write(&(text.len() as u64).to_be_bytes());
    hasher.write(text.as_bytes());
}

fn hash_value(hasher: &mut SipHasher24, value: &BorrowedValue<'_>) {
    match value {
        BorrowedValue::Static(leaf) => {
            hasher.write(b"l");
            hash_text(hasher, &leaf.to_string());
        }
        BorrowedValue::String(text) => {
            hasher.write(b"s");
            hash_text(hasher, text);
        }
        BorrowedValue::Array(items) => {
            hasher.write(b"a");
            hasher.write(&(items.len() as u64).to_be_bytes());
            for item in items.iter() {
                hash_value(hasher, item);
            }
        }
        BorrowedValue::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|left, right| left.0.cmp(right.0));
            hasher.write(b"o");
            hasher.write(&(sorted.len() as u64).to_be_bytes());
            for (key, member) in sorted {
                hash_text(hasher, key);
                hash_value(hasher, member);
            }
        }
    }
}

/// Appends an `InputRequiredResult`.
pub(super) fn write_result(questions: &[Question], state: Option<&str>, out: &mut Vec<u8>) {
    put(out, r#"{"resultType":"input_required","inputRequests":{"#);
    write_requests(questions.iter().map(|question| (question.key, question)), out);
    put(out, "}");
    if let Some(state) = state {
        put(out, r#","requestState":"#);
        put_string(out, state);
    }
    put_modern_meta(out);
    put(out, "}");
}

/// Appends the members of an `InputRequests` object.
pub(super) fn write_requests<'a>(
    questions: impl Iterator<Item = (&'a str, &'a Question)>,
    out: &mut Vec<u8>,
) {
    for (at, (key, question)) in questions.enumerate() {
        if at > 0 {
            put(out, ",");
        }
        put_string(out, key);
        put(out, r#":{"method":""#);
        put(out, question.kind.method());
        put(out, r#"","params":"#);
        put(out, &question.params);
        put(out, "}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> StateSeal {
        StateSeal::new(*b"0123456789abcdef")
    }

    fn bind(seal: StateSeal, name: &str, arguments: &str) -> Binding {
        let mut bytes = arguments.as_bytes().to_vec();
        let value = simd_json::to_borrowed_value(&mut bytes).expect("JSON");
        seal.bind("tools/call", name, Some(&value))
    }

    #[test]
    fn a_state_comes_back_whole() {
        let binding = bind(seal(), "tool", r#"{"a":1,"b":[true,null,{"c":"d"}]}"#);
        let state = DialogueState { round: 1, carried: "Zoë".to_owned() };
        let text = seal().seal(&state, binding, 5_000);
        let again = bind(seal(), "tool", r#"{ "b":[true,null,{"c":"d"}], "a":1 }"#);
        assert_eq!(seal().open(&text, again, 5_000 + STATE_TTL_MS).ok(), Some(state));
    }

    #[test]
    fn a_state_is_refused_when_anything_differs() {
        let binding = bind(seal(), "tool", r#"{"a":1}"#);
        let text = seal().seal(&DialogueState::default(), binding, 0);
        let open = |text: &str, binding, now| seal().open(text, binding, now).is_ok();
        assert!(open(&text, binding, 0));
        assert!(!open(&text, binding, STATE_TTL_MS + 1), "expired");
        assert!(!open(&text, bind(seal(), "other", r#"{"a":1}"#), 0), "other tool");
        assert!(!open(&text, bind(seal(), "tool", r#"{"a":2}"#), 0), "other arguments");
        assert!(!open(&format!("{text}-TAMPERED"), binding, 0));
        assert!(!open("", binding, 0));
        assert!(!open(&"A".repeat(STATE_CHARS_MAX + 1), binding, 0));
        let other_key = StateSeal::new(*b"fedcba9876543210");
        assert!(other_key.open(&text, bind(other_key, "tool", r#"{"a":1}"#), 0).is_err());
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert!(!open(&changed, binding, 0), "character {at}");
        }
    }
}
