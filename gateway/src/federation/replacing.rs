//! New settings while calls are under way.
//!
//! A server that is reached as before goes on with its sessions, though what is shown of it
//! may change. One that was removed, or is reached otherwise, leaves: it gets no new calls,
//! those it has are waited for, then its sessions are ended and its links closed. A changed
//! server takes its place under a new number, and is shown with the old one's lists until
//! its own are read, so that clients see one change at most. When the gateway ends, all of
//! them leave.
//!
//! Invariant: a number is never used again, for links and jobs are found by it.

use std::sync::Arc;

use shardgate_proto::catalog::Pins;
use shardgate_proto::clock::Millis;
use shardgate_proto::upstream::{Events, Upstream};

use super::server::{Server, Wire};
use super::sweeping::BUSY_SWEEP_MS;
use super::{Federation, FederationSettings};
use crate::data_path::Changeable;

/// A server may take so long to hear that our sessions have ended.
const FAREWELL_MS: u64 = 2_000;

/// What other shards tell of servers that this one does not know yet.
pub(super) const AHEAD_MAX: usize = 1_024;

/// How far a server that leaves has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Calls are under way.
    Draining,
    /// It is told that its sessions have ended, until then.
    Farewell(Millis),
    /// Nothing is left.
    Gone,
}

impl Changeable for Federation {
    fn take_over(&mut self, settings: &FederationSettings, now: Millis, events: &mut Events) {
        self.settings.servers.clone_from(&settings.servers);
        self.settings.routes.clone_from(&settings.routes);
        let mut fresh = settings.servers.clone();
        fresh.sort_by_key(|server| server.endpoint);
        let known = self.servers.len();
        for server in fresh {
            let index = server.endpoint.0;
            // Numbers that this shard never heard of were another configuration's.
            while self.servers.len() < usize::from(index) {
                let gap = self.servers.len() as u16;
                let mut unused = Server::new(gap, Arc::clone(&server), &self.settings);
                unused.leaving = Some(Leaving::Gone);
                unused.reading.answered_once = true;
                self.servers.push(unused);
            }
            match self.servers.get_mut(usize::from(index)) {
                Some(known) => {
                    let pins = server.pinned && !known.settings.pinned;
                    if let Wire::Http(http) = &mut known.wire {
                        http.take_over(&server);
                    }
                    known.settings = server;
                    if pins {
                        // What it lists has to be pinned.
                        self.list_changed(index, now);
                    }
                }
                None => self.servers.push(Server::new(index, server, &self.settings)),
            }
        }
        for index in 0..known {
            let stays = settings.servers.iter().any(|it| usize::from(it.endpoint.0) == index);
            if !stays && self.servers[index].leaving.is_none() {
                self.begin_leaving(index as u16);
            }
        }
        self.views.replace_routes(&self.settings);
        self.rebuild(events);
        self.watch_all(now, events);
        for message in std::mem::take(&mut self.ahead) {
            self.handle_sibling(&message, now, events);
        }
        // New servers are asked and old ones seen off without delay.
        self.sweep(now, events);
        self.hear_inside(now, events);
    }

    fn take_pins(&mut self, pins: Arc<Pins>, events: &mut Events) {
        self.views.replace_pins(pins);
        self.rebuild(events);
    }
}

impl Federation {
    fn begin_leaving(&mut self, index: u16) {
        let server = &mut self.servers[usize::from(index)];
        tracing::info!(
            event = "upstream_leaves",
            upstream = server.name(),
            calls = server.in_flight,
            "it was removed from the configuration, or changed there"
        );
        server.leaving = Some(Leaving::Draining);
        server.reading.answered_once = true;
        let name = server.name().to_owned();
        let listing = server.listing.take();
        let successor = self
            .servers
            .iter_mut()
            .find(|server| server.leaving.is_none() && server.name() == name);
        let heir = successor.map(|server| {
            server.listing = server.listing.take().or(listing);
            server.index
        });
        // What clients subscribed to is asked of the new server when its session opens.
        for client in self.clients.values_mut() {
            match heir {
                Some(heir) => {
                    let watched = client.watched.iter_mut().filter(|(server, _)| *server == index);
                    watched.for_each(|(server, _)| *server = heir);
                }
                None => client.watched.retain(|(server, _)| *server != index),
            }
            match heir {
                Some(heir) => {
                    let tasks = client.tasks.iter_mut().filter(|(_, server)| *server == index);
                    tasks.for_each(|(_, server)| *server = heir);
                }
                None => client.tasks.retain(|(_, server)| *server != index),
            }
        }
    }

    /// Every server leaves. Calls that are left belong to clients that have gone.
    pub(super) fn leave_all(&mut self, now: Millis, events: &mut Events) {
        let orphans: Vec<_> = self.jobs.iter().map(|job| job.key).collect();
        for job in orphans {
            self.cancel_job(job, "the gateway is ending", now, events);
        }
        for index in 0..self.servers.len() as u16 {
            let server = &mut self.servers[usize::from(index)];
            if server.leaving.is_none() {
                server.leaving = Some(Leaving::Draining);
                server.reading.answered_once = true;
                self.see_off(index, now, events);
            }
        }
        self.look_by(now + BUSY_SWEEP_MS);
    }

    /// A server that stays, by its number.
    pub(super) fn staying(&mut self, index: u16) -> Option<&mut Server> {
        self.servers.get_mut(usize::from(index)).filter(|server| server.leaving.is_none())
    }

    /// Sums under a name never fall while there is a server of that name.
    fn hand_counts_down(&mut self, index: u16) {
        let server = &mut self.servers[usize::from(index)];
        let counted = server.counters.hand_down();
        let name = server.name().to_owned();
        let mut stay = self.servers.iter_mut().filter(|server| server.leaving.is_none());
        if let Some(heir) = stay.find(|server| server.name() == name) {
            heir.counters.inherit(counted);
        }
    }

    /// Goes on with a server that leaves.
    pub(super) fn see_off(&mut self, index: u16, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        match server.leaving {
            Some(Leaving::Draining) if server.in_flight == 0 => {
                let sessions: Vec<_> = server.sessions.iter().map(|session| session.key).collect();
                for key in sessions {
                    self.end_session(index, key, now, events);
                }
                let server = &mut self.servers[usize::from(index)];
                server.leaving = Some(Leaving::Farewell(now + FAREWELL_MS));
            }
            Some(Leaving::Farewell(until)) if server.exchanges.is_empty() || until <= now => {
                server.exchanges.clear();
                if let Wire::Http(http) = &mut server.wire {
                    for (pool, _) in http.pools() {
                        pool.close_all(events);
                    }
                }
                server.leaving = Some(Leaving::Gone);
                tracing::info!(event = "upstream_left", upstream = server.name());
                self.hand_counts_down(index);
            }
            Some(_) | None => {}
        }
    }
}
