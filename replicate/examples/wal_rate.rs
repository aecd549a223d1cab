//! How many entries a second a log takes on a directory's disk, synced one by one and in groups:
//! `cargo run --release -p shardgate-replicate --example wal_rate -- DIRECTORY`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use shardgate_replicate::disk::RealDisk;
use shardgate_replicate::wal::{Config, Entry, Opaque, Owner, Wal, Writer, WriterConfig};

const SPAN: Duration = Duration::from_secs(4);
const PAYLOAD_BYTES: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args().nth(1).ok_or("usage: wal_rate DIRECTORY")?;
    let dir = Path::new(&root).join("wal-rate");
    for run in 0..3 {
        for batch in [1, 64] {
            let log = by_batches(create(&dir)?, batch)?;
            let writer = by_writer(create(&dir)?, batch)?;
            println!(
                "run {run}, {batch} per sync: {log:.0} entries/s; \
                 {batch} in flight at a writer: {writer:.0} entries/s"
            );
        }
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn create(dir: &Path) -> Result<Wal<RealDisk>, Box<dyn Error>> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let owner = Owner { cluster: "rate".to_owned(), node: 1 };
    Ok(Wal::open(RealDisk, dir, owner, Config::default())?.0)
}

fn entry(index: u64) -> Entry {
    let id = Opaque::new(&index.to_le_bytes()).expect("8 bytes");
    Entry { index, id, payload: vec![7; PAYLOAD_BYTES].into() }
}

fn by_batches(mut wal: Wal<RealDisk>, batch: u64) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    let mut next = 0;
    while began.elapsed() < SPAN {
        let entries: Vec<Entry> = (next..next + batch).map(entry).collect();
        wal.append_batch(&entries)?;
        wal.sync()?;
        next += batch;
    }
    Ok(next as f64 / began.elapsed().as_secs_f64())
}

fn by_writer(wal: Wal<RealDisk>, in_flight: u64) -> Result<f64, Box<dyn Error>> {
    let writer = Writer::start(wal, WriterConfig::default())?;
    let (answer, answers) = mpsc::channel();
    let began = Instant::now();
    let (mut next, mut done) = (0, 0_u64);
    while began.elapsed() < SPAN {
        while next < done + in_flight {
            let answer = answer.clone();
            // At the end nobody waits for the last ones.
            let done = Box::new(move |outcome| drop(answer.send(outcome)));
            writer.append(vec![entry(next)], done)?;
            next += 1;
        }
        answers.recv()??;
        done += 1;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
