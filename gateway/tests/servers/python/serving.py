"""The command line and the HTTP listener of the Python servers.

A server prints one JSON line, {"url": ..., "pid": ...}, when it is ready; over stdio it
prints none, as its output is the protocol's. It ends when it is killed; over stdio, or
with --tethered, also when its input ends. With --record FILE every message that is
POSTed is noted at the end of that file before the server sees it, as a line
{"receiver": <session id or null>, "message": ...}.
"""

import argparse
import json
import os
import socket
import sys
import threading

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings

LOCAL = TransportSecuritySettings(
    enable_dns_rebinding_protection=True,
    allowed_hosts=["localhost:*", "127.0.0.1:*"],
    allowed_origins=["http://localhost:*", "http://127.0.0.1:*"],
)


def end_with_input():
    """Ends the process when its input ends, whatever its tasks are doing."""

    def wait():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


class Recorded:
    """An application (ASGI) with a note of every message that comes in."""

    def __init__(self, app, path):
        self.app = app
        # Unbuffered, so that a line is there whole or not at all.
        self.record = open(path, "ab", buffering=0)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        body = bytearray()

        async def receive_and_note():
            part = await receive()
            if part["type"] == "http.request":
                body.extend(part.get("body", b""))
                if not part.get("more_body", False):
                    self.note(dict(scope["headers"]).get(b"mcp-session-id"), body)
            return part

        await self.app(scope, receive_and_note, send)

    def note(self, session, body):
        receiver = session.decode() if session else None
        line = json.dumps({"receiver": receiver, "message": json.loads(body)})
        self.record.write(line.encode() + b"\n")


def serve_http(app, port):
    listener = socket.create_server(("127.0.0.1", port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    config = uvicorn.Config(app, log_level="warning")
    # The socket listens already, so a client that comes now waits instead of failing.
    print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def serve(server, make_app):
    """Serves as the command line asks for, until the process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stdio", action="store_true")
    parser.add_argument("--tethered", action="store_true")
    parser.add_argument("--record")
    options = parser.parse_args()
    if options.stdio:
        server.run("stdio")
        return
    if options.tethered:
        end_with_input()
    app = make_app()
    serve_http(Recorded(app, options.record) if options.record else app, options.port)
