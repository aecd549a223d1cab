//! Tool servers on standard streams behind the real gateway: one child per session and
//! none without, whatever happens to clients, children and the gateway itself.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use harness::client::{Client, next_message, until};
use harness::gateway::{Gateway, Launch};
use harness::mcp::text_of;
use harness::servers::signal;
use harness::wire::Wire;

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/python/plain_stdio.py");
/// What clients do to be forgotten.
const SHORT_SESSIONS: &str = "[limits]\nidle_session_ms = 2000\n";
const LEGACY: &[&str] = &[];
const MODERN: &[&str] = &["--modern"];

/// A gateway before one stdio server, whose processes bear a mark.
struct Ground {
    gateway: Gateway,
    mark: String,
}

impl Ground {
    /// `flags` are the server's; `options` are further lines of its entry and `more` goes
    /// before it.
    fn new(flags: &[&str], options: &str, more: &str) -> Ground {
        Ground::on_shards(2, flags, options, more)
    }

    fn on_shards(shards: usize, flags: &[&str], options: &str, more: &str) -> Ground {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("shardgate-child-{}-{count}", std::process::id());
        let mut command = vec!["python3", "-I", "-S", SERVER, "--mark", &mark];
        command.extend(flags);
        let config = format!(
            "{more}[[upstream]]\nname = \"plain\"\nprefix = \"always\"\ncommand = {command:?}\n\
             {options}\n"
        );
        let gateway = Launch::default().shards(shards).config(&config).start();
        Ground { gateway, mark }
    }

    async fn clients(&self) -> [Client; 2] {
        Client::of_both_eras(self.gateway.listen).await
    }

    /// The processes of the server.
    fn children(&self) -> BTreeSet<u32> {
        let is_server = |line: &[&str]| {
            line.first().is_some_and(|program| program.ends_with("python3"))
                && line.contains(&self.mark.as_str())
        };
        processes()
            .into_iter()
            .filter(|(_, line)| is_server(&words(line)))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Everything that bears the mark, whatever watches over the server included.
    fn marked(&self) -> usize {
        processes().iter().filter(|(_, line)| line.contains(&self.mark)).count()
    }

    /// The children of the look that was right: a later one may find others.
    async fn until_children(
        &self,
        what: &str,
        check: impl Fn(&BTreeSet<u32>) -> bool,
    ) -> BTreeSet<u32> {
        until(what, async || Some(self.children()).filter(&check)).await
    }

    /// The child that is there though no client is: the one by which lists are read. One
    /// that was asked in vain for the other era may take a while to end.
    async fn children_at_rest(&self) -> BTreeSet<u32> {
        Client::Modern(self.gateway.listen).wait_for_tool("plain__who", true).await;
        self.until_children("one child reads the lists", |all| all.len() == 1).await
    }

    async fn until_logged(&self, part: &str) {
        until(&format!("the log says {part:?}"), async || {
            self.gateway.log_tail().contains(part).then_some(())
        })
        .await;
    }
}

/// Ids and command lines, NUL between the words, of all processes that are no zombies.
fn processes() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").expect("list the processes").flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            (!line.is_empty()).then(|| (pid, String::from_utf8_lossy(&line).into_owned()))
        })
        .collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split('\0').collect()
}

/// The process that answers a client.
async fn who(client: &Client, id: u64) -> u32 {
    let answer = client.call(id, "plain__who", &json!({})).await;
    let text = text_of(&answer).unwrap_or_else(|| panic!("who answers {client:?}: {answer}"));
    text.parse().expect("a process id")
}

async fn delete(client: &Client) {
    let Client::Legacy(session) = client else { panic!("only legacy clients have sessions") };
    let mut wire = Wire::connect(session.address).await.expect("connect");
    let answer = wire.ask(&session.delete()).await.expect("an answer to DELETE");
    assert_eq!(answer.head.status, 200, "{answer:?}");
}

#[track_caller]
fn assert_blamed(answer: &Value, evidence: &str) {
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert_eq!(answer["error"]["code"], -32000, "{answer}");
    assert!(message.starts_with("tool server plain") && message.contains(evidence), "{answer}");
}

/// A child was once ended and started again to be asked a second question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_server_is_asked_both_questions_by_one_child() {
    let ground = Ground::on_shards(1, LEGACY, "", "");
    ground.clients().await[0].wait_for_tool("plain__who", true).await;
    assert_eq!(ground.gateway.log_tail().matches("started with").count(), 1);
}

/// The lists of such a server were once never read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_servers_that_ignore_the_first_question_or_die_of_it_are_found() {
    for flag in ["--deaf", "--brittle"] {
        let ground = Ground::on_shards(1, &[flag], "", "");
        for client in ground.clients().await {
            client.wait_for_tool("plain__who", true).await;
            who(&client, 1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_nothing_is_given_up() {
    let options = "protocol = \"legacy\"\nrequest_timeout_ms = 300\n";
    let ground = Ground::on_shards(1, &["--deaf", "--modern"], options, "");
    ground.until_logged("it did not answer initialize for 300 ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_has_a_child_of_its_own_until_it_is_deleted() {
    let ground = Ground::new(LEGACY, "", "");
    let rest = ground.children_at_rest().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::legacy(ground.gateway.listen).await);
    }
    let mut own = BTreeSet::new();
    for client in &clients {
        let pid = who(client, 1).await;
        assert_eq!(who(client, 2).await, pid, "a session has changed its child");
        assert!(!rest.contains(&pid) && own.insert(pid), "a child has two owners");
    }
    assert_eq!(ground.children(), rest.union(&own).copied().collect());
    for client in &clients {
        let pid = who(client, 3).await;
        delete(client).await;
        ground.until_children("the child has ended", |left| !left.contains(&pid)).await;
        own.remove(&pid);
        assert!(own.is_subset(&ground.children()), "another's child has ended as well");
    }
    ground.until_children("only those at rest are left", |left| *left == rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_abandoned_sessions_leave_no_child() {
    const SESSIONS: u64 = 200;
    // Whatever is slower on a busy machine: nobody's child may end before all have been seen.
    let ground = Ground::new(LEGACY, "children_max = 400\n", "[limits]\nidle_session_ms = 5000\n");
    let rest = ground.children_at_rest().await;
    let mut opening = JoinSet::new();
    for _ in 0..SESSIONS {
        let address = ground.gateway.listen;
        opening.spawn(async move { who(&Client::legacy(address).await, 1).await });
    }
    let seen: BTreeSet<u32> = opening.join_all().await.into_iter().collect();
    assert_eq!(seen.len() as u64, SESSIONS, "sessions share children");
    ground.until_children("only those at rest are left", |left| *left == rest).await;
    // What watches over each child has gone with it.
    until("nothing else is left of them", async || {
        (ground.marked() <= 2 * rest.len()).then_some(())
    })
    .await;
    let client = Client::legacy(ground.gateway.listen).await;
    assert!(!seen.contains(&who(&client, 1).await), "a dead child answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_nobody_uses_is_ended_and_another_started() {
    let ground = Ground::new(LEGACY, "idle_session_ms = 1000\n", "");
    let rest = ground.children_at_rest().await;
    for client in ground.clients().await {
        let first = who(&client, 1).await;
        ground.until_children("the idle child has ended", |left| *left == rest).await;
        assert_ne!(who(&client, 2).await, first, "a dead child answers {client:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_ends_its_sessions_calls_with_the_childs_last_words() {
    for flags in [LEGACY, MODERN] {
        // Modern clients share a child on each shard.
        let ground = Ground::on_shards(1, flags, "", "");
        for (client, label) in ground.clients().await.iter().zip(["first", "second"]) {
            client.wait_for_tool("plain__who", true).await;
            let first = who(client, 1).await;
            let mut other = client.begin_call(2, "plain__wait", &json!({ "label": label })).await;
            ground.until_logged(&format!("waits for {label}")).await;
            let answer = client.call(3, "plain__crash", &json!({})).await;
            assert_blamed(&answer, "exited with code 3");
            assert_blamed(&answer, "out of paper");
            assert_blamed(&other.answer().await.expect("an answer").json(), "exited with code 3");
            assert_ne!(who(client, 4).await, first, "a dead child answers");
            let answer = client.call(5, "plain__garble", &json!({})).await;
            assert_blamed(&answer, "ended");
            who(client, 6).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_no_messages_are_logged_and_cost_nothing() {
    for flags in [LEGACY, MODERN] {
        let ground = Ground::new(flags, "", "");
        for client in ground.clients().await {
            client.wait_for_tool("plain__who", true).await;
            let answer = client.call(1, "plain__noise", &json!({})).await;
            assert_eq!(text_of(&answer), Some("after the noise"), "{answer}");
        }
        ground.until_logged("Welcome! This line is no message.").await;
        ground.until_logged("Debug: this line is no message").await;
        // Standard error is the child's own log.
        ground.until_logged(&format!("started with --mark {}", ground.mark)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_questions_and_cancellation_travel_over_lines() {
    let reply = |_: &str| json!({ "action": "accept", "content": { "name": "Ada" } });
    for flags in [LEGACY, MODERN] {
        for options in ["", "sharing = \"shared\"\n"] {
            let ground = Ground::new(flags, options, "");
            for client in ground.clients().await {
                let context = format!("{flags:?}, {options:?}, {client:?}");
                client.wait_for_tool("plain__who", true).await;
                let mut params = json!({ "name": "plain__progress", "arguments": {} });
                params["_meta"] = json!({ "progressToken": "mine" });
                let mut wire = client.begin(1, "tools/call", params).await;
                assert!(wire.head().await.expect("a head").is_events(), "{context}");
                for step in 1..=3 {
                    let notice = next_message(&mut wire).await.expect("progress");
                    assert_eq!(notice["params"]["progressToken"], "mine", "{context}: {notice}");
                    assert_eq!(notice["params"]["progress"], step, "{context}: {notice}");
                }
                let answer = next_message(&mut wire).await.expect("an answer");
                assert_eq!(text_of(&answer), Some("three steps"), "{context}: {answer}");

                let params = json!({ "name": "plain__ask", "arguments": {} });
                let (answer, asked) = client.converse(10, "tools/call", params, reply).await;
                if options.is_empty() || matches!(client, Client::Modern(_)) {
                    assert_eq!(text_of(&answer), Some("Hello, Ada!"), "{context}: {answer}");
                    assert_eq!(asked, 1, "{context}");
                } else {
                    // Whose session it is that a shared child asks can't be told by it.
                    let named = answer["error"]["message"]
                        .as_str()
                        .is_some_and(|message| message.starts_with("tool server plain"));
                    assert!(named || text_of(&answer).is_some(), "{context}: {answer}");
                }

                let label = if matches!(client, Client::Modern(_)) { "modern" } else { "legacy" };
                let arguments = json!({ "label": label });
                let waits = client.begin_call(20, "plain__wait", &arguments).await;
                ground.until_logged(&format!("waits for {label}")).await;
                client.cancel(20, waits).await;
                ground.until_logged(&format!("cancelled {label}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_of_a_call_that_was_given_up_reaches_no_other() {
    for flags in [LEGACY, MODERN] {
        for options in ["", "sharing = \"shared\"\n"] {
            // Modern clients share a child on each shard.
            let ground = Ground::on_shards(1, flags, options, "");
            for client in ground.clients().await {
                client.wait_for_tool("plain__who", true).await;
                let era = if matches!(client, Client::Modern(_)) { "modern" } else { "legacy" };
                let begin = async |id, name: &str| {
                    let label = format!("{era} {name}");
                    let params = json!({
                        "name": "plain__wait",
                        "arguments": { "label": label },
                        "_meta": { "progressToken": name },
                    });
                    let wire = client.begin(id, "tools/call", params).await;
                    ground.until_logged(&format!("waits for {label}")).await;
                    wire
                };
                let given_up = begin(1, "first").await;
                let mut other = begin(2, "second").await;
                // The child reports on it once more before it says so.
                client.cancel(1, given_up).await;
                ground.until_logged(&format!("cancelled {era} first")).await;
                client.call(3, "plain__release", &json!({})).await;
                let answer = other.answer().await.expect("an answer");
                assert!(!answer.head.is_events(), "{flags:?}, {options:?}, {client:?}: {answer:?}");
                let expected = format!("released {era} second");
                assert_eq!(text_of(&answer.json()), Some(expected.as_str()), "{answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_told_as_one_though_the_client_lacked_what_was_asked() {
    let ground = Ground::on_shards(1, LEGACY, "", "");
    let client = Client::Modern(ground.gateway.listen);
    client.wait_for_tool("plain__who", true).await;
    for touchy in [true, false] {
        let params = json!({
            "name": "plain__ask",
            "arguments": { "touchy": touchy },
            "_meta": { "io.modelcontextprotocol/clientCapabilities": {} },
        });
        let answer = client.ask(1, "tools/call", params).await;
        if touchy {
            assert_blamed(&answer, "exited with code 3");
        } else {
            assert_eq!(text_of(&answer), Some("Hello, nobody!"), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_stay_while_the_session_opens_by_which_they_are_read() {
    let directory = tempfile::tempdir().expect("a directory for the file");
    let hold = directory.path().join("hold");
    let ground = Ground::new(&["--hold", hold.to_str().expect("UTF-8")], "", "");
    let rest = ground.children_at_rest().await;
    let client = Client::legacy(ground.gateway.listen).await;
    let own = who(&client, 1).await;
    fs::write(&hold, "").expect("hold the next child");
    for pid in &rest {
        signal(*pid, "KILL");
    }
    ground
        .until_children("another child begins", |all| all.len() == 2 && !all.is_superset(&rest))
        .await;
    // Another session's child says that its lists have changed, more than once.
    for _ in 0..100 {
        client.call(2, "plain__change", &json!({})).await;
        let names = client.tool_names().await;
        assert!(names.iter().any(|name| name == "plain__who"), "nothing is listed: {names:?}");
    }
    let listed = || ground.gateway.log_tail().matches("upstream_listed").count();
    let before = listed();
    fs::remove_file(&hold).expect("let the child go on");
    until("the lists are read again", async || (listed() > before).then_some(())).await;
    assert_eq!(who(&client, 3).await, own);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_child_answers_everybody() {
    let ground = Ground::new(LEGACY, "sharing = \"shared\"\n", "");
    let [legacy, modern] = ground.clients().await;
    legacy.wait_for_tool("plain__who", true).await;
    let pid = who(&legacy, 1).await;
    for _ in 0..8 {
        let other = Client::legacy(ground.gateway.listen).await;
        assert_eq!(who(&other, 1).await, pid);
        assert_eq!(who(&modern, 1).await, pid);
        delete(&other).await;
    }
    assert_eq!(who(&legacy, 2).await, pid, "the child ended with another's session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_children_and_too_long_lines_are_refused() {
    let ground = Ground::new(LEGACY, "children_max = 3\n", "[limits]\nmessage_bytes_max = 65536\n");
    let rest = ground.children_at_rest().await;
    let mut clients = Vec::new();
    for _ in rest.len()..3 {
        let client = Client::legacy(ground.gateway.listen).await;
        who(&client, 1).await;
        clients.push(client);
    }
    let one_more = Client::legacy(ground.gateway.listen).await;
    let answer = one_more.call(1, "plain__who", &json!({})).await;
    assert_blamed(&answer, "children_max");
    let first = clients.remove(0);
    let answer = first.call(2, "plain__huge", &json!({ "bytes": 100_000 })).await;
    assert_blamed(&answer, "message_bytes_max");
    who(&first, 3).await;
    delete(&first).await;
    until("there is room for another", async || {
        let answer = one_more.call(4, "plain__who", &json!({})).await;
        text_of(&answer).map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_leaves_no_child_even_if_they_are_stubborn() {
    for flags in [&["--stubborn"] as &[&str], &["--modern", "--stubborn"], LEGACY] {
        let mut ground = Ground::new(flags, "", SHORT_SESSIONS);
        ground.children_at_rest().await;
        for client in ground.clients().await {
            who(&client, 1).await;
        }
        assert!(!ground.children().is_empty());
        let pid = ground.gateway.pid().to_string();
        let killed = Command::new("kill").args(["-KILL", &pid]).status();
        assert!(killed.is_ok_and(|status| status.success()), "send SIGKILL to the gateway");
        ground.gateway.wait_exit();
        until("nothing is left", async || (ground.marked() == 0).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stubborn_child_is_ended_with_its_session() {
    let ground = Ground::new(&["--stubborn"], "", "");
    let rest = ground.children_at_rest().await;
    let client = Client::legacy(ground.gateway.listen).await;
    who(&client, 1).await;
    delete(&client).await;
    ground.until_children("only those at rest are left", |left| *left == rest).await;
}
