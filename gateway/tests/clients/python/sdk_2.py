"""The Python SDK 2.x against the gateway, in one of its modes.

The fourth argument: `legacy` (session), `auto` (probes and finds the modern era)
or a modern revision, which is then used without a probe.
"""

import asyncio
import warnings
from contextlib import AsyncExitStack

import mcp_types as types
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ResourceUpdated, SubscriptionLost, ToolsListChanged
from mcp.shared._httpx_utils import create_mcp_http_client

import steps
from steps import WATCHED, check, step

# Methods of the legacy era are marked as deprecated; they are what is tested here.
warnings.simplefilter("ignore")

MODE = steps.EXTRA[0]
MODERN = "2026-07-28"

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
    if isinstance(message, types.ResourceUpdatedNotification):
        updates.push(str(message.params.uri))


async def list_everything(client):
    def next_cursor(page):
        return page.next_cursor

    tools, pages = await steps.all_pages(
        lambda at: client.list_tools(cursor=at),
        lambda page: page.tools,
        next_cursor,
        lambda tool: tool.name,
    )
    steps.check_tools(tools, pages)
    for list_page, entries_of, key_of in (
        (client.list_resources, lambda page: page.resources, lambda entry: str(entry.uri)),
        (
            client.list_resource_templates,
            lambda page: page.resource_templates,
            lambda entry: entry.uri_template,
        ),
        (client.list_prompts, lambda page: page.prompts, lambda entry: entry.name),
    ):
        keys, _ = await steps.all_pages(
            lambda at, list_page=list_page: list_page(cursor=at),
            entries_of,
            next_cursor,
            key_of,
        )
        check(keys, "an empty list")


async def log(client):
    if MODE == "legacy":
        await client.set_logging_level("debug")
        await client.call_tool("test_tool_with_logging", {})
    else:
        await client.call_tool("test_tool_with_logging", {})
        await steps.call_concurrently(client.call_tool)
        check(not logs.items, "log notifications came though none were asked for")
        level = {"io.modelcontextprotocol/logLevel": "debug"}
        await client.call_tool("test_tool_with_logging", {}, meta=level)
    await logs.at_least(3)
    check(len(logs.items) == 3, f"logs: {logs.items}")


async def sample(client):
    text = steps.text_of(await client.call_tool("test_sampling", {"prompt": "a riddle"}))
    check("answer to" in text and "a riddle" in text, text)


async def elicit(client):
    text = steps.text_of(await client.call_tool("test_elicitation", {"message": "who?"}))
    check("accept" in text and "ada@example.com" in text, text)


async def subscribe_and_update(client, headers):
    await client.subscribe_resource(WATCHED)
    await steps.trigger_update(headers())
    await updates.at_least(1)
    check(updates.items == [WATCHED], f"updates: {updates.items}")


async def cut_and_resume(client, headers):
    before = len(updates.items)
    await steps.resume_call(client.call_tool, lambda: steps.trigger_update(headers()))
    # The update was made while the standing stream was cut: it comes on the resumed one.
    await updates.at_least(before + 1)
    await steps.trigger_update(headers())
    await updates.at_least(before + 2)
    check(len(updates.items) == before + 2, "an update came twice")


async def listen_and_update(client):
    async with client.listen(tools_list_changed=True, resource_subscriptions=[WATCHED]) as sub:
        check(sub.honored.tools_list_changed, f"honored: {sub.honored}")
        events = aiter(sub)
        await client.call_tool("test_trigger_resource_update", {})
        event = await anext(events)
        check(isinstance(event, ResourceUpdated) and str(event.uri) == WATCHED, f"{event}")
        await client.call_tool("test_trigger_tool_change", {})
        event = await anext(events)
        check(isinstance(event, ToolsListChanged), f"{event}")
    # The list is as it was before.
    await client.call_tool("test_trigger_tool_change", {})


async def cut_and_listen_again(client):
    try:
        async with client.listen(resource_subscriptions=[WATCHED]) as sub:
            check(await steps.cut() > 0, "there was nothing to cut")
            async for event in sub:
                check(False, f"an event on a cut stream: {event}")
        check(False, "the cut stream ended as if it had been closed")
    except SubscriptionLost:
        pass
    async with client.listen(resource_subscriptions=[WATCHED]) as sub:
        await client.call_tool("test_trigger_resource_update", {})
        check(isinstance(await anext(aiter(sub)), ResourceUpdated), "no update")


async def main():
    global logs, updates
    logs, updates = steps.Seen(), steps.Seen()
    stack = AsyncExitStack()
    session_ids = []

    async def note_session(response):
        session_ids.append(response.headers.get("mcp-session-id"))

    http = await stack.enter_async_context(create_mcp_http_client())
    http.event_hooks["response"].append(note_session)
    client = Client(
        streamable_http_client(steps.RELAY_URL, http_client=http),
        mode=MODE,
        cache=None,
        sampling_callback=on_sampling,
        elicitation_callback=on_elicitation,
        logging_callback=on_log,
        message_handler=on_message,
    )

    def headers():
        known = [session_id for session_id in session_ids if session_id]
        return steps.session_headers(known[0] if known else None, client.protocol_version)

    async def connect(version):
        await stack.enter_async_context(client)
        check(client.protocol_version == version, f"negotiated {client.protocol_version}")

    async def delete_then_gone():
        ping = {"jsonrpc": "2.0", "id": "after", "method": "ping"}
        known = headers()
        status, body = await steps.raw_post(known, ping)
        check(status == 200, f"before the end: {status} {body}")
        # Leaving the client's context sends the DELETE.
        await stack.aclose()
        status, body = await steps.raw_post(known, ping)
        check(status == 404 and "-32001" in body, f"after the end: {status} {body}")

    async def no_session():
        await stack.aclose()
        check(not any(session_ids), f"the modern era has no sessions: {session_ids}")

    if MODE == "legacy":
        await step("initialize", connect("2025-11-25"))
    else:
        await step("discover", connect(MODERN))
    await step("list", list_everything(client))
    await step("100 concurrent calls", steps.call_concurrently(client.call_tool))
    await step("progress", steps.call_with_progress(client.call_tool))
    await step("log", log(client))
    await step("sampling", sample(client))
    await step("elicitation", elicit(client))
    if MODE == "legacy":
        await step("subscribe and update", subscribe_and_update(client, headers))
        await step("cut and resume", cut_and_resume(client, headers))
        result = client.call_tool("test_reconnection", {})
        await step("stream closed by the server and resumed", result)
        await step("delete, then 404", delete_then_gone())
    else:
        await step("listen, update and close", listen_and_update(client))
        await step("cut, then listen again", cut_and_listen_again(client))
        await step("end without a session", no_session())


asyncio.run(main())
