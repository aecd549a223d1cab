"""The command line and the HTTP listener of the Python servers.

A server prints one JSON line, {"url": ..., "pid": ...}, when it is ready; over stdio it
prints none, as its output is the protocol's. It ends when it is killed; over stdio, or
with --tethered, also when its input ends.
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
    options = parser.parse_args()
    if options.stdio:
        server.run("stdio")
        return
    if options.tethered:
        end_with_input()
    serve_http(make_app(), options.port)
