"""What the scripts of both Python SDK releases share.

Arguments of every script: the URL through the relay, the port on which a cut is
asked for, the URL without the relay, and what the script itself wants to know.
A script prints one JSON line per finished step and ends with status 0.
"""

import asyncio
import json
import os
import sys
import traceback
import urllib.error
import urllib.request

# Long enough that only a hang reaches it.
HANG_SECONDS = 60
WATCHED = "test://watched-resource"

RELAY_URL, CUT_PORT, DIRECT_URL, *EXTRA = sys.argv[1:]


async def step(name, run):
    """Runs one step and prints its name once it is finished."""
    try:
        async with asyncio.timeout(HANG_SECONDS):
            await run
    except BaseException:
        print(f'step "{name}" failed', file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        # The SDK's own tasks may hang too, so nothing is waited for.
        os._exit(1)
    print(json.dumps({"step": name}), flush=True)


def check(condition, message):
    """Like assert, which `python -O` would leave out."""
    if not condition:
        raise AssertionError(message)


class Seen:
    """A list that can be waited on."""

    def __init__(self):
        self.items = []
        self._changed = asyncio.Event()

    def push(self, item):
        self.items.append(item)
        self._changed.set()

    async def at_least(self, count):
        while len(self.items) < count:
            self._changed.clear()
            await self._changed.wait()


async def cut():
    """Breaks every connection of the relay; returns how many there were."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(CUT_PORT))
    line = await reader.read()
    writer.close()
    return int(line)


async def raw_post(headers, message):
    """POSTs a message past the SDK; returns status and body."""

    def post():
        request = urllib.request.Request(
            DIRECT_URL,
            data=json.dumps(message).encode(),
            headers={
                "content-type": "application/json",
                "accept": "application/json, text/event-stream",
                **{name: value for name, value in headers.items() if value is not None},
            },
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=HANG_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    return await asyncio.to_thread(post)


def session_headers(session_id, version):
    return {"mcp-session-id": session_id, "mcp-protocol-version": version}


async def trigger_update(headers):
    """Changes the watched resource by a request outside the SDK's connections."""
    trigger_update.count = getattr(trigger_update, "count", 0) + 1
    status, body = await raw_post(
        headers,
        {
            "jsonrpc": "2.0",
            "id": f"update-{trigger_update.count}",
            "method": "tools/call",
            "params": {"name": "test_trigger_resource_update", "arguments": {}},
        },
    )
    check(status == 200, f"the update was answered with {status}: {body}")


async def all_pages(list_page, entries_of, cursor_of, key_of):
    """Walks a paginated list by its cursors; returns the entries' keys and the page count."""
    keys, cursor, pages = [], None, 0
    while True:
        page = await list_page(cursor)
        keys.extend(key_of(entry) for entry in entries_of(page))
        pages += 1
        cursor = cursor_of(page)
        check(pages <= 100, "the pages never end")
        if cursor is None:
            check(len(set(keys)) == len(keys), f"an entry came twice: {keys}")
            return keys, pages


def check_tools(names, pages):
    for name in ("echo", "add", "sleep", "test_simple_text"):
        check(name in names, f"{name} is missing in {names}")
    check(pages > 1, "the list of tools came in one page, so pagination was not shown")


def text_of(result):
    return result.content[0].text


async def call_concurrently(call_tool):
    """100 calls at once, each with its own answer."""

    async def call(index):
        message = f"call {index}"
        text = text_of(await call_tool("echo", {"message": message}))
        check(text.endswith(message), f"{message}: {text}")

    await asyncio.gather(*(call(index) for index in range(100)))
    check("42" in text_of(await call_tool("add", {"a": 40, "b": 2})), "40 + 2")


async def call_with_progress(call_tool):
    """Three rising progress notifications before the answer."""
    seen = []

    async def on_progress(progress, total, message):
        seen.append(progress)

    await call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
    check(seen == [0, 50, 100], f"progress: {seen}")


async def resume_call(call_tool, while_cut):
    """A progressing call survives a cut in its middle: all comes once, in order.

    One cut only: after a second one SDK 1.30 gives its standing stream up.
    """
    seen = []
    cuts = []

    async def on_progress(progress, total, message):
        seen.append(progress)
        if len(seen) == 2:
            cuts.append(asyncio.ensure_future(cut_then()))

    async def cut_then():
        count = await cut()
        await while_cut()
        return count

    await call_tool(
        "long_running", {"duration_ms": 2000, "steps": 10}, progress_callback=on_progress
    )
    check(len(cuts) == 1 and await cuts[0] > 0, "there was nothing to cut")
    check(len(seen) >= 10, f"progress was lost: {seen}")
    strides = {round(after - before, 6) for before, after in zip(seen, seen[1:])}
    check(len(strides) == 1 and min(strides) > 0, f"lost or doubled progress: {seen}")
