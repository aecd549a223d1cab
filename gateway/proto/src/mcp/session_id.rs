//! Session ids: `<node>.<vshard>.<128-bit random>.<MAC>`, visible ASCII.
//!
//! `<node>` is only a hint for the load balancer; `<vshard>` says which virtual
//! shard owns the session, hence which core. The MAC (SipHash-2-4 under the
//! cluster's secret) lets any node refuse a forged or altered id before any
//! look-up, so guessing ids costs an attacker a hash and us no cache miss.
//!
//! Limits: a node's name is at most 16 bytes, a whole id at most [`ID_BYTES_MAX`].

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// Virtual shards in a cluster; fixed for its life (replication protocol, placement).
pub const VSHARDS: u16 = 4_096;

/// Longest node name in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 16;

/// Longest id: name, dot, four digits, dot, 32 hex digits, dot, 16 hex digits.
pub const ID_BYTES_MAX: usize = NODE_NAME_BYTES_MAX + 1 + 4 + 1 + 32 + 1 + 16;

const RANDOM_DIGITS: usize = 32;
const MAC_DIGITS: usize = 16;

/// Which of the [`VSHARDS`] virtual shards a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vshard(u16);

impl Vshard {
    /// The virtual shard with this number, if it is below [`VSHARDS`].
    pub fn new(number: u16) -> Option<Vshard> {
        (number < VSHARDS).then_some(Vshard(number))
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The core of a node with `shards` cores that serves it.
    pub fn shard(self, shards: u16) -> u16 {
        self.0 % shards
    }
}

/// The part of a session id that names the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    /// Who owns it.
    pub vshard: Vshard,
    /// 128 random bits: what makes it unguessable and unique.
    pub random: u128,
}

/// Why an id was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionIdError {
    /// It doesn't have the form of an id at all.
    #[error("session id is not of the form node.vshard.random.mac")]
    Malformed,
    /// The form is right but the MAC isn't: forged, altered, or of another cluster.
    #[error("session id was not issued by this gateway (its MAC does not match)")]
    Forged,
}

/// Issues and checks ids under one secret.
#[derive(Clone)]
pub struct SessionIds {
    node: Box<str>,
    key: SipHasher24,
}

impl SessionIds {
    /// Ids of the node called `node` (at most [`NODE_NAME_BYTES_MAX`] bytes) under `secret`.
    pub fn new(node: &str, secret: &[u8; 16]) -> SessionIds {
        assert!(node.len() <= NODE_NAME_BYTES_MAX, "the configuration bounds node names");
        SessionIds { node: node.into(), key: SipHasher24::new_with_key(secret) }
    }

    /// The text of an id.
    pub fn to_text(&self, id: SessionId) -> String {
        let mut text = Vec::with_capacity(ID_BYTES_MAX);
        self.write(id, &mut text);
        String::from_utf8(text).expect("ids are visible ASCII")
    }

    /// Appends the text of an id.
    pub fn write(&self, id: SessionId, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.node.as_bytes());
        out.push(b'.');
        write_decimal(id.vshard.number(), out);
        out.push(b'.');
        write_hex(&id.random.to_be_bytes(), out);
        let mac = self.mac(&out[start..]);
        out.push(b'.');
        write_hex(&mac.to_be_bytes(), out);
    }

    /// Reads an id and checks its MAC. Any node's name is accepted: it is a hint.
    pub fn parse(&self, text: &[u8]) -> Result<SessionId, SessionIdError> {
        use SessionIdError::Malformed;
        if text.len() > ID_BYTES_MAX {
            return Err(Malformed);
        }
        // Read from the end: the tail has a fixed length, the node's name does not.
        let mac_at = text.len().checked_sub(MAC_DIGITS).ok_or(Malformed)?;
        let random_at = mac_at.checked_sub(RANDOM_DIGITS + 1).ok_or(Malformed)?;
        if text[mac_at - 1] != b'.' || random_at < 3 || text[random_at - 1] != b'.' {
            return Err(Malformed);
        }
        let named = &text[..random_at - 1];
        let dot = named.iter().rposition(|&byte| byte == b'.').ok_or(Malformed)?;
        let vshard = parse_decimal(&named[dot + 1..]).and_then(Vshard::new).ok_or(Malformed)?;
        let random = parse_hex(&text[random_at..random_at + RANDOM_DIGITS]).ok_or(Malformed)?;
        let mac = parse_hex(&text[mac_at..]).ok_or(Malformed)?;
        // A plain comparison of 64-bit words takes the same time whatever differs.
        if u128::from(self.mac(&text[..mac_at - 1])) == mac {
            Ok(SessionId { vshard, random })
        } else {
            Err(SessionIdError::Forged)
        }
    }

    fn mac(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.key;
        hasher.write(bytes);
        hasher.finish()
    }
}

impl std::fmt::Debug for SessionIds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        formatter.debug_struct("SessionIds").field("node", &self.node).finish_non_exhaustive()
    }
}

fn write_decimal(number: u16, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    out.extend_from_slice(buffer.format(number).as_bytes());
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// Only the form we write: no sign, no leading zero.
fn parse_decimal(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 4 || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0u16, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0'))
    })
}

/// Only lower case: one session has one spelling.
fn parse_hex(digits: &[u8]) -> Option<u128> {
    const INVALID: u8 = 0xff;
    const VALUES: [u8; 256] = {
        let mut values = [INVALID; 256];
        let mut value = 0;
        while value < 16 {
            values[b"0123456789abcdef"[value] as usize] = value as u8;
            value += 1;
        }
        values
    };
    let mut number = 0u128;
    let mut seen = 0u8;
    for half in digits.chunks(16) {
        let mut word = 0u64;
        for &digit in half {
            let value = VALUES[usize::from(digit)];
            seen |= value;
            word = word << 4 | u64::from(value & 15);
        }
        number = number << (4 * half.len()) | u128::from(word);
    }
    (seen & 0xf0 == 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> SessionIds {
        SessionIds::new("gw1", &[7; 16])
    }

    fn text(id: SessionId) -> Vec<u8> {
        let mut out = Vec::new();
        ids().write(id, &mut out);
        out
    }

    fn sample() -> SessionId {
        SessionId { vshard: Vshard(4_095), random: 0x0123_4567_89ab_cdef_0011_2233_4455_6677 }
    }

    #[test]
    fn an_id_reads_back_and_is_visible_ascii() {
        for vshard in [0, 9, 10, 4_095] {
            let id = SessionId { vshard: Vshard(vshard), ..sample() };
            let text = text(id);
            assert!(text.len() <= ID_BYTES_MAX);
            assert!(text.iter().all(|byte| (0x21..=0x7e).contains(byte)));
            assert_eq!(ids().parse(&text), Ok(id));
        }
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let good = text(sample());
        for at in 0..good.len() {
            for flip in [1u8, 0x20, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                assert!(ids().parse(&bad).is_err(), "byte {at} flipped by {flip}");
            }
        }
        for end in 0..good.len() {
            assert!(ids().parse(&good[..end]).is_err());
        }
    }

    #[test]
    fn another_clusters_id_is_forged() {
        let mut foreign = Vec::new();
        SessionIds::new("gw1", &[8; 16]).write(sample(), &mut foreign);
        assert_eq!(ids().parse(&foreign), Err(SessionIdError::Forged));
    }

    #[test]
    fn an_id_of_another_node_of_the_cluster_is_good() {
        let mut other = Vec::new();
        SessionIds::new("gw.two", &[7; 16]).write(sample(), &mut other);
        assert_eq!(ids().parse(&other), Ok(sample()));
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert!(!format!("{:?}", ids()).contains('7'));
    }
}
