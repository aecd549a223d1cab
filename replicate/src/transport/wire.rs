//! The byte stream of one connection: TCP, bare or inside of TLS, with the options that a
//! link between nodes wants.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A connection that says nothing is probed after this time, and then as often.
const KEEPALIVE_S: u64 = 2;
/// Probes without an answer that end a connection.
const KEEPALIVE_PROBES: u32 = 3;

/// The byte stream of one connection.
#[derive(Debug)]
pub(super) enum Wire {
    /// For a configuration with `insecure = true`.
    Plain(TcpStream),
    /// Both sides have shown certificates.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Sets a new connection up: no delay, and an end of its own if the peer's machine is gone.
///
/// A peer that does not acknowledge within `unacknowledged_max`, or that takes no bytes for
/// as long, is given up by the kernel (RFC 5482); an idle connection is probed.
pub(super) fn prepare(tcp: &TcpStream, unacknowledged_max: Duration) -> io::Result<()> {
    sockopt::set_tcp_nodelay(tcp, true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, Duration::from_secs(KEEPALIVE_S))?;
    sockopt::set_tcp_keepintvl(tcp, Duration::from_secs(KEEPALIVE_S))?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_PROBES)?;
    let unacknowledged_ms = u32::try_from(unacknowledged_max.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(tcp, unacknowledged_ms)?)
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Wire::Tls(tls) => Pin::new(tls.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Wire::Tls(tls) => Pin::new(tls.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Wire::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Wire::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_peer_whose_machine_is_gone_is_given_up_by_the_kernel() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("bound");
            let tcp = TcpStream::connect(address).await.expect("it listens");
            prepare(&tcp, Duration::from_millis(1_500)).expect("options of Linux");
            assert_eq!(sockopt::tcp_user_timeout(&tcp), Ok(1_500));
            assert_eq!(sockopt::socket_keepalive(&tcp), Ok(true));
            assert_eq!(sockopt::tcp_keepidle(&tcp), Ok(Duration::from_secs(KEEPALIVE_S)));
            assert_eq!(sockopt::tcp_keepintvl(&tcp), Ok(Duration::from_secs(KEEPALIVE_S)));
            assert_eq!(sockopt::tcp_keepcnt(&tcp), Ok(KEEPALIVE_PROBES));
            assert_eq!(sockopt::tcp_nodelay(&tcp), Ok(true));
        });
    }
}
