//! An MCP server with the tool `echo`, made with the official Rust SDK as its own examples
//! are, to be measured beside others on one core.
//!
//! `rmcp-echo ADDRESS [--stateless]`: with sessions and event streams, as the SDK does by
//! default, or without sessions and with plain JSON answers. One thread, since one core is
//! what every server is measured on. TCP_NODELAY is set, without which each answer waits
//! 40 ms for an acknowledgement.
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::serve::ListenerExt;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, JsonObject,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const TOOL: &str = "echo";

#[derive(Clone)]
struct Echo {
    input_schema: Arc<JsonObject>,
}

impl Echo {
    fn new() -> Echo {
        let schema = json!({
            "type": "object",
            "properties": { "message": { "type": "string" } },
            "required": ["message"],
        });
        let Value::Object(schema) = schema else { unreachable!("it is written as an object") };
        Echo { input_schema: Arc::new(schema) }
    }
}

impl ServerHandler for Echo {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tool = Tool::new(TOOL, "Returns its message.", self.input_schema.clone());
        Ok(ListToolsResult::with_all_items(vec![tool]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if request.name != TOOL {
            let message = format!("there is no tool {}, only {TOOL}", request.name);
            return Err(ErrorData::invalid_params(message, None));
        }
        let arguments = request.arguments.unwrap_or_default();
        let Some(Value::String(message)) = arguments.get("message") else {
            return Err(ErrorData::invalid_params("message is missing, or no string", None));
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(message.clone())]).into())
    }
}

async fn serve(address: &str, is_stateless: bool) -> Result<(), Box<dyn Error>> {
    let mut config = StreamableHttpServerConfig::default();
    config.legacy_session_mode = !is_stateless;
    config.json_response = is_stateless;
    let echo = Echo::new();
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(echo.clone()), sessions, config);
    let router = Router::new().nest_service("/mcp", service);
    let listener = TcpListener::bind(address).await?;
    eprintln!("rmcp-echo listens on {}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("rmcp-echo: set TCP_NODELAY: {error}");
        }
    });
    axum::serve(listener, router).await?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, is_stateless) = match arguments.as_slice() {
        [address] => (address, false),
        [address, flag] if flag == "--stateless" => (address, true),
        _ => return Err("usage: rmcp-echo ADDRESS [--stateless]".into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(address, is_stateless))
}
