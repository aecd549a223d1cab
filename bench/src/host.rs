//! The machine the load comes from: what is written beside the figures, and which of its
//! settings would bound the load before the server does.
//!
//! What cannot be read is left out, never guessed. The warnings are about this machine
//! alone; a server elsewhere has settings of its own.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::outcome::HostFacts;
use crate::report::quantities::{bytes_text, count_text};

/// Settings of the kernel that a load test meets, as paths below `/proc/sys`.
const SYSCTLS: [&str; 17] = [
    "fs/file-max",
    "fs/nr_open",
    "kernel/io_uring_disabled",
    "net/core/busy_poll",
    "net/core/busy_read",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/somaxconn",
    "net/core/wmem_max",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_max_orphans",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_mem",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_wmem",
];

const SOMAXCONN: &str = "net.core.somaxconn";
const PORT_RANGE: &str = "net.ipv4.ip_local_port_range";
const TW_REUSE: &str = "net.ipv4.tcp_tw_reuse";
const GOVERNOR: &str = "cpu0 scaling governor";
const LOAD_AVERAGE: &str = "load average";

/// What the kernel keeps for both ends of an idle loopback connection.
const KERNEL_BYTES_PER_PAIR: u64 = 9_500;
/// Above this, other work takes a part of the figures.
const LOAD_AVERAGE_QUIET: f64 = 0.5;

/// What a run will ask of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Most connections open at once.
    pub connections: u32,
    /// Connections opened anew all the time (`session_churn`).
    pub churns: bool,
    /// Local addresses they leave from.
    pub source_addresses: u32,
    /// Ordinary descriptors each process needs; those in a ring's table do not count.
    pub descriptors: u64,
    /// Worker threads.
    pub workers: u32,
    /// The server is on this machine too.
    pub server_is_here: bool,
}

impl HostFacts {
    /// Reads the facts of this machine.
    pub fn read() -> HostFacts {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut settings = sysctls();
        let governor = text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let load = text("/proc/loadavg");
        let load = load.split_whitespace().next().unwrap_or_default();
        for (name, value) in [(GOVERNOR, governor.trim()), (LOAD_AVERAGE, load)] {
            if !value.is_empty() {
                settings.insert(name.to_owned(), value.to_owned());
            }
        }
        HostFacts {
            cpu: cpu_model(&text("/proc/cpuinfo")),
            cpus: cpus_allowed(),
            memory_bytes: memory_bytes(&text("/proc/meminfo")),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            descriptors_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            settings,
        }
    }

    /// Whole sentences about what would bound this load, the worst first; none if nothing does.
    pub fn warnings(&self, demand: &Demand) -> Vec<String> {
        [
            self.descriptors_warning(demand),
            self.ports_warning(demand),
            self.memory_warning(demand),
            self.cpus_warning(demand),
            self.queue_warning(demand),
            self.reuse_warning(demand),
            self.governor_warning(),
            self.quiet_warning(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn descriptors_warning(&self, demand: &Demand) -> Option<String> {
        (demand.descriptors > self.descriptors_max).then(|| {
            format!(
                "The load needs {} descriptors in one process, and RLIMIT_NOFILE is {}: raise it \
                 with `ulimit -n`, or use more --workers.",
                count_text(demand.descriptors),
                count_text(self.descriptors_max)
            )
        })
    }

    fn ports_warning(&self, demand: &Demand) -> Option<String> {
        let (first, last) = pair(self.settings.get(PORT_RANGE)?)?;
        let per_address = (last + 1).checked_sub(first)?;
        let ports = per_address * u64::from(demand.source_addresses.max(1));
        (u64::from(demand.connections) > ports).then(|| {
            format!(
                "{} connections to one address need as many local ports, and {PORT_RANGE} gives \
                 {} from {} source address{}: widen it, or connect from more addresses.",
                count_text(u64::from(demand.connections)),
                count_text(ports),
                demand.source_addresses.max(1),
                if demand.source_addresses > 1 { "es" } else { "" }
            )
        })
    }

    fn memory_warning(&self, demand: &Demand) -> Option<String> {
        let ends = if demand.server_is_here { 2 } else { 1 };
        let kernel = u64::from(demand.connections) * KERNEL_BYTES_PER_PAIR * ends / 2;
        let memory = self.memory_bytes;
        (memory > 0 && kernel > memory / 2).then(|| {
            format!(
                "The kernel alone keeps about {} for {} connections, and this machine has {}: \
                 it may be out of memory before the server is at its limit.",
                bytes_text(kernel as f64),
                count_text(u64::from(demand.connections)),
                bytes_text(memory as f64)
            )
        })
    }

    fn cpus_warning(&self, demand: &Demand) -> Option<String> {
        let server = u32::from(demand.server_is_here);
        (demand.workers + server > self.cpus).then(|| {
            let who = if demand.server_is_here { " and the server" } else { "" };
            format!(
                "{} worker{}{who} share {} cpu{}: they take time from each other, so latencies \
                 are partly the generator's own.",
                demand.workers,
                if demand.workers > 1 { "s" } else { "" },
                self.cpus,
                if self.cpus > 1 { "s" } else { "" }
            )
        })
    }

    fn queue_warning(&self, demand: &Demand) -> Option<String> {
        let queue: u64 = self.settings.get(SOMAXCONN)?.parse().ok()?;
        (demand.server_is_here && u64::from(demand.connections) > queue).then(|| {
            format!(
                "{SOMAXCONN} is {}, so a server here that is slow to accept drops connections \
                 beyond that: {} connections opened at once may wait a second for a retry.",
                count_text(queue),
                count_text(u64::from(demand.connections))
            )
        })
    }

    fn reuse_warning(&self, demand: &Demand) -> Option<String> {
        let reuse = self.settings.get(TW_REUSE)?;
        // 2, the default, is for loopback only.
        let helps = reuse == "1" || reuse == "2" && demand.server_is_here;
        (demand.churns && !helps).then(|| {
            format!(
                "{TW_REUSE} is {reuse}, so each closed connection keeps its port for a minute; a \
                 load that opens new ones all the time runs out of ports: set it to 1."
            )
        })
    }

    fn governor_warning(&self) -> Option<String> {
        let governor = self.settings.get(GOVERNOR)?;
        (governor == "powersave").then(|| {
            "The processor's governor is powersave: latencies at low load will be those of a \
             slower clock. Set it to performance."
                .to_owned()
        })
    }

    fn quiet_warning(&self) -> Option<String> {
        let load: f64 = self.settings.get(LOAD_AVERAGE)?.parse().ok()?;
        (load > LOAD_AVERAGE_QUIET).then(|| {
            format!(
                "Other work runs on this machine (load average {load}): the figures will be noise."
            )
        })
    }
}

fn sysctls() -> BTreeMap<String, String> {
    SYSCTLS
        .iter()
        .filter_map(|path| {
            let value = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            Some((path.replace('/', "."), value))
        })
        .collect()
}

/// `model name` of x86, `Hardware` or `Processor` where there is none.
fn cpu_model(cpuinfo: &str) -> String {
    let of = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    ["model name", "Hardware", "Processor"]
        .iter()
        .find_map(|name| of(name))
        .unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH))
}

fn cpus_allowed() -> u32 {
    let counted = rustix::thread::sched_getaffinity(None).map(|cpus| cpus.count());
    counted.unwrap_or_else(|_| {
        let parallelism = std::thread::available_parallelism();
        parallelism.map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
    })
}

fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1_024
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> HostFacts {
        let settings = [
            (SOMAXCONN, "4096"),
            (PORT_RANGE, "32768 60999"),
            (TW_REUSE, "2"),
            (GOVERNOR, "performance"),
            (LOAD_AVERAGE, "0.12"),
        ];
        HostFacts {
            cpu: "a processor".to_owned(),
            cpus: 2,
            memory_bytes: 16 << 30,
            kernel: "6.18.0".to_owned(),
            descriptors_max: 20_000,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        }
    }

    fn small() -> Demand {
        Demand {
            connections: 512,
            churns: false,
            source_addresses: 1,
            descriptors: 600,
            workers: 1,
            server_is_here: true,
        }
    }

    #[test]
    fn a_load_that_fits_is_not_warned_of() {
        assert_eq!(quiet().warnings(&small()), Vec::<String>::new());
        // Without the settings nothing can be said, and nothing is guessed.
        let unknown = HostFacts { settings: BTreeMap::new(), ..quiet() };
        let many = Demand { connections: 30_000, churns: true, ..small() };
        assert_eq!(unknown.warnings(&many), Vec::<String>::new());
    }

    #[test]
    fn each_limit_is_told_with_its_setting() {
        let with = |name: &str, value: &str| {
            let mut facts = quiet();
            facts.settings.insert(name.to_owned(), value.to_owned());
            facts
        };
        for (facts, demand, parts) in [
            (
                quiet(),
                Demand { descriptors: 20_001, ..small() },
                ["20,001 descriptors", "RLIMIT_NOFILE is 20,000"],
            ),
            (
                with(SOMAXCONN, "100000"),
                Demand { connections: 28_233, ..small() },
                [PORT_RANGE, "28,232 from 1 source address:"],
            ),
            (
                with(SOMAXCONN, "100000"),
                Demand { connections: 85_000, source_addresses: 3, ..small() },
                [PORT_RANGE, "84,696 from 3 source addresses:"],
            ),
            (
                with(SOMAXCONN, "1000000"),
                Demand { connections: 1_000_000, source_addresses: 40, ..small() },
                ["about 8.85 GiB for 1,000,000 connections", "has 16.0 GiB"],
            ),
            (quiet(), Demand { workers: 2, ..small() }, ["2 workers and the server", "2 cpus"]),
            (quiet(), Demand { connections: 4_097, ..small() }, [SOMAXCONN, "4,097 connections"]),
            (with(TW_REUSE, "0"), Demand { churns: true, ..small() }, [TW_REUSE, "set it to 1"]),
            (with(GOVERNOR, "powersave"), small(), ["powersave", "performance"]),
            (with(LOAD_AVERAGE, "1.75"), small(), ["load average 1.75", "noise"]),
        ] {
            let warnings = facts.warnings(&demand);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            for part in parts {
                assert!(warnings[0].contains(part), "{part} is missing in: {}", warnings[0]);
            }
        }
    }

    #[test]
    fn the_facts_of_this_machine_are_read() {
        let facts = HostFacts::read();
        assert!(facts.cpus >= 1 && facts.memory_bytes > 1 << 20, "{facts:?}");
        assert!(!facts.cpu.is_empty() && facts.kernel.contains('.'), "{facts:?}");
        assert!(facts.descriptors_max > 0, "{facts:?}");
        let range = facts.settings.get(PORT_RANGE).expect("every kernel has it");
        assert!(pair(range).is_some_and(|(first, last)| first <= last), "{range:?}");
    }

    #[test]
    fn processors_are_named_as_their_kernel_names_them() {
        let x86 = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nmodel name\t: again\n";
        assert_eq!(cpu_model(x86), "AMD EPYC 7B13");
        assert_eq!(cpu_model("processor\t: 0\nHardware\t: BCM2835\n"), "BCM2835");
        assert!(cpu_model("processor\t: 0\n").starts_with("unknown "));
        assert_eq!(memory_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), 2_097_152);
        assert_eq!(memory_bytes(""), 0);
    }
}
