//! What is asked of the server: the workloads by name, and what each stands for.
//!
//! A workload is a shape (who sends what) and a preset (how much for how long, unless the
//! command line says so).

use std::fmt;

/// Kinds of requests, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Op {
    /// Opens a session.
    Initialize,
    /// The notification that follows it.
    Initialized,
    /// An empty call.
    Ping,
    /// A call of the tool.
    ToolCall,
    /// A read of the resource.
    ResourceRead,
    /// Ends a session.
    Delete,
    /// Asks a modern server what it is.
    Discover,
    /// Opens a stream for what the server sends by itself.
    OpenStream,
    /// Asks to be told of a resource's updates.
    Subscribe,
    /// Has the server tell all who asked for it of an update.
    Announce,
    /// An event on a stream, counted from the request that caused it.
    Event,
}

impl Op {
    /// All of them, by number.
    pub const ALL: [Op; 11] = [
        Op::Initialize,
        Op::Initialized,
        Op::Ping,
        Op::ToolCall,
        Op::ResourceRead,
        Op::Delete,
        Op::Discover,
        Op::OpenStream,
        Op::Subscribe,
        Op::Announce,
        Op::Event,
    ];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Initialize => "initialize",
            Op::Initialized => "notifications/initialized",
            Op::Ping => "ping",
            Op::ToolCall => "tools/call",
            Op::ResourceRead => "resources/read",
            Op::Delete => "session end",
            Op::Discover => "server/discover",
            Op::OpenStream => "stream open",
            Op::Subscribe => "resources/subscribe",
            Op::Announce => "announcement",
            Op::Event => "event",
        }
    }
}

/// What a step of a mix asks for; which request it is depends on the era and on what the
/// step before has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Of the tool.
    Tool,
    /// Of the resource.
    Read,
    /// Of the session: pings, and now and then an end and a new beginning.
    Manage,
    /// Of the server itself.
    Ping,
}

/// Who sends what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every connection takes the next step when it is its turn.
    Steps(&'static [Step]),
    /// Every connection lives through whole sessions, one after the other.
    Churn,
    /// Connections hold streams; a few others call the tool in the sessions of all, in turn.
    Streams,
    /// As [`Shape::Streams`], but what is sent reaches all streams.
    Fanout,
}

/// A workload's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Half tool calls, a fifth session management, the rest reads.
    Mix,
    /// Empty calls.
    Ping,
    /// Tool calls of 1 KiB.
    ToolsCall1Kib,
    /// Tool calls of 16 KiB.
    ToolsCall16Kib,
    /// Reads of one resource.
    ResourcesRead,
    /// Sessions opened, used once and ended.
    SessionChurn,
    /// Announcements to many streams.
    SseFanout,
    /// Calls of 1 KiB over connections that stay.
    TcpSustained,
    /// Calls of 1 KiB over connections that are soon replaced.
    HttpSustained,
    /// Calls over 100,000 connections.
    Connections100k,
    /// Five minutes of rising load.
    Stress5Min,
    /// The mix for a long time.
    Soak,
}

/// A name that is no workload's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no workload `{given}`{}; there are {}", suggestion(nearest), Workload::names())]
pub struct UnknownWorkload {
    given: String,
    nearest: Option<Workload>,
}

fn suggestion(nearest: &Option<Workload>) -> String {
    nearest.map_or(String::new(), |workload| format!(" (did you mean `{workload}`?)"))
}

/// How alike two names must be (Jaro-Winkler) for one to be a slip of the other.
const ALIKE_MIN: f64 = 0.75;

const ONE_TOOL: &[Step] = &[Step::Tool];
const ONE_READ: &[Step] = &[Step::Read];
const ONE_PING: &[Step] = &[Step::Ping];
/// 50 % tool calls, 20 % session management, 30 % resource reads.
const MIXED: &[Step] = &[
    Step::Tool,
    Step::Read,
    Step::Tool,
    Step::Manage,
    Step::Tool,
    Step::Read,
    Step::Tool,
    Step::Manage,
    Step::Tool,
    Step::Read,
];

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 12] = [
        Workload::Mix,
        Workload::Ping,
        Workload::ToolsCall1Kib,
        Workload::ToolsCall16Kib,
        Workload::ResourcesRead,
        Workload::SessionChurn,
        Workload::SseFanout,
        Workload::TcpSustained,
        Workload::HttpSustained,
        Workload::Connections100k,
        Workload::Stress5Min,
        Workload::Soak,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Workload::Mix => "mix_50_20_30",
            Workload::Ping => "ping",
            Workload::ToolsCall1Kib => "tools_call_1kib",
            Workload::ToolsCall16Kib => "tools_call_16kib",
            Workload::ResourcesRead => "resources_read",
            Workload::SessionChurn => "session_churn",
            Workload::SseFanout => "sse_fanout",
            Workload::TcpSustained => "tcp_sustained_1kib",
            Workload::HttpSustained => "http_sustained_1kib",
            Workload::Connections100k => "connections_100k",
            Workload::Stress5Min => "stress_5min",
            Workload::Soak => "soak",
        }
    }

    /// The workload with this name.
    ///
    /// # Errors
    /// [`UnknownWorkload`] names the nearest one.
    pub fn parse(name: &str) -> Result<Workload, UnknownWorkload> {
        if let Some(found) = Workload::ALL.into_iter().find(|workload| workload.name() == name) {
            return Ok(found);
        }
        let likeness = |workload: &Workload| strsim::jaro_winkler(workload.name(), name);
        let nearest = Workload::ALL
            .into_iter()
            .max_by(|one, other| likeness(one).total_cmp(&likeness(other)))
            .filter(|workload| likeness(workload) >= ALIKE_MIN);
        Err(UnknownWorkload { given: name.to_owned(), nearest })
    }

    fn names() -> String {
        Workload::ALL.map(Workload::name).join(", ")
    }

    /// Who sends what.
    pub const fn shape(self) -> Shape {
        match self {
            Workload::Mix | Workload::Stress5Min | Workload::Soak => Shape::Steps(MIXED),
            Workload::Ping => Shape::Steps(ONE_PING),
            Workload::ToolsCall1Kib
            | Workload::ToolsCall16Kib
            | Workload::TcpSustained
            | Workload::HttpSustained
            | Workload::Connections100k => Shape::Steps(ONE_TOOL),
            Workload::ResourcesRead => Shape::Steps(ONE_READ),
            Workload::SessionChurn => Shape::Churn,
            Workload::SseFanout => Shape::Fanout,
        }
    }

    /// Bytes of payload in a tool call, unless the command line says otherwise.
    pub const fn payload_bytes(self) -> usize {
        match self {
            Workload::ToolsCall1Kib | Workload::TcpSustained | Workload::HttpSustained => 1_024,
            Workload::ToolsCall16Kib => 16 * 1_024,
            Workload::Mix
            | Workload::Ping
            | Workload::ResourcesRead
            | Workload::SessionChurn
            | Workload::SseFanout
            | Workload::Connections100k
            | Workload::Stress5Min
            | Workload::Soak => 64,
        }
    }

    /// Requests after which a connection is replaced, unless the command line says
    /// otherwise.
    pub const fn requests_per_connection(self) -> Option<u32> {
        match self {
            Workload::HttpSustained => Some(10),
            Workload::Mix
            | Workload::Ping
            | Workload::ToolsCall1Kib
            | Workload::ToolsCall16Kib
            | Workload::ResourcesRead
            | Workload::SessionChurn
            | Workload::SseFanout
            | Workload::TcpSustained
            | Workload::Connections100k
            | Workload::Stress5Min
            | Workload::Soak => None,
        }
    }

    /// Stages, in the notation of `--stages`, of a run that is given neither a rate nor
    /// stages nor a duration; and connections.
    pub const fn preset(self) -> (&'static str, u32) {
        match self {
            Workload::Mix => ("hold:30s@10000", 512),
            Workload::Connections100k => ("ramp:20s@1000/100000,ramp:10s@125000,hold:60s", 100_000),
            Workload::Stress5Min => {
                ("ramp:60s@20000,hold:60s,ramp:60s@50000,hold:60s,step:60s@max", 512)
            }
            Workload::Soak => ("ramp:30s@20000,hold:1h", 512),
            // Announcements a second; each reaches all streams.
            Workload::SseFanout => ("hold:30s@10", 1_000),
            Workload::Ping
            | Workload::ToolsCall1Kib
            | Workload::ToolsCall16Kib
            | Workload::ResourcesRead
            | Workload::SessionChurn
            | Workload::TcpSustained
            | Workload::HttpSustained => ("hold:30s@max", 512),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_a_slip_is_told_the_nearest() {
        for workload in Workload::ALL {
            assert_eq!(Workload::parse(workload.name()), Ok(workload));
        }
        let message = Workload::parse("mix_50_30_20").unwrap_err().to_string();
        assert!(message.contains("did you mean `mix_50_20_30`?"), "{message}");
        let message = Workload::parse("zzz").unwrap_err().to_string();
        assert!(!message.contains("did you mean") && message.contains("sse_fanout"), "{message}");
    }

    #[test]
    fn the_mix_has_the_shares_of_its_name() {
        let share = |step| MIXED.iter().filter(|other| **other == step).count();
        assert_eq!([Step::Tool, Step::Manage, Step::Read].map(share), [5, 2, 3]);
    }

    #[test]
    fn operations_are_numbered_as_they_are_listed() {
        for (number, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, number);
        }
    }
}
