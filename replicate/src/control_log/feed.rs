//! What happens in the log, for those on the node who want to know.
//!
//! Limit: [`NEWS_WAITING_MAX`] news wait for one listener. One that does not keep up
//! is told to look at everything anew, instead of what it missed.

use shardgate_replicate_proto::coordinator::Change;

/// News that wait for one listener.
pub const NEWS_WAITING_MAX: usize = 65_536;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A change of the state.
    Change(Change),
    /// The log's members are others.
    Members,
    /// The state was replaced, or news were missed: look at everything anew.
    Everything,
}

/// Those who listen.
#[derive(Debug, Default)]
pub struct Feed {
    listeners: Vec<Listener>,
}

#[derive(Debug)]
struct Listener {
    news: flume::Sender<News>,
    /// The last in the queue is the word that something was missed.
    missed: bool,
}

impl Feed {
    /// What happens from now on.
    pub fn subscribe(&mut self) -> flume::Receiver<News> {
        // One more, for the word that something was missed.
        let (sender, receiver) = flume::bounded(NEWS_WAITING_MAX + 1);
        self.listeners.push(Listener { news: sender, missed: false });
        receiver
    }

    /// Tells everybody. Never waits.
    pub fn tell(&mut self, news: News) {
        self.listeners.retain_mut(|listener| listener.tell(&news));
    }
}

impl Listener {
    /// False once nobody listens.
    fn tell(&mut self, news: &News) -> bool {
        let full = self.news.len() >= NEWS_WAITING_MAX;
        if full && self.missed {
            // Whoever comes to the word in the queue looks at everything, this included.
            return !self.news.is_disconnected();
        }
        self.missed = full;
        let next = if full { News::Everything } else { news.clone() };
        self.news.try_send(next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_does_not_keep_up_is_told_to_look_at_everything() {
        let mut feed = Feed::default();
        let slow = feed.subscribe();
        for _ in 0..NEWS_WAITING_MAX + 100 {
            feed.tell(News::Members);
        }
        let waiting: Vec<News> = slow.drain().collect();
        assert_eq!(waiting.len(), NEWS_WAITING_MAX + 1);
        assert_eq!(waiting.last(), Some(&News::Everything));
        feed.tell(News::Members);
        assert_eq!(slow.try_recv(), Ok(News::Members), "news come again once there is room");
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let mut feed = Feed::default();
        drop(feed.subscribe());
        feed.tell(News::Members);
        assert!(feed.listeners.is_empty());
    }
}
