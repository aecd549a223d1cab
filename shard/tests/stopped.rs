//! A process that is stopped and continued at any moment goes on serving.
//!
//! glommio 0.9 parked for ever with a runnable task if the thread lost its cpu for the
//! length of the preempt timer at the wrong moment; see `executor_loop`. The server runs
//! in a child process, which is this test binary once more.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use shardgate_shard::{
    CloseReason, ConnId, Io, ListenerId, RuntimeConfig, Service, ShardCount, start,
};

const PATIENCE: Duration = Duration::from_secs(30);
const STOPS: usize = 2_000;
const CLIENTS: usize = 4;
/// Set for the child process.
const SERVE: &str = "SHARD_TEST_SERVE";

struct Echo;

impl Service for Echo {
    type Message = ();

    fn handle_accept(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: ListenerId) {}
    fn handle_recv(&mut self, io: &mut Io<'_, ()>, conn: ConnId, bytes: &mut [u8]) {
        io.output(conn).unwrap().extend_from_slice(bytes);
    }
    fn handle_eof(&mut self, io: &mut Io<'_, ()>, conn: ConnId) {
        io.close_after_flush(conn);
    }
    fn handle_closed(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, ()>, _: ConnId, (): ()) {}
}

/// The child's part: serves until it is killed. Does nothing in the parent.
#[test]
fn serve_in_the_child() {
    if std::env::var_os(SERVE).is_none() {
        return;
    }
    let config = RuntimeConfig {
        listeners: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        shards: ShardCount::Exactly(2),
        share_cpus: true,
        // Yields as often as it can, so that most stops fall into the executor.
        yield_after_us: 1,
        ..RuntimeConfig::default()
    };
    let handle = start(config, |_| Echo).unwrap();
    println!("\nport={}", handle.addresses()[0].port());
    std::io::stdout().flush().unwrap();
    handle.join();
}

/// Kills the child when the test ends, in whatever way.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve() -> (Server, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serve_in_the_child", "--nocapture"])
        .env(SERVE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let server = Server(child);
    let port = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("port=").and_then(|port| port.parse().ok()));
    (server, SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap())))
}

#[test]
fn stops_at_any_moment_lose_no_wake_up() {
    let (server, address) = serve();
    let pid = Pid::from_child(&server.0);
    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                while !ended.load(Ordering::Relaxed) {
                    stream.write_all(b"still there?").unwrap();
                    stream.read_exact(&mut [0; 12]).unwrap();
                }
            })
        })
        .collect();
    for stop in 0..STOPS {
        kill_process(pid, Signal::STOP).unwrap();
        // How long the stop lasts is what is tested, not a wait for something.
        std::thread::sleep(Duration::from_micros(700));
        kill_process(pid, Signal::CONT).unwrap();
        std::thread::sleep(Duration::from_micros((stop as u64 * 37) % 1_000));
    }
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
}
