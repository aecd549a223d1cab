//! An MCP server of one thread per connection that does what a plan says to each request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// What the server does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Answers as it should.
    Answer,
    /// Answers, and nobody is answered meanwhile, for so long.
    Stall(Duration),
    /// Answers with this status and no body.
    Status(u16),
    /// Answers with a JSON-RPC error of this code.
    Error(i64),
    /// Closes the connection instead.
    Close,
    /// Answers, but to another request.
    WrongId,
    /// Gives the same answer whatever is asked.
    FixedReply,
    /// Answers as an event of a stream.
    Event,
    /// Says nothing, and keeps the connection.
    Silence,
}

/// What the server has counted.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests by method.
    pub(crate) methods: Mutex<BTreeMap<String, u64>>,
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    open: AtomicU64,
    /// The most that were open at once.
    pub(crate) open_max: AtomicU64,
    /// Tool calls, in the order of their arrival.
    calls: AtomicU64,
}

impl Seen {
    /// How many requests of a method there were.
    pub(crate) fn count(&self, method: &str) -> u64 {
        self.methods.lock().unwrap().get(method).copied().unwrap_or_default()
    }
}

type Plan = dyn Fn(u64) -> Act + Send + Sync;

struct Shared {
    /// What is done with the n-th tool call, counted from 0.
    plan: Box<Plan>,
    seen: Seen,
    /// Held for writing while the server stalls.
    gate: RwLock<()>,
    refusing: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// The server; its threads end with the test's process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// A server that does with the n-th tool call what `plan` says.
    pub(crate) fn start(plan: impl Fn(u64) -> Act + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            plan: Box::new(plan),
            seen: Seen::default(),
            gate: RwLock::new(()),
            refusing: AtomicBool::new(false),
            streams: Mutex::new(Vec::new()),
        });
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if for_thread.refusing.load(Ordering::Relaxed) {
                    return;
                }
                for_thread.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&for_thread);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Server { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    /// Closes all connections and takes no more.
    pub(crate) fn vanish(&self) {
        self.shared.refusing.store(true, Ordering::Relaxed);
        // Wakes the accepting thread, which then closes the listener.
        drop(TcpStream::connect(self.address));
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Shared {
    /// One connection, until either side closes it.
    fn serve(&self, stream: TcpStream) {
        let seen = &self.seen;
        stream.set_nodelay(true).unwrap();
        seen.accepted.fetch_add(1, Ordering::Relaxed);
        let open = seen.open.fetch_add(1, Ordering::Relaxed) + 1;
        seen.open_max.fetch_max(open, Ordering::Relaxed);
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            let Some(answer) = self.answer(&request) else { break };
            if writer.write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
        let _ = writer.shutdown(std::net::Shutdown::Both);
        seen.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// `None` closes the connection.
    fn answer(&self, request: &Request) -> Option<String> {
        let body = &request.body;
        let method = body["method"].as_str().unwrap_or(&request.verb);
        *self.seen.methods.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        let act = match method {
            "tools/call" => (self.plan)(self.seen.calls.fetch_add(1, Ordering::Relaxed)),
            _ => Act::Answer,
        };
        if let Act::Stall(length) = act {
            let _all = self.gate.write().unwrap();
            thread::sleep(length);
        }
        let _nobody_stalls = self.gate.read().unwrap();
        let id = &body["id"];
        Some(match (act, method) {
            (_, "notifications/initialized" | "DELETE") => http(202, "", ""),
            (Act::Close, _) => return None,
            (Act::Silence, _) => String::new(),
            (Act::Status(status), _) => http(status, "", ""),
            (Act::Error(code), _) => {
                let error = json!({"code": code, "message": "by plan"});
                message(&json!({"jsonrpc": "2.0", "id": id, "error": error}))
            }
            (Act::WrongId, _) => message(&json!({"jsonrpc": "2.0", "id": 1, "result": {}})),
            (Act::FixedReply, _) => {
                message(&json!({"jsonrpc": "2.0", "id": 1_000_000_000, "result": {}}))
            }
            (Act::Event, _) => {
                let event = json!({"jsonrpc": "2.0", "id": id, "result": {}});
                http(200, "Content-Type: text/event-stream\r\n", &format!("data: {event}\n\n"))
            }
            (Act::Answer | Act::Stall(_), _) => {
                message(&json!({"jsonrpc": "2.0", "id": id, "result": result(method)}))
            }
        })
    }
}

/// Members in alphabetical order, as `json!` writes them, are in no other server's order:
/// so the generator's full reading of answers is tested as well.
fn result(method: &str) -> Value {
    match method {
        "initialize" => json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "planned", "version": "1"},
        }),
        "tools/list" => json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}),
        _ => json!({"content": []}),
    }
}

fn message(message: &Value) -> String {
    http(200, "Content-Type: application/json\r\nMcp-Session-Id: planned\r\n", &message.to_string())
}

fn http(status: u16, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
}

struct Request {
    verb: String,
    body: Value,
}

/// `None` if the client has closed.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let verb = line.split(' ').next()?.to_owned();
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        if field.trim().is_empty() {
            break;
        }
        if let Some(value) = field.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if verb.is_empty() {
        return None;
    }
    Some(Request { verb, body: serde_json::from_slice(&body).unwrap_or_default() })
}
