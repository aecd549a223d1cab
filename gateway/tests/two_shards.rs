//! Two shards under many clients: sessions opened on one core are used from
//! connections on the other, streams are cut and resumed wherever the next
//! connection lands, and nothing is lost, doubled or answered wrongly.
//!
//! `SHARDGATE_TEST_CLIENTS` (2,000) and `SHARDGATE_TEST_SECONDS` (30) set the size.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, Session, call, call_with_progress, request, text_of};
use harness::metrics::Page;
use harness::wire::{Event, Wire, WireError};

/// Connections each client keeps; with three, most clients have some on each core.
const CONNECTIONS: usize = 3;
/// One client in so many listens for updates of a resource as well.
const LISTENER_EVERY: u64 = 10;
/// Progress notifications of one slow call.
const STEPS: u64 = 6;
/// Time between two rounds of a client, so that two cores can carry all of them.
const PAUSE: Duration = Duration::from_millis(500);
/// Clients that update the watched resource, each on its own.
const UPDATERS: usize = 4;
/// Time between two updates of one of them.
const UPDATE_PAUSE: Duration = Duration::from_secs(4);

const WATCHED: &str = "test://watched-resource";

type Failure = String;

/// What all clients share.
struct Crowd {
    address: SocketAddr,
    /// Turns true when the time is over.
    over: watch::Receiver<bool>,
    /// How many updates have been made; meaningful once `updates_done` is true.
    updates: AtomicU64,
    updates_done: watch::Receiver<bool>,
    echoes: AtomicU64,
    resumed: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_streams_cross_the_cores_without_loss() {
    let clients = setting("SHARDGATE_TEST_CLIENTS", 2_000);
    let seconds = setting("SHARDGATE_TEST_SECONDS", 30);
    let mut gateway = Launch::default().shards(2).start();
    let (over_tx, over) = watch::channel(false);
    let (done_tx, updates_done) = watch::channel(false);
    let crowd = Arc::new(Crowd {
        address: gateway.listen,
        over,
        updates: AtomicU64::new(0),
        updates_done,
        echoes: AtomicU64::new(0),
        resumed: AtomicU64::new(0),
    });
    // Everybody is connected before anybody starts.
    let mut connecting = JoinSet::new();
    for number in 0..clients {
        let address = gateway.listen;
        connecting.spawn(async move { named(number, connect(address, number).await) });
    }
    let mut connected = Vec::new();
    while let Some(client) = connecting.join_next().await {
        connected.push(client.expect("connecting does not panic").expect("connect a client"));
    }
    let mut tasks = JoinSet::new();
    for (client, listener) in connected {
        let crowd = Arc::clone(&crowd);
        tasks.spawn(async move { named(client.number, run(&crowd, client, listener).await) });
    }
    // Several at a time, so that changes of both shards cross each other.
    let mut updaters = JoinSet::new();
    for _ in 0..UPDATERS {
        let crowd = Arc::clone(&crowd);
        updaters.spawn(async move { make_updates(&crowd, Duration::from_secs(seconds)).await });
    }
    let updates: u64 = updaters.join_all().await.into_iter().sum();
    over_tx.send_replace(true);
    crowd.updates.store(updates, Ordering::SeqCst);
    done_tx.send_replace(true);
    let failures = failures_of(tasks).await;
    gateway.assert_running();
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures[..failures.len().min(10)].join("\n")
    );
    assert_work_was_done(&gateway, &crowd, clients).await;
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

async fn failures_of(mut tasks: JoinSet<Result<(), Failure>>) -> Vec<Failure> {
    let mut failures = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(why)) => failures.push(why),
            Err(panic) => failures.push(panic.to_string()),
        }
    }
    failures
}

/// Fails if the run did not show what it is for.
async fn assert_work_was_done(gateway: &Gateway, crowd: &Crowd, clients: u64) {
    let (echoes, resumed) =
        (crowd.echoes.load(Ordering::SeqCst), crowd.resumed.load(Ordering::SeqCst));
    let page = Page::fetch(gateway.admin).await;
    eprintln!("{clients} clients: {echoes} echoes, {resumed} streams cut and resumed");
    assert!(echoes >= clients && resumed >= clients, "{echoes} echoes, {resumed} resumed");
    for shard in ["0", "1"] {
        let accepted: f64 = page
            .named("shardgate_connections_accepted_total")
            .filter(|sample| sample.labels.contains(&("shard".to_owned(), shard.to_owned())))
            .map(|sample| sample.value)
            .sum();
        assert!(accepted > 0.0, "shard {shard} accepted no connection");
    }
    let crossed: f64 = page
        .named("shardgate_mesh_events_total")
        .filter(|sample| sample.labels.iter().any(|(_, value)| value == "forwarded"))
        .map(|sample| sample.value)
        .sum();
    assert!(crossed > 0.0, "no request crossed from one core to the other");
    assert_eq!(page.sum("shardgate_panics_total"), Some(0.0));
}

/// Updates the watched resource now and then; returns how often.
async fn make_updates(crowd: &Crowd, duration: Duration) -> u64 {
    let end = Instant::now() + duration;
    let session = Session::open(crowd.address, LEGACY).await.expect("open the updater's session");
    let mut wire = Wire::connect(crowd.address).await.expect("connect the updater");
    let mut updates = 0;
    while Instant::now() < end {
        let update = call(1_000 + updates, "test_trigger_resource_update", &json!({}));
        let answer = session.ask(&mut wire, &update).await.expect("an update");
        assert_eq!(answer.head.status, 200, "{answer:?}");
        updates += 1;
        tokio::time::sleep(UPDATE_PAUSE).await;
    }
    updates
}

fn named<T>(number: u64, outcome: Result<T, Failure>) -> Result<T, Failure> {
    outcome.map_err(|why| format!("client {number}: {why}"))
}

async fn connect(address: SocketAddr, number: u64) -> Result<(Client, Option<Listener>), Failure> {
    let mut client = Client::connect(address, number).await?;
    if !number.is_multiple_of(LISTENER_EVERY) {
        return Ok((client, None));
    }
    client.subscribe().await?;
    let listener = Listener::open(client.session.clone()).await?;
    Ok((client, Some(listener)))
}

async fn run(crowd: &Crowd, mut client: Client, listener: Option<Listener>) -> Result<(), Failure> {
    let Some(listener) = listener else { return client.rounds(crowd).await };
    let (rounds, heard) = tokio::join!(client.rounds(crowd), listener.follow(crowd));
    rounds.and(heard)
}

/// One client: a session, some connections, and a request id.
struct Client {
    number: u64,
    session: Session,
    wires: Vec<Wire>,
    next_id: u64,
    /// Event ids seen in this session: they are unique in it.
    event_ids: HashSet<String>,
}

impl Client {
    async fn connect(address: SocketAddr, number: u64) -> Result<Client, Failure> {
        let mut wires = Vec::new();
        for _ in 0..CONNECTIONS {
            wires.push(Wire::connect(address).await.map_err(text)?);
        }
        let session = Session::open_on(&mut wires[0], address, LEGACY).await.map_err(text)?;
        Ok(Client { number, session, wires, next_id: 1, event_ids: HashSet::new() })
    }

    async fn subscribe(&mut self) -> Result<(), Failure> {
        let id = self.id();
        let message = request(id, "resources/subscribe", &json!({ "uri": WATCHED }));
        let answer = self.session.ask(&mut self.wires[1], &message).await.map_err(text)?;
        expect(answer.head.status == 200, || format!("subscribe: {answer:?}"))
    }

    /// Echoes and resumed calls until the time is over; then the session ends.
    async fn rounds(&mut self, crowd: &Crowd) -> Result<(), Failure> {
        let mut round = self.number;
        while !*crowd.over.borrow() {
            self.echo(crowd, pick(round, CONNECTIONS)).await?;
            self.cut_and_resume(crowd, round).await?;
            // Spreads the clients out instead of marching in step.
            tokio::time::sleep(PAUSE + Duration::from_millis(round * 7 % 200)).await;
            round += 1;
        }
        for wire in 0..CONNECTIONS {
            self.echo(crowd, wire).await?;
        }
        Ok(())
    }

    async fn echo(&mut self, crowd: &Crowd, wire: usize) -> Result<(), Failure> {
        let id = self.id();
        let payload = format!("client {} request {id}", self.number);
        let message = call(id, "echo", &json!({ "message": payload }));
        let answer = self.session.ask(&mut self.wires[wire], &message).await.map_err(text)?;
        let json = answer.json();
        let right = answer.head.status == 200
            && json["id"] == id
            && text_of(&json).is_some_and(|text| text.ends_with(&payload));
        crowd.echoes.fetch_add(1, Ordering::Relaxed);
        expect(right, || format!("echo {payload:?}: {answer:?} {json}"))
    }

    /// A slow call whose stream breaks and is resumed on another connection.
    async fn cut_and_resume(&mut self, crowd: &Crowd, round: u64) -> Result<(), Failure> {
        let id = self.id();
        let (cut, other) = (pick(round, CONNECTIONS), pick(round + 1, CONNECTIONS));
        let arguments = json!({ "duration_ms": 60 * STEPS, "steps": STEPS });
        let token = format!("token {id}");
        let message = call_with_progress(id, "long_running", &arguments, &token);
        let mut call = SlowCall { id, token, progress: Vec::new(), answered: false };

        let wire = &mut self.wires[cut];
        wire.send(&self.session.post(&message)).await.map_err(text)?;
        let head = wire.head().await.map_err(text)?;
        expect(head.status == 200 && head.is_events(), || format!("slow call: {head:?}"))?;
        let mut last_id = None;
        while call.progress.len() <= pick(round, 3) {
            let event = self.wires[cut].event().await.map_err(text)?;
            let event = event.ok_or("the stream ended before the cut")?;
            last_id = self.note(&mut call, &event)?.or(last_id);
        }
        let last_id = last_id.ok_or("no event had an id")?;
        let fresh = Wire::connect(crowd.address).await.map_err(text)?;
        std::mem::replace(&mut self.wires[cut], fresh).reset();

        let wire = &mut self.wires[other];
        let head = self.session.stream(wire, Some(&last_id)).await.map_err(text)?;
        expect(head.status == 200 && head.is_events(), || format!("resume: {head:?}"))?;
        while let Some(event) = self.wires[other].event().await.map_err(text)? {
            self.note(&mut call, &event)?;
        }
        crowd.resumed.fetch_add(1, Ordering::Relaxed);
        call.finish()
    }

    /// Takes an event in; returns its id.
    fn note(&mut self, call: &mut SlowCall, event: &Event) -> Result<Option<String>, Failure> {
        if !event.data.is_empty() {
            let id = event.id.clone().ok_or_else(|| format!("an event without id: {event:?}"))?;
            expect(self.event_ids.insert(id), || format!("an event id came twice: {event:?}"))?;
            call.note(&event.json())?;
        }
        Ok(event.id.clone())
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// What has come of a slow call.
struct SlowCall {
    id: u64,
    token: String,
    progress: Vec<f64>,
    answered: bool,
}

impl SlowCall {
    fn note(&mut self, message: &Value) -> Result<(), Failure> {
        expect(!self.answered, || format!("something came behind the answer: {message}"))?;
        if message["method"] == "notifications/progress" {
            let own = message["params"]["progressToken"] == self.token.as_str();
            expect(own, || format!("progress of another call: {message}"))?;
            let value = message["params"]["progress"].as_f64();
            self.progress.push(value.ok_or_else(|| format!("progress without value: {message}"))?);
            return Ok(());
        }
        self.answered = true;
        let right = message["id"] == self.id && message["result"].is_object();
        expect(right, || format!("not the answer to {}: {message}", self.id))
    }

    fn finish(&self) -> Result<(), Failure> {
        expect(self.answered, || format!("call {} got no answer", self.id))?;
        let stride = self.progress[1] - self.progress[0];
        let even = self.progress.windows(2).all(|pair| (pair[1] - pair[0] - stride).abs() < 1e-9);
        let whole = self.progress.len() as u64 >= STEPS && stride > 0.0 && even;
        expect(whole, || format!("lost or doubled progress: {:?}", self.progress))
    }
}

/// The standing stream of one client, cut and resumed again and again.
struct Listener {
    session: Session,
    wire: Wire,
    last_id: Option<String>,
    event_ids: HashSet<String>,
    heard: u64,
}

impl Listener {
    async fn open(session: Session) -> Result<Listener, Failure> {
        let mut wire = Wire::connect(session.address).await.map_err(text)?;
        let head = session.stream(&mut wire, None).await.map_err(text)?;
        expect(head.status == 200, || format!("standing stream: {head:?}"))?;
        let mut listener =
            Listener { session, wire, last_id: None, event_ids: HashSet::new(), heard: 0 };
        // The priming event comes at once (MCP 2025-11-25); without it a cut
        // before the first update could not be resumed.
        let event = listener.wire.event().await.map_err(text)?.ok_or("an empty stream")?;
        listener.note(&event)?;
        Ok(listener)
    }

    async fn follow(mut self, crowd: &Crowd) -> Result<(), Failure> {
        let mut updates_done = crowd.updates_done.clone();
        loop {
            let all = *updates_done.borrow_and_update();
            if all && self.heard >= crowd.updates.load(Ordering::SeqCst) {
                break;
            }
            tokio::select! {
                event = self.wire.event() => {
                    let event = event.map_err(|why| self.so_far(crowd, &why))?;
                    let event = event.ok_or("the standing stream ended")?;
                    let heard = self.heard;
                    self.note(&event)?;
                    if self.heard > heard && self.heard.is_multiple_of(3) {
                        self.cut_and_resume().await?;
                    }
                }
                changed = updates_done.changed() => changed.map_err(text)?,
            }
        }
        self.end(crowd.updates.load(Ordering::SeqCst)).await
    }

    async fn cut_and_resume(&mut self) -> Result<(), Failure> {
        let fresh = Wire::connect(self.session.address).await.map_err(text)?;
        std::mem::replace(&mut self.wire, fresh).reset();
        let head = self.session.stream(&mut self.wire, self.last_id.as_deref()).await;
        let head = head.map_err(text)?;
        expect(head.status == 200, || format!("resumed standing stream: {head:?}"))
    }

    fn so_far(&self, crowd: &Crowd, why: &WireError) -> Failure {
        let updates = crowd.updates.load(Ordering::SeqCst);
        format!("{why}; heard {} updates of {updates} (0: not yet known)", self.heard)
    }

    /// Ends the session, which ends the stream: nothing may come behind the last update.
    async fn end(mut self, updates: u64) -> Result<(), Failure> {
        let mut wire = Wire::connect(self.session.address).await.map_err(text)?;
        // The client's rounds may still need the session, so only the stream is asked for
        // what is left: a second resume replaces it and replays what was not delivered.
        let head = self.session.stream(&mut wire, self.last_id.as_deref()).await.map_err(text)?;
        expect(head.status == 200, || format!("last resume: {head:?}"))?;
        while let Some(event) = self.wire.event().await.map_err(text)? {
            self.note(&event)?;
        }
        expect(self.heard == updates, || format!("{} updates of {updates} came", self.heard))
    }

    fn note(&mut self, event: &Event) -> Result<(), Failure> {
        if !event.data.is_empty() {
            let id = event.id.clone().ok_or_else(|| format!("an event without id: {event:?}"))?;
            expect(self.event_ids.insert(id), || format!("an event id came twice: {event:?}"))?;
            let update = event.json()["method"] == "notifications/resources/updated";
            expect(update, || format!("a stray message: {}", event.data))?;
            self.heard += 1;
        }
        if event.id.is_some() {
            self.last_id.clone_from(&event.id);
        }
        Ok(())
    }
}

/// A number below `bound` that looks drawn, the same in every run.
fn pick(round: u64, bound: usize) -> usize {
    let mixed = (round.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 33;
    usize::try_from(mixed).expect("31 bits") % bound
}

fn expect(condition: bool, why: impl FnOnce() -> Failure) -> Result<(), Failure> {
    if condition { Ok(()) } else { Err(why()) }
}

fn text(error: impl std::fmt::Display) -> Failure {
    error.to_string()
}
