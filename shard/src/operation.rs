//! What a completion belongs to: the 64 bits that travel through the kernel.
//!
//! Layout: kind (8 bits), index (24 bits), generation (32 bits). A connection's
//! index is not used again before its last operation has completed; the generation
//! is checked all the same, so a late completion never touches a new connection.

use crate::identity::ConnId;

/// Connections a shard can hold: what fits into the index bits.
pub const CONNECTIONS_PER_SHARD_MAX: u32 = 1 << 24;

/// The kinds of operations a data ring carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Multishot accept into direct descriptors.
    AcceptMulti = 1,
    /// One accept into a direct descriptor.
    AcceptOne,
    /// The last accepts of a listener that closes; they don't wait.
    AcceptRest,
    /// Multishot receive.
    Recv,
    /// Send of one connection's output.
    Send,
    /// Handing a socket to another shard's ring.
    SendFd,
    /// Closing the sending half.
    ShutdownWrite,
    /// Making the socket of an outgoing connection.
    Socket,
    /// Connecting it.
    Connect,
    /// The timer of the shard.
    Timer,
    /// The shard's eventfd was written.
    Bell,
    /// What reports only failures nobody can act on: cancels, closes, socket
    /// options, timer updates.
    Ignored,
    /// Giving the socket of an outgoing connection its own address.
    Bind,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Kind> {
        Some(match bits {
            1 => Kind::AcceptMulti,
            2 => Kind::AcceptOne,
            3 => Kind::AcceptRest,
            4 => Kind::Recv,
            5 => Kind::Send,
            6 => Kind::SendFd,
            7 => Kind::ShutdownWrite,
            8 => Kind::Socket,
            9 => Kind::Connect,
            10 => Kind::Timer,
            11 => Kind::Bell,
            12 => Kind::Ignored,
            13 => Kind::Bind,
            _ => return None,
        })
    }
}

/// Kind and owner of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Operation {
    /// An operation of a connection.
    pub(crate) const fn of(kind: Kind, conn: ConnId) -> Operation {
        Operation { kind, index: conn.index_u32(), generation: conn.generation() }
    }

    /// An operation that belongs to no connection; `index` says to what.
    pub(crate) const fn other(kind: Kind, index: u32) -> Operation {
        Operation { kind, index, generation: 0 }
    }

    /// The bits for the kernel.
    pub(crate) const fn to_user_data(self) -> u64 {
        debug_assert!(self.index < CONNECTIONS_PER_SHARD_MAX);
        (self.kind as u64) << 56 | (self.index as u64) << 32 | self.generation as u64
    }

    /// The operation behind bits that came back from the kernel.
    pub(crate) fn from_user_data(bits: u64) -> Option<Operation> {
        let kind = Kind::from_bits((bits >> 56) as u8)?;
        let index = (bits >> 32) as u32 & (CONNECTIONS_PER_SHARD_MAX - 1);
        Some(Operation { kind, index, generation: bits as u32 })
    }

    /// The connection the operation belongs to, if its kind has one.
    pub(crate) const fn conn(self) -> ConnId {
        ConnId::new(self.index, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back_as_the_same_operation() {
        for bits in 1..=13 {
            let kind = Kind::from_bits(bits).unwrap();
            assert_eq!(kind as u8, bits);
            for (index, generation) in [(0, 0), (CONNECTIONS_PER_SHARD_MAX - 1, u32::MAX), (7, 9)] {
                let operation = Operation { kind, index, generation };
                assert_eq!(Operation::from_user_data(operation.to_user_data()), Some(operation));
            }
        }
        assert_eq!(Operation::from_user_data(0), None);
        assert_eq!(Operation::from_user_data(u64::MAX), None);
    }
}
