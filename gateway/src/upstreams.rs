//! From the configuration to what shards and the control thread need of tool servers.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use shardgate_proto::catalog;
use shardgate_proto::upstream::EndpointId;

use crate::children::{ChildSpec, InheritedEnv, StderrUse};
use crate::config::{
    Config, HttpTransport, HttpUpstream, ModernSessions, NamePattern, Prefix, RouteConfig, Scheme,
    Sharing, SourceError, SourceFault, StdioUpstream, UpstreamConfig, UpstreamKind, UpstreamLimits,
    UpstreamName, UpstreamProtocol,
};
use crate::endpoints::{Endpoint, Endpoints, Host, TcpEndpoint};
use crate::federation::{
    BreakerSettings, HttpSettings, Protocol, RouteSettings, SERVER_NUMBERS_MAX, ServerSettings,
    Transport, WireSettings,
};
use crate::routes::{Routes, RoutesUsedUp};
use crate::tls::{SystemRoots, TlsClient};

/// How long a child may take to end once its input is closed.
const STOP_GRACE_MS: u64 = 4_000;

/// All tool servers and routes of one configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstreams {
    /// In the order of the configuration.
    entries: Vec<Entry>,
    /// What each path shows.
    pub(crate) routes: Vec<RouteSettings>,
    /// The paths themselves.
    pub(crate) paths: Arc<Routes>,
    /// The number of the next server that is new.
    next_number: u16,
}

#[derive(Clone, Debug)]
struct Entry {
    server: Arc<ServerSettings>,
    place: Place,
    /// Made when the server is new, and kept as long as it stays.
    tls: Option<Arc<TlsClient>>,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The embedded server: no link leads there.
    Inside,
    Child(ChildSpec),
    Host {
        host: Host,
        /// With TLS, and then with these roots beside the machine's.
        secure: bool,
        own_roots: Vec<CertificateDer<'static>>,
    },
}

/// Why a configuration's upstreams can't be had.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamsError {
    /// A value that comes from elsewhere is missing or is none.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// See there.
    #[error(transparent)]
    Routes(#[from] RoutesUsedUp),
    /// Links are named by their server's number, which is never used again.
    #[error(
        "the numbers of upstreams are used up after {SERVER_NUMBERS_MAX} of them came and went; \
         restart the gateway"
    )]
    NumbersUsedUp,
}

impl Upstreams {
    /// Of the upstreams that are enabled.
    ///
    /// # Errors
    /// See [`UpstreamsError`].
    pub(crate) fn read(config: &Config) -> Result<Upstreams, UpstreamsError> {
        Upstreams::default().next(config)
    }

    /// Those of `config`, after these. A server that is reached as before keeps its number;
    /// any other has a number that was never used before.
    ///
    /// # Errors
    /// See [`UpstreamsError`].
    pub(crate) fn next(&self, config: &Config) -> Result<Upstreams, UpstreamsError> {
        let mut next = Upstreams { next_number: self.next_number, ..Upstreams::default() };
        let mut system_roots = None;
        for upstream in config.upstream.iter().filter(|upstream| upstream.enabled) {
            let old = self.entries.iter().find(|old| old.server.name == upstream.name.as_str());
            let number = old.map_or(next.next_number, |old| old.server.endpoint.0);
            let mut entry = read_entry(upstream, EndpointId(number))?;
            let staying = old.filter(|old| {
                old.server.is_reached_like(&entry.server) && old.place == entry.place
            });
            if let Some(old) = staying {
                entry.tls.clone_from(&old.tls);
            } else {
                Arc::make_mut(&mut entry.server).endpoint = next.take_number()?;
                entry.tls = tls_client(upstream, &entry.place, &mut system_roots)?;
            }
            next.entries.push(entry);
        }
        let embedded = self.embedded();
        if config.embedded_enabled() && (embedded.is_some() || !config.upstream.is_empty()) {
            let entry = match embedded {
                Some(running) => running.clone(),
                None => embedded_entry(next.take_number()?),
            };
            next.entries.push(entry);
        }
        next.paths = Arc::new(self.paths.next(config.route.iter().map(|route| &route.path))?);
        next.routes = config.route.iter().filter_map(|route| next.route(route)).collect();
        Ok(next)
    }

    /// A number that no server has had.
    fn take_number(&mut self) -> Result<EndpointId, UpstreamsError> {
        if self.next_number == SERVER_NUMBERS_MAX {
            return Err(UpstreamsError::NumbersUsedUp);
        }
        self.next_number += 1;
        Ok(EndpointId(self.next_number - 1))
    }

    /// The embedded server, if it is one of them.
    fn embedded(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.place == Place::Inside)
    }

    /// What a path shows. An upstream that is not enabled adds nothing.
    fn route(&self, route: &RouteConfig) -> Option<RouteSettings> {
        let number = |name: &UpstreamName| {
            let found = self.entries.iter().find(|entry| entry.server.name == name.as_str());
            found.map(|entry| entry.server.endpoint.0)
        };
        Some(RouteSettings {
            route: self.paths.find(route.path.as_str().as_bytes())?,
            servers: route
                .upstreams
                .as_ref()
                .map(|names| names.iter().filter_map(number).collect()),
            tools_allow: texts(&route.tools.allow),
            tools_deny: texts(&route.tools.deny),
        })
    }

    /// True if there is no server.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The servers in the order of the configuration.
    pub(crate) fn servers(&self) -> Vec<Arc<ServerSettings>> {
        self.entries.iter().map(|entry| Arc::clone(&entry.server)).collect()
    }

    /// The names of those whose tools are withheld when they change.
    pub(crate) fn pinned(&self) -> Vec<String> {
        let pinned = self.entries.iter().filter(|entry| entry.server.pinned);
        pinned.map(|entry| entry.server.name.clone()).collect()
    }

    /// How stdio servers are started.
    pub(crate) fn children(&self) -> impl Iterator<Item = (EndpointId, ChildSpec)> {
        self.entries.iter().filter_map(|entry| match &entry.place {
            Place::Child(spec) => Some((entry.server.endpoint, spec.clone())),
            Place::Host { .. } | Place::Inside => None,
        })
    }

    /// Where all of them are. Names have not been looked up.
    pub(crate) fn table(&self) -> Endpoints {
        let mut endpoints = Endpoints::default();
        for Entry { server, place, tls } in &self.entries {
            let endpoint = match place {
                Place::Inside => continue,
                Place::Child(_) => Endpoint::Child,
                Place::Host { host, .. } => {
                    Endpoint::Tcp(TcpEndpoint::new(host.clone(), tls.clone()))
                }
            };
            endpoints.insert(server.endpoint, endpoint);
        }
        endpoints
    }
}

/// How TLS is spoken with a server, if it is. The machine's roots are read for the first
/// upstream that needs them.
fn tls_client(
    upstream: &UpstreamConfig,
    place: &Place,
    system_roots: &mut Option<SystemRoots>,
) -> Result<Option<Arc<TlsClient>>, SourceError> {
    let Place::Host { host, secure: true, own_roots } = place else { return Ok(None) };
    let system_roots = system_roots.get_or_insert_with(SystemRoots::load);
    let client = TlsClient::new(&host.name, own_roots, system_roots);
    client.map(|client| Some(Arc::new(client))).map_err(|error| SourceError {
        upstream: upstream.name.clone(),
        key: "url".to_owned(),
        reason: SourceFault::Unusable(error.to_string()),
    })
}

fn texts(patterns: &[NamePattern]) -> Vec<String> {
    patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect()
}

fn read_entry(upstream: &UpstreamConfig, endpoint: EndpointId) -> Result<Entry, SourceError> {
    let name = upstream.name.as_str();
    // Header fields of an HTTP server, or variables of a child.
    let values = upstream.read_values()?.into_iter();
    let values = values.map(|(name, value)| (name, value.reveal().to_owned())).collect();
    let (wire, place, standing_stream) = match &upstream.kind {
        UpstreamKind::Http(http) => {
            let place = Place::Host {
                host: Host { name: http.url.host().to_owned(), port: http.url.port() },
                secure: http.url.scheme() == Scheme::Https,
                own_roots: upstream.read_ca_file()?,
            };
            (WireSettings::Http(http_settings(http, values)), place, http.standing_stream)
        }
        UpstreamKind::Stdio(stdio) => {
            let place = Place::Child(child_spec(name, stdio, values));
            (WireSettings::Stdio { shared: stdio.sharing == Sharing::Shared }, place, false)
        }
    };
    let limits = &upstream.limits;
    let server = ServerSettings {
        name: name.to_owned(),
        shown: match &upstream.kind {
            UpstreamKind::Http(http) => http.url.without_query(),
            // Arguments may hold credentials.
            UpstreamKind::Stdio(stdio) => stdio.program.clone(),
        },
        endpoint,
        wire,
        protocol: match upstream.protocol {
            UpstreamProtocol::Auto => Protocol::Auto,
            UpstreamProtocol::Legacy => Protocol::Legacy,
            UpstreamProtocol::Modern => Protocol::Modern,
        },
        prefix: match upstream.prefix {
            Prefix::Always => catalog::Prefix::Always,
            Prefix::OnConflict => catalog::Prefix::OnConflict,
            Prefix::Never => catalog::Prefix::Never,
        },
        tools_allow: texts(&upstream.tools.allow),
        tools_deny: texts(&upstream.tools.deny),
        pinned: upstream.pin,
        breaker: breaker(limits),
        in_flight_max: limits.in_flight_max,
        request_timeout_ms: limits.request_timeout_ms,
        request_lifetime_ms: limits.request_lifetime_ms,
        idle_session_ms: limits.idle_session_ms,
        refresh_ms: limits.refresh_ms,
        session_per_modern_call: upstream.modern_sessions == ModernSessions::Call,
        standing_stream,
    };
    Ok(Entry { server: Arc::new(server), place, tls: None })
}

/// The embedded server as one of many, with what an `[[upstream]]` has by default.
fn embedded_entry(endpoint: EndpointId) -> Entry {
    let limits = UpstreamLimits::DEFAULT;
    let server = ServerSettings {
        name: UpstreamName::EMBEDDED.to_owned(),
        shown: "built in".to_owned(),
        endpoint,
        wire: WireSettings::Inside,
        protocol: Protocol::Modern,
        prefix: catalog::Prefix::OnConflict,
        tools_allow: Vec::new(),
        tools_deny: Vec::new(),
        pinned: false,
        breaker: breaker(&limits),
        in_flight_max: limits.in_flight_max,
        request_timeout_ms: limits.request_timeout_ms,
        request_lifetime_ms: limits.request_lifetime_ms,
        idle_session_ms: limits.idle_session_ms,
        refresh_ms: limits.refresh_ms,
        session_per_modern_call: false,
        standing_stream: false,
    };
    Entry { server: Arc::new(server), place: Place::Inside, tls: None }
}

fn breaker(limits: &UpstreamLimits) -> BreakerSettings {
    BreakerSettings { failures_max: limits.breaker_failures, open_ms: limits.breaker_open_ms }
}

fn http_settings(http: &HttpUpstream, fields: Vec<(String, String)>) -> HttpSettings {
    HttpSettings {
        authority: http.url.authority().to_owned(),
        path: http.url.path_and_query().to_owned(),
        fields,
        connections_max: http.connections_max,
        connect_timeout_ms: http.connect_timeout_ms,
        idle_connection_ms: http.idle_connection_ms,
        transport: match http.transport {
            HttpTransport::Auto => Transport::Auto,
            HttpTransport::StreamableHttp => Transport::Streamable,
            HttpTransport::HttpSse => Transport::Sse,
        },
        scheme: http.url.scheme().as_str(),
    }
}

fn child_spec(name: &str, stdio: &StdioUpstream, env: Vec<(String, String)>) -> ChildSpec {
    let command = std::iter::once(&stdio.program).chain(&stdio.arguments).cloned().collect();
    ChildSpec {
        upstream: name.to_owned(),
        command,
        env,
        inherit: InheritedEnv::default(),
        directory: stdio.directory.clone(),
        children_max: stdio.children_max,
        stderr: StderrUse::Log,
        stop_grace_ms: STOP_GRACE_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    /// After a reload such a server was once linked to without TLS.
    #[test]
    fn a_server_that_stays_is_spoken_to_by_tls_as_before() {
        let text = "[[upstream]]\nname = \"crm\"\nurl = \"https://127.0.0.1/mcp\"\n";
        let config = Config::parse("test", text, &Overrides::default()).expect("sound");
        let before = Upstreams::read(&config).expect("readable");
        let after = before.next(&config).expect("readable");
        for upstreams in [&before, &after] {
            let endpoint = upstreams.servers()[0].endpoint;
            assert_eq!(endpoint, before.servers()[0].endpoint, "it stays");
            let table = upstreams.table();
            let Some(Endpoint::Tcp(tcp)) = table.endpoint(endpoint) else { panic!("a host") };
            assert!(tcp.tls.is_some());
        }
    }
}
