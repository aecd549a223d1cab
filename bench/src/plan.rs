//! What is to be done, read from the command line: durations, rates, stages.
//!
//! Stages are written `ramp:10s@20000,hold:30s,step:10s@40000/1000`: what a stage does, for
//! how long, at how many requests per second (or `max`: as many as the connections allow),
//! with how many connections. What is left out is as it was before.

use std::sync::Arc;

use shardgate_proto::mcp::version::ProtocolVersion;

use crate::outcome::{Plan, Stage};
use crate::schedule::{Spacing, Timeline};
use crate::target::Target;
use crate::workload::{Shape, Step};

/// More requests per second than anything here can plan or send.
pub const RATE_MAX: f64 = 50_000_000.0;
/// Connections of one run: what ids and tables are made for.
pub const CONNECTIONS_MAX: u32 = 4_000_000;
/// The longest stage: a month.
pub const DURATION_S_MAX: f64 = 30.0 * 24.0 * 3_600.0;
/// Bytes of payload in one call: below the messages servers commonly take.
pub const PAYLOAD_BYTES_MAX: usize = 8 * 1_024 * 1_024;
/// Connections from one source address. By default a kernel gives out some 28,000 ports, and
/// only every other one before it has looked at half of them in vain: from 14,000 connections
/// on, each connect takes a hundred times as long.
pub const CONNECTIONS_PER_ADDRESS: u32 = 10_000;

/// Everything a run needs to know.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// The server.
    pub target: Target,
    /// The revision spoken.
    pub revision: ProtocolVersion,
    /// Its name in the report.
    pub workload: String,
    /// Who sends what.
    pub shape: Shape,
    /// The warm-up first, if there is one.
    pub stages: Vec<Stage>,
    /// Stages at the beginning that are not counted: 0 or 1.
    pub stages_uncounted: usize,
    /// Connections that are open before the first stage.
    pub connections_before: u32,
    /// How arrivals lie in time.
    pub spacing: Spacing,
    /// For the random ones.
    pub seed: u64,
    /// Pause of a connection between an answer and its next request.
    pub think_ns: u64,
    /// Bytes of payload in a tool call.
    pub payload_bytes: usize,
    /// Worker threads.
    pub workers: u16,
    /// Addresses 127.0.0.1 and following from which connections come, in turn.
    pub source_addresses: u32,
    /// The tool that is called.
    pub tool: String,
    /// Its arguments, as JSON; none puts the payload into `message`.
    pub arguments: Option<String>,
    /// The resource that is read; the server's first one otherwise.
    pub resource: Option<String>,
    /// After how many requests a connection is replaced.
    pub requests_per_connection: Option<u32>,
    /// After how long an answer counts as missing.
    pub timeout_ns: u64,
    /// The server gives every request the same answer, which holds the first id.
    pub fixed_reply: bool,
}

impl RunPlan {
    /// True if the tool is called.
    pub fn calls_tool(&self) -> bool {
        match self.shape {
            Shape::Steps(steps) => steps.contains(&Step::Tool),
            Shape::Churn | Shape::Streams => true,
            Shape::Fanout => false,
        }
    }

    /// True if the resource is read.
    pub fn reads_resource(&self) -> bool {
        matches!(self.shape, Shape::Steps(steps) if steps.contains(&Step::Read))
    }

    /// The stages laid end to end.
    pub fn timeline(&self) -> Arc<Timeline> {
        Arc::new(Timeline::new(&self.stages, self.connections_before))
    }

    /// The most connections any stage has, those that call for others included.
    pub fn connections_max(&self) -> u32 {
        let most = self.stages.iter().map(|stage| stage.connections).max().unwrap_or_default();
        most.max(self.connections_before)
    }

    /// The plan as reports show it.
    pub fn shown(&self) -> Plan {
        let counted = &self.stages[..self.stages_uncounted];
        Plan {
            url: self.target.url.clone(),
            revision: self.revision.to_string(),
            workload: self.workload.clone(),
            stages: self.stages.clone(),
            warmup_s: counted.iter().map(|stage| stage.duration_s).sum(),
            workers: u32::from(self.workers),
            think_us: self.think_ns / 1_000,
            payload_bytes: self.payload_bytes as u64,
        }
    }
}

/// A value on the command line that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlan {
    /// Not a duration.
    #[error(
        "`{0}` is no duration; write such as 500ms, 30s, 5m or 1h, more than 0 and up to 30 days"
    )]
    Duration(String),
    /// Not a rate.
    #[error("`{0}` is no rate; write requests per second, above 0 and up to {RATE_MAX}, or max")]
    Rate(String),
    /// Not a number of connections.
    #[error("`{0}` is no number of connections; 1 to {CONNECTIONS_MAX} are possible")]
    Connections(String),
    /// Not a stage.
    #[error(
        "`{0}` is no stage; write such as ramp:10s@20000, hold:30s, step:10s@max or \
         hold:1m@5000/2000 (the last number counts connections)"
    )]
    Stage(String),
    /// A ramp from or to a rate that is no number.
    #[error("the stage `{0}` ramps from or to the rate max, which is no number; use step")]
    RampOfMax(String),
    /// A first stage that keeps what there was.
    #[error("the stage `{0}` has no rate and no stage before it; add one, such as @20000")]
    NoRate(String),
}

/// Reads a duration in seconds.
///
/// # Errors
/// [`BadPlan::Duration`].
pub fn parse_duration_s(text: &str) -> Result<f64, BadPlan> {
    let wrong = || BadPlan::Duration(text.to_owned());
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let seconds = number * factor;
    if (0.0..=DURATION_S_MAX).contains(&seconds) { Ok(seconds) } else { Err(wrong()) }
}

/// As [`parse_duration_s`], and longer than nothing.
///
/// # Errors
/// [`BadPlan::Duration`].
pub fn parse_span_s(text: &str) -> Result<f64, BadPlan> {
    let seconds = parse_duration_s(text)?;
    if seconds > 0.0 { Ok(seconds) } else { Err(BadPlan::Duration(text.to_owned())) }
}

/// Reads requests per second; none is `max`.
///
/// # Errors
/// [`BadPlan::Rate`].
pub fn parse_rate(text: &str) -> Result<Option<f64>, BadPlan> {
    if text == "max" {
        return Ok(None);
    }
    let wrong = || BadPlan::Rate(text.to_owned());
    let rate: f64 = text.parse().map_err(|_| wrong())?;
    if rate > 0.0 && rate <= RATE_MAX { Ok(Some(rate)) } else { Err(wrong()) }
}

/// Reads a number of connections.
///
/// # Errors
/// [`BadPlan::Connections`].
pub fn parse_connections(text: &str) -> Result<u32, BadPlan> {
    let wrong = || BadPlan::Connections(text.to_owned());
    let connections = text.parse().map_err(|_| wrong())?;
    if (1..=CONNECTIONS_MAX).contains(&connections) { Ok(connections) } else { Err(wrong()) }
}

/// Stages, and how many connections are open before the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages {
    /// In order.
    pub stages: Vec<Stage>,
    /// A first ramp that names its connections begins without any.
    pub connections_before: u32,
}

/// Reads stages; those that name no connections have `connections` or as many as the one
/// before.
///
/// # Errors
/// [`BadPlan`] shows the stage that can't be used.
pub fn parse_stages(text: &str, connections: u32) -> Result<Stages, BadPlan> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut connections_before = connections;
    for part in text.split(',').map(str::trim) {
        let wrong = || BadPlan::Stage(part.to_owned());
        let (kind, rest) = part.split_once(':').ok_or_else(wrong)?;
        let ramp = match kind {
            "ramp" => true,
            "hold" | "step" => false,
            _ => return Err(wrong()),
        };
        let (rest, own_connections) = match rest.split_once('/') {
            Some((rest, own)) => (rest, Some(parse_connections(own)?)),
            None => (rest, None),
        };
        let before = stages.last();
        let (duration, rate) = match rest.split_once('@') {
            Some((duration, rate)) => (duration, parse_rate(rate)?),
            None => {
                let before = before.ok_or_else(|| BadPlan::NoRate(part.to_owned()))?;
                (rest, before.rate)
            }
        };
        if ramp && (rate.is_none() || before.is_some_and(|before| before.rate.is_none())) {
            return Err(BadPlan::RampOfMax(part.to_owned()));
        }
        if before.is_none()
            && let Some(own) = own_connections
        {
            connections_before = if ramp { 0 } else { own };
        }
        let kept = before.map_or(connections, |before| before.connections);
        stages.push(Stage {
            duration_s: parse_span_s(duration)?,
            rate,
            connections: own_connections.unwrap_or(kept),
            ramp,
        });
    }
    Ok(Stages { stages, connections_before })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        let read =
            ["500ms", "30s", "1.5m", "1h", "0ms"].map(|text| parse_duration_s(text).unwrap());
        assert_eq!(read, [0.5, 30.0, 90.0, 3_600.0, 0.0]);
        for wrong in ["", "s", "30", "-1s", "nans", "infs", "1d", "1e9h"] {
            assert_eq!(parse_duration_s(wrong), Err(BadPlan::Duration(wrong.to_owned())));
        }
        assert!(parse_span_s("0s").is_err());
    }

    #[test]
    fn rates_and_connections_have_bounds() {
        assert_eq!(parse_rate("max"), Ok(None));
        assert_eq!(parse_rate("0.5"), Ok(Some(0.5)));
        for wrong in ["0", "-5", "NaN", "inf", "1e12", "fast"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "4000001", "many"] {
            assert!(parse_connections(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stage_keeps_what_it_does_not_name() {
        let read = parse_stages("ramp:10s@20000, hold:30s, step:5s@max/2000,hold:1s", 512).unwrap();
        let stage =
            |duration_s, rate, connections, ramp| Stage { duration_s, rate, connections, ramp };
        let expected = vec![
            stage(10.0, Some(20_000.0), 512, true),
            stage(30.0, Some(20_000.0), 512, false),
            stage(5.0, None, 2_000, false),
            stage(1.0, None, 2_000, false),
        ];
        assert_eq!(read, Stages { stages: expected, connections_before: 512 });
        let grown = parse_stages("ramp:1s@10/100", 512).unwrap();
        assert_eq!((grown.connections_before, grown.stages[0].connections), (0, 100));
    }

    #[test]
    fn a_stage_that_makes_no_sense_is_shown() {
        for (text, part) in [
            ("hold", "is no stage"),
            ("rest:1s@5", "is no stage"),
            ("hold:1s", "no rate and no stage before"),
            ("ramp:1s@max", "which is no number"),
            ("hold:1s@max,ramp:1s@5", "`ramp:1s@5` ramps from"),
            ("hold:0s@5", "is no duration"),
            ("hold:1s@5/0", "no number of connections"),
        ] {
            let message = parse_stages(text, 1).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn every_preset_can_be_read() {
        for workload in crate::workload::Workload::ALL {
            let (stages, connections) = workload.preset();
            parse_stages(stages, connections).unwrap();
        }
    }
}
