//! What is exchanged while a shard runs: its tool servers, its paths, what is approved.

use std::sync::Arc;

use shardgate_proto::catalog::Pins;
use shardgate_proto::clock::Millis;
use shardgate_proto::upstream::{Events, Upstream};
use shardgate_shard::Io;

use super::message::Message;
use super::service::Gateway;
use crate::embedded::Embedded;
use crate::endpoints::Endpoints;
use crate::federation::FederationSettings;
use crate::routes::Routes;

/// A configuration that was read again, as far as it concerns shards.
#[derive(Debug)]
pub(crate) struct Reloaded {
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) routes: Arc<Routes>,
    /// `None` where there is only the embedded server.
    pub(crate) federation: Option<FederationSettings>,
}

/// An upstream whose settings may change under its sessions. One with fixed settings does
/// nothing here.
pub(crate) trait Changeable: Upstream {
    /// Takes these servers and routes for those that were.
    fn take_over(&mut self, settings: &FederationSettings, now: Millis, events: &mut Events) {
        let _ = (settings, now, events);
    }

    /// Takes these approved definitions for those that were.
    fn take_pins(&mut self, pins: Arc<Pins>, events: &mut Events) {
        let _ = (pins, events);
    }
}

impl Changeable for Embedded {}

impl<U: Changeable> Gateway<U> {
    pub(crate) fn take_reloaded(&mut self, io: &mut Io<'_, Message>, reloaded: &Reloaded) {
        // New servers would only be in the way of the end.
        if self.draining {
            return;
        }
        // Links are opened by what the upstream does next.
        self.replace_endpoints(io, Arc::clone(&reloaded.endpoints));
        self.settings.routes = Arc::clone(&reloaded.routes);
        if let Some(settings) = &reloaded.federation {
            let now = self.now(io);
            self.upstream.take_over(settings, now, &mut self.events);
            self.relay(io);
        }
    }

    pub(crate) fn take_pins(&mut self, io: &mut Io<'_, Message>, pins: Arc<Pins>) {
        self.upstream.take_pins(pins, &mut self.events);
        self.relay(io);
    }
}
