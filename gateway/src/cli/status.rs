//! `shardgate status`: what a running gateway does, as a table.

use std::fmt::Write;

use crate::control::{Load, Percentiles, StatusReport, UpstreamBrief};

/// Where the report is.
pub(super) const STATUS_PATH: &str = "/api/v1/status";

const COLUMNS: [&str; 13] = [
    "shard",
    "cpu",
    "busy",
    "requests/s",
    "requests",
    "connections",
    "sessions",
    "streams",
    "p50",
    "p95",
    "p99",
    "mesh",
    "refusals",
];

/// The report for people.
pub(super) fn table(report: &StatusReport) -> String {
    let mut text = format!(
        "{} · {} · shardgate {} · up {}\n{}\n\n",
        report.node,
        report.state,
        report.version,
        span_text(report.uptime_seconds),
        report.client_url,
    );
    let mut rows = vec![COLUMNS.map(str::to_owned).to_vec()];
    for shard in &report.shards {
        let cpu = shard.cpu.map_or("any".to_owned(), |cpu| cpu.to_string());
        let mut row = vec![shard.shard.to_string(), cpu];
        match &shard.load {
            Some(load) => row.extend(load_cells(load)),
            None => row.push("does not answer".to_owned()),
        }
        rows.push(row);
    }
    let mut totals = vec!["all".to_owned(), String::new()];
    totals.extend(load_cells(&report.totals));
    rows.push(totals);
    write_rows(&mut text, &rows);
    let _ = writeln!(
        text,
        "\nrates and percentiles: last {:.0} s · p99 since start: {}",
        report.interval_seconds,
        seconds_text(report.totals.latency_since_start, |p| p.p99_seconds),
    );
    if !report.upstreams.is_empty() {
        let _ = writeln!(text, "{}", upstreams_text(&report.upstreams));
    }
    if !report.refusals.is_empty() {
        let list: Vec<String> =
            report.refusals.iter().map(|(limit, count)| format!("{limit} {count}")).collect();
        let _ = writeln!(text, "refused or ended by limits: {}", list.join(", "));
    }
    if report.totals.panics > 0 {
        let _ = writeln!(text, "panics: {}; the log has them", report.totals.panics);
    }
    text
}

/// One line: how many are up, and which are not.
fn upstreams_text(upstreams: &[UpstreamBrief]) -> String {
    let others: Vec<String> = upstreams
        .iter()
        .filter(|upstream| upstream.state != "up")
        .map(|upstream| format!("{} is {}", upstream.name, upstream.state))
        .collect();
    let up = upstreams.len() - others.len();
    let text = format!("tool servers: {up} of {} up", upstreams.len());
    match others.is_empty() {
        true => text,
        false => format!("{text}; {} (`shardgate upstreams` tells why)", others.join(", ")),
    }
}

fn load_cells(load: &Load) -> Vec<String> {
    vec![
        format!("{:.0} %", load.busy * 100.0),
        count_text(load.requests_per_second.round() as u64),
        count_text(load.requests),
        count_text(load.connections),
        count_text(load.sessions),
        count_text(load.streams),
        seconds_text(load.latency, |p| p.p50_seconds),
        seconds_text(load.latency, |p| p.p95_seconds),
        seconds_text(load.latency, |p| p.p99_seconds),
        count_text(load.mesh_depth),
        count_text(load.refusals),
    ]
}

/// Right-aligned columns; a row that is shorter ends with a cell that may run on.
fn write_rows(text: &mut String, rows: &[Vec<String>]) {
    let width = |column: usize| {
        let full = rows.iter().filter(|row| row.len() == COLUMNS.len());
        full.map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
}

/// Groups of three digits.
pub(super) fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn seconds_text(percentiles: Percentiles, of: fn(Percentiles) -> f64) -> String {
    let seconds = of(percentiles);
    match percentiles.count {
        0 => "-".to_owned(),
        _ if seconds < 1e-3 => format!("{:.0} µs", seconds * 1e6),
        _ if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

/// The two largest units.
fn span_text(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write as _};
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::cli::admin::{self, AdminError, Answer, Question};

    use crate::config::AllowedHosts;
    use crate::control::{self, ControlRequest, ControlSetup, NodeFacts, ShardLinks};
    use crate::metrics::{Limit, Method, ShardGauges, ShardMetrics, Status};

    fn free_port() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("a free port")
    }

    /// A running control thread with one shard that answers and one that is gone.
    fn running(allowed_hosts: AllowedHosts) -> (control::Control, SocketAddr) {
        let admin = free_port();
        let address = admin.local_addr().expect("bound");
        let links = ShardLinks::new(vec![
            Box::new(|ControlRequest::Snapshot(to)| {
                let mut metrics = ShardMetrics::new(0, Some(0));
                for _ in 0..1_234 {
                    metrics.request(Method::ToolsCall, Status::of(200), 150_000);
                }
                metrics.refused(Limit::HeaderBytes);
                let gauges = ShardGauges { sessions: 42, ..ShardGauges::default() };
                to.try_send(metrics.snapshot(gauges)).is_ok()
            }),
            Box::new(|_| false),
        ]);
        let facts = NodeFacts::for_tests();
        let setup = ControlSetup {
            admin,
            allowed_hosts,
            facts,
            links,
            children: None,
            reload: None,
            resolver: None,
            pins: None,
            tasks: None,
            cluster: None,
        };
        (control::start(setup).expect("it starts"), address)
    }

    fn fetch(admin: &str) -> Result<Answer<StatusReport>, AdminError> {
        admin::fetch(admin, &Question { path: STATUS_PATH, body: None })
    }

    #[test]
    fn the_table_shows_shards_totals_and_limits() {
        let (control, address) = running(AllowedHosts::loopback());
        for admin in [address.to_string(), format!("http://{address}/")] {
            let answer: Answer<StatusReport> = fetch(&admin).expect("a report");
            let text = table(&answer.report);
            for part in [
                "gw-1 · starting · shardgate",
                "requests/s",
                "1,234",
                "42",
                "does not answer",
                "header_bytes_max 1",
                "151 µs",
                "http://127.0.0.1:8080/mcp",
            ] {
                assert!(text.contains(part), "{part} is missing in:\n{text}");
            }
            let again: StatusReport = serde_json::from_str(&answer.json).expect("JSON");
            assert_eq!(again, answer.report);
        }
        control.stop();
    }

    #[test]
    fn what_can_go_wrong_is_told_with_the_way_out() {
        let taken = free_port();
        let address = taken.local_addr().expect("bound").to_string();
        drop(taken);
        let message = fetch(&address).unwrap_err().to_string();
        assert!(message.contains(&address) && message.contains("shardgate serve"), "{message}");

        let (control, address) = running(AllowedHosts::new(&["gw.example.com".to_owned()]));
        let message = fetch(&address.to_string()).unwrap_err().to_string();
        assert!(message.contains("403") && message.contains("admin.allowed_hosts"), "{message}");
        control.stop();

        for given in ["9090", "https://localhost:9090", "localhost", ":1", "a/b:1", "h:0", "h:x"] {
            let message = fetch(given).unwrap_err().to_string();
            assert!(message.contains("IP:PORT"), "{given}: {message}");
        }
    }

    #[test]
    fn another_server_is_not_mistaken_for_ours() {
        for (reply, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "something else than the report"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "does not answer like an admin server"),
            (
                "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
                "answered 404 Not Found: no",
            ),
        ] {
            let listener = free_port();
            let address = listener.local_addr().expect("bound").to_string();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                stream.write_all(reply.as_bytes()).expect("sent");
            });
            let message = fetch(&address).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            server.join().expect("no panic");
        }
    }

    #[test]
    fn upstreams_take_one_line() {
        let brief = |name: &str, state: &str| UpstreamBrief {
            name: name.to_owned(),
            state: state.to_owned(),
        };
        let up = brief("crm", "up");
        assert_eq!(upstreams_text(std::slice::from_ref(&up)), "tool servers: 1 of 1 up");
        let text = upstreams_text(&[up, brief("erp", "down")]);
        assert!(text.starts_with("tool servers: 1 of 2 up; erp is down ("), "{text}");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(count_text(0), "0");
        assert_eq!(count_text(999), "999");
        assert_eq!(count_text(1_000), "1,000");
        assert_eq!(count_text(12_345_678), "12,345,678");
        assert_eq!(span_text(59.9), "59 s");
        assert_eq!(span_text(61.0), "1 min 1 s");
        assert_eq!(span_text(3_700.0), "1 h 1 min");
        assert_eq!(span_text(90_000.0), "1 d 1 h");
        assert_eq!(seconds_text(Percentiles::default(), |p| p.p50_seconds), "-");
    }
}
