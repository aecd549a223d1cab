//! A configuration that was read while the gateway runs is put into force here.
//!
//! Invariants:
//! - Either every shard takes a configuration over, or, if it can't be had, none. Only a shard
//!   that drains already goes on as it is.
//! - Shards hear of configurations in the same order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shardgate_shard::{Handle, ShardId};

use crate::children::ChildSpecs;
use crate::config::Config;
use crate::data_path::{Message, Reloaded};
use crate::endpoints::Endpoints;
use crate::federation::FederationSettings;
use crate::pins::PinBook;
use crate::upstreams::Upstreams;

/// A shard whose mailbox stays full for so long is stalled, and goes on as it was.
const TELL_TIME_MAX: Duration = Duration::from_secs(10);
/// The pause between two tries.
const TELL_PAUSE: Duration = Duration::from_millis(5);

/// What is in force, and how to replace it.
pub(crate) struct Running {
    pub(crate) upstreams: Upstreams,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) specs: ChildSpecs,
    /// `None` if there is the embedded server alone.
    pub(crate) federation: Option<FederationSettings>,
    pub(crate) book: Option<Arc<PinBook>>,
    /// Where names are looked up.
    pub(crate) look_up_anew: flume::Sender<Endpoints>,
}

impl Running {
    /// Puts a configuration into force, or says in the log why not.
    pub(crate) fn take_over(&mut self, config: &Config, shards: &Handle<Message>) {
        let upstreams = match self.upstreams.next(config) {
            Ok(upstreams) => upstreams,
            Err(error) => {
                let reason = error.to_string();
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(
                    event = "config_refused",
                    reason,
                    cause,
                    "the new configuration is not usable; the old one stays"
                );
                return;
            }
        };
        if self.federation.is_none() && !upstreams.is_empty() {
            tracing::warn!(
                event = "restart_needed",
                keys = "upstream",
                "needs a restart: the gateway was started with the embedded server alone, and \
                 takes upstreams when it starts"
            );
        }
        // Shards keep what is not configured any more; nobody has to look it up again.
        self.endpoints = Arc::new(upstreams.table());
        // The resolver takes one at a time, and none if there is the embedded server alone.
        let _ = self.look_up_anew.send_timeout((*self.endpoints).clone(), TELL_TIME_MAX);
        // Before shards ask for children of new servers.
        self.specs.replace(upstreams.children());
        if let Some(federation) = &mut self.federation {
            federation.servers = upstreams.servers();
            federation.routes.clone_from(&upstreams.routes);
        }
        if let Some(book) = &self.book {
            book.keep_only(&upstreams.pinned());
        }
        let reloaded = Arc::new(Reloaded {
            endpoints: Arc::clone(&self.endpoints),
            routes: Arc::clone(&upstreams.paths),
            federation: self.federation.clone(),
        });
        self.upstreams = upstreams;
        tell(&reloaded, shards);
    }
}

fn tell(reloaded: &Arc<Reloaded>, shards: &Handle<Message>) {
    let begun = Instant::now();
    for shard in (0..shards.shards() as u16).map(ShardId) {
        while shards.send(shard, Message::Reloaded(Arc::clone(reloaded))).is_err() {
            if shards.exits().iter().any(|exit| exit.shard == shard) {
                break;
            }
            if begun.elapsed() > TELL_TIME_MAX {
                tracing::error!(
                    event = "shard_not_told",
                    shard = shard.0,
                    "the shard did not take the new configuration; it goes on with the old one \
                     until the next"
                );
                break;
            }
            std::thread::sleep(TELL_PAUSE);
        }
    }
}
