//! The catalog of each route, and what it answers without asking anybody.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use shardgate_proto::catalog::{
    Catalog, Changes, Filter, ListKind, PageLimits, Pinning, Pins, Server, View,
};
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::RouteId;

use super::job::Job;
use super::server;
use super::settings::FederationSettings;

/// How long a modern client may keep a list. A change is told by list_changed before.
const LIST_TTL_MS: u64 = 60_000;

/// All routes; `/mcp`, which shows everything, is always there.
#[derive(Debug, Default)]
pub(super) struct Views {
    views: BTreeMap<RouteId, (View, Catalog)>,
    /// Of a route that is there no more, for the calls that came before.
    nothing: Catalog,
    pins: Arc<Pins>,
}

impl Views {
    pub(super) fn new(settings: &FederationSettings) -> Views {
        let mut views = Views { pins: Arc::clone(&settings.pins), ..Views::default() };
        views.replace_routes(settings);
        views
    }

    /// Takes these routes for those that were. Catalogs of routes that stay stay as they are,
    /// so that a rebuild tells what has changed.
    pub(super) fn replace_routes(&mut self, settings: &FederationSettings) {
        let pages = PageLimits { entries_max: settings.page_entries, ..PageLimits::default() };
        let mut old = std::mem::take(&mut self.views);
        let mut keep = |route: RouteId, view: View| {
            let catalog = old.remove(&route).map(|(_, catalog)| catalog).unwrap_or_default();
            self.views.insert(route, (view, catalog));
        };
        let tasks = &settings.tasks;
        keep(RouteId::WHOLE, View { pages, tasks: tasks.clone(), ..View::default() });
        for route in &settings.routes {
            let tools = Filter::new(&route.tools_allow, &route.tools_deny);
            let servers = route.servers.clone();
            keep(route.route, View { servers, tools, pages, tasks: tasks.clone() });
        }
    }

    /// Takes these approved definitions for those that were; a rebuild applies them.
    pub(super) fn replace_pins(&mut self, pins: Arc<Pins>) {
        self.pins = pins;
    }

    /// The catalog of a route.
    pub(super) fn catalog(&self, route: RouteId) -> &Catalog {
        self.views.get(&route).map_or(&self.nothing, |(_, catalog)| catalog)
    }

    /// True if the route shows something of this server.
    pub(super) fn shows(&self, route: RouteId, server: u16) -> bool {
        self.views.get(&route).is_some_and(|(view, _)| view.shows(server))
    }

    /// True if on some route this resource is this server's.
    pub(super) fn leads_to(&self, uri: &str, server: u16) -> bool {
        self.views.values().any(|(_, catalog)| catalog.resource(uri) == Some(server))
    }

    /// Merges anew what the servers offer; returns what clients of each route see change.
    pub(super) fn rebuild(&mut self, servers: &[&server::Server]) -> Vec<(RouteId, Changes)> {
        let offered: Vec<_> = servers
            .iter()
            .map(|server| {
                let settings = &server.settings;
                let known = Server {
                    index: server.index,
                    name: settings.name.clone(),
                    prefix: settings.prefix,
                    pinning: if settings.pinned { Pinning::Changed } else { Pinning::Off },
                    tools: Filter::new(&settings.tools_allow, &settings.tools_deny),
                };
                (known, server.listing.as_ref())
            })
            .collect();
        let mut all = Vec::new();
        for (route, (view, catalog)) in &mut self.views {
            let built = Catalog::build(&offered, view, &self.pins);
            all.push((*route, built.changes(catalog)));
            *catalog = built;
        }
        all
    }

    /// The `result` of a list request; `None` if the cursor is not one of ours.
    pub(super) fn page(
        &self,
        route: RouteId,
        kind: ListKind,
        version: ProtocolVersion,
        cursor: Option<&str>,
    ) -> Option<Vec<u8>> {
        let catalog = self.catalog(route);
        let mut out = vec![b'{'];
        catalog.write_page(kind, version, cursor, &mut out).ok()?;
        if version.era() == Era::Modern {
            let caching = catalog.caching(kind);
            let ttl_ms = caching.ttl_ms.unwrap_or(LIST_TTL_MS).min(LIST_TTL_MS);
            let scope = if caching.private { "private" } else { "public" };
            let tail = format!(
                ",\"resultType\":\"complete\",\"ttlMs\":{ttl_ms},\"cacheScope\":\"{scope}\",\
                 \"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{}}}",
                super::GATEWAY_INFO
            );
            out.extend_from_slice(tail.as_bytes());
        }
        out.push(b'}');
        Some(out)
    }

    /// The header fields by which a modern server and whoever stands before it can
    /// route a request without reading its body (MCP 2026-07-28, Streamable HTTP).
    pub(super) fn modern_fields(&self, job: &Job) -> Vec<(Cow<'static, str>, String)> {
        let mut fields = vec![(Cow::Borrowed("Mcp-Method"), job.method.to_string())];
        if let Some(name) = &job.name_header {
            fields.push((Cow::Borrowed("Mcp-Name"), modern::encode_value(name).into_owned()));
        }
        if !job.mirrored {
            return fields;
        }
        let params = job.params.as_deref().unwrap_or(b"{}");
        let name = jsonrpc::member(params, "name").and_then(jsonrpc::string);
        let tool = name.and_then(|name| self.catalog(job.route).tool(&name));
        let Some(tool) = tool else { return fields };
        let arguments = jsonrpc::member(params, "arguments").unwrap_or(b"{}");
        for parameter in tool.header_parameters {
            let value = parameter
                .value_in(arguments)
                .and_then(|argument| modern::encode_parameter(parameter.kind, argument));
            if let Some(value) = value {
                fields.push((Cow::Owned(format!("Mcp-Param-{}", parameter.header)), value));
            }
        }
        fields
    }
}
