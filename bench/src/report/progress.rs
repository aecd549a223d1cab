//! How a run is going, while it goes: a line that changes on a terminal, a new line every
//! [`QUIET_PERIOD_S`] seconds elsewhere (a log of CI is no place for a bar).
//!
//! All of it goes to standard error, so that the table on standard output can be piped.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::quantities::{count_text, duration_text, printable, rate_text, span_text};
use crate::outcome::Second;

/// Seconds between two lines where there is no terminal.
pub const QUIET_PERIOD_S: f64 = 5.0;

/// Times a second the bar is drawn at most.
const DRAWS_PER_SECOND: u8 = 5;
const BAR: &str = "{bar:24.cyan/dim} {wide_msg}";

/// The progress of one run.
pub struct Progress {
    sink: Sink,
    length_s: f64,
    stage: String,
    /// What was counted since the last line that was shown.
    since: Sum,
}

enum Sink {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

/// Some seconds as one.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    from_s: f64,
    to_s: f64,
    completed: u64,
    shed: u64,
    errors: u64,
    /// Of the last second; medians cannot be added.
    p50: u64,
    /// The highest.
    p99: u64,
    connections: u32,
}

impl Progress {
    /// For a run of so many seconds, on standard error.
    pub fn start(length_s: f64) -> Progress {
        match io::stderr().is_terminal() {
            true => Progress::on_terminal(length_s),
            false => Progress::in_lines(length_s, Box::new(io::stderr())),
        }
    }

    fn on_terminal(length_s: f64) -> Progress {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let length = Duration::from_secs_f64(length_s.max(0.0)).as_millis();
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let bar = ProgressBar::with_draw_target(Some(length), target);
        let style = ProgressStyle::with_template(BAR).expect("the template is valid");
        bar.set_style(style.progress_chars("━━─"));
        Progress::with(Sink::Bar(bar), length_s)
    }

    fn in_lines(length_s: f64, writer: Box<dyn Write + Send>) -> Progress {
        Progress::with(Sink::Lines(writer), length_s)
    }

    fn with(sink: Sink, length_s: f64) -> Progress {
        Progress { sink, length_s, stage: String::new(), since: Sum::default() }
    }

    /// Another stage begins; its name is shown from now on.
    pub fn stage(&mut self, name: &str) {
        self.stage = printable(name);
    }

    /// A second has passed.
    pub fn second(&mut self, second: &Second) {
        self.since.add(second);
        let is_due = match &self.sink {
            Sink::Bar(_) => true,
            Sink::Lines(_) => {
                let is_over = second.at_s + 0.5 >= self.length_s;
                self.since.to_s - self.since.from_s + 0.5 >= QUIET_PERIOD_S || is_over
            }
        };
        if is_due {
            self.show();
        }
    }

    /// A line between the others: a warning, a remark.
    pub fn say(&mut self, line: &str) {
        let line = printable(line);
        match &mut self.sink {
            Sink::Bar(bar) => bar.suspend(|| anstream::eprintln!("{line}")),
            // A reader that has gone away is no reason to end a run.
            Sink::Lines(writer) => drop(writeln!(writer, "{line}")),
        }
    }

    /// The run is over; the bar disappears, for the table says it all.
    pub fn finish(self) {
        match self.sink {
            Sink::Bar(bar) => bar.finish_and_clear(),
            Sink::Lines(mut writer) => drop(writer.flush()),
        }
    }

    fn show(&mut self) {
        let line = self.since.line(self.length_s, &self.stage);
        match &mut self.sink {
            Sink::Bar(bar) => {
                bar.set_position((self.since.to_s * 1e3) as u64);
                bar.set_message(line);
            }
            Sink::Lines(writer) => drop(writeln!(writer, "{line}")),
        }
        self.since = Sum { from_s: self.since.to_s, to_s: self.since.to_s, ..Sum::default() };
    }
}

impl Sum {
    fn add(&mut self, second: &Second) {
        self.to_s = second.at_s;
        self.completed += second.completed;
        self.shed += second.shed;
        self.errors += second.errors;
        self.p50 = second.p50;
        self.p99 = self.p99.max(second.p99);
        self.connections = second.connections;
    }

    fn line(&self, length_s: f64, stage: &str) -> String {
        let span = self.to_s - self.from_s;
        let rate = if span > 0.0 { self.completed as f64 / span } else { 0.0 };
        let mut parts = vec![
            format!("{} of {}", span_text(self.to_s.round()), span_text(length_s.round())),
            rate_text(rate),
        ];
        // Without answers there are no latencies.
        if self.completed > 0 {
            let (p50, p99) = (duration_text(self.p50 as f64), duration_text(self.p99 as f64));
            parts.push(format!("p50 {p50}, p99 {p99}"));
        }
        parts.push(format!("{} connections", count_text(u64::from(self.connections))));
        if self.shed > 0 {
            parts.push(format!("{} shed", count_text(self.shed)));
        }
        parts.push(format!("{} errors", count_text(self.errors)));
        if !stage.is_empty() {
            parts.push(stage.to_owned());
        }
        parts.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;
    use crate::report::sample;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn lines(&self) -> Vec<String> {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn second(at_s: f64, completed: u64) -> Second {
        Second { at_s, completed, p50: 400, p99: 1_200, connections: 512, ..Second::default() }
    }

    #[test]
    fn elsewhere_a_line_comes_every_few_seconds_and_at_the_end() {
        let out = Shared::default();
        let mut progress = Progress::in_lines(12.0, Box::new(out.clone()));
        progress.stage("warm-up");
        for at in 1..=12 {
            if at == 3 {
                progress.stage("hold");
            }
            let at = f64::from(at) + 0.01;
            progress.second(&Second { errors: 2, p99: at as u64 * 1_000, ..second(at, 1_000) });
        }
        progress.finish();
        let latency = |p99| format!("1,000/s · p50 400 µs, p99 {p99} ms · 512 connections");
        // The first line covers a hundredth of a second more than five.
        let lines = out.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(
            lines[0],
            "5 s of 12 s · 998/s · p50 400 µs, p99 5.00 ms · 512 connections · 10 errors · hold"
        );
        assert_eq!(lines[1], format!("10 s of 12 s · {} · 10 errors · hold", latency("10.0")));
        assert_eq!(lines[2], format!("12 s of 12 s · {} · 4 errors · hold", latency("12.0")));
    }

    #[test]
    fn a_whole_run_is_told_in_a_few_lines() {
        let out = Shared::default();
        let outcome = sample::outcome();
        let mut progress = Progress::in_lines(60.0, Box::new(out.clone()));
        outcome.seconds.iter().for_each(|second| progress.second(second));
        progress.finish();
        let lines = out.lines();
        assert_eq!(lines.len(), 12, "{lines:?}");
        assert!(
            lines[11].contains(" shed · ") && lines[11].starts_with("60 s of 60 s"),
            "{lines:?}"
        );
    }

    #[test]
    fn seconds_without_answers_have_no_latency() {
        let out = Shared::default();
        let mut progress = Progress::in_lines(1.0, Box::new(out.clone()));
        progress.second(&second(1.0, 0));
        progress.say("a \u{1b}[2Jremark");
        assert_eq!(out.lines(), ["1 s of 1 s · 0/s · 512 connections · 0 errors", "a  [2Jremark"]);
    }

    #[test]
    fn on_a_terminal_each_second_is_shown() {
        let mut progress = Progress::on_terminal(60.0);
        progress.stage("hold");
        progress.second(&second(1.0, 50_000));
        let Sink::Bar(bar) = &progress.sink else { panic!("a bar") };
        assert_eq!((bar.position(), bar.length()), (1_000, Some(60_000)));
        assert!(bar.message().starts_with("1 s of 60 s · 50,000/s · p50 400 µs"));
        progress.finish();
    }
}
