//! The standing stream of a legacy session: what the server says without being asked.
//!
//! It is opened once the client is initialized and reopened for as long as the session
//! lives, behind the last event that came. A server without such a stream says 405.

use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Response, StatusCode};

use super::Bridge;
use super::backoff::Backoff;
use super::events::{EventStream, LAST_EVENT_ID, Position, StreamEnd};
use super::exchange::{Content, content, is_passing};
use super::session::Session;
use super::stdio::ClientGone;

/// How long to wait after a stream has ended, where the server doesn't say.
const REOPEN_TIME: Duration = Duration::from_secs(1);

/// What a try to open the stream came to.
enum Opened {
    Stream(Incoming),
    /// Worth another try; why it failed.
    Failed(String),
    /// The server has no such stream.
    Never,
    /// The server doesn't know the session any more.
    SessionLost,
}

impl Bridge {
    /// Keeps the session's standing stream open in the background.
    pub(super) fn start_standing(self: &Rc<Self>, session: Session) {
        let task = tokio::task::spawn_local(Rc::clone(self).stand(session));
        self.sessions.borrow_mut().standing = Some(task.abort_handle());
    }

    async fn stand(self: Rc<Self>, session: Session) {
        let mut position = Position::default();
        let mut backoff = Backoff::default();
        let mut stood_before = false;
        loop {
            match self.open_standing(&session, &position).await {
                Opened::Stream(body) => {
                    if backoff.failures() > 0 {
                        tracing::info!("the standing stream is open again");
                    }
                    backoff = Backoff::default();
                    stood_before = true;
                    match self.relay(body, &mut position).await {
                        Ok(end) => tracing::debug!("the standing stream has ended: {end}"),
                        Err(ClientGone) => return,
                    }
                    let wait = position.retry.unwrap_or(REOPEN_TIME);
                    tokio::time::sleep(Backoff::default().next(Some(wait))).await;
                }
                // Some servers say 404 where they have no such stream; a ping tells which it is.
                Opened::SessionLost if stood_before || self.is_lost(&session).await => {
                    return self.renew_in_background(session);
                }
                Opened::SessionLost | Opened::Never => {
                    return tracing::info!(
                        "the server has no standing stream: it speaks only when it is asked"
                    );
                }
                Opened::Failed(why) => {
                    if backoff.failures() == 0 {
                        tracing::warn!("the standing stream can't be opened, trying on: {why}");
                    }
                    tokio::time::sleep(backoff.next(position.retry)).await;
                }
            }
        }
    }

    async fn is_lost(&self, session: &Session) -> bool {
        let Some(ping) = self.own_request("ping", b"{}") else { return false };
        let answered = self.exchange(&ping, session.headers(), Some(session)).await;
        answered.is_err_and(|failure| failure.is_session_lost())
    }

    async fn open_standing(&self, session: &Session, position: &Position) -> Opened {
        let mut headers = session.headers();
        if let Some(last) = &position.last_event_id {
            headers.insert(LAST_EVENT_ID, last.clone());
        }
        match self.gateway.stream(headers).await {
            Ok(response) if response.status().is_success() => match content(&response) {
                Content::Events => Opened::Stream(response.into_body()),
                Content::Json => Opened::Never,
                Content::Other(_) => Opened::Never,
            },
            Ok(response) => self.judge_refusal(response).await,
            Err(failure) => Opened::Failed(failure.to_string()),
        }
    }

    async fn judge_refusal(&self, response: Response<Incoming>) -> Opened {
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            return Opened::Never;
        }
        let passes = is_passing(&response);
        let refusal = self.gateway.read_refusal(response).await;
        if refusal.is_session_lost() {
            return Opened::SessionLost;
        }
        if passes {
            return Opened::Failed(refusal.to_string());
        }
        tracing::warn!("the standing stream is refused: {refusal}");
        Opened::Never
    }

    async fn relay(
        &self,
        body: Incoming,
        position: &mut Position,
    ) -> Result<StreamEnd, ClientGone> {
        let mut events = EventStream::new(body, position);
        loop {
            match events.next().await {
                Ok(data) => self.pass_on(&data).await?,
                Err(end) => return Ok(end),
            }
        }
    }

    /// Not in this task: the new session stops it.
    fn renew_in_background(self: &Rc<Self>, lost: Session) {
        let bridge = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Err(failure) = bridge.renew(&lost).await {
                tracing::error!("{failure}");
            }
        });
    }
}
