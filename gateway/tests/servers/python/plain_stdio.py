"""A tool server on its standard streams, without any package: small enough to be
started two hundred times, and odd enough to show what becomes of a bad child.

--mark TEXT   is only there to be found among the processes of the machine
--modern      speaks 2026-07-28 instead of sessions
--deaf        says nothing to requests it does not know
--brittle     ends at requests it does not know
--stubborn    stays when it is asked to go: only SIGKILL ends it
--hold FILE   does not answer `initialize` while there is such a file
"""

import json
import os
import signal
import sys
import time

MODERN = "--modern" in sys.argv
STUBBORN = "--stubborn" in sys.argv
DEAF = "--deaf" in sys.argv
BRITTLE = "--brittle" in sys.argv
HOLD = sys.argv[sys.argv.index("--hold") + 1] if "--hold" in sys.argv else None
VERSION = "2026-07-28"
TOOLS = ["who", "crash", "wait", "release", "ask", "noise", "progress", "huge", "garble", "change"]

# Calls that wait: request id to the label they are known by.
waiting = {}
# The progress tokens of these.
tokens = {}
# Questions to the client: their id to the call that asked.
asked = {}
# Calls that will not survive it if their question is refused.
touchy = set()


def send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def say(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def answer(id, result):
    if MODERN:
        result["resultType"] = result.get("resultType", "complete")
    send({"jsonrpc": "2.0", "id": id, "result": result})


def refuse(id, code, text):
    send({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}})


def text(id, words):
    answer(id, {"content": [{"type": "text", "text": words}]})


QUESTION = {
    "message": "What is your name?",
    "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
}


def ask(id, params):
    if not MODERN:
        asked["question-%s" % id] = id
        question = {"jsonrpc": "2.0", "id": "question-%s" % id, "method": "elicitation/create"}
        send(dict(question, params=QUESTION))
        return
    responses = params.get("inputResponses")
    if responses is None:
        wanted = {"name": {"method": "elicitation/create", "params": QUESTION}}
        answer(id, {"resultType": "input_required", "inputRequests": wanted})
    else:
        text(id, "Hello, %s!" % responses["name"]["content"]["name"])


def report(token, step, total):
    progress = {"progressToken": token, "progress": step, "total": total}
    send({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})


def crash():
    say("out of paper")
    os._exit(3)


def cancelled(id):
    label = waiting.pop(id, "nobody's call")
    # Some go on for a while with what was given up, and say so.
    if tokens.get(id) is not None:
        report(tokens[id], 1, 3)
    say("cancelled %s" % label)


def call(id, params):
    name = params.get("name")
    if name == "who":
        text(id, str(os.getpid()))
    elif name == "crash":
        crash()
    elif name == "wait":
        waiting[id] = params.get("arguments", {}).get("label")
        tokens[id] = params.get("_meta", {}).get("progressToken")
        say("waits for %s" % waiting[id])
    elif name == "release":
        for other, label in waiting.items():
            text(other, "released %s" % label)
        waiting.clear()
        text(id, "all released")
    elif name == "ask":
        if params.get("arguments", {}).get("touchy"):
            touchy.add(id)
        ask(id, params)
    elif name == "noise":
        sys.stdout.write("Debug: this line is no message\n\n{\"neither\": \"is this\"}\n[]\n")
        text(id, "after the noise")
    elif name == "progress":
        token = params.get("_meta", {}).get("progressToken")
        for step in range(1, 4):
            report(token, step, 3)
        text(id, "three steps")
    elif name == "huge":
        text(id, "x" * params["arguments"]["bytes"])
    elif name == "change":
        send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        text(id, "changed nothing")
    elif name == "garble":
        # Half a message, and the rest of it never.
        sys.stdout.write('{"jsonrpc":"2.0","id":%s,"result":{"content":[' % json.dumps(id))
        sys.stdout.flush()
        os._exit(0)
    else:
        refuse(id, -32602, "no such tool")


def take(message):
    method, id, params = message.get("method"), message.get("id"), message.get("params", {})
    if method is None:
        call_id = asked.pop(id, None)
        if call_id in touchy and "error" in message:
            crash()
        if call_id is not None:
            name = message.get("result", {}).get("content", {}).get("name", "nobody")
            text(call_id, "Hello, %s!" % name)
    elif method == "notifications/cancelled":
        cancelled(params.get("requestId"))
    elif id is None:
        pass
    elif method == "initialize" and not MODERN:
        while HOLD and os.path.exists(HOLD):
            time.sleep(0.01)
        answer(id, {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "plain", "version": "0"},
        })
    elif method == "server/discover" and MODERN:
        answer(id, {"supportedVersions": [VERSION], "capabilities": {"tools": {}},
                    "ttlMs": 0, "cacheScope": "private"})
    elif method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
        answer(id, {"tools": tools, "ttlMs": 0, "cacheScope": "private"} if MODERN
               else {"tools": tools})
    elif method == "tools/call":
        call(id, params)
    elif BRITTLE:
        say("%s is too much" % method)
        os._exit(4)
    elif not DEAF:
        refuse(id, -32601, "no such method")


def main():
    if STUBBORN:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    say("started with %s" % " ".join(sys.argv[1:]))
    sys.stdout.write("Welcome! This line is no message.\n")
    sys.stdout.flush()
    for line in sys.stdin:
        take(json.loads(line))
    while STUBBORN:
        signal.pause()


main()
