//! Standard input and output as lines, each on a thread of its own.
//!
//! Reading and writing block as long as the other side likes, so neither happens on the
//! thread that talks to the gateway. The channels between are short: a client that does
//! not read its answers slows the streams down instead of filling memory.
//!
//! Invariants:
//! - Standard output carries one JSON message per line and nothing else.
//! - A line that is too long is read to its end and dropped, so the next one is sound.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;

use hyper::body::Bytes;
use tokio::sync::{mpsc, oneshot};

/// The longest message in either direction.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Lines that were read and wait for their turn.
const INPUT_LINES_MAX: usize = 16;
/// Messages that wait to be written.
const OUTPUT_LINES_MAX: usize = 64;
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// What standard input brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A line, without its end; never empty.
    Line(Bytes),
    /// A line of more than [`MESSAGE_BYTES_MAX`] bytes, which was dropped.
    TooLong,
}

/// Starts reading; the channel closes at the input's end.
pub(super) fn start_input() -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(INPUT_LINES_MAX);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, io::stdin().lock());
        loop {
            let input = match next_line(&mut reader, MESSAGE_BYTES_MAX) {
                Ok(Some(input)) => input,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(error = error.to_string(), "standard input can't be read");
                    return;
                }
            };
            if sender.blocking_send(input).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The next line that isn't blank. A last line needs no line feed.
fn next_line(reader: &mut impl BufRead, bytes_max: usize) -> io::Result<Option<Input>> {
    loop {
        let mut line = Vec::new();
        // One byte more than allowed, and one for the line feed: enough to tell.
        let limit = bytes_max as u64 + 2;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        let is_whole = line.last() == Some(&b'\n');
        let text = trim_end(&line).len();
        if text > bytes_max {
            if !is_whole {
                reader.skip_until(b'\n')?;
            }
            return Ok(Some(Input::TooLong));
        }
        line.truncate(text);
        if !line.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(Input::Line(line.into())));
        }
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Standard output is closed: whoever started the bridge is gone.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct ClientGone;

/// Where messages to the client go.
#[derive(Clone, Debug)]
pub(super) struct Output {
    lines: mpsc::Sender<Vec<u8>>,
}

/// A message is never empty, so this marks the end.
const END: Vec<u8> = Vec::new();

impl Output {
    /// Starts writing. The second value resolves once everything before
    /// [`Output::finish`] is written, or nothing can be written any more.
    pub(super) fn start() -> io::Result<(Output, oneshot::Receiver<()>)> {
        let (lines, mut receiver) = mpsc::channel::<Vec<u8>>(OUTPUT_LINES_MAX);
        let (done, finished) = oneshot::channel();
        thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            let mut stdout = io::stdout().lock();
            while let Some(line) = receiver.blocking_recv() {
                if line == END || stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
                    break;
                }
            }
            // Nobody listens any more if the bridge has given up waiting.
            let _ = done.send(());
        })?;
        Ok((Output { lines }, finished))
    }

    /// Writes a message. `message` must be JSON.
    pub(super) async fn send(&self, message: &[u8]) -> Result<(), ClientGone> {
        self.lines.send(one_line(message)).await.map_err(|_| ClientGone)
    }

    /// Says that nothing more comes.
    pub(super) async fn finish(&self) {
        // Fails only if standard output is closed, which is an end too.
        let _ = self.lines.send(END).await;
    }

    /// Resolves once standard output is closed.
    pub(super) async fn closed(&self) {
        self.lines.closed().await;
    }
}

/// The message in one line. In JSON a line break stands between tokens only (inside a
/// string it is escaped), so a space means the same.
fn one_line(message: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(message.len() + 1);
    line.extend_from_slice(message.trim_ascii());
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', &line[from..]) {
        line[from + at] = b' ';
        from += at + 1;
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], bytes_max: usize) -> Vec<Input> {
        // A tiny buffer, so that lines come in pieces.
        let mut reader = BufReader::with_capacity(3, text);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut reader, bytes_max).expect("memory can be read") {
            lines.push(line);
        }
        lines
    }

    fn line(text: &'static str) -> Input {
        Input::Line(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn lines_end_with_lf_crlf_or_the_input() {
        assert_eq!(
            lines(b"{\"a\":1}\n\n  \r\n{}\r\n[]", 100),
            [line("{\"a\":1}"), line("{}"), line("[]")]
        );
        assert_eq!(lines(b"", 100), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_is_sound() {
        assert_eq!(lines(b"1234\n12345\n1\n", 4), [line("1234"), Input::TooLong, line("1")]);
        assert_eq!(lines(b"1234\r\n123456789\r\n1", 4), [line("1234"), Input::TooLong, line("1")]);
        assert_eq!(lines(b"123456789", 4), [Input::TooLong]);
    }

    #[test]
    fn a_message_becomes_one_line() {
        assert_eq!(one_line(b" {\n  \"a\": \"\\n\"\r\n}\n"), b"{   \"a\": \"\\n\"  }\n");
    }
}
