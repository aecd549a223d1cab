//! A look at the server before the load: is it there, does it speak MCP, has it what the
//! workload wants?
//!
//! Blocking and slow on purpose: whatever is wrong is told in a sentence, once, instead of
//! as a number of failed requests.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use shardgate_proto::http1::HEAD_BYTES_MAX;
use shardgate_proto::http1::client::{ResponseDecoder, ResponsePart};
use shardgate_proto::mcp::version::Era;
use shardgate_proto::sse::{EventDecoder, Received};

use crate::answer::ANSWER_BYTES_MAX;
use crate::plan::RunPlan;
use crate::requests::{Maker, Rendered, RequestId, quoted};
use crate::workload::Shape;

/// How long the server may take for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pages of a list that are looked at.
const PAGES_MAX: usize = 100;
/// Names of tools that are shown when the wanted one is missing.
const NAMES_SHOWN: usize = 12;

/// What a look at the server found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The resource to read, if the workload reads one.
    pub(crate) resource: Option<String>,
}

/// Why no load will be sent.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Nothing answers at the address.
    #[error("connect to {url}: is the server running, and is this its address?")]
    Unreachable {
        /// Where.
        url: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or nothing came.
    #[error("wait for the answer of {url} to {method}")]
    Silent {
        /// Where.
        url: String,
        /// What was asked.
        method: &'static str,
        /// What happened instead.
        #[source]
        source: io::Error,
    },
    /// An answer, but not a good one.
    #[error(
        "{url} answered {method} with {answer}; is this an MCP endpoint, and does it speak {revision}?"
    )]
    Refused {
        /// Where.
        url: String,
        /// What was asked.
        method: &'static str,
        /// The status and the beginning of the body.
        answer: String,
        /// The revision that was spoken.
        revision: String,
    },
    /// The tool is not there.
    #[error("{url} has no tool `{tool}`; it has {others}; choose one with --tool and --arguments")]
    NoTool {
        /// Where.
        url: String,
        /// The one that was wanted.
        tool: String,
        /// Some of those it has.
        others: String,
    },
    /// There is nothing to read.
    #[error("{url} lists no resource; name one with --resource, or choose another workload")]
    NoResource {
        /// Where.
        url: String,
    },
}

impl Unfit {
    /// True if there is no server, rather than one that will not do.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Unfit::Unreachable { .. } | Unfit::Silent { .. })
    }
}

/// Looks at the server.
pub(crate) fn look(plan: &RunPlan, announcer: Option<&str>) -> Result<Found, Unfit> {
    // A server that always says the same can't tell what it has.
    if plan.fixed_reply {
        return Ok(Found { resource: plan.resource.clone() });
    }
    let mut talk = Talk::open(plan)?;
    let found = talk.examine(plan, announcer);
    if found.is_ok() {
        talk.end_session();
    }
    found
}

/// A conversation over one connection, one question at a time.
struct Talk<'a> {
    plan: &'a RunPlan,
    maker: Maker,
    stream: TcpStream,
    decoder: ResponseDecoder,
    session: Option<String>,
    asked: u64,
}

struct Reply {
    status: u16,
    session: Option<String>,
    body: Vec<u8>,
}

impl<'a> Talk<'a> {
    fn open(plan: &'a RunPlan) -> Result<Talk<'a>, Unfit> {
        let unreachable = |source| Unfit::Unreachable { url: plan.target.url.clone(), source };
        let stream =
            TcpStream::connect_timeout(&plan.target.address, PATIENCE).map_err(unreachable)?;
        let settings = || {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))
        };
        settings().map_err(unreachable)?;
        Ok(Talk {
            plan,
            maker: Maker::new(plan),
            stream,
            decoder: ResponseDecoder::new(HEAD_BYTES_MAX),
            session: None,
            asked: 0,
        })
    }

    fn examine(&mut self, plan: &RunPlan, announcer: Option<&str>) -> Result<Found, Unfit> {
        match plan.revision.era() {
            Era::Legacy => {
                let initialize = self.maker.initialize();
                self.session = self.ask("initialize", &initialize)?.session;
                let initialized = self.maker.initialized();
                self.ask("notifications/initialized", &initialized)?;
            }
            Era::Modern => {
                let discover = self.maker.call("server/discover", None, "{}");
                self.ask("server/discover", &discover)?;
            }
        }
        let tool = match plan.shape {
            Shape::Fanout => announcer,
            Shape::Steps(_) | Shape::Churn | Shape::Streams if plan.calls_tool() => {
                Some(&*plan.tool)
            }
            Shape::Steps(_) | Shape::Churn | Shape::Streams => None,
        };
        if let Some(tool) = tool {
            self.check_tool(tool)?;
        }
        let resource = match &plan.resource {
            Some(resource) => Some(resource.clone()),
            None if plan.reads_resource() => Some(self.first_resource()?),
            None => None,
        };
        Ok(Found { resource })
    }

    fn check_tool(&mut self, tool: &str) -> Result<(), Unfit> {
        let mut others = Vec::new();
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let page = self.list("tools/list", cursor.as_deref())?;
            for entry in page["tools"].as_array().into_iter().flatten() {
                let name = entry["name"].as_str().unwrap_or_default();
                if name == tool {
                    return Ok(());
                }
                others.push(name.to_owned());
            }
            cursor = page["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        let more = if others.len() > NAMES_SHOWN { ", ..." } else { "" };
        others.truncate(NAMES_SHOWN);
        let others = match others.join(", ") {
            none if none.is_empty() => "none at all".to_owned(),
            some => some + more,
        };
        Err(Unfit::NoTool { url: self.url(), tool: tool.to_owned(), others })
    }

    fn first_resource(&mut self) -> Result<String, Unfit> {
        let page = self.list("resources/list", None)?;
        let uri = page["resources"][0]["uri"].as_str().map(str::to_owned);
        uri.ok_or_else(|| Unfit::NoResource { url: self.url() })
    }

    fn list(&mut self, method: &'static str, cursor: Option<&str>) -> Result<Value, Unfit> {
        let params = cursor.map_or("{}".to_owned(), |it| format!(r#"{{"cursor":{}}}"#, quoted(it)));
        let question = self.maker.call(method, None, &params);
        let reply = self.ask(method, &question)?;
        let message: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        match message.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(self.refused(method, &reply)),
        }
    }

    fn ask(&mut self, method: &'static str, question: &Rendered) -> Result<Reply, Unfit> {
        let silent = |source| Unfit::Silent { url: self.plan.target.url.clone(), method, source };
        let id = RequestId::of(self.asked);
        self.asked += 1;
        let mut request = Vec::new();
        question.write(&mut request, id, self.session.as_deref());
        self.stream.write_all(&request).map_err(silent)?;
        let reply = self.read_reply(id).map_err(|source| Unfit::Silent {
            url: self.plan.target.url.clone(),
            method,
            source,
        })?;
        let is_error = || {
            let message: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            message.get("error").is_some()
        };
        let wants_answer = method != "notifications/initialized";
        let unanswered = wants_answer && (reply.body.is_empty() || is_error());
        if (200..300).contains(&reply.status) && !unanswered {
            Ok(reply)
        } else {
            Err(self.refused(method, &reply))
        }
    }

    fn read_reply(&mut self, id: RequestId) -> io::Result<Reply> {
        let mut reply = Reply { status: 0, session: None, body: Vec::new() };
        let mut events: Option<EventDecoder> = None;
        let mut buffer = vec![0; 64 * 1_024];
        let mut ended = false;
        loop {
            let count = match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                read => read?,
            };
            if count == 0 {
                // A body may end with its connection.
                let whole = self.decoder.end().map_err(invalid)?;
                let answered =
                    reply.status > 0 && whole == shardgate_proto::http1::client::Ending::Complete;
                return if answered { Ok(reply) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let mut at = 0;
            loop {
                match self.decoder.decode(&mut buffer[at..count]).map_err(invalid)? {
                    ResponsePart::Head { head, consumed } => {
                        reply.status = head.status();
                        reply.session = head.session_id().map(str::to_owned);
                        if head.content_type_is("text/event-stream") {
                            events = Some(EventDecoder::new(ANSWER_BYTES_MAX));
                        }
                        at += consumed;
                    }
                    ResponsePart::Body { bytes, consumed, .. } => {
                        match &mut events {
                            Some(events) => take_answer(events, bytes, id, &mut reply.body)?,
                            None => reply.body.extend_from_slice(bytes),
                        }
                        at += consumed;
                    }
                    ResponsePart::End { consumed, .. } => {
                        at += consumed;
                        ended = true;
                    }
                    ResponsePart::NeedMore => break,
                }
                if ended {
                    return Ok(reply);
                }
            }
        }
    }

    /// Ends the session; whether that works is of no interest.
    fn end_session(&mut self) {
        if self.session.is_some() {
            let delete = self.maker.without_body("DELETE");
            let mut request = Vec::new();
            delete.write(&mut request, RequestId::of(0), self.session.as_deref());
            if self.stream.write_all(&request).is_ok() {
                let _ = self.read_reply(RequestId::of(0));
            }
        }
    }

    fn refused(&self, method: &'static str, reply: &Reply) -> Unfit {
        let text = String::from_utf8_lossy(&reply.body);
        let shown: String = text.chars().take(160).collect();
        Unfit::Refused {
            url: self.url(),
            method,
            answer: format!("status {}: {shown}", reply.status),
            revision: self.plan.revision.to_string(),
        }
    }

    fn url(&self) -> String {
        self.plan.target.url.clone()
    }
}

/// Keeps the event that answers the question.
fn take_answer(
    events: &mut EventDecoder,
    bytes: &[u8],
    id: RequestId,
    body: &mut Vec<u8>,
) -> io::Result<()> {
    let mut rest = bytes;
    while let Some(received) = events.decode(&mut rest).map_err(invalid)? {
        if let Received::Event { data, .. } = received
            && memchr::memmem::find(data, &id.0).is_some()
        {
            data.clone_into(body);
        }
    }
    Ok(())
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
