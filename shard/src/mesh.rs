//! The channels between shards, and from the control thread to every shard.
//!
//! One bounded flume channel per ordered pair of shards carries batches: what a
//! turn sends to one shard is one channel operation and at most one wake-up.
//!
//! Invariants: messages from one sender to one shard arrive in the order they were
//! sent; a service's message is taken only while fewer than [`MESH_DEPTH_MAX`] wait,
//! counted over the sender's outbox and the channel; one that does not fit is given
//! back, never dropped. The runtime's own envelopes always fit: there is a handful per
//! connection that moves and one per ring and peer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::doorbell::Doorbell;
use crate::identity::{ConnId, ListenerId, Origin, ShardId};

/// Messages that may wait between one sender and one shard.
pub const MESH_DEPTH_MAX: usize = 1_024;

/// Batches a channel holds: one message each at worst, and as much again for the
/// runtime's own envelopes. Those count among the messages that wait, but are never
/// given back for it.
const CHANNEL_BATCHES_MAX: usize = 2 * MESH_DEPTH_MAX;

/// Empty batch vectors kept for reuse.
const SPARE_BATCHES_MAX: usize = 64;

/// The message did not fit: [`MESH_DEPTH_MAX`] messages wait already, because the
/// receiving shard is busy or has ended. The message is inside.
#[derive(thiserror::Error)]
#[error(
    "send a message over the mesh: {MESH_DEPTH_MAX} messages wait already; answer 503 or retry"
)]
pub struct MeshFull<M>(pub M);

impl<M> std::fmt::Debug for MeshFull<M> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MeshFull")
    }
}

/// What travels in a channel.
pub(crate) enum Envelope<M> {
    /// A message of the service.
    Message(M),
    /// A connection of the sender would like to move to the receiver.
    SlotWanted(ConnId),
    /// The answer: the ring in which a slot is reserved for it, or none.
    SlotAnswer { conn: ConnId, ring: Option<u8> },
    /// The slot reserved in this ring is not needed after all.
    SlotReturned { ring: u8 },
    /// A connection has moved into the receiver's ring, into a slot reserved for it.
    Arrival(Box<Arrival<M>>),
    /// The sender has opened another data ring.
    RingOpened(RingAddress),
    /// The drain begins; it ends at this time at the latest.
    Shutdown { deadline_ms: u64 },
}

/// A connection that has moved.
pub(crate) struct Arrival<M> {
    pub(crate) ring: u8,
    pub(crate) slot: u32,
    pub(crate) listener: ListenerId,
    pub(crate) baggage: M,
    /// What the peer sent while the connection moved.
    pub(crate) bytes: Vec<u8>,
    /// The peer closed its sending half after these bytes.
    pub(crate) eof: bool,
}

/// A ring's descriptor, by which other shards hand sockets to it.
///
/// It is a duplicate, so that the number can't come to mean another file while
/// somebody still holds it.
pub(crate) type RingAddress = Arc<OwnedFd>;

/// The sending end towards one shard.
pub(crate) struct Link<M> {
    sender: flume::Sender<Vec<Envelope<M>>>,
    depth: Arc<AtomicUsize>,
    doorbell: Arc<Doorbell>,
    mail_bit: usize,
}

impl<M> Clone for Link<M> {
    fn clone(&self) -> Link<M> {
        Link {
            sender: self.sender.clone(),
            depth: Arc::clone(&self.depth),
            doorbell: Arc::clone(&self.doorbell),
            mail_bit: self.mail_bit,
        }
    }
}

impl<M> Link<M> {
    /// Sends one message at once, from outside the shards.
    pub(crate) fn send(&self, message: M) -> Result<(), MeshFull<M>> {
        let room = |depth: usize| (depth < MESH_DEPTH_MAX).then_some(depth + 1);
        if self.depth.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            return Err(MeshFull(message));
        }
        match self.sender.try_send(vec![Envelope::Message(message)]) {
            Ok(()) => {
                self.doorbell.ring(self.mail_bit);
                Ok(())
            }
            Err(refused) => {
                self.depth.fetch_sub(1, Ordering::AcqRel);
                match refused.into_inner().pop() {
                    Some(Envelope::Message(message)) => Err(MeshFull(message)),
                    _ => unreachable!("the batch held this one message"),
                }
            }
        }
    }

    /// Sends an envelope of the runtime's own. False if the shard has ended.
    pub(crate) fn send_internal(&self, envelope: Envelope<M>) -> bool {
        self.depth.fetch_add(1, Ordering::AcqRel);
        let sent = self.sender.send(vec![envelope]).is_ok();
        if sent {
            self.doorbell.ring(self.mail_bit);
        }
        sent
    }
}

/// The receiving end of one channel.
struct Inlet<M> {
    receiver: flume::Receiver<Vec<Envelope<M>>>,
    depth: Arc<AtomicUsize>,
}

/// One shard's part of the mesh.
pub(crate) struct Mesh<M> {
    links: Vec<Link<M>>,
    outboxes: Vec<Vec<Envelope<M>>>,
    /// Targets whose outbox is not empty.
    waiting: Vec<u16>,
    inlets: Vec<Inlet<M>>,
    doorbell: Arc<Doorbell>,
    spares: Vec<Vec<Envelope<M>>>,
}

/// All parts of a mesh: one per shard, and the control thread's links.
pub(crate) struct MeshParts<M> {
    pub(crate) shards: Vec<Mesh<M>>,
    pub(crate) control: Vec<Link<M>>,
}

/// Connects `shards` shards with each other and with the control thread.
pub(crate) fn connect<M>(shards: usize) -> std::io::Result<MeshParts<M>> {
    let senders = shards + 1;
    let mut links: Vec<Vec<Link<M>>> = (0..senders).map(|_| Vec::new()).collect();
    let mut receiving = Vec::new();
    for _ in 0..shards {
        let doorbell = Arc::new(Doorbell::new(senders)?);
        let mut inlets = Vec::with_capacity(senders);
        for (mail_bit, links) in links.iter_mut().enumerate() {
            let (sender, receiver) = flume::bounded(CHANNEL_BATCHES_MAX);
            let depth = Arc::new(AtomicUsize::new(0));
            let doorbell = Arc::clone(&doorbell);
            links.push(Link { sender, depth: Arc::clone(&depth), doorbell, mail_bit });
            inlets.push(Inlet { receiver, depth });
        }
        receiving.push((inlets, doorbell));
    }
    let control = links.pop().unwrap_or_default();
    let shards = links
        .into_iter()
        .zip(receiving)
        .map(|(links, (inlets, doorbell))| Mesh {
            outboxes: links.iter().map(|_| Vec::new()).collect(),
            links,
            waiting: Vec::new(),
            inlets,
            doorbell,
            spares: Vec::new(),
        })
        .collect();
    Ok(MeshParts { shards, control })
}

impl<M> Mesh<M> {
    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.links.len()
    }

    /// This shard's doorbell.
    pub(crate) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// True if the shard has ended: nothing that is sent to it is read any more.
    pub(crate) fn has_ended(&self, shard: ShardId) -> bool {
        self.links[usize::from(shard.0)].sender.is_disconnected()
    }

    /// Messages that wait between this shard and `to`.
    pub(crate) fn depth(&self, to: ShardId) -> usize {
        let to = usize::from(to.0);
        self.outboxes[to].len() + self.links[to].depth.load(Ordering::Acquire)
    }

    /// Queues a message for `to`; it leaves at the end of the turn.
    pub(crate) fn send(&mut self, to: ShardId, message: M) -> Result<(), MeshFull<M>> {
        assert!(usize::from(to.0) < self.links.len(), "shard {to} does not exist");
        if self.depth(to) >= MESH_DEPTH_MAX {
            return Err(MeshFull(message));
        }
        self.send_internal(to, Envelope::Message(message));
        Ok(())
    }

    /// Queues an envelope of the runtime's own. No constant bounds them: there are only
    /// so many connections to move and rings to tell of.
    pub(crate) fn send_internal(&mut self, to: ShardId, envelope: Envelope<M>) {
        let outbox = &mut self.outboxes[usize::from(to.0)];
        if outbox.is_empty() {
            self.waiting.push(to.0);
            if outbox.capacity() == 0
                && let Some(spare) = self.spares.pop()
            {
                *outbox = spare;
            }
        }
        outbox.push(envelope);
    }

    /// Hands every outbox to its channel. What a full channel refuses stays queued.
    pub(crate) fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|&to| {
            let link = &self.links[usize::from(to)];
            let batch = std::mem::take(&mut self.outboxes[usize::from(to)]);
            // Counted before it is visible, so that the receiver never subtracts first.
            let length = batch.len();
            link.depth.fetch_add(length, Ordering::AcqRel);
            match link.sender.try_send(batch) {
                Ok(()) => {
                    link.doorbell.ring(link.mail_bit);
                    false
                }
                Err(refused) => {
                    link.depth.fetch_sub(length, Ordering::AcqRel);
                    // The outbox of a shard that has ended stays as it is: what is
                    // sent to it fills up to the bound and is then given back.
                    let retry = !link.sender.is_disconnected();
                    self.outboxes[usize::from(to)] = refused.into_inner();
                    retry
                }
            }
        });
        self.waiting = waiting;
    }

    /// Moves all batches that have come to `batches`, in order per sender.
    pub(crate) fn receive(&mut self, batches: &mut Vec<(Origin, Vec<Envelope<M>>)>) {
        let shards = self.links.len();
        let inlets = &self.inlets;
        self.doorbell.take_mail(|sender| {
            let origin = if sender == shards {
                Origin::Control
            } else {
                Origin::Shard(ShardId(sender as u16))
            };
            let inlet = &inlets[sender];
            while let Ok(batch) = inlet.receiver.try_recv() {
                inlet.depth.fetch_sub(batch.len(), Ordering::AcqRel);
                batches.push((origin, batch));
            }
        });
    }

    /// Takes a handled batch back for reuse.
    pub(crate) fn recycle(&mut self, batch: Vec<Envelope<M>>) {
        debug_assert!(batch.is_empty());
        if self.spares.len() < SPARE_BATCHES_MAX {
            self.spares.push(batch);
        }
    }

    /// True if some outbox could not be handed over yet.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.waiting.is_empty()
    }
}
