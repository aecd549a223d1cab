"""The Python SDK 1.x, which knows sessions only, against the gateway."""

import asyncio
from contextlib import AsyncExitStack

import mcp.types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

import steps
from steps import WATCHED, check, step

logs = None
updates = None


async def on_sampling(context, params):
    return types.CreateMessageResult(
        role="assistant",
        model="test-model",
        content=types.TextContent(
            type="text", text=f"answer to {params.messages[0].content.text}"
        ),
    )


async def on_elicitation(context, params):
    content = {"username": "ada", "email": "ada@example.com"}
    return types.ElicitResult(action="accept", content=content)


async def on_log(params):
    logs.push(params)


async def on_message(message):
    if isinstance(message, types.ServerNotification):
        if isinstance(message.root, types.ResourceUpdatedNotification):
            updates.push(str(message.root.params.uri))


async def list_everything(session):
    def cursor(value):
        return types.PaginatedRequestParams(cursor=value)

    def next_cursor(page):
        return page.nextCursor

    tools, pages = await steps.all_pages(
        lambda at: session.list_tools(params=cursor(at)),
        lambda page: page.tools,
        next_cursor,
        lambda tool: tool.name,
    )
    steps.check_tools(tools, pages)
    for list_page, entries_of, key_of in (
        (session.list_resources, lambda page: page.resources, lambda entry: str(entry.uri)),
        (
            session.list_resource_templates,
            lambda page: page.resourceTemplates,
            lambda entry: entry.uriTemplate,
        ),
        (session.list_prompts, lambda page: page.prompts, lambda entry: entry.name),
    ):
        keys, _ = await steps.all_pages(
            lambda at, list_page=list_page: list_page(params=cursor(at)),
            entries_of,
            next_cursor,
            key_of,
        )
        check(keys, "an empty list")


async def subscribe_and_update(session, headers):
    await session.subscribe_resource(WATCHED)
    await steps.trigger_update(headers())
    await updates.at_least(1)
    check(updates.items == [WATCHED], f"updates: {updates.items}")


async def log(session):
    await session.set_logging_level("debug")
    await session.call_tool("test_tool_with_logging", {})
    await logs.at_least(3)
    check(len(logs.items) == 3, f"logs: {logs.items}")


async def sample(session):
    text = steps.text_of(await session.call_tool("test_sampling", {"prompt": "a riddle"}))
    check("answer to" in text and "a riddle" in text, text)


async def elicit(session):
    text = steps.text_of(await session.call_tool("test_elicitation", {"message": "who?"}))
    check("accept" in text and "ada@example.com" in text, text)


async def cut_and_resume(session, headers):
    before = len(updates.items)
    await steps.resume_call(session.call_tool, lambda: steps.trigger_update(headers()))
    # The update was made while the standing stream was cut: it comes on the resumed one.
    await updates.at_least(before + 1)
    await steps.trigger_update(headers())
    await updates.at_least(before + 2)
    check(len(updates.items) == before + 2, "an update came twice")


async def delete_then_gone(stack, headers):
    ping = {"jsonrpc": "2.0", "id": "after", "method": "ping"}
    known = headers()
    status, body = await steps.raw_post(known, ping)
    check(status == 200, f"before the end: {status} {body}")
    # Leaving the transport's context sends the DELETE.
    await stack.aclose()
    status, body = await steps.raw_post(known, ping)
    check(status == 404 and "-32001" in body, f"after the end: {status} {body}")


async def main():
    global logs, updates
    logs, updates = steps.Seen(), steps.Seen()
    stack = AsyncExitStack()
    read, write, session_id = await stack.enter_async_context(
        streamable_http_client(steps.RELAY_URL)
    )
    session = await stack.enter_async_context(
        ClientSession(
            read,
            write,
            sampling_callback=on_sampling,
            elicitation_callback=on_elicitation,
            logging_callback=on_log,
            message_handler=on_message,
        )
    )
    version = None

    def headers():
        return steps.session_headers(session_id(), version)

    async def initialize():
        nonlocal version
        result = await session.initialize()
        version = result.protocolVersion
        check(version == "2025-11-25", f"negotiated {version}")
        check(session_id(), "no session id")

    await step("initialize", initialize())
    await step("list", list_everything(session))
    await step("100 concurrent calls", steps.call_concurrently(session.call_tool))
    await step("progress", steps.call_with_progress(session.call_tool))
    await step("log", log(session))
    await step("sampling", sample(session))
    await step("elicitation", elicit(session))
    await step("subscribe and update", subscribe_and_update(session, headers))
    await step("cut and resume", cut_and_resume(session, headers))
    result = session.call_tool("test_reconnection", {})
    await step("stream closed by the server and resumed", result)
    await step("delete, then 404", delete_then_gone(stack, headers))


asyncio.run(main())
