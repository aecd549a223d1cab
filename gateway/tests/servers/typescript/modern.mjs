// A reference server for both eras, on the TypeScript SDK 2.x.
//
// `--port N` serves HTTP (0: the system chooses), `--stdio` serves stdio;
// `--modern-only` and `--legacy-only` leave an era out. Modern requests have no
// session; legacy ones have, because the SDK's legacy serving without sessions could
// not ask its client anything.

import { randomBytes } from 'node:crypto';
import { toNodeHandler } from '@modelcontextprotocol/node';
import {
  INVALID_PARAMS,
  McpServer,
  ProtocolError,
  ResourceTemplate,
  WebStandardStreamableHTTPServerTransport,
  createMcpHandler,
  createRequestStateCodec,
  fromJsonSchema,
  inputRequired,
  isLegacyRequest
} from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import * as content from './content.mjs';
import { answers, capabilityOf, dialogues, promptDialogue } from './dialogues.mjs';
import { SESSION_NOT_FOUND, Sessions, flags, listen } from './serving.mjs';

const { world } = content;
const options = flags(['modern-only', 'legacy-only']);
const INFO = { name: 'reference-modern', version: '1.0.0' };
const CAPABILITIES = {
  logging: {},
  completions: {},
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { listChanged: true, subscribe: true }
};
/** What never changes may be kept by anybody, lists only for a moment. */
const CACHE_HINTS = Object.fromEntries(
  ['tools/list', 'prompts/list', 'resources/list', 'resources/templates/list', 'server/discover'].map(
    (method) => [method, { ttlMs: 1_000, cacheScope: 'public' }]
  )
);

// A state made for a tool is of no use for a prompt.
const seal = createRequestStateCodec({
  key: randomBytes(32),
  bind: (context) => context.mcpReq.method
});

/** Schemas are converted once: a modern request has a server object of its own. */
const schemas = new Map();
function schemaOf(schema) {
  if (!schemas.has(schema)) schemas.set(schema, fromJsonSchema(schema));
  return schemas.get(schema);
}

/** The call as the shared tools see it. */
function callOf(server, context) {
  const { progressToken } = context.mcpReq._meta ?? {};
  return {
    signal: context.mcpReq.signal,
    closeStream: context.http?.closeSSE,
    log: (level, data) => context.mcpReq.log(level, data, 'reference'),
    progress: async (progress, total) => {
      if (progressToken === undefined) return;
      const params = { progressToken, progress, total };
      await context.mcpReq.notify({ method: 'notifications/progress', params });
    },
    describe: () => ({
      session: context.sessionId,
      client: server.server.getClientVersion(),
      capabilities: server.server.getClientCapabilities()
    })
  };
}

/** Goes one step on in a dialogue: `done` with its answers, or the questions to return. */
async function converse(server, dialogue, args, context) {
  const state = context.mcpReq.requestState();
  let { round, given } = state ?? { round: 0, given: {} };
  // Without its state a retry is a first call.
  const responses = (dialogue.guarded && !state ? undefined : context.mcpReq.inputResponses) ?? {};
  for (; round < dialogue.rounds.length; round += 1) {
    let questions = Object.entries(dialogue.rounds[round](args));
    if (dialogue.optional) {
      const declared = server.server.getClientCapabilities() ?? {};
      questions = questions.filter(([, question]) => declared[capabilityOf(question)]);
    }
    const missing = questions.filter(([key, question]) => !answers(question, responses[key]));
    if (missing.length > 0) {
      const requestState = dialogue.guarded ? await seal.mint({ round, given }, context) : undefined;
      return { ask: inputRequired({ inputRequests: Object.fromEntries(questions), requestState }) };
    }
    given = { ...given, ...Object.fromEntries(questions.map(([key]) => [key, responses[key]])) };
  }
  return { done: dialogue.conclude(given) };
}

/** A server object with everything registered, and what of it comes and goes. */
function build() {
  const server = new McpServer(INFO, {
    capabilities: CAPABILITIES,
    cacheHints: CACHE_HINTS,
    requestState: { verify: seal.verify },
    instructions: 'A reference server for tests.'
  });
  const changeable = { ...addTools(server), ...addResources(server), ...addPrompts(server) };
  for (const [what, registered] of Object.entries(changeable)) {
    if (!world.there[what]) registered.disable();
  }
  for (const dialogue of dialogues) {
    const { name, description, inputSchema } = dialogue;
    server.registerTool(name, { description, inputSchema: schemaOf(inputSchema) }, async (args, context) => {
      const { ask, done } = await converse(server, dialogue, args ?? {}, context);
      return ask ?? { content: [{ type: 'text', text: done }] };
    });
  }
  server.server.setRequestHandler('completion/complete', ({ params }) => {
    const result = content.complete(params);
    if (result) return result;
    throw new ProtocolError(INVALID_PARAMS, 'Nothing of that name can be completed');
  });
  return { server, changeable };
}

function addTools(server) {
  const changeable = {};
  for (const { name, run, inputSchema, outputSchema, comesAndGoes, ...config } of content.tools) {
    config.inputSchema = schemaOf(inputSchema);
    if (outputSchema) config.outputSchema = schemaOf(outputSchema);
    const answer = (args, context) => run(args ?? {}, callOf(server, context));
    const registered = server.registerTool(name, config, answer);
    if (comesAndGoes) changeable[comesAndGoes] = registered;
  }
  return changeable;
}

function addResources(server) {
  const changeable = {};
  for (const { uri, name, read, comesAndGoes, ...config } of content.resources) {
    const registered = server.registerResource(name, uri, config, read);
    if (comesAndGoes) changeable[comesAndGoes] = registered;
  }
  const { uriTemplate, name, ids, read, ...config } = content.template;
  const variables = new ResourceTemplate(uriTemplate, { list: undefined });
  server.registerResource(name, variables, config, (uri, { id }) => read(uri.href, id));
  return changeable;
}

function addPrompts(server) {
  const changeable = {};
  for (const { name, description, arguments: args, messages, comesAndGoes } of content.prompts) {
    const config = { description };
    if (args.length > 0) config.argsSchema = schemaOf(schemaOfArguments(args));
    const registered = server.registerPrompt(name, config, (values) => ({ messages: messages(values) }));
    if (comesAndGoes) changeable[comesAndGoes] = registered;
  }
  const { name, description, messages } = content.askingPrompt;
  server.registerPrompt(name, { description }, async (context) => {
    const { ask, done } = await converse(server, promptDialogue, {}, context);
    return ask ?? { messages: messages({ context: done }) };
  });
  return changeable;
}

function schemaOfArguments(args) {
  const property = ({ name, description }) => [name, { type: 'string', description }];
  return {
    type: 'object',
    properties: Object.fromEntries(args.map(property)),
    required: args.map(({ name }) => name)
  };
}

const LISTS = {
  tools_list_changed: 'tool',
  prompts_list_changed: 'prompt',
  resources_list_changed: 'resource'
};

/** A server object that lives as long as its connection: it is told of changes. */
function buildLasting(era, onClose = () => {}) {
  const { server, changeable } = build();
  const watched = new Set();
  const acknowledge = (change) => ({ params }) => {
    change(params.uri);
    return {};
  };
  server.server.setRequestHandler('resources/subscribe', acknowledge((uri) => watched.add(uri)));
  server.server.setRequestHandler('resources/unsubscribe', acknowledge((uri) => watched.delete(uri)));
  const listener = ({ kind, uri }) => {
    const what = LISTS[kind];
    // Enabling and disabling tells the client that the list changed.
    if (what) changeable[what][world.there[what] ? 'enable' : 'disable']();
    // In the modern era the SDK knows which listen stream wants it.
    else if (era === 'modern' || watched.has(uri)) void server.server.sendResourceUpdated({ uri });
  };
  world.listeners.add(listener);
  server.server.onclose = () => {
    world.listeners.delete(listener);
    onClose();
  };
  world.sessions += 1;
  return server;
}

async function serveHttp() {
  const modern = createMcpHandler(() => build().server, { legacy: 'reject', onerror: console.error });
  world.listeners.add((event) => modern.bus.publish(event));
  const sessions = new Sessions(WebStandardStreamableHTTPServerTransport, (transport, onClose) =>
    buildLasting('legacy', onClose).connect(transport)
  );
  const serveLegacy = async (request) => {
    const transport = await sessions.transport(request.headers.get('mcp-session-id'));
    if (!transport) return Response.json(SESSION_NOT_FOUND, { status: 404 });
    return transport.handleRequest(request);
  };
  const fetch = async (request) => {
    if (options['modern-only']) return modern.fetch(request);
    if (options['legacy-only'] || (await isLegacyRequest(request))) return serveLegacy(request);
    return modern.fetch(request);
  };
  await listen(options.port, toNodeHandler({ fetch }, { onerror: console.error }));
}

if (options.stdio) {
  serveStdio(({ era }) => buildLasting(era), { legacy: options['modern-only'] ? 'reject' : 'serve' });
} else {
  await serveHttp();
}
