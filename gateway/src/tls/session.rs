//! One TLS connection as a machine: the peer's bytes in, plaintext and bytes for it out.
//!
//! Invariants:
//! - Nothing of the caller's is sent before the handshake has shown who the server is.
//! - After a [`Step`] with an end the session is of no more use.
//! - No byte of the peer's makes it panic or grow beyond a record and a handshake message
//!   (rustls' own bounds); plaintext is handed out in the step in which it came.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::ClientConnection;
use shardgate_proto::upstream::LinkEnd;

use super::TlsClient;
use super::fault;

/// A client's side of a TLS connection.
#[derive(Debug)]
pub(crate) struct TlsSession {
    client: Arc<TlsClient>,
    connection: ClientConnection,
    is_open: bool,
    has_heard: bool,
}

/// What a server's bytes have brought about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// The handshake has just ended well.
    pub(crate) opened: bool,
    /// The connection has ended, behind the plaintext of this step.
    pub(crate) end: Option<LinkEnd>,
}

impl TlsSession {
    /// Begins a handshake: its first bytes are appended to `output`.
    ///
    /// # Errors
    /// A sentence: the library can't begin.
    pub(crate) fn begin(
        client: &Arc<TlsClient>,
        output: &mut Vec<u8>,
    ) -> Result<TlsSession, String> {
        let mut connection = ClientConnection::new(Arc::clone(&client.config), client.name.clone())
            .map_err(|error| format!("begin TLS: {error}"))?;
        // Whoever sends is bounded by the limits of messages; a bound here would cut them.
        connection.set_buffer_limit(None);
        let client = Arc::clone(client);
        let mut session = TlsSession { client, connection, is_open: false, has_heard: false };
        session.flush(output);
        Ok(session)
    }

    /// Takes what the server sent. Plaintext and answers are appended.
    pub(crate) fn receive(
        &mut self,
        mut bytes: &[u8],
        plaintext: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Step {
        let mut step = Step::default();
        if let Some(&first) = bytes.first().filter(|_| !self.has_heard) {
            self.has_heard = true;
            if !fault::begins_tls(first) {
                step.end = Some(LinkEnd::Unreachable(fault::no_tls(bytes)));
                return step;
            }
        }
        while !bytes.is_empty() && step.end.is_none() {
            step.end = self.advance(&mut bytes, plaintext);
        }
        self.flush(output);
        let failed = matches!(step.end, Some(LinkEnd::Unreachable(_)));
        if !self.is_open && !failed && !self.connection.is_handshaking() {
            self.is_open = true;
            step.opened = true;
        }
        step
    }

    /// Takes a part of `bytes`. `Some` if that ends the connection.
    fn advance(&mut self, bytes: &mut &[u8], plaintext: &mut Vec<u8>) -> Option<LinkEnd> {
        if let Err(error) = self.connection.read_tls(bytes) {
            return Some(self.end(format!("TLS: {error}")));
        }
        let state = match self.connection.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                let why = if self.is_open {
                    format!("TLS: {error}")
                } else {
                    fault::handshake(&error, &self.client.name, self.client.trusted)
                };
                return Some(self.end(why));
            }
        };
        let mut reader = self.connection.reader();
        match reader.by_ref().take(state.plaintext_bytes_to_read() as u64).read_to_end(plaintext) {
            Ok(_) => {}
            // What was there is read, and no more is needed now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Some(self.end(format!("TLS: {error}"))),
        }
        // RFC 8446, 6.1: "Any data received after a closure alert has been received MUST be
        // ignored."
        state.peer_has_closed().then_some(LinkEnd::Closed)
    }

    /// Encrypts `bytes`, once the handshake has ended well.
    pub(crate) fn send(&mut self, bytes: &[u8], output: &mut Vec<u8>) {
        debug_assert!(self.is_open, "the caller waits for the handshake");
        // Without a limit rustls takes all and can't fail.
        let _ = self.connection.writer().write_all(bytes);
        self.flush(output);
    }

    /// RFC 8446, 6.1: "Each party MUST send a "close_notify" alert before closing its write
    /// side of the connection".
    pub(crate) fn close(&mut self, output: &mut Vec<u8>) {
        self.connection.send_close_notify();
        self.flush(output);
    }

    /// What it means that the server's bytes end here.
    pub(crate) fn cut(&self) -> LinkEnd {
        if self.is_open {
            return LinkEnd::Broken(fault::NO_CLOSE_NOTIFY.to_owned());
        }
        let why = if self.has_heard { fault::CUT_SHORT } else { fault::NO_ANSWER };
        LinkEnd::Unreachable(why.to_owned())
    }

    /// What it means that the connection broke.
    pub(crate) fn broken(&self, error: &io::Error) -> LinkEnd {
        if self.is_open {
            return LinkEnd::Broken(format!("the connection broke: {error}"));
        }
        LinkEnd::Unreachable(format!("the connection broke during the TLS handshake: {error}"))
    }

    fn end(&self, why: String) -> LinkEnd {
        if self.is_open { LinkEnd::Broken(why) } else { LinkEnd::Unreachable(why) }
    }

    fn flush(&mut self, output: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Writing into memory does not fail.
            if self.connection.write_tls(output).is_err() {
                return;
            }
        }
    }
}
