//! The legacy session: how it is opened, kept and, when the server has lost it, renewed.
//!
//! A server forgets its sessions when it restarts or when they were idle too long, and says
//! so with 404. A client on stdio knows no sessions and could do nothing about it, so the
//! bridge opens a new one with the `initialize` it remembers. Nothing is hidden by that:
//! - Requests that were refused with 404 were not carried out; they are sent again.
//! - Requests whose streams the loss has cut are answered with an error that says so.
//! - The log level and subscriptions are asked for again. What changed meanwhile can't be
//!   known, so the client is told that every subscribed resource and every list that can
//!   change has changed, and it reads them afresh.
//! - If a subscription can't be had again, or the new session would be of another
//!   revision, the client is told.
//!
//! Limit: [`SUBSCRIPTIONS_MAX`] subscriptions are remembered.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use shardgate_proto::jsonrpc;
use tokio::task::AbortHandle;

use super::Bridge;
use super::exchange::Answered;
use super::failure::Failure;
use super::message::{Notification, Request};
use super::stdio::ClientGone;

/// Subscriptions that are asked for again in a new session.
const SUBSCRIPTIONS_MAX: usize = 10_000;
/// How long `initialize` and `notifications/initialized` may take. Everything waits for them.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the DELETE at the end may take.
pub(super) const DELETE_TIME_MAX: Duration = Duration::from_secs(2);

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// What every request of a session carries. A server without sessions gives no id.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Counts the sessions of this process, so that a loss is handled once.
    pub(super) number: u64,
    pub(super) id: Option<HeaderValue>,
    version: Option<HeaderValue>,
}

impl Session {
    /// A session whose `initialize` isn't answered yet.
    pub(super) fn unsettled(id: HeaderValue) -> Session {
        Session { number: 0, id: Some(id), version: None }
    }

    /// MCP 2025-11-25, transports: both headers on all requests after `initialize`.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(id) = &self.id {
            headers.insert(SESSION_ID, id.clone());
        }
        if let Some(version) = &self.version {
            headers.insert(PROTOCOL_VERSION, version.clone());
        }
        headers
    }
}

/// The session in force, and what a new one needs to take its place.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    current: Option<Session>,
    opened: u64,
    initialize: Option<Request>,
    initialized: Option<Bytes>,
    subscriptions: BTreeMap<String, Bytes>,
    log_level: Option<Bytes>,
    /// The lists that the server may say have changed.
    changing_lists: Vec<&'static str>,
    pub(super) standing: Option<AbortHandle>,
}

impl Sessions {
    /// The session in force.
    pub(super) fn current(&self) -> Option<Session> {
        self.current.clone()
    }

    /// Ends the session here; it must be told to the server.
    pub(super) fn take(&mut self) -> Option<Session> {
        self.stop_standing();
        self.current.take()
    }

    fn stop_standing(&mut self) {
        if let Some(standing) = self.standing.take() {
            standing.abort();
        }
    }

    /// The session that an answer to `initialize` opens; `None` if it is an error.
    fn opened_by(&mut self, answered: &Answered) -> Option<Session> {
        let result = jsonrpc::member(&answered.message, "result")?;
        let version = jsonrpc::member(result, "protocolVersion").and_then(jsonrpc::string);
        self.changing_lists = changing_lists(result);
        self.opened += 1;
        Some(Session {
            number: self.opened,
            id: answered.session_id.clone(),
            version: version.and_then(|version| HeaderValue::from_str(&version).ok()),
        })
    }

    fn put(&mut self, session: &Session) {
        self.stop_standing();
        self.current = Some(session.clone());
    }

    /// Notes what a request that was answered well has changed in the session.
    fn note(&mut self, request: &Request) {
        let Some(params) = request.params.clone() else { return };
        let uri = || jsonrpc::member(&params, "uri").and_then(jsonrpc::string).map(String::from);
        match request.method.as_str() {
            "logging/setLevel" => self.log_level = Some(params),
            "resources/subscribe" => {
                let Some(uri) = uri() else { return };
                if self.subscriptions.len() < SUBSCRIPTIONS_MAX
                    || self.subscriptions.contains_key(&uri)
                {
                    self.subscriptions.insert(uri, params);
                } else {
                    tracing::warn!(
                        "{SUBSCRIPTIONS_MAX} subscriptions are remembered; the one to {uri} would not survive the loss of the session"
                    );
                }
            }
            "resources/unsubscribe" => {
                if let Some(uri) = uri() {
                    self.subscriptions.remove(&uri);
                }
            }
            _ => {}
        }
    }
}

fn changing_lists(result: &[u8]) -> Vec<&'static str> {
    let Some(capabilities) = jsonrpc::member(result, "capabilities") else { return Vec::new() };
    let says_so = |kind: &&str| {
        let capability = jsonrpc::member(capabilities, kind);
        capability.and_then(|c| jsonrpc::member(c, "listChanged")) == Some(b"true")
    };
    ["tools", "resources", "prompts"].into_iter().filter(says_so).collect()
}

impl Bridge {
    /// The client initializes. Returns the answer for it.
    pub(super) async fn initialize(self: &Rc<Self>, request: &Request) -> Result<Bytes, Failure> {
        if let Some(old) = self.sessions.borrow_mut().take() {
            tracing::info!("the client initializes again: the session it had is ended");
            let bridge = Rc::clone(self);
            tokio::task::spawn_local(async move { bridge.delete(&old).await });
        }
        let answered = self.in_time(self.exchange(request, HeaderMap::new(), None)).await?;
        let mut sessions = self.sessions.borrow_mut();
        *sessions = Sessions { opened: sessions.opened, ..Sessions::default() };
        if let Some(session) = sessions.opened_by(&answered) {
            sessions.put(&session);
            sessions.initialize = Some(request.clone());
        }
        Ok(answered.message)
    }

    /// The client has taken note of the answer: from now on the server may ask and tell.
    pub(super) async fn initialized(self: &Rc<Self>, notification: &Notification) {
        let session = self.sessions.borrow().current();
        let headers = session.as_ref().map(Session::headers).unwrap_or_default();
        if let Err(failure) = self.in_time(self.post_one_way(headers, &notification.text)).await {
            tracing::warn!("notifications/initialized did not arrive: {failure}");
        }
        self.sessions.borrow_mut().initialized = Some(notification.text.clone());
        if let Some(session) = session {
            self.start_standing(session);
        }
    }

    /// A legacy request within the session, if there is one. Returns the answer for the client.
    pub(super) async fn call(self: &Rc<Self>, request: &Request) -> Result<Bytes, Failure> {
        let session = self.sessions.borrow().current();
        let outcome = self.call_in(request, session.as_ref()).await;
        let (Err(failure), Some(session)) = (&outcome, session) else { return outcome };
        if session.id.is_none() || !failure.is_session_lost() {
            return outcome;
        }
        let renewed = self.renew(&session).await?;
        match outcome {
            // It was refused as a whole, so sending it again carries it out once.
            Err(Failure::Refused { .. }) => self.call_in(request, Some(&renewed)).await,
            outcome => outcome,
        }
    }

    async fn call_in(
        &self,
        request: &Request,
        session: Option<&Session>,
    ) -> Result<Bytes, Failure> {
        let headers = session.map(Session::headers).unwrap_or_default();
        let answered = self.exchange(request, headers, session).await?;
        if jsonrpc::member(&answered.message, "result").is_some() {
            self.sessions.borrow_mut().note(request);
        }
        Ok(answered.message)
    }

    /// Puts a new session in the place of one that the server has lost. Whoever comes
    /// second to the same loss gets the session that the first one has opened.
    pub(super) async fn renew(self: &Rc<Self>, lost: &Session) -> Result<Session, Failure> {
        let _turn = self.renewal.lock().await;
        let (current, initialize, initialized) = {
            let sessions = self.sessions.borrow();
            (sessions.current(), sessions.initialize.clone(), sessions.initialized.clone())
        };
        if let Some(current) = current.filter(|current| current.number != lost.number) {
            return Ok(current);
        }
        let cause = || "the client's initialize is not known".to_owned();
        let not_renewed = |cause| Failure::NotRenewed { url: self.gateway.url(), cause };
        let initialize = initialize.ok_or_else(|| not_renewed(cause()))?;
        tracing::warn!(
            "the gateway at {} has lost the session; opening a new one",
            self.gateway.url()
        );
        let answered = self
            .in_time(self.exchange(&initialize, HeaderMap::new(), None))
            .await
            .map_err(|failure| not_renewed(failure.to_string()))?;
        let session = self.replace(lost, &answered).await.map_err(not_renewed)?;
        if let Some(initialized) = initialized {
            let sent = self.in_time(self.post_one_way(session.headers(), &initialized)).await;
            sent.map_err(|failure| not_renewed(failure.to_string()))?;
            self.start_standing(session.clone());
        }
        self.restore(&session).await?;
        Ok(session)
    }

    async fn replace(&self, lost: &Session, answered: &Answered) -> Result<Session, String> {
        let opened = self.sessions.borrow_mut().opened_by(answered);
        let session = opened
            .ok_or_else(|| format!("it answered {}", String::from_utf8_lossy(&answered.message)))?;
        if session.version == lost.version {
            self.sessions.borrow_mut().put(&session);
            return Ok(session);
        }
        // The client goes by the rules of the revision it was told.
        self.delete(&session).await;
        let text = |version: &Option<HeaderValue>| {
            version.as_ref().and_then(|v| v.to_str().ok()).unwrap_or("none").to_owned()
        };
        let (old, new) = (text(&lost.version), text(&session.version));
        Err(format!("it now speaks revision {new}, but the client was told {old}"))
    }

    /// Asks for what the lost session had, and tells the client that it may have missed changes.
    async fn restore(&self, session: &Session) -> Result<(), ClientGone> {
        let (log_level, subscriptions, lists) = {
            let sessions = self.sessions.borrow();
            let subscriptions = sessions.subscriptions.clone();
            (sessions.log_level.clone(), subscriptions, sessions.changing_lists.clone())
        };
        if let Some(params) = log_level
            && let Err(cause) = self.ask_again(session, "logging/setLevel", &params).await
        {
            tracing::warn!("the log level could not be set again: {cause}");
        }
        for (uri, params) in &subscriptions {
            if let Err(cause) = self.ask_again(session, "resources/subscribe", params).await {
                self.sessions.borrow_mut().subscriptions.remove(uri);
                let text = format!("the subscription to {uri} was lost with the session: {cause}");
                tracing::error!("{text}");
                self.tell_log(&text).await?;
            }
            let mut params = b"{\"uri\":".to_vec();
            jsonrpc::write_string(&mut params, uri);
            params.push(b'}');
            self.tell("notifications/resources/updated", Some(&params)).await?;
        }
        for list in lists {
            self.tell(&format!("notifications/{list}/list_changed"), None).await?;
        }
        tracing::info!("a new session is open, with {} subscriptions", subscriptions.len());
        Ok(())
    }

    async fn ask_again(
        &self,
        session: &Session,
        method: &str,
        params: &[u8],
    ) -> Result<(), String> {
        let request = self.own_request(method, params).ok_or("its parameters are unreadable")?;
        let asked = self.in_time(self.exchange(&request, session.headers(), Some(session))).await;
        let answered = asked.map_err(|failure| failure.to_string())?;
        match jsonrpc::member(&answered.message, "error") {
            None => Ok(()),
            Some(error) => Err(String::from_utf8_lossy(error).into_owned()),
        }
    }

    /// A request of the bridge itself, under an id that no client would choose.
    pub(super) fn own_request(&self, method: &str, params: &[u8]) -> Option<Request> {
        let number = self.own_requests.get() + 1;
        self.own_requests.set(number);
        let mut text = Vec::new();
        let id = format!("\"shardgate-connect-{}-{number}\"", std::process::id());
        jsonrpc::write_request(&mut text, id.as_bytes(), method, Some(params));
        Request::own(text)
    }

    async fn tell(&self, method: &str, params: Option<&[u8]>) -> Result<(), ClientGone> {
        let mut text = Vec::new();
        jsonrpc::write_notification(&mut text, method, params);
        self.output.send(&text).await
    }

    async fn tell_log(&self, message: &str) -> Result<(), ClientGone> {
        let mut params =
            b"{\"level\":\"error\",\"logger\":\"shardgate connect\",\"data\":".to_vec();
        jsonrpc::write_string(&mut params, message);
        params.push(b'}');
        self.tell("notifications/message", Some(&params)).await
    }

    /// Tells the server that the session is over. A server may refuse, and may be gone.
    pub(super) async fn delete(&self, session: &Session) {
        if session.id.is_none() {
            return;
        }
        let deleted = tokio::time::timeout(DELETE_TIME_MAX, self.gateway.delete(session.headers()));
        match deleted.await {
            Ok(Ok(response)) => tracing::debug!("DELETE was answered with {}", response.status()),
            Ok(Err(failure)) => tracing::info!("the session could not be ended: {failure}"),
            Err(_) => tracing::info!("the session could not be ended in time"),
        }
    }

    async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let seconds = HANDSHAKE_TIME_MAX.as_secs();
        let url = self.gateway.url();
        let answered = tokio::time::timeout(HANDSHAKE_TIME_MAX, asked).await;
        answered.unwrap_or(Err(Failure::Slow { url, seconds }))
    }
}
