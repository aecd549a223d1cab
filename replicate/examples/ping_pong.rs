//! What a request between two nodes costs: both run on this one thread, so that the cpu time of
//! the process is that of both sides and of the kernel between them.
//!
//! ```text
//! cargo run --release -p shardgate-replicate --example ping_pong [-- IN_FLIGHT BODY_BYTES REQUESTS]
//! ```
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use shardgate_replicate::pki::{Authority, NodeRequest, Validity};
use shardgate_replicate::transport::{
    Endpoint, Handler, LinkSettings, Links, OwnIdentity, PeerIdentity, Security, Tls, serve,
};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, LocalSet};

const CLUSTER: &str = "bench";

/// Answers with what it got.
struct Echo;

impl Handler for Echo {
    async fn handle(&self, _: &PeerIdentity, _: u8, body: Bytes) -> Result<Bytes, String> {
        Ok(body)
    }

    fn notice(&self, _: &PeerIdentity, _: u8, _: Bytes) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (in_flight, body_bytes, requests) = (next(64)?, next(128)?, next(200_000)?);
    let authority = Authority::create(CLUSTER, Validity::days(1))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{in_flight} in flight, bodies of {body_bytes} bytes, {requests} requests");
    for (name, is_secure) in [("plain", false), ("TLS", true)] {
        let measured = measure(&authority, is_secure, in_flight, body_bytes, requests);
        let (took, cpu) = LocalSet::new().block_on(&runtime, measured)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let count = requests as f64;
        println!(
            "{name:<6} {:>9.0} requests/s, {:.2} us of cpu each (both sides)",
            count / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / count,
        );
    }
    Ok(())
}

fn endpoint(
    authority: &Authority,
    is_secure: bool,
    id: u16,
) -> Result<Rc<Endpoint>, Box<dyn Error>> {
    let name = format!("node-{id}");
    let security = if is_secure {
        let validity = Validity::days(1);
        let request =
            NodeRequest { name: name.clone(), node: None, addresses: Vec::new(), validity };
        Security::Tls(Tls::new(&authority.issue(&request)?.credentials()?, CLUSTER)?)
    } else {
        Security::Insecure
    };
    let incarnation = Incarnation(1);
    let own = OwnIdentity { cluster: CLUSTER.to_owned(), node: NodeId(id), name, incarnation };
    let gate = Rc::new(|_: &PeerIdentity, _: &[PeerIdentity]| Ok(()));
    Ok(Rc::new(Endpoint::new(own, security, LinkSettings::default(), gate)))
}

async fn measure(
    authority: &Authority,
    is_secure: bool,
    in_flight: usize,
    body_bytes: usize,
    requests: usize,
) -> Result<(Duration, Duration), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let serving = serve(listener, endpoint(authority, is_secure, 2)?, Rc::new(Echo))?;
    let links = Rc::new(Links::new(endpoint(authority, is_secure, 1)?, |_| {}));
    links.set_peer(NodeId(2), &serving.address().to_string());
    let body = Bytes::from(vec![7; body_bytes]);
    links.request(NodeId(2), 1, body.clone(), Duration::from_secs(5)).await?;
    let left = Rc::new(Cell::new(requests));
    let (began, cpu_began) = (Instant::now(), cpu());
    let mut askers = JoinSet::new();
    for _ in 0..in_flight {
        let (links, left, body) = (Rc::clone(&links), Rc::clone(&left), body.clone());
        askers.spawn_local(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                links.request(NodeId(2), 1, body.clone(), Duration::from_secs(30)).await?;
            }
            Ok::<_, shardgate_replicate::transport::LinkError>(())
        });
    }
    while let Some(asker) = askers.join_next().await {
        asker??;
    }
    Ok((began.elapsed(), cpu() - cpu_began))
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
