//! A gateway before four real servers, each of which records what it receives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::any_client::AnyClient;
use crate::harness::client::{Client, until};
use crate::harness::gateway::{Gateway, Launch};
use crate::harness::metrics::Page;
use crate::harness::record::Record;
use crate::harness::servers::{Kind, ReferenceServer, Stdio, recording, signal};

/// The text of the file that clients may read.
pub(crate) const NOTES: &str = "Real files, read through the gateway.\n";

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// npm's `server-everything`, over stdio.
    Everything,
    /// npm's `server-filesystem`, over stdio.
    Filesystem,
    /// npm's `server-memory`, over stdio.
    Memory,
    /// The Python SDK's, over HTTP.
    Python,
}

impl Which {
    /// All of them, in the order of the configuration.
    pub(crate) const ALL: [Which; 4] =
        [Which::Everything, Which::Filesystem, Which::Memory, Which::Python];

    /// Its name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Which::Everything => "everything",
            Which::Filesystem => "filesystem",
            Which::Memory => "memory",
            Which::Python => "python",
        }
    }

    /// One of its tools, by the name that holds whoever else is up.
    pub(crate) fn some_tool(self) -> &'static str {
        match self {
            Which::Everything => "get-tiny-image",
            Which::Filesystem => "read_text_file",
            Which::Memory => "read_graph",
            Which::Python => "report",
        }
    }
}

/// A gateway on two shards, its servers and their files.
pub(crate) struct Ground {
    /// The gateway.
    pub(crate) gateway: Gateway,
    python: Option<ReferenceServer>,
    records: [Record; 4],
    directory: TempDir,
}

impl Ground {
    /// With all servers up, and known on both shards.
    pub(crate) async fn start() -> Ground {
        let ground = Ground::start_with(async |_| {}).await;
        ground.until_known(&Which::ALL).await;
        ground
    }

    /// With the Python server down; the others are known on both shards.
    pub(crate) async fn start_without_python() -> Ground {
        let ground = Ground::start_with(async |python| python.kill()).await;
        ground.until_known(&[Which::Everything, Which::Filesystem, Which::Memory]).await;
        ground
    }

    /// `before` is done to the Python server before the gateway starts.
    async fn start_with(before: impl AsyncFnOnce(&mut ReferenceServer)) -> Ground {
        let directory = tempfile::tempdir().expect("a directory for the servers");
        let open = directory.path().join("open");
        fs::create_dir(&open).expect("make the open directory");
        fs::write(open.join("notes.txt"), NOTES).expect("write a file to read");
        fs::write(directory.path().join("secret.txt"), "secret").expect("write a hidden file");
        let records = Which::ALL.map(|server| Record::new(directory.path(), server.name()));
        let [everything, filesystem, memory, of_python] = &records;
        let mut python = ReferenceServer::start_recorded(Kind::Python, of_python).await;
        let graph = directory.path().join("graph.jsonl");
        let entries = [
            child(Which::Everything, &Stdio::Everything, everything),
            child(Which::Filesystem, &Stdio::Filesystem(open), filesystem),
            child(Which::Memory, &Stdio::Memory(graph), memory),
            entry(Which::Python, &format!("url = \"{}\"", python.url)),
        ];
        before(&mut python).await;
        let config = format!("{}{}", Launch::SHORT_PAGES, entries.concat());
        let gateway = Launch::default().shards(2).config(&config).start();
        Ground { gateway, python: Some(python), records, directory }
    }

    async fn until_known(&self, servers: &[Which]) {
        let client = Client::Modern(self.gateway.listen);
        for server in servers {
            client.wait_for_tool(server.some_tool(), true).await;
        }
    }

    /// Clients of all kinds. Those with roots have the directory of the filesystem server.
    pub(crate) async fn clients(&self) -> [(&'static str, AnyClient); 4] {
        AnyClient::of_all_kinds(&self.gateway, &self.directory.path().join("open")).await
    }

    /// What a server has received.
    pub(crate) fn record(&self, server: Which) -> &Record {
        let [everything, filesystem, memory, python] = &self.records;
        match server {
            Which::Everything => everything,
            Which::Filesystem => filesystem,
            Which::Memory => memory,
            Which::Python => python,
        }
    }

    /// Where a file is to which the filesystem server gives access.
    pub(crate) fn open_file(&self, name: &str) -> PathBuf {
        self.directory.path().join("open").join(name)
    }

    /// Makes a file of which a read does not end, as nobody writes to it.
    pub(crate) fn make_endless(path: &Path) {
        let made = Command::new("mkfifo").arg(path).status();
        assert!(made.is_ok_and(|status| status.success()), "make a pipe at {}", path.display());
    }

    /// The file in which the memory server keeps its graph.
    pub(crate) fn graph_file(&self) -> PathBuf {
        self.directory.path().join("graph.jsonl")
    }

    /// A file that is there and out of its bounds.
    pub(crate) fn secret_file(&self) -> PathBuf {
        self.directory.path().join("secret.txt")
    }

    /// How many tools a server offers.
    pub(crate) async fn tools_of(&self, server: Which) -> f64 {
        let page = Page::fetch(self.gateway.admin).await;
        page.of_upstream("shardgate_upstream_tools", server.name())
    }

    /// Kills all processes of a server with SIGKILL.
    pub(crate) fn kill(&mut self, server: Which) {
        if server == Which::Python {
            return self.python.as_mut().expect("it is always put back").kill();
        }
        let living = self.record(server).living();
        assert!(!living.is_empty(), "{server:?} has no process to kill");
        for pid in living {
            signal(pid, "KILL");
        }
    }

    /// Starts the Python server again at its old address. Over stdio that is the gateway's.
    pub(crate) async fn restart_python(&mut self) {
        let python = self.python.take().expect("it is always put back");
        self.python = Some(python.restart().await);
    }

    /// Calls a server for something that is done at once; gives back what is not a good answer.
    pub(crate) async fn ask(&self, client: &AnyClient, server: Which) -> Result<(), Value> {
        let (tool, arguments) = match server {
            Which::Everything => ("get-sum", json!({ "a": 2, "b": 3 })),
            Which::Filesystem => ("read_text_file", json!({ "path": self.open_file("notes.txt") })),
            Which::Memory => ("read_graph", json!({})),
            Which::Python => ("add", json!({ "a": 2, "b": 3 })),
        };
        let answer = client.call(tool, &arguments).await;
        let good = answer["result"].is_object() && answer["result"]["isError"] != true;
        if good { Ok(()) } else { Err(answer) }
    }

    /// Waits until a server answers a client that does nothing but ask.
    pub(crate) async fn until_back(&self, client: &AnyClient, server: Which) {
        until(&format!("{server:?} is back"), async || self.ask(client, server).await.ok()).await;
    }
}

/// An entry of the configuration. A server that is down is tried again soon.
fn entry(server: Which, options: &str) -> String {
    let name = server.name();
    format!("[[upstream]]\nname = \"{name}\"\nbreaker_open_ms = 200\n{options}\n")
}

/// The entry of a server over stdio.
fn child(server: Which, stdio: &Stdio, record: &Record) -> String {
    let variables = recording(record).map(|(name, value)| format!("{name} = {value:?}"));
    let (command, env) = (stdio.command(), variables.join(", "));
    entry(server, &format!("command = {command:?}\nenv = {{ {env} }}"))
}
