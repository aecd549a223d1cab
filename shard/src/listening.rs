//! The listening sockets: one per shard and address, spread by SO_REUSEPORT.
//!
//! Invariant: all sockets of an address share one port, also where port 0 was asked
//! for; all of them listen before any shard accepts, so a client that connects early
//! waits in a queue and is not refused.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

/// The sockets of one shard, in the order of the listeners.
pub(crate) type ShardSockets = Vec<OwnedFd>;

/// Why an address can't be listened at.
#[derive(Debug, thiserror::Error)]
#[error("{operation} at {address} for the listeners; {way_out}")]
pub struct ListenError {
    address: SocketAddr,
    operation: &'static str,
    way_out: &'static str,
    #[source]
    source: io::Error,
}

/// Opens the sockets of all shards; also returns the addresses with their real ports.
pub(crate) fn open(
    addresses: &[SocketAddr],
    shards: usize,
    backlog: u32,
) -> Result<(Vec<SocketAddr>, Vec<ShardSockets>), ListenError> {
    let mut sockets: Vec<ShardSockets> = (0..shards).map(|_| Vec::new()).collect();
    let mut bound = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let mut address = address;
        for shard in &mut sockets {
            let socket = listen(address, backlog)?;
            if address.port() == 0 {
                address = local_address(&socket, address)?;
            }
            shard.push(socket.into());
        }
        bound.push(address);
    }
    Ok((bound, sockets))
}

fn listen(address: SocketAddr, backlog: u32) -> Result<Socket, ListenError> {
    let because =
        |operation, way_out| move |source| ListenError { address, operation, way_out, source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(because("open a socket", "raise RLIMIT_NOFILE (ulimit -n)"))?;
    let options = socket
        .set_reuse_address(true)
        .and_then(|()| socket.set_reuse_port(true))
        // Accepted sockets inherit it: answers are sent whole, so there is nothing to wait for.
        .and_then(|()| socket.set_tcp_nodelay(true))
        .and_then(|()| if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) });
    options.map_err(because("set SO_REUSEPORT and TCP_NODELAY", "a Linux kernel is needed"))?;
    socket.bind(&address.into()).map_err(because(
        "bind",
        "see who uses the port (ss -ltnp), take another one, or allow this user ports below 1024",
    ))?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    socket.listen(backlog).map_err(because("listen", "see who uses the port (ss -ltnp)"))?;
    Ok(socket)
}

fn local_address(socket: &Socket, address: SocketAddr) -> Result<SocketAddr, ListenError> {
    let found = socket.local_addr().map(|local| local.as_socket());
    found.map(|local| local.unwrap_or(address)).map_err(|source| ListenError {
        address,
        operation: "read the port taken",
        way_out: "configure a fixed port",
        source,
    })
}
