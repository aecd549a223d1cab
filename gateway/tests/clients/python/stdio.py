"""The Python SDK 1.x over stdio, with `shardgate connect` as its server.

Arguments: the gateway's URL (three times, where other scripts take a relay) and the command.
"""

import asyncio
from contextlib import AsyncExitStack

import mcp.types as types
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

import steps
from steps import WATCHED, check, step

COMMAND = steps.EXTRA[0]


async def on_elicitation(context, params):
    content = {"username": "ada", "email": "ada@example.com"}
    return types.ElicitResult(action="accept", content=content)


async def list_tools(session):
    names, pages = await steps.all_pages(
        lambda at: session.list_tools(params=types.PaginatedRequestParams(cursor=at)),
        lambda page: page.tools,
        lambda page: page.nextCursor,
        lambda tool: tool.name,
    )
    steps.check_tools(names, pages)


async def elicit(session):
    text = steps.text_of(await session.call_tool("test_elicitation", {"message": "who?"}))
    check("accept" in text and "ada@example.com" in text, text)


async def subscribe_and_update(session, updates):
    await session.subscribe_resource(WATCHED)
    await session.call_tool("test_trigger_resource_update", {})
    await updates.at_least(1)
    check(updates.items == [WATCHED], f"updates: {updates.items}")


async def main():
    updates = steps.Seen()

    async def on_message(message):
        if isinstance(message, types.ServerNotification):
            if isinstance(message.root, types.ResourceUpdatedNotification):
                updates.push(str(message.root.params.uri))

    stack = AsyncExitStack()
    server = StdioServerParameters(command=COMMAND, args=["connect", steps.DIRECT_URL])
    read, write = await stack.enter_async_context(stdio_client(server))
    session = await stack.enter_async_context(
        ClientSession(
            read, write, elicitation_callback=on_elicitation, message_handler=on_message
        )
    )

    async def initialize():
        result = await session.initialize()
        check(result.protocolVersion == "2025-11-25", f"negotiated {result.protocolVersion}")

    await step("initialize", initialize())
    await step("list", list_tools(session))
    await step("100 concurrent calls", steps.call_concurrently(session.call_tool))
    await step("progress", steps.call_with_progress(session.call_tool))
    await step("elicitation", elicit(session))
    await step("subscribe and update", subscribe_and_update(session, updates))
    await step("close", stack.aclose())


asyncio.run(main())
