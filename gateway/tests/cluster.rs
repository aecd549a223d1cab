//! Gateways that are one cluster: real processes on loopback, by the configuration alone.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use serde_json::{Value, json};

use harness::client::{Client, until};
use harness::gateway::{Gateway, Launch};
use harness::mcp::Request;
use harness::metrics::Page;
use harness::wire::Wire;

/// Where nodes of one cluster keep what they have, and their addresses for each other.
struct Ground {
    dir: tempfile::TempDir,
    peers: Vec<SocketAddr>,
}

impl Ground {
    fn of(nodes: usize) -> Ground {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("secret"), [b'k'; 32]).expect("write the secret");
        // All are held at one time, so that no two are the same.
        let held: Vec<TcpListener> =
            (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let peers = held.iter().map(|it| it.local_addr().expect("its address")).collect();
        Ground { dir, peers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, number: usize) -> String {
        let mut text = format!(
            "[node]\nname = \"n{number}\"\n\
             [session]\nsecret_file = {:?}\n\
             [cluster]\nname = \"test\"\nnode_id = {number}\ninsecure = true\n\
             listen = \"{}\"\ndata_dir = {:?}\n",
            self.path("secret"),
            self.peers[number - 1],
            self.path(&format!("n{number}")),
        );
        for (peer, id) in self.peers.iter().zip(1..) {
            text.push_str(&format!(
                "[[cluster.voters]]\nid = {id}\nname = \"n{id}\"\naddress = \"{peer}\"\n"
            ));
        }
        text
    }

    fn start(&self, number: usize) -> Gateway {
        Launch::default().shards(1).config(&self.config(number)).start()
    }

    async fn start_all(&self) -> Vec<Gateway> {
        let gateways: Vec<_> = (1..=self.peers.len()).map(|number| self.start(number)).collect();
        for gateway in &gateways {
            until_ready(gateway).await;
        }
        gateways
    }
}

/// Status and text of a page of the admin server.
async fn page(gateway: &Gateway, path: &str) -> (u16, String) {
    let mut wire = Wire::connect(gateway.admin).await.expect("connect to the admin address");
    let answer = wire.ask(&Request::page(path).bytes(gateway.admin)).await.expect("an answer");
    (answer.head.status, String::from_utf8(answer.body).expect("text"))
}

async fn until_ready(gateway: &Gateway) {
    until("the cluster has taken the node", async || {
        (page(gateway, "/readyz").await.0 == 200).then_some(())
    })
    .await;
}

/// Calls `echo` as a task; gives its id.
async fn submit(gateway: &Gateway, message: &str) -> Value {
    let client = Client::legacy(gateway.listen).await;
    let params = json!({ "name": "echo", "arguments": { "message": message }, "task": {} });
    let answer = client.ask(1, "tools/call", params).await;
    let id = answer["result"]["task"]["taskId"].clone();
    assert!(id.is_string(), "it did not become a task: {answer}");
    id
}

/// What the task came to, as a client of this gateway sees it.
async fn result_of(gateway: &Gateway, id: &Value) -> Value {
    let client = Client::legacy(gateway.listen).await;
    client.ask(2, "tasks/result", json!({ "taskId": id })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_one_node_is_every_node_s() {
    let ground = Ground::of(3);
    let gateways = ground.start_all().await;
    let id = submit(&gateways[0], "to all").await;
    let answer = result_of(&gateways[2], &id).await;
    assert_eq!(answer["result"]["content"][0]["text"], "to all", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_is_not_ready_until_a_majority_is_there() {
    let ground = Ground::of(3);
    let first = ground.start(1);
    let (status, text) = page(&first, "/readyz").await;
    assert_eq!((status, text.starts_with("joining")), (503, true), "{text}");
    let second = ground.start(2);
    until_ready(&first).await;
    until_ready(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_killed_node_and_the_whole_cluster() {
    let ground = Ground::of(3);
    let mut gateways = ground.start_all().await;
    let before = submit(&gateways[0], "before").await;
    result_of(&gateways[0], &before).await;
    // One after the other is killed and comes back, so the leader is among them.
    for number in 1..=3 {
        gateways.remove(0).kill();
        let during = submit(&gateways[0], "during").await;
        let answer = result_of(&gateways[1], &during).await;
        assert_eq!(answer["result"]["content"][0]["text"], "during", "{answer}");
        let back = ground.start(number);
        until_ready(&back).await;
        gateways.push(back);
    }
    for mut gateway in gateways.drain(..) {
        gateway.terminate();
        assert_eq!(gateway.wait_exit().code(), Some(0), "{}", gateway.log_tail());
    }
    let gateways = ground.start_all().await;
    let answer = result_of(&gateways[2], &before).await;
    assert_eq!(answer["result"]["content"][0]["text"], "before", "{answer}");
}

#[test]
fn a_taken_peer_address_ends_the_process_and_says_what_to_do() {
    let ground = Ground::of(1);
    let _taken = TcpListener::bind(ground.peers[0]).expect("the port is free again");
    let file = ground.path("n1.toml");
    std::fs::write(&file, ground.config(1)).expect("write the configuration");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_shardgate"))
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"])
        .arg(&file)
        .output()
        .expect("run the gateway");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cluster.listen") && text.contains("Address already in use"), "{text}");
}

/// What the admin API says at `path`.
async fn api(gateway: &Gateway, path: &str) -> Value {
    let (status, text) = page(gateway, path).await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_tells_of_all_and_of_their_tasks() {
    let ground = Ground::of(3);
    let gateways = ground.start_all().await;
    let id = submit(&gateways[0], "told").await;
    result_of(&gateways[0], &id).await;
    for gateway in &gateways {
        let cluster = until("all nodes answer", async || {
            let cluster = api(gateway, "/api/v1/cluster").await;
            let nodes = cluster["nodes"].as_array().expect("nodes").clone();
            let all = nodes.iter().all(|it| it["standing"] == "live" && it["own"].is_object());
            (nodes.len() == 3 && all).then_some(cluster)
        })
        .await;
        assert!(cluster["log"]["leader"].is_u64(), "{cluster}");
        let tasks = api(gateway, "/api/v1/tasks?status=completed").await;
        assert_eq!(tasks["tasks"][0]["id"], id, "{tasks}");
        let task = api(gateway, &format!("/api/v1/tasks/{}", id.as_str().expect("text"))).await;
        assert_eq!(task["tool"], "echo", "{task}");
        let none = api(gateway, "/api/v1/tasks?status=failed").await;
        assert_eq!(none["tasks"], json!([]));
    }
    let (status, text) = page(&gateways[0], "/api/v1/tasks?status=lost").await;
    assert_eq!((status, text.contains("input_required")), (400, true), "{text}");
    let vshards = api(&gateways[1], "/api/v1/vshards").await;
    assert_eq!(vshards["vshards"].as_array().map(Vec::len), Some(4_096));
}

/// Sends JSON to the admin API; its status and answer.
async fn send(gateway: &Gateway, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        gateway.admin,
        body.len()
    );
    let mut wire = Wire::connect(gateway.admin).await.expect("connect to the admin address");
    let answer = wire.ask(format!("{head}{body}").as_bytes()).await.expect("an answer");
    let said = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.head.status, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_every_node_s_and_leaves_when_its_lease_ends() {
    let ground = Ground::of(3);
    let gateways = ground.start_all().await;
    let worker = |name: &str, lease_ms: u64| {
        json!({ "name": name, "service": "maps", "url": "http://127.0.0.1:9/mcp",
                "labels": { "gpu": "yes" }, "capacity": 4, "lease_ms": lease_ms })
    };
    let workers = "/api/v1/workers";
    let (status, kept) = send(&gateways[0], "POST", workers, &worker("kept", 1_000)).await;
    assert_eq!(status, 200, "{kept}");
    let (status, lost) = send(&gateways[1], "POST", workers, &worker("lost", 1_000)).await;
    assert_eq!(status, 200, "{lost}");
    let seen = api(&gateways[2], workers).await;
    assert_eq!(seen["workers"][0]["labels"]["gpu"], "yes", "{seen}");
    // Signs of life may be given anywhere, and one that is missed is told.
    until("the silent one has left", async || {
        let (status, said) = send(&gateways[1], "PUT", "/api/v1/workers/kept/beat", &kept).await;
        assert_eq!(status, 200, "{said}");
        let seen = api(&gateways[2], workers).await;
        (seen["workers"].as_array().map(Vec::len) == Some(1)).then_some(())
    })
    .await;
    let (status, said) = send(&gateways[0], "PUT", "/api/v1/workers/lost/beat", &lost).await;
    let sentence = said["error"].as_str().unwrap_or_default();
    assert_eq!((status, sentence.contains("register again")), (404, true), "{said}");
    let metrics = Page::fetch(gateways[2].admin).await;
    assert_eq!(metrics.sum("shardgate_workers"), Some(1.0));
    assert!(metrics.sum("shardgate_raft_term").is_some_and(|term| term > 0.0));
    assert!(metrics.sum("shardgate_raft_sync_duration_seconds_count") > Some(0.0));
    let (status, said) = send(&gateways[2], "DELETE", "/api/v1/workers/kept", &kept).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(api(&gateways[0], workers).await["workers"], json!([]));
    let (status, said) = send(&gateways[0], "POST", workers, &worker("", 1_000)).await;
    assert_eq!((status, said["error"].is_string()), (409, true), "{said}");
}

/// A cluster that the command line runs; dropping it stops what still runs.
struct Commanded(PathBuf);

impl Commanded {
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_shardgate"))
            .arg("cluster")
            .args(words)
            .arg("--dir")
            .arg(&self.0)
            .output()
            .expect("run the command");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Commanded {
    fn drop(&mut self) {
        // It fails only if there is none, which is what is wanted.
        let _ = self.run(&["stop"]);
    }
}

#[test]
fn a_local_cluster_is_started_shown_restarted_and_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = Commanded(dir.path().join("local"));
    let run = |words: &[&str]| cluster.run(words).unwrap_or_else(|why| panic!("{words:?}: {why}"));
    let refused = cluster.run(&["status"]).expect_err("there is none yet");
    assert!(refused.contains("shardgate cluster start"), "{refused}");
    let text = run(&["start", "--nodes", "3"]);
    assert!(text.contains("a cluster of 3 nodes is ready"), "{text}");
    let text = run(&["status"]);
    assert!(text.contains("3 of 3 nodes live") && text.contains("leader"), "{text}");
    run(&["restart"]);
    let report: Value = serde_json::from_str(&run(&["status", "--json"])).expect("JSON");
    assert_eq!(report["nodes"].as_array().map(Vec::len), Some(3), "{report}");
    assert_eq!(run(&["stop"]), "3 nodes stopped; their data stays\n");
    assert_eq!(run(&["stop"]), "no node was running\n");
}
