"""A reference server on the Python SDK 2.x: both eras, over Streamable HTTP or stdio."""

from typing import Annotated

import tools
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, MCPServer, Resolve, Sample
from mcp_types import CreateMessageResult, SamplingMessage, TextContent
from serving import LOCAL, serve

server = MCPServer("reference-python-2")
tools.add_to(server, Context)


def ask_model(prompt: str):
    question = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    return Sample([question], max_tokens=100)


def ask_user(message: str):
    return Elicit(message, tools.Person)


@server.tool()
async def sample(prompt: str, answer: Annotated[CreateMessageResult, Resolve(ask_model)]) -> str:
    """Has the client's model answer a prompt."""
    return f"LLM response: {answer.content.text}"


@server.tool()
async def elicit(
    message: str, answer: Annotated[ElicitationResult[tools.Person], Resolve(ask_user)]
) -> str:
    """Asks the user for a name and an address."""
    return tools.greeting_of(answer)


serve(server, lambda: server.streamable_http_app(transport_security=LOCAL))
