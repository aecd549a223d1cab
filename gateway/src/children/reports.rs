//! What a guard and the gateway say to each other over their socket.
//!
//! Gateway to guard: first one byte with the child's standard input as a descriptor, then
//! orders of one byte each. Guard to gateway: reports of [`REPORT_BYTES`] bytes. The end of
//! the stream means to each side that the other is gone.

/// Order: the input is closed, give the child its grace and then end it.
pub(super) const ORDER_STOP: u8 = b's';
/// Order: end the child and all of its descendants at once.
pub(super) const ORDER_KILL: u8 = b'k';

/// The size of every report.
pub(super) const REPORT_BYTES: usize = 5;

/// What a guard tells of its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It runs under this process id, which names its process group too.
    Started(i32),
    /// Its directory can't be entered; the error number.
    NoDirectory(i32),
    /// Its command can't be run; the error number.
    NoCommand(i32),
    /// It exited with this code.
    Exited(i32),
    /// A signal of this number ended it.
    Killed(i32),
}

impl Report {
    /// As it travels.
    pub(super) fn encode(self) -> [u8; REPORT_BYTES] {
        let (tag, value) = match self {
            Report::Started(pid) => (b'S', pid),
            Report::NoDirectory(errno) => (b'D', errno),
            Report::NoCommand(errno) => (b'C', errno),
            Report::Exited(code) => (b'E', code),
            Report::Killed(signal) => (b'K', signal),
        };
        let [a, b, c, d] = value.to_le_bytes();
        [tag, a, b, c, d]
    }

    /// `None` if no guard of this version wrote it.
    pub(super) fn decode(bytes: [u8; REPORT_BYTES]) -> Option<Report> {
        let [tag, a, b, c, d] = bytes;
        let value = i32::from_le_bytes([a, b, c, d]);
        match tag {
            b'S' => Some(Report::Started(value)),
            b'D' => Some(Report::NoDirectory(value)),
            b'C' => Some(Report::NoCommand(value)),
            b'E' => Some(Report::Exited(value)),
            b'K' => Some(Report::Killed(value)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_travel_unchanged() {
        for report in [
            Report::Started(i32::MAX),
            Report::NoDirectory(2),
            Report::NoCommand(13),
            Report::Exited(-1),
            Report::Killed(9),
        ] {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
        assert_eq!(Report::decode([0; REPORT_BYTES]), None);
    }
}
