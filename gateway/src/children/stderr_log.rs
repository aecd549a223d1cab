//! A child's standard error as lines of the log.
//!
//! Invariants:
//! - The child never waits for the log: its output is read as fast as it comes.
//! - A line in the log has at most [`LINE_BYTES_MAX`] bytes, and no control characters that
//!   could steer a terminal.
//! - At most [`LINES_PER_SECOND_MAX`] lines a second are logged; how many were not, and how
//!   many bytes were cut, is logged instead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout_at;

use super::StderrUse;

/// What is longer is cut.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// Per child; the rest of a second is counted only.
pub const LINES_PER_SECOND_MAX: u32 = 100;

const READ_BYTES: usize = 8 * 1024;

/// How much of the last line an error may quote.
const LAST_WORDS_BYTES_MAX: usize = 300;

const SECOND: Duration = Duration::from_secs(1);

const IDLE_LOOK: Duration = Duration::from_secs(3600);

/// The last line a child wrote, shared with whoever tells why it ended.
#[derive(Clone, Debug, Default)]
pub(super) struct LastWords(Arc<Mutex<String>>);

impl LastWords {
    /// The last line that was not blank; empty if there was none.
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, line: &str) {
        let line = line.trim();
        if !line.is_empty() {
            let end = line.floor_char_boundary(LAST_WORDS_BYTES_MAX);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = line[..end].to_owned();
        }
    }
}

/// Reads to the end of `errors`.
pub(super) async fn log_lines(
    mut errors: impl AsyncRead + Unpin,
    usage: StderrUse,
    upstream: &str,
    child: i32,
    last_words: LastWords,
) {
    let mut lines = Lines::default();
    let mut rate = Rate::new(Instant::now());
    let mut buffer = vec![0; READ_BYTES];
    let log = |line: &str, cut: usize, rate: &mut Rate| {
        last_words.set(line);
        if usage == StderrUse::Log && rate.admits() {
            tracing::info!(
                event = "tool_server_stderr",
                upstream,
                child,
                cut_bytes = cut,
                "{line}"
            );
        }
    };
    loop {
        let read = timeout_at(rate.next_look().into(), errors.read(&mut buffer)).await;
        if let Some(dropped) = rate.turn(Instant::now()) {
            tell_dropped(upstream, child, dropped);
        }
        match read {
            // The second is over; nothing came.
            Err(_) => {}
            Ok(Err(_) | Ok(0)) => break,
            Ok(Ok(count)) => {
                lines.push(&buffer[..count], |line, cut| log(line, cut, &mut rate));
            }
        }
    }
    lines.finish(|line, cut| log(line, cut, &mut rate));
    if rate.dropped > 0 {
        tell_dropped(upstream, child, rate.dropped);
    }
}

fn tell_dropped(upstream: &str, child: i32, lines: u64) {
    tracing::warn!(
        event = "tool_server_stderr_dropped",
        upstream,
        child,
        lines,
        "the tool server wrote more than {LINES_PER_SECOND_MAX} lines a second to its standard error"
    );
}

/// Admits so many lines each second and counts the others.
struct Rate {
    began: Instant,
    admitted: u32,
    dropped: u64,
}

impl Rate {
    fn new(now: Instant) -> Rate {
        Rate { began: now, admitted: 0, dropped: 0 }
    }

    fn admits(&mut self) -> bool {
        if self.admitted < LINES_PER_SECOND_MAX {
            self.admitted += 1;
            return true;
        }
        self.dropped += 1;
        false
    }

    fn window_end(&self) -> Instant {
        self.began + SECOND
    }

    /// When to look although nothing came: soon only if there is something to tell.
    fn next_look(&self) -> Instant {
        if self.dropped > 0 { self.window_end() } else { Instant::now() + IDLE_LOOK }
    }

    /// Begins a new second if the old one is over; says how many lines that dropped, if any.
    fn turn(&mut self, now: Instant) -> Option<u64> {
        if now < self.window_end() {
            return None;
        }
        let dropped = std::mem::replace(self, Rate::new(now)).dropped;
        (dropped > 0).then_some(dropped)
    }
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    /// Bytes of the current line that were cut.
    cut: usize,
}

impl Lines {
    /// Calls `line` with each whole line's text and how many bytes were cut from it.
    fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str, usize)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.extend(&bytes[..end]);
            self.emit(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    /// The last line may lack its end.
    fn finish(&mut self, mut line: impl FnMut(&str, usize)) {
        if !self.partial.is_empty() {
            self.emit(&mut line);
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(LINE_BYTES_MAX - self.partial.len());
        self.partial.extend_from_slice(&bytes[..kept]);
        self.cut += bytes.len() - kept;
    }

    fn emit(&mut self, line: &mut impl FnMut(&str, usize)) {
        let bytes = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        line(&printable(bytes), self.cut);
        self.partial.clear();
        self.cut = 0;
    }
}

/// A child must not be able to forge log lines or steer a terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let replace =
        |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece, |line, cut| found.push((line.to_owned(), cut)));
        }
        lines.finish(|line, cut| found.push((line.to_owned(), cut)));
        found
    }

    fn line(text: &str) -> (String, usize) {
        (text.to_owned(), 0)
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        let expected = [line("one"), line(""), line("two"), line("three")];
        assert_eq!(cut(&[b"one\n\ntwo\r\nthree"]), expected);
        let bytes: Vec<&[u8]> = b"one\n\ntwo\r\nthree".chunks(1).collect();
        assert_eq!(cut(&bytes), expected);
    }

    #[test]
    fn long_lines_are_cut_and_counted() {
        let long = vec![b'a'; LINE_BYTES_MAX + 5];
        let found = cut(&[&long, b"bc\nnext\n"]);
        assert_eq!(found[0].0.len(), LINE_BYTES_MAX);
        assert_eq!((found[0].1, &found[1]), (7, &line("next")));
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(cut(&[b"\x1b[2J\ta\0\xff\n"]), [line("\u{fffd}[2J\ta\u{fffd}\u{fffd}")]);
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let admitted = (0..LINES_PER_SECOND_MAX + 3).filter(|_| rate.admits()).count();
        assert_eq!(admitted, LINES_PER_SECOND_MAX as usize);
        assert_eq!(rate.turn(start + SECOND / 2), None);
        assert_eq!(rate.turn(start + SECOND), Some(3));
        assert!(rate.admits());
        assert_eq!(rate.turn(start + 3 * SECOND), None);
    }

    #[tokio::test]
    async fn the_last_words_are_the_last_line_that_says_something() {
        let last_words = LastWords::default();
        let output: &[u8] = b"first\nno such table: users\n\n  \n";
        log_lines(output, StderrUse::Drop, "files", 1, last_words.clone()).await;
        assert_eq!(last_words.text(), "no such table: users");
    }
}
