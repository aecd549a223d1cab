//! The processes and files of a cluster on this machine.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::admin::{self, Question};
use crate::config::{Config, Overrides};

/// A node that is not ready by then is taken for one that will not be.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A drain has this long on top of its own deadline.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of a node's log that are shown when it fails.
const LOG_LINES_SHOWN: usize = 5;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LocalError {
    #[error("there is no cluster in {}; `shardgate cluster start --dir` makes one, and --admin asks one elsewhere", dir.display())]
    None { dir: PathBuf },
    #[error("{step} {}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("draw a session secret from the kernel")]
    Random(#[source] getrandom::Error),
    #[error("find free ports on loopback")]
    Ports(#[source] io::Error),
    #[error("the configuration of node {name} is not usable")]
    Config {
        name: String,
        #[source]
        source: Box<crate::config::ConfigError>,
    },
    #[error("start node {name}")]
    Start {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("node {name} has ended; its log {} ends with:\n{tail}", log.display())]
    Ended { name: String, log: PathBuf, tail: String },
    #[error("node {name} is not ready after {} s; its log {} ends with:\n{tail}", READY_WITHIN.as_secs(), log.display())]
    NotReady { name: String, log: PathBuf, tail: String },
    #[error("node {name} (process {pid}) still runs after its drain's deadline; look at its log {}", log.display())]
    StillRuns { name: String, pid: u32, log: PathBuf },
    #[error("ask process {pid} of node {name} to end")]
    Signal {
        name: String,
        pid: u32,
        #[source]
        source: io::Error,
    },
}

/// A cluster in a directory.
pub(super) struct LocalCluster {
    dir: PathBuf,
    nodes: Vec<LocalNode>,
}

struct LocalNode {
    name: String,
    dir: PathBuf,
    config: Config,
}

/// A file's error, with what was done to it.
fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::File { step, path, source }
}

impl LocalCluster {
    /// The cluster that is there, or a new one of so many nodes.
    pub(super) fn open_or_make(dir: &Path, nodes: u16) -> Result<LocalCluster, LocalError> {
        if !dir.join("n1").join("shardgate.toml").exists() {
            make(dir, nodes)?;
        }
        LocalCluster::open(dir)
    }

    /// The cluster that is there.
    pub(super) fn open(dir: &Path) -> Result<LocalCluster, LocalError> {
        let mut nodes = Vec::new();
        for number in 1.. {
            let name = format!("n{number}");
            let node = dir.join(&name);
            let file = node.join("shardgate.toml");
            if !file.exists() {
                break;
            }
            let config = Config::load(Some(&file), &Overrides::default());
            let config = config.map_err(|source| LocalError::Config {
                name: name.clone(),
                source: Box::new(source),
            })?;
            let node = node.canonicalize().map_err(at("find", &node))?;
            nodes.push(LocalNode { name, dir: node, config });
        }
        match nodes.is_empty() {
            true => Err(LocalError::None { dir: dir.to_owned() }),
            false => Ok(LocalCluster { dir: dir.to_owned(), nodes }),
        }
    }

    /// Where the nodes' admin servers are.
    pub(super) fn admins(&self) -> Vec<String> {
        self.nodes.iter().map(LocalNode::admin).collect()
    }

    /// Starts what does not run, each once the one before lives, and waits until all are ready.
    pub(super) fn start(&self) -> Result<(), LocalError> {
        let mut children = Vec::new();
        for node in &self.nodes {
            let child = match node.running() {
                Some(_) => None,
                None => Some(node.start()?),
            };
            children.push(child);
            node.wait_for("/healthz", children.last_mut().and_then(Option::as_mut))?;
        }
        for (node, child) in self.nodes.iter().zip(&mut children) {
            node.wait_for("/readyz", child.as_mut())?;
        }
        Ok(())
    }

    /// Stops what runs; says how many did.
    pub(super) fn stop(&self) -> Result<usize, LocalError> {
        let mut stopped = 0;
        for node in &self.nodes {
            stopped += usize::from(node.stop()?);
        }
        Ok(stopped)
    }

    /// Stops and starts each node, the next one only once the last is ready.
    pub(super) fn restart(&self) -> Result<(), LocalError> {
        for node in &self.nodes {
            node.stop()?;
            let mut child = node.start()?;
            node.wait_for("/readyz", Some(&mut child))?;
        }
        Ok(())
    }

    /// What a person may do now.
    pub(super) fn welcome(&self) -> String {
        let mut text = format!("a cluster of {} nodes is ready\n\n", self.nodes.len());
        for node in &self.nodes {
            text.push_str(&format!(
                "  {}  clients {}  admin http://{}/  log {}\n",
                node.name,
                node.client_url(),
                node.admin(),
                node.dir.join("log").display()
            ));
        }
        let dir = self.dir.display();
        text.push_str(&format!(
            "\nTry:\n\
             \x20 shardgate cluster status --dir {dir}\n\
             \x20 shardgate connect {}\n\
             \x20 shardgate cluster restart --dir {dir}      no task is lost\n\
             \x20 shardgate cluster stop --dir {dir}\n",
            self.nodes[0].client_url()
        ));
        text
    }
}

impl LocalNode {
    fn admin(&self) -> String {
        self.config.admin.address.to_string()
    }

    fn client_url(&self) -> String {
        let address = self.config.listen.address.first().map(ToString::to_string);
        format!("http://{}/mcp", address.unwrap_or_default())
    }

    fn file(&self) -> PathBuf {
        self.dir.join("shardgate.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The process that runs with this node's configuration, if there is one.
    fn running(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("pid")).ok()?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw)?;
        // The number may be another process's by now; one that has ended has no arguments.
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let file = self.file();
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word == file.as_os_str().as_encoded_bytes()).then_some(pid)
    }

    fn start(&self) -> Result<Child, LocalError> {
        let failed = |source| LocalError::Start { name: self.name.clone(), source };
        let log = self.log();
        let out = OpenOptions::new().create(true).append(true).open(&log);
        let out = out.map_err(at("write", &log))?;
        let again = out.try_clone().map_err(at("write", &log))?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(self.file());
        // What the caller's environment says is for a gateway alone.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"SHARDGATE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(out).stderr(again);
        // A Ctrl-C in the terminal is not for the nodes.
        command.process_group(0);
        let child = command.spawn().map_err(failed)?;
        let pid = self.dir.join("pid");
        fs::write(&pid, format!("{}\n", child.id())).map_err(at("write", &pid))?;
        Ok(child)
    }

    /// Waits until the admin server says yes at `path`.
    fn wait_for(&self, path: &str, mut child: Option<&mut Child>) -> Result<(), LocalError> {
        let begun = Instant::now();
        let question = Question { path, body: None };
        loop {
            if admin::fetch_text(&self.admin(), &question).is_ok() {
                return Ok(());
            }
            let (name, log, tail) = (self.name.clone(), self.log(), self.log_tail());
            if let Some(child) = &mut child
                && !matches!(child.try_wait(), Ok(None))
            {
                return Err(LocalError::Ended { name, log, tail });
            }
            if begun.elapsed() > READY_WITHIN {
                return Err(LocalError::NotReady { name, log, tail });
            }
            thread::sleep(LOOK);
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Has the process end, and waits for that; false if there was none.
    fn stop(&self) -> Result<bool, LocalError> {
        let Some(pid) = self.running() else { return Ok(false) };
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        kill_process(pid, Signal::TERM).map_err(|error| LocalError::Signal {
            name: self.name.clone(),
            pid: number,
            source: error.into(),
        })?;
        let begun = Instant::now();
        let deadline = Duration::from_millis(self.config.limits.drain_deadline_ms) + STOP_GRACE;
        while self.running().is_some() {
            if begun.elapsed() > deadline {
                let (name, log) = (self.name.clone(), self.log());
                return Err(LocalError::StillRuns { name, pid: number, log });
            }
            thread::sleep(LOOK);
        }
        // The next start writes it anew; if it stays, the number is looked at first.
        let _ = fs::remove_file(self.dir.join("pid"));
        Ok(true)
    }
}

/// Writes the files of a new cluster.
fn make(dir: &Path, nodes: u16) -> Result<(), LocalError> {
    fs::create_dir_all(dir).map_err(at("make", dir))?;
    let dir = dir.canonicalize().map_err(at("find", dir))?;
    let secret = dir.join("session-secret");
    let mut drawn = [0; 32];
    getrandom::fill(&mut drawn).map_err(LocalError::Random)?;
    let hex: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(&secret, &hex)?;
    // All are held until the last is known, so that no two are the same.
    let held: Result<Vec<TcpListener>, io::Error> =
        (0..3 * nodes).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let held = held.map_err(LocalError::Ports)?;
    let addresses: Result<Vec<_>, io::Error> = held.iter().map(TcpListener::local_addr).collect();
    let addresses = addresses.map_err(LocalError::Ports)?;
    let mut voters = String::new();
    for (number, of_node) in (1..).zip(addresses.chunks(3)) {
        voters.push_str(&format!(
            "\n[[cluster.voters]]\nid = {number}\nname = \"n{number}\"\naddress = \"{}\"\n",
            of_node[2]
        ));
    }
    for (number, of_node) in (1..=nodes).zip(addresses.chunks(3)) {
        let node = dir.join(format!("n{number}"));
        fs::create_dir_all(&node).map_err(at("make", &node))?;
        let text = format!(
            "# Written by `shardgate cluster start`; may be changed.\n\
             [node]\nname = \"n{number}\"\n\n\
             [listen]\naddress = \"{}\"\n\n\
             [admin]\naddress = \"{}\"\n\n\
             [shards]\ncount = 1\n\n\
             [session]\nsecret_file = {}\n\n\
             [cluster]\nname = \"local\"\nnode_id = {number}\nlisten = \"{}\"\ninsecure = true\n\
             data_dir = {}\n{voters}",
            of_node[0],
            of_node[1],
            toml::Value::String(secret.display().to_string()),
            of_node[2],
            toml::Value::String(node.join("data").display().to_string()),
        );
        let file = node.join("shardgate.toml");
        fs::write(&file, text).map_err(at("write", &file))?;
    }
    Ok(())
}

/// A file that only its owner can read.
fn write_private(path: &Path, text: &str) -> Result<(), LocalError> {
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file: File = open.map_err(at("write", path))?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(at("write", path))
}
