"""The Python SDK 1.x calls tools as tasks. Nothing is cut."""

import asyncio
from contextlib import AsyncExitStack

import mcp.types as types
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

import steps
from steps import check, step

questions = []


async def on_elicitation(context, params):
    questions.append(params)
    content = {"username": "ada", "email": "ada@example.com"}
    return types.ElicitResult(action="accept", content=content)


async def submit(session, name, arguments):
    created = await session.experimental.call_tool_as_task(name, arguments, ttl=60000)
    return created.task


async def from_task_to_result(session):
    task = await submit(session, "sleep", {"ms": 50})
    check(task.ttl == 60000, f"ttl {task.ttl}")
    async for status in session.experimental.poll_task(task.taskId):
        pass
    check(status.status == "completed", f"status {status.status}")
    result = await session.experimental.get_task_result(task.taskId, types.CallToolResult)
    check(result.content[0].text == "Slept for 50 ms.", f"result {result}")


async def question_on_the_way(session):
    task = await submit(session, "test_elicitation", {"message": "Who?"})
    # The result is waited for at once: the question comes while it is.
    result = await session.experimental.get_task_result(task.taskId, types.CallToolResult)
    check("ada" in result.content[0].text, f"result {result}")
    check(len(questions) == 1, f"questions {questions}")


async def cancel(session):
    task = await submit(session, "sleep", {"ms": 3600000})
    cancelled = await session.experimental.cancel_task(task.taskId)
    check(cancelled.status == "cancelled", f"status {cancelled.status}")


async def list_tasks(session):
    listed = await session.experimental.list_tasks()
    found = [task.status for task in listed.tasks]
    check(found == ["completed", "completed", "cancelled"], f"tasks {found}")


async def main():
    async with AsyncExitStack() as stack:
        read, write, _ = await stack.enter_async_context(streamable_http_client(steps.DIRECT_URL))
        session = await stack.enter_async_context(
            ClientSession(read, write, elicitation_callback=on_elicitation)
        )
        await step("initialize", session.initialize())
        await step("from a task to its result", from_task_to_result(session))
        await step("a question on the way", question_on_the_way(session))
        await step("cancel", cancel(session))
        await step("list of tasks", list_tasks(session))


asyncio.run(main())
