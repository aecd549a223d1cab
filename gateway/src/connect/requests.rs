//! The client's requests that run: each in a task of its own, found again by its id.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use hyper::body::Bytes;
use hyper::header::HeaderMap;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern::HEADER_MISMATCH;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::failure::Failure;
use super::message::{Modern, Request, RequestId};
use super::stdio::ClientGone;
use super::{Bridge, REQUESTS_MAX};

/// Pages of a tool list that are read to learn of mirrored arguments.
const LIST_PAGES_MAX: usize = 1_000;

/// The requests without an answer so far.
#[derive(Debug, Default)]
pub(super) struct Running {
    by_key: RefCell<HashMap<String, Entry>>,
    /// Tasks, which end a little after their request is answered.
    tasks: Cell<usize>,
    ended: Notify,
}

#[derive(Debug)]
struct Entry {
    id: RequestId,
    is_modern: bool,
    is_listening: bool,
    is_cancelled: bool,
    task: Option<AbortHandle>,
}

impl Running {
    fn begin(&self, request: &Request) -> Result<(), Failure> {
        let mut by_key = self.by_key.borrow_mut();
        if by_key.contains_key(request.id.key()) {
            return Err(Failure::RepeatedId);
        }
        if by_key.len() >= REQUESTS_MAX {
            return Err(Failure::TooMany { max: REQUESTS_MAX });
        }
        let entry = Entry {
            id: request.id.clone(),
            is_modern: request.modern.is_some(),
            is_listening: request.method == "subscriptions/listen",
            is_cancelled: false,
            task: None,
        };
        by_key.insert(request.id.key().to_owned(), entry);
        Ok(())
    }

    fn set_task(&self, id: &RequestId, task: AbortHandle) {
        if let Some(entry) = self.by_key.borrow_mut().get_mut(id.key()) {
            entry.task = Some(task);
        }
    }

    /// Forgets a request that has come to its end; true if it was cancelled.
    fn finish(&self, id: &RequestId) -> bool {
        self.by_key.borrow_mut().remove(id.key()).is_none_or(|entry| entry.is_cancelled)
    }

    /// Cancels a request. True if that is all there is to do: a modern one ends with its
    /// stream. A legacy one is only marked, and the server must be told.
    pub(super) fn cancel(&self, id: &RequestId) -> bool {
        let mut by_key = self.by_key.borrow_mut();
        let Some(entry) = by_key.get_mut(id.key()) else { return false };
        entry.is_cancelled = true;
        if !entry.is_modern {
            return false;
        }
        if let Some(task) = by_key.remove(id.key()).and_then(|entry| entry.task) {
            task.abort();
        }
        true
    }

    fn is_cancelled(&self, id: &RequestId) -> bool {
        self.by_key.borrow().get(id.key()).is_none_or(|entry| entry.is_cancelled)
    }

    /// Resolves once no request runs.
    pub(super) async fn none_left(&self) {
        while self.tasks.get() > 0 {
            self.ended.notified().await;
        }
    }

    /// Stops every request; returns those that are owed an answer.
    pub(super) fn give_up_all(&self) -> Vec<RequestId> {
        self.give_up(|_| true)
    }

    fn give_up(&self, which: impl Fn(&Entry) -> bool) -> Vec<RequestId> {
        let mut by_key = self.by_key.borrow_mut();
        let given_up: Vec<Entry> =
            by_key.extract_if(|_, entry| which(entry)).map(|(_, e)| e).collect();
        for entry in &given_up {
            if let Some(task) = &entry.task {
                task.abort();
            }
        }
        given_up.into_iter().filter(|entry| !entry.is_cancelled).map(|entry| entry.id).collect()
    }
}

/// Counts a task for as long as it lives, also if it is stopped.
struct Task(Rc<Bridge>);

impl Task {
    fn new(bridge: Rc<Bridge>) -> Task {
        bridge.running.tasks.set(bridge.running.tasks.get() + 1);
        Task(bridge)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let running = &self.0.running;
        running.tasks.set(running.tasks.get() - 1);
        running.ended.notify_one();
    }
}

impl Bridge {
    /// Starts a request. `initialize` is waited for, because what follows depends on it.
    pub(super) async fn take_request(self: &Rc<Self>, request: Request) -> Result<(), ClientGone> {
        if let Err(failure) = self.running.begin(&request) {
            return self.output.send(&failure.answer(&request.id)).await;
        }
        let id = request.id.clone();
        let is_first = request.method == "initialize" && request.modern.is_none();
        let task = Task::new(Rc::clone(self));
        let running = tokio::task::spawn_local(run(task, request));
        self.running.set_task(&id, running.abort_handle());
        if is_first {
            // It ends in an error only if it was stopped.
            let _ = running.await;
        }
        Ok(())
    }

    /// True if nobody waits for the answer any more.
    pub(super) fn is_cancelled(&self, id: &RequestId) -> bool {
        self.running.is_cancelled(id)
    }

    /// Ends the requests that by themselves never end: no more input can cancel them.
    pub(super) async fn end_listening(&self) -> Result<(), ClientGone> {
        for id in self.running.give_up(|entry| entry.is_listening) {
            self.output.send(&Failure::Ending.answer(&id)).await?;
        }
        Ok(())
    }

    async fn answer(self: &Rc<Self>, request: &Request) -> Result<Bytes, Failure> {
        match &request.modern {
            Some(modern) => self.answer_modern(request, modern).await,
            None if request.method == "initialize" => self.initialize(request).await,
            None => self.call(request).await,
        }
    }

    async fn answer_modern(&self, request: &Request, modern: &Modern) -> Result<Bytes, Failure> {
        self.modern_version.replace(Some(modern.version.clone()));
        let mut outcome = self.exchange(request, self.modern_headers(request, modern), None).await;
        let is_mismatch = |f: &Failure| f.server_code() == Some(HEADER_MISMATCH);
        // MCP 2026-07-28, tools: a client whose headers are refused lists the tools anew,
        // because it may not know what the tool mirrors, and tries again.
        if request.method == "tools/call" && outcome.as_ref().is_err_and(is_mismatch) {
            self.learn_tools(request, modern).await;
            outcome = self.exchange(request, self.modern_headers(request, modern), None).await;
        }
        let answer = outcome?.message;
        if request.method == "tools/list" {
            self.learn(&answer);
        }
        Ok(answer)
    }

    fn modern_headers(&self, request: &Request, modern: &Modern) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.mirrors.borrow().add_headers(request, modern, &mut headers);
        headers
    }

    fn learn(&self, answer: &[u8]) {
        if let Some(result) = jsonrpc::member(answer, "result") {
            self.mirrors.borrow_mut().learn(result);
        }
    }

    /// Walks the tool list under the `_meta` of a client's request.
    async fn learn_tools(&self, request: &Request, modern: &Modern) {
        let meta = request.params.as_deref().and_then(|params| jsonrpc::member(params, "_meta"));
        let Some(meta) = meta else { return };
        let mut cursor: Option<Vec<u8>> = None;
        for _ in 0..LIST_PAGES_MAX {
            let mut params = b"{\"_meta\":".to_vec();
            params.extend_from_slice(meta);
            if let Some(cursor) = &cursor {
                params.extend_from_slice(b",\"cursor\":");
                params.extend_from_slice(cursor);
            }
            params.push(b'}');
            let Some(list) = self.own_request("tools/list", &params) else { return };
            let headers = self.modern_headers(&list, modern);
            let answer = match self.exchange(&list, headers, None).await {
                Ok(answered) => answered.message,
                Err(failure) => return tracing::warn!("the tools could not be listed: {failure}"),
            };
            self.learn(&answer);
            let result = jsonrpc::member(&answer, "result");
            cursor = result.and_then(|r| jsonrpc::member(r, "nextCursor")).map(<[u8]>::to_vec);
            if cursor.as_deref().is_none_or(|cursor| cursor == b"null") {
                return;
            }
        }
    }
}

async fn run(task: Task, request: Request) {
    let bridge = &task.0;
    let outcome = bridge.answer(&request).await;
    let was_cancelled = bridge.running.finish(&request.id);
    let text = match outcome {
        Ok(answer) => answer,
        Err(failure) if was_cancelled => {
            return tracing::debug!("{} was cancelled: {failure}", request.method);
        }
        Err(failure) => {
            tracing::warn!("{} failed: {failure}", request.method);
            failure.answer(&request.id).into()
        }
    };
    // Fails only if the client is gone, which the main loop sees too.
    let _ = bridge.output.send(&text).await;
}
