// A legacy server that knows no tasks, with the tools that the conformance suite's scenarios
// about tasks call. On the TypeScript SDK 1.x, over Streamable HTTP at `--port N`.

import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import * as types from '@modelcontextprotocol/sdk/types.js';
import { SESSION_NOT_FOUND, Sessions, flags, listen } from './serving.mjs';

const options = flags([]);
const SECOND_MS = 1_000;

const say = (text, isError = false) => ({ content: [{ type: 'text', text }], isError });
const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(new Error('cancelled'));
    });
  });

/** Asks the client for one field. */
async function ask(extra, message, field, type) {
  const requestedSchema = { type: 'object', properties: { [field]: { type } }, required: [field] };
  const request = { method: 'elicitation/create', params: { message, requestedSchema } };
  const answer = await extra.sendRequest(request, types.ElicitResultSchema);
  return answer.content?.[field];
}

const TOOLS = {
  greet: async ({ name }) => say(`Hello, ${name}!`),
  slow_compute: async ({ seconds, label }, { signal }) => {
    await pause(seconds * SECOND_MS, signal);
    return say(`Computed ${label} in ${seconds} s.`);
  },
  failing_job: async (_, { signal }) => {
    await pause(SECOND_MS, signal);
    return say('This job always fails.', true);
  },
  protocol_error_job: async () => {
    throw new types.McpError(types.ErrorCode.InternalError, 'broken on purpose');
  },
  confirm_delete: async ({ filename }, extra) => {
    const confirmed = await ask(extra, `Delete ${filename}?`, 'confirm', 'boolean');
    return say(confirmed ? `Deleted ${filename}.` : `Kept ${filename}.`);
  },
  multi_input: async (_, extra) => {
    const questions = [ask(extra, 'Your name?', 'name', 'string'), ask(extra, 'Sure?', 'confirm', 'boolean')];
    return say(JSON.stringify(await Promise.all(questions)));
  },
  test_tool_with_task: async (_, extra) => {
    const name = await ask(extra, 'Your name?', 'name', 'string');
    await pause(SECOND_MS, extra.signal);
    return say(`Hello, ${name}!`);
  }
};

function build(onClose) {
  const server = new Server({ name: 'no-tasks', version: '1.0.0' }, { capabilities: { tools: {} } });
  const describe = (name) => ({ name, inputSchema: { type: 'object' } });
  server.setRequestHandler(types.ListToolsRequestSchema, () => ({ tools: Object.keys(TOOLS).map(describe) }));
  server.setRequestHandler(types.CallToolRequestSchema, ({ params }, extra) =>
    TOOLS[params.name](params.arguments ?? {}, extra)
  );
  server.onclose = onClose;
  return server;
}

const sessions = new Sessions(StreamableHTTPServerTransport, (transport, onClose) =>
  build(onClose).connect(transport)
);
await listen(options.port, async (request, response) => {
  const transport = await sessions.transport(request.headers['mcp-session-id']);
  if (transport) return transport.handleRequest(request, response);
  response.writeHead(404, { 'content-type': 'application/json' });
  response.end(JSON.stringify(SESSION_NOT_FOUND));
});
