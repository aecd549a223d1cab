//! Which server a call goes to, or what it is answered without any.

use shardgate_proto::catalog::ListKind;
use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::{Call, Caller, Events};

use super::forwarding::Route;
use super::session::{Pending, Phase};
use super::{Federation, fault, opening, params};
use crate::embedded::client::LogLevel;

impl Federation {
    pub(super) fn route(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        if let Some(kind) = ListKind::of_method(call.method) {
            return self.list(kind, call, events);
        }
        match (call.method, call.version.era()) {
            ("tools/call", _) => self.call_tool(call, now, events),
            ("prompts/get", _) => self.prompt(call, now, events),
            ("resources/read", _)
            | ("resources/subscribe" | "resources/unsubscribe", Era::Legacy) => {
                self.resource(call, now, events);
            }
            ("completion/complete", _) => self.complete(call, now, events),
            ("logging/setLevel", Era::Legacy) => self.set_level(call, now, events),
            ("tasks/get" | "tasks/cancel", _)
            | ("tasks/update", Era::Modern)
            | ("tasks/result", Era::Legacy) => self.task_call(call, now, events),
            ("subscriptions/listen", Era::Modern) => self.open_listen(call, now, events),
            (method, _) => {
                let text = format!("there is no method {method:?} in this protocol version");
                fault::refuse(events, call.key, modern::METHOD_NOT_FOUND, &text);
            }
        }
    }

    /// Answers a list.
    fn list(&self, kind: ListKind, call: &Call<'_>, events: &mut Events) {
        let cursor = call
            .params
            .and_then(|params| jsonrpc::member(params, "cursor"))
            .and_then(jsonrpc::string);
        match self.views.page(call.route, kind, call.version, cursor.as_deref()) {
            Some(page) => events.result(call.key, |out| out.extend_from_slice(&page)),
            None => {
                let text = "params.cursor is not one this gateway gave out: list again from \
                            the start";
                fault::refuse(events, call.key, modern::INVALID_PARAMS, text);
            }
        }
    }

    fn call_tool(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        let Some(name) = call.name else {
            let text = "params.name must be a string: the tool's name";
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, text);
        };
        let catalog = self.views.catalog(call.route);
        let Some(tool) = catalog.tool(name) else {
            let text = catalog.missing_tool(name).to_string();
            return self.refuse_unlisted(call, &text, events);
        };
        if tool.quarantined {
            let server = self.servers[usize::from(tool.server)].name();
            let text = format!(
                "tool {name:?} is quarantined: its definition has changed since it was approved; \
                 whoever runs the gateway can approve it by: shardgate catalog approve {server} {}",
                tool.name
            );
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, &text);
        }
        let route = Route {
            server: tool.server,
            name: (tool.name != name).then(|| tool.name.into()),
            name_header: Some(tool.name.into()),
            mirrored: !tool.header_parameters.is_empty(),
            repeatable: tool.idempotent || tool.read_only,
        };
        self.forward_or_resume(call, route, now, events);
    }

    /// No list has the name. Where lists are missing, that may be for their servers' trouble.
    fn refuse_unlisted(&self, call: &Call<'_>, missing: &str, events: &mut Events) {
        let silent = self.servers.iter().filter(|server| {
            server.leaving.is_none()
                && server.listing.is_none()
                && self.views.shows(call.route, server.index)
        });
        let silent = silent.map(|server| (server.name(), server.trouble.as_deref()));
        let silent: Vec<_> = silent.collect();
        if silent.is_empty() {
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, missing);
        }
        let refusal = fault::Refusal::unlisted(missing, &silent);
        events.error(call.key, fault::UPSTREAM, |out| refusal.write(out));
    }

    /// A further round with a legacy server goes on with the call that is held.
    fn forward_or_resume(
        &mut self,
        call: &Call<'_>,
        route: Route,
        now: Millis,
        events: &mut Events,
    ) {
        let legacy = self.servers[usize::from(route.server)].era() == Some(Era::Legacy);
        let bridged = legacy && call.version.era() == Era::Modern;
        if !(bridged && self.resume(call, now, events)) {
            self.forward(call, route, now, events);
        }
    }

    fn prompt(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        let Some(name) = call.name else {
            let text = "params.name must be a string: the prompt's name";
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, text);
        };
        let catalog = self.views.catalog(call.route);
        let Some(prompt) = catalog.prompt(name) else {
            let text = catalog.missing_prompt(name).to_string();
            return self.refuse_unlisted(call, &text, events);
        };
        let route = Route {
            server: prompt.server,
            name: (prompt.name != name).then(|| prompt.name.into()),
            name_header: Some(prompt.name.into()),
            mirrored: false,
            repeatable: true,
        };
        self.forward_or_resume(call, route, now, events);
    }

    fn resource(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        let uri =
            call.params.and_then(|params| jsonrpc::member(params, "uri")).and_then(jsonrpc::string);
        let Some(uri) = uri else {
            let text = "params.uri must be a string: the resource's address";
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, text);
        };
        let Some(server) = self.views.catalog(call.route).resource(&uri) else {
            return Federation::refuse_unknown_resource(call, &uri, events);
        };
        let reads = call.method == "resources/read";
        if let (false, Caller::Session(client)) = (reads, call.caller)
            && self.subscribe(call, (server, client, &uri), now, events)
        {
            return;
        }
        let name_header = Some(Box::from(&*uri));
        let route = Route { server, name: None, name_header, mirrored: false, repeatable: true };
        self.forward_or_resume(call, route, now, events);
    }

    fn complete(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        let params = call.params.unwrap_or(b"{}");
        let reference = jsonrpc::member(params, "ref").unwrap_or(b"{}");
        let text = |name| jsonrpc::member(reference, name).and_then(jsonrpc::string);
        let catalog = self.views.catalog(call.route);
        let target = match (text("type").as_deref(), text("name"), text("uri")) {
            (Some("ref/prompt"), Some(name), _) => {
                catalog.prompt(&name).map(|prompt| (prompt.server, Some(prompt.name.to_owned())))
            }
            (Some("ref/resource"), _, Some(uri)) => catalog.template(&uri).map(|it| (it, None)),
            _ => None,
        };
        let Some((server, bare)) = target else {
            let text = "params.ref names neither a prompt nor a resource that is known here";
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, text);
        };
        let renamed = bare.map(|bare| with_prompt_name(params, reference, &bare));
        let call = Call { params: Some(renamed.as_deref().unwrap_or(params)), ..*call };
        let route =
            Route { server, name: None, name_header: None, mirrored: false, repeatable: true };
        self.forward(&call, route, now, events);
    }

    /// `logging/setLevel`: kept for servers to come, and told to those that are used.
    fn set_level(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        let level = call
            .params
            .and_then(|params| jsonrpc::member(params, "level"))
            .and_then(jsonrpc::string)
            .filter(|level| LogLevel::parse(level).is_some());
        let (Some(level), Caller::Session(session)) = (level, call.caller) else {
            let text = format!("params.level must be {}", LogLevel::NAMES);
            return fault::refuse(events, call.key, modern::INVALID_PARAMS, &text);
        };
        let Some(client) = self.clients.get_mut(&session) else { return };
        client.log_level = Some((&*level).into());
        let sessions = client.sessions.clone();
        let params = opening::one_text("level", &level);
        for (index, key) in sessions {
            let server = &mut self.servers[usize::from(index)];
            let wanted = server
                .sessions
                .session(key)
                .is_some_and(|session| session.phase == Phase::Ready && session.abilities.logging);
            if wanted {
                let method = "logging/setLevel";
                let chore = Pending::Chore(method);
                self.request(index, key, chore, method, &params, &[], now, events);
            }
        }
        events.result(call.key, |out| out.extend_from_slice(b"{}"));
    }
}

/// `params` of a completion with the prompt's own name in its reference.
fn with_prompt_name(params: &[u8], reference: &[u8], name: &str) -> Vec<u8> {
    let mut renamed = Vec::new();
    params::splice_text(&mut renamed, reference, "name", name);
    // The reference is a part of the params' text, so their distance is its place.
    let start = reference.as_ptr() as usize - params.as_ptr() as usize;
    let mut out = params[..start].to_vec();
    out.extend_from_slice(&renamed);
    out.extend_from_slice(&params[start + reference.len()..]);
    out
}
