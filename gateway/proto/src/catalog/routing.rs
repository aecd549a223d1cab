//! From what a client names to the server that has it.

use super::build::{Catalog, Slot};
use super::entry::TaskSupport;
use crate::upstream::HeaderParameter;

/// The tool a client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolTarget<'a> {
    /// [`Server::index`](super::Server::index).
    pub server: u16,
    /// What the server calls it.
    pub name: &'a str,
    /// The arguments that headers mirror.
    pub header_parameters: &'a [HeaderParameter],
    /// It changes nothing (`readOnlyHint`). A hint of the server's, not a promise.
    pub read_only: bool,
    /// Calling it again does no more than calling it once, or it is read-only.
    pub idempotent: bool,
    /// Whether it may be called as a task.
    pub task_support: TaskSupport,
    /// Its definition is not the one that was approved: it must not be called.
    pub quarantined: bool,
}

/// The prompt a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptTarget<'a> {
    /// [`Server::index`](super::Server::index).
    pub server: u16,
    /// What the server calls it.
    pub name: &'a str,
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absence {
    /// No server has it, or the route does not show it.
    #[error("unknown name: {0:?}")]
    Unknown(String),
    /// Several servers have it, so it needs its prefix.
    #[error("{name:?} is offered by more than one server; use one of: {}", .choices.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The names it has instead.
        choices: Vec<String>,
    },
}

/// How many names an [`Absence::Ambiguous`] offers.
const CHOICES_MAX: usize = 8;

impl Catalog {
    /// The tool with this exposed name (or, for [`Prefix::OnConflict`](super::Prefix), prefixed name).
    pub fn tool(&self, exposed: &str) -> Option<ToolTarget<'_>> {
        let Slot { server, entry, quarantined } = self.tools.get(exposed)?;
        Some(ToolTarget {
            server: *server,
            name: &entry.key,
            header_parameters: &entry.facts.header_parameters,
            read_only: entry.facts.read_only,
            idempotent: entry.facts.idempotent,
            task_support: entry.facts.task_support,
            quarantined: *quarantined,
        })
    }

    /// The prompt with this exposed or prefixed name; also for completion (`ref/prompt`).
    pub fn prompt(&self, exposed: &str) -> Option<PromptTarget<'_>> {
        let Slot { server, entry, .. } = self.prompts.get(exposed)?;
        Some(PromptTarget { server: *server, name: &entry.key })
    }

    /// Why [`Catalog::tool`] has nothing of this name: for the answer to the client.
    pub fn missing_tool(&self, name: &str) -> Absence {
        missing(&self.colliding_tools, name)
    }

    /// Why [`Catalog::prompt`] has nothing of this name.
    pub fn missing_prompt(&self, name: &str) -> Absence {
        missing(&self.colliding_prompts, name)
    }

    /// The server that has a resource: the one that lists it, or else the first one
    /// with a template that fits.
    pub fn resource(&self, uri: &str) -> Option<u16> {
        let listed = self.resources.get(uri).copied();
        listed.or_else(|| {
            let fits = self.templates.iter().find(|(template, _)| template.matches(uri));
            fits.map(|(_, server)| *server)
        })
    }

    /// The server to ask for completions of a template's variables (`ref/resource`, whose
    /// `uri` is a template or a resource).
    pub fn template(&self, uri: &str) -> Option<u16> {
        self.template_uris.get(uri).copied().or_else(|| self.resource(uri))
    }
}

fn missing(colliding: &[(String, String)], name: &str) -> Absence {
    let first = colliding.partition_point(|(bare, _)| bare.as_str() < name);
    let same = colliding[first..].iter().take_while(|(bare, _)| bare == name);
    let choices: Vec<String> = same.take(CHOICES_MAX).map(|(_, full)| full.clone()).collect();
    if choices.is_empty() {
        Absence::Unknown(name.to_owned())
    } else {
        Absence::Ambiguous { name: name.to_owned(), choices }
    }
}
