//! What a real server received, by a record that it writes itself.
//!
//! The servers note a message before they look at it: those over stdio by `record.mjs`,
//! those in Python by `serving.py`. All processes of one server write to one file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::client::until;

/// The record of one server.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    path: PathBuf,
}

/// A message that a server received.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Received {
    /// The process id over stdio, the session's over HTTP.
    pub(crate) receiver: Value,
    /// All of it.
    pub(crate) message: Value,
}

impl Record {
    /// An empty record in this directory.
    pub(crate) fn new(directory: &Path, server: &str) -> Record {
        let path = directory.join(format!("{server}.record"));
        fs::write(&path, "").expect("write an empty record");
        Record { path }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything so far, in the order of receiving.
    pub(crate) fn all(&self) -> Vec<Received> {
        let text = fs::read_to_string(&self.path).expect("read a record");
        // What stands behind the last line end is still being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("a line of a record");
            Received { receiver: line["receiver"].clone(), message: line["message"].clone() }
        });
        lines.collect()
    }

    /// All cancellations so far: who received it, and the id of the request it is about.
    pub(crate) fn cancellations(&self) -> Vec<(Value, Value)> {
        let all = self.all().into_iter();
        all.filter(|received| received.message["method"] == "notifications/cancelled")
            .map(|received| (received.receiver, received.message["params"]["requestId"].clone()))
            .collect()
    }

    /// Waits for the call of a tool whose arguments hold this.
    pub(crate) async fn wait_for_call(&self, argument: &str, value: &Value) -> Received {
        let is_it = |received: &Received| {
            received.message["method"] == "tools/call"
                && received.message["params"]["arguments"][argument] == *value
        };
        let what = format!("{} shows a call with {argument} = {value}", self.path.display());
        until(&what, async || self.all().into_iter().find(is_it)).await
    }

    /// The processes that write this record and live, of a server over stdio.
    pub(crate) fn living(&self) -> BTreeSet<u32> {
        let pids = self.all().into_iter().filter_map(|received| received.receiver.as_u64());
        pids.filter_map(|pid| u32::try_from(pid).ok()).filter(|pid| self.is_ours(*pid)).collect()
    }

    /// True unless the process is gone and another may have its id.
    fn is_ours(&self, pid: u32) -> bool {
        let path = self.path.to_str().expect("paths of the tests are UTF-8");
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).split('\0').any(|variable| variable.ends_with(path))
    }
}
