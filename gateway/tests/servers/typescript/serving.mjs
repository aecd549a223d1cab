// What both reference servers need around their SDK: the command line, the HTTP
// listener, the table of sessions and the store of events for resuming.
//
// A server prints one JSON line, `{"url": …, "pid": …}`, when it is ready; over stdio
// it prints none, as its output is the protocol's. It ends when it is killed; over stdio,
// or with `--tethered`, also when its input ends.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

/** How long a client that was sent away waits before it comes back. */
const RETRY_MS = 100;

/** The command line, with these further flags. */
export function flags(names) {
  const options = { port: { type: 'string', default: '0' } };
  for (const name of ['stdio', 'tethered', ...names]) options[name] = { type: 'boolean', default: false };
  const { values } = parseArgs({ options });
  if (values.tethered) process.stdin.resume().once('end', () => process.exit(0));
  return values;
}

const LOCAL = ['localhost', '127.0.0.1', '[::1]'];

/** Whether host and origin are local, as the suite's check for DNS rebinding wants it. */
function isLocal({ headers: { host, origin } }) {
  const names = (url) => URL.canParse(url) && LOCAL.includes(new URL(url).hostname);
  return names(`http://${host}`) && (origin === undefined || names(origin));
}

/** Serves `/mcp` on a loopback port; resolves once the ready line is printed. */
export async function listen(port, handle) {
  const server = createServer(async (request, response) => {
    try {
      if (!isLocal(request)) response.writeHead(403).end();
      else if (new URL(request.url, 'http://localhost').pathname !== '/mcp') response.writeHead(404).end();
      else await handle(request, response);
    } catch (error) {
      console.error(error);
      if (!response.headersSent) response.writeHead(500);
      response.end();
    }
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject).listen(Number(port), '127.0.0.1', resolve);
  });
  const url = `http://127.0.0.1:${server.address().port}/mcp`;
  console.log(JSON.stringify({ url, pid: process.pid }));
}

/** Keeps every event of one session, so that a cut stream can be resumed. */
class EventStore {
  #events = [];

  async storeEvent(stream, message) {
    this.#events.push({ stream, message });
    return String(this.#events.length);
  }

  async getStreamIdForEventId(id) {
    return this.#events[Number(id) - 1]?.stream;
  }

  async replayEventsAfter(last, { send }) {
    const stream = await this.getStreamIdForEventId(last);
    for (let at = Number(last); at < this.#events.length; at += 1) {
      const event = this.#events[at];
      // The event that opens a stream carries no message.
      if (event.stream === stream && event.message.jsonrpc) await send(String(at + 1), event.message);
    }
    return stream;
  }
}

/** The sessions of the legacy era, by their ids. */
export class Sessions {
  #transports = new Map();
  #Transport;
  #connect;

  /** `connect` gives a new transport its server; it is handed what to call at the session's end. */
  constructor(Transport, connect) {
    this.#Transport = Transport;
    this.#connect = connect;
  }

  /**
   * The transport that a request with this session id is for, a fresh one without an id.
   * `undefined` for an unknown id: MCP 2025-11-25, transports, wants 404 for it.
   */
  async transport(id) {
    return id ? this.#transports.get(id) : await this.#begin();
  }

  /** A transport that joins the table if its first request initializes it. */
  async #begin() {
    const transport = new this.#Transport({
      sessionIdGenerator: randomUUID,
      eventStore: new EventStore(),
      retryInterval: RETRY_MS,
      onsessioninitialized: (id) => void this.#transports.set(id, transport)
    });
    await this.#connect(transport, () => this.#transports.delete(transport.sessionId));
    return transport;
  }
}

/** What answers a request for an unknown session, with status 404. */
export const SESSION_NOT_FOUND = {
  jsonrpc: '2.0',
  id: null,
  error: { code: -32001, message: 'Session not found' }
};
