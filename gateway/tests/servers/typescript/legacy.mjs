// A reference server for the legacy era, on the TypeScript SDK 1.x.
//
// `--port N` serves Streamable HTTP with sessions (0: the system chooses), `--stdio`
// serves stdio.

import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import * as types from '@modelcontextprotocol/sdk/types.js';
import { AjvJsonSchemaValidator } from '@modelcontextprotocol/sdk/validation/ajv-provider.js';
import * as content from './content.mjs';
import { capabilityOf, dialogues, promptDialogue } from './dialogues.mjs';
import { SESSION_NOT_FOUND, Sessions, flags, listen } from './serving.mjs';

const { world } = content;
const options = flags([]);
const INFO = { name: 'reference-legacy', version: '1.0.0' };
const CAPABILITIES = {
  logging: {},
  completions: {},
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { listChanged: true, subscribe: true }
};
const ASKING = {
  'elicitation/create': types.ElicitResultSchema,
  'sampling/createMessage': types.CreateMessageResultSchema,
  'roots/list': types.ListRootsResultSchema
};

const invalid = (message) => new types.McpError(types.ErrorCode.InvalidParams, message);
const say = (text, isError) => ({ content: [{ type: 'text', text }], isError });
/** The least level of the log messages that a server's client wants. */
const leastLevels = new WeakMap();
const validator = new AjvJsonSchemaValidator();
const checks = new Map();

/** Why a tool's arguments don't fit its schema, if so. */
function misfit({ inputSchema }, args) {
  // The 1.x validator knows the dialect of draft 07 only.
  if (inputSchema.$schema) return undefined;
  if (!checks.has(inputSchema)) checks.set(inputSchema, validator.getValidator(inputSchema));
  return checks.get(inputSchema)(args).errorMessage;
}

const LEVELS = types.LoggingLevelSchema.options;

/** The call as the shared tools see it. */
function callOf(server, extra) {
  const { progressToken } = extra._meta ?? {};
  return {
    signal: extra.signal,
    closeStream: extra.closeSSEStream,
    // The SDK's own way would not put the message on the call's stream.
    log: async (level, data) => {
      if (LEVELS.indexOf(level) < LEVELS.indexOf(leastLevels.get(server) ?? 'debug')) return;
      const params = { level, data, logger: 'reference' };
      await extra.sendNotification({ method: 'notifications/message', params });
    },
    progress: async (progress, total) => {
      if (progressToken === undefined) return;
      const params = { progressToken, progress, total };
      await extra.sendNotification({ method: 'notifications/progress', params });
    },
    describe: () => ({
      session: extra.sessionId,
      client: server.getClientVersion(),
      capabilities: server.getClientCapabilities()
    })
  };
}

/** Asks the client round by round; returns what the answers lead to. */
async function converse(server, dialogue, args, extra) {
  const declared = server.getClientCapabilities() ?? {};
  const given = {};
  for (const round of dialogue.rounds) {
    let questions = Object.entries(round(args));
    if (dialogue.optional) questions = questions.filter(([, question]) => declared[capabilityOf(question)]);
    const lacking = questions.map(([, question]) => capabilityOf(question)).filter((name) => !declared[name]);
    if (lacking.length > 0) throw invalid(`The client must declare ${lacking.join(', ')}`);
    const ask = async ([key, question]) => {
      given[key] = await extra.sendRequest(question, ASKING[question.method]);
    };
    await Promise.all(questions.map(ask));
  }
  return dialogue.conclude(given);
}

function build(onClose = () => {}) {
  const server = new Server(INFO, { capabilities: CAPABILITIES, instructions: 'A reference server for tests.' });
  server.setRequestHandler(types.SetLevelRequestSchema, ({ params }) => {
    leastLevels.set(server, params.level);
    return {};
  });
  serveTools(server);
  serveResources(server, onClose);
  servePrompts(server);
  world.sessions += 1;
  return server;
}

function serveTools(server) {
  const describe = ({ name, description, inputSchema, outputSchema }) => ({
    name,
    description,
    inputSchema,
    outputSchema
  });
  server.setRequestHandler(types.ListToolsRequestSchema, () => ({
    tools: [...content.tools.filter(content.isThere), ...dialogues].map(describe)
  }));
  server.setRequestHandler(types.CallToolRequestSchema, async ({ params }, extra) => {
    const args = params.arguments ?? {};
    const tools = [...content.tools.filter(content.isThere), ...dialogues];
    const tool = tools.find(({ name }) => name === params.name);
    if (!tool) throw invalid(`Unknown tool: ${params.name}`);
    const why = misfit(tool, args);
    if (why) return say(`Wrong arguments: ${why}`, true);
    try {
      if (tool.run) return await tool.run(args, callOf(server, extra));
      return say(await converse(server, tool, args, extra));
    } catch (error) {
      return say(error.message, true);
    }
  });
}

function serveResources(server, onClose) {
  const { read: readTemplate, ids, ...template } = content.template;
  const pattern = new RegExp(`^${template.uriTemplate.replace('{id}', '([^/]+)')}$`);
  const watched = new Set();
  server.setRequestHandler(types.ListResourcesRequestSchema, () => ({
    resources: content.resources
      .filter(content.isThere)
      .map(({ uri, name, description, mimeType }) => ({ uri, name, description, mimeType }))
  }));
  server.setRequestHandler(types.ListResourceTemplatesRequestSchema, () => ({
    resourceTemplates: [template]
  }));
  server.setRequestHandler(types.ReadResourceRequestSchema, ({ params: { uri } }) => {
    const resource = content.resources.filter(content.isThere).find((entry) => entry.uri === uri);
    if (resource) return resource.read();
    const [, id] = pattern.exec(uri) ?? [];
    if (id) return readTemplate(uri, decodeURIComponent(id));
    throw new types.McpError(-32002, 'Resource not found', { uri });
  });
  server.setRequestHandler(types.SubscribeRequestSchema, ({ params }) => {
    watched.add(params.uri);
    return {};
  });
  server.setRequestHandler(types.UnsubscribeRequestSchema, ({ params }) => {
    watched.delete(params.uri);
    return {};
  });
  followChanges(server, watched, onClose);
}

function followChanges(server, watched, onClose) {
  const tell = {
    tools_list_changed: () => server.sendToolListChanged(),
    prompts_list_changed: () => server.sendPromptListChanged(),
    resources_list_changed: () => server.sendResourceListChanged(),
    resource_updated: (uri) => watched.has(uri) && server.sendResourceUpdated({ uri })
  };
  const listener = ({ kind, uri }) => void Promise.resolve(tell[kind](uri)).catch(console.error);
  world.listeners.add(listener);
  server.onclose = () => {
    world.listeners.delete(listener);
    onClose();
  };
}

function servePrompts(server) {
  const there = () => [...content.prompts.filter(content.isThere), content.askingPrompt];
  server.setRequestHandler(types.ListPromptsRequestSchema, () => ({
    prompts: there().map(({ name, description, arguments: args }) => ({ name, description, arguments: args }))
  }));
  server.setRequestHandler(types.GetPromptRequestSchema, async ({ params }, extra) => {
    const args = params.arguments ?? {};
    const prompt = there().find(({ name }) => name === params.name);
    if (!prompt) throw invalid(`Unknown prompt: ${params.name}`);
    const missing = prompt.arguments.find(({ name }) => args[name] === undefined);
    if (missing) throw invalid(`The argument ${missing.name} is missing`);
    if (prompt !== content.askingPrompt) return { messages: prompt.messages(args) };
    const context = await converse(server, promptDialogue, {}, extra);
    return { messages: prompt.messages({ context }) };
  });
  server.setRequestHandler(types.CompleteRequestSchema, ({ params }) => {
    const result = content.complete(params);
    if (result) return result;
    throw invalid('Nothing of that name can be completed');
  });
}

async function serveHttp() {
  const sessions = new Sessions(StreamableHTTPServerTransport, (transport, onClose) =>
    build(onClose).connect(transport)
  );
  await listen(options.port, async (request, response) => {
    const transport = await sessions.transport(request.headers['mcp-session-id']);
    if (transport) return transport.handleRequest(request, response);
    response.writeHead(404, { 'content-type': 'application/json' });
    response.end(JSON.stringify(SESSION_NOT_FOUND));
  });
}

if (options.stdio) {
  await build().connect(new StdioServerTransport());
} else {
  await serveHttp();
}
