"""A reference server on the Python SDK 1.x: Streamable HTTP with sessions, or stdio."""

import tools
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import SamplingMessage, TextContent
from serving import LOCAL, serve

server = FastMCP("reference-python-1", transport_security=LOCAL)
tools.add_to(server, Context)


@server.tool()
async def sample(prompt: str, ctx: Context) -> str:
    """Has the client's model answer a prompt."""
    question = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message(
        [question], max_tokens=100, related_request_id=ctx.request_id
    )
    return f"LLM response: {answer.content.text}"


@server.tool()
async def elicit(message: str, ctx: Context) -> str:
    """Asks the user for a name and an address."""
    return tools.greeting_of(await ctx.elicit(message, tools.Person))


serve(server, server.streamable_http_app)
