"""The tools, resources and prompt that the Python servers of both SDK releases offer."""

import asyncio
import json
import os

from pydantic import BaseModel

running = 0
# Labels of the calls that their client cancelled.
cancelled = []


class Person(BaseModel):
    username: str
    email: str


def greeting_of(answer):
    """What an elicitation's outcome is told as."""
    if answer.action != "accept":
        return f"User response: {answer.action}"
    return f"User response: {answer.data.username}, {answer.data.email}"


def add_to(server, Context):
    """Registers everything that both SDK releases are told in the same way."""

    @server.tool()
    def echo(message: str) -> str:
        """Returns the message it is given."""
        return message

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.tool()
    async def long_running(ctx: Context, duration_ms: int = 10_000, steps: int = 5) -> str:
        """Runs for a given time and reports progress at every step."""
        await ctx.report_progress(0, steps)
        for step in range(1, steps + 1):
            await asyncio.sleep(duration_ms / steps / 1000)
            await ctx.report_progress(step, steps)
        return f"Ran for {duration_ms} ms in {steps} steps."

    @server.tool()
    async def sleep(ms: int, label: str = "sleep") -> str:
        """Answers after the given time; `report` tells whether it was cancelled."""
        global running
        running += 1
        try:
            await asyncio.sleep(ms / 1000)
        except asyncio.CancelledError:
            cancelled.append(label)
            raise
        finally:
            running -= 1
        return f"Slept for {ms} ms."

    @server.tool()
    def report() -> str:
        """Tells as JSON what the server has seen."""
        return json.dumps({"pid": os.getpid(), "sleeping": running, "cancelled": cancelled})

    @server.tool()
    async def chatter(ctx: Context) -> str:
        """Sends a log message of each of four levels."""
        await ctx.debug("a debug message")
        await ctx.info("an info message")
        await ctx.warning("a warning")
        await ctx.error("an error")
        return "Said four things."

    @server.resource("python://static")
    def static() -> str:
        """A text that never changes."""
        return "A resource of the Python server."

    @server.resource("python://items/{item}")
    def item(item: str) -> str:
        """A text made up for the given item."""
        return f"The item {item}."

    @server.prompt()
    def greeting(name: str) -> str:
        """Asks for a greeting."""
        return f"Greet {name}."
