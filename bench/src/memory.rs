//! What sessions cost: the server's process, and the kernel for both ends of each connection.
//!
//! The two are told apart, as an operator pays for both but a server can help only the one.
//! The kernel's share is what the whole machine's slab and socket buffers have grown by, so
//! anything else that goes on there is in it too, and so is the client's end of each
//! connection if both are on one machine.

use std::fs;

use crate::outcome::SessionMemory;

/// Bytes of a page, in which the kernel counts socket memory.
const PAGE_BYTES: u64 = 4_096;

/// The kernel's memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostMemory {
    slab_bytes: Option<u64>,
    /// Buffers of TCP sockets.
    buffer_bytes: Option<u64>,
}

impl HostMemory {
    /// Reads it; what can't be read is not there.
    pub(crate) fn read() -> HostMemory {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        HostMemory::parse(&text("/proc/meminfo"), &text("/proc/net/sockstat"))
    }

    fn parse(meminfo: &str, sockstat: &str) -> HostMemory {
        let slab = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"));
        let slab_kib = slab.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let tcp = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"));
        let pages = tcp.and_then(|rest| {
            let mut words = rest.split_whitespace().skip_while(|word| *word != "mem");
            words.nth(1)?.parse::<u64>().ok()
        });
        HostMemory {
            slab_bytes: slab_kib.map(|kib| kib * 1_024),
            buffer_bytes: pages.map(|pages| pages * PAGE_BYTES),
        }
    }
}

/// Memory at the three moments that matter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemoryWatch {
    before: HostMemory,
    opened: HostMemory,
    loaded: HostMemory,
    resident_opened: Option<u64>,
    resident_loaded: Option<u64>,
}

impl MemoryWatch {
    /// Before the first connection.
    pub(crate) fn begin(before: HostMemory) -> MemoryWatch {
        MemoryWatch { before, ..MemoryWatch::default() }
    }

    /// All connections are open, and idle.
    pub(crate) fn opened(&mut self, host: HostMemory, resident_bytes: Option<u64>) {
        (self.opened, self.resident_opened) = (host, resident_bytes);
    }

    /// The load has passed, and all connections are open still.
    pub(crate) fn loaded(&mut self, host: HostMemory, resident_bytes: Option<u64>) {
        (self.loaded, self.resident_loaded) = (host, resident_bytes);
    }

    /// What each of `sessions` costs.
    pub(crate) fn figures(&self, sessions: u64, resident_before: Option<u64>) -> SessionMemory {
        let per_session = |before: Option<u64>, after: Option<u64>| {
            let grown = after? as f64 - before? as f64;
            (sessions > 0).then(|| grown / sessions as f64)
        };
        SessionMemory {
            sessions,
            process_idle_bytes: per_session(resident_before, self.resident_opened),
            process_loaded_bytes: per_session(resident_before, self.resident_loaded),
            kernel_slab_bytes: per_session(self.before.slab_bytes, self.opened.slab_bytes),
            kernel_buffer_bytes: per_session(self.before.buffer_bytes, self.loaded.buffer_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_memory_is_read_from_its_tables() {
        let meminfo = "MemTotal:       16384000 kB\nSlab:             123456 kB\n";
        let sockstat =
            "sockets: used 5\nTCP: inuse 6 orphan 0 tw 0 alloc 8 mem 3\nUDP: inuse 0 mem 9\n";
        let memory = HostMemory::parse(meminfo, sockstat);
        assert_eq!(memory.slab_bytes, Some(123_456 * 1_024));
        assert_eq!(memory.buffer_bytes, Some(3 * PAGE_BYTES));
        assert_eq!(HostMemory::parse("", ""), HostMemory::default());
    }

    #[test]
    fn what_a_session_costs_is_what_was_added_by_all() {
        let host = |slab| HostMemory { slab_bytes: Some(slab), buffer_bytes: None };
        let mut watch = MemoryWatch::begin(host(1_000));
        watch.opened(host(101_000), Some(250_000));
        watch.loaded(host(0), Some(350_000));
        let figures = watch.figures(100, Some(50_000));
        assert_eq!(figures.process_idle_bytes, Some(2_000.0));
        assert_eq!(figures.process_loaded_bytes, Some(3_000.0));
        assert_eq!(figures.kernel_slab_bytes, Some(1_000.0));
        assert_eq!(figures.kernel_buffer_bytes, None);
        assert_eq!(watch.figures(0, Some(1)).process_idle_bytes, None);
    }
}
