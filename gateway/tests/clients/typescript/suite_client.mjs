// A client for the official suite's client mode: the suite starts a mock server for one
// scenario, then this program with the server's URL as its last argument, and checks what
// the server has seen. Arguments before that: none to talk to the server directly, or the
// gateway's binary, a folder for its configuration and its number of shards to put a
// gateway in between. Then it is the gateway whom the server sees.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { startGateway } from './gateway.mjs';

const SCENARIO = process.env.MCP_CONFORMANCE_SCENARIO;
const REVISION = process.env.MCP_CONFORMANCE_PROTOCOL_VERSION;
const MODERN = '2026-07-28';
// What the client speaks: the scenario's revision, unless a gateway is to be a bridge.
const SPOKEN = process.env.SUITE_CLIENT_REVISION ?? REVISION;
const SKILLS = 'io.modelcontextprotocol/skills';

// Shorter than the suite's own patience, so that the reason is told.
const SCENARIO_BOUND_MS = 90_000;

const [mockUrl, ...front] = process.argv.slice(2).toReversed();
const gateway = front.length > 0 ? await startGateway(...front.toReversed(), mockUrl) : undefined;
const url = gateway?.url ?? mockUrl;

const scenarios = {
  initialize: (client) => client.listTools(),

  tools_call: async (client) => {
    await listed(client, 'add_numbers');
    const sum = await client.callTool({ name: 'add_numbers', arguments: { a: 2, b: 3 } });
    assert.match(textOf(sum), /is 5$/);
  },

  'elicitation-sep1034-client-defaults': async (client) => {
    const name = 'test_client_elicitation_defaults';
    await listed(client, name);
    const done = await client.callTool({ name, arguments: {} });
    assert.match(textOf(done), /completed: .*John Doe/);
  },

  'sse-retry': async (client) => {
    await listed(client, 'test_reconnection');
    const done = await client.callTool({ name: 'test_reconnection', arguments: {} });
    assert.match(textOf(done), /completed successfully/);
  },

  'request-metadata': (client) => client.listTools(),

  'sep-2322-client-request-state': async (client) => {
    await listed(client, 'test_mrtr_echo_state');
    for (const [name, text] of [
      ['test_mrtr_echo_state', 'echo-state-ok'],
      ['test_mrtr_no_state', 'no-state-ok']
    ]) {
      assert.equal(textOf(await client.callTool({ name, arguments: {} })), text);
    }
    // By hand, as the SDK takes no result without its type from a server of this revision.
    const { result } = await postCall('test_mrtr_no_result_type', {});
    assert.equal(textOf(result), 'no-result-type-test-ok');
  },

  'http-standard-headers': async (client) => {
    for (const tool of (await client.listTools()).tools) {
      await client.callTool({ name: tool.name, arguments: {} });
    }
    const { resources } = await client.listResources();
    for (const { uri } of resources) await client.readResource({ uri });
    const { prompts } = await client.listPrompts();
    for (const { name } of prompts) await client.getPrompt({ name });
    assert.ok(resources.length > 0 && prompts.length > 0, 'there was nothing to ask for');
  },

  'http-custom-headers': async (client) => {
    const { toolCalls } = JSON.parse(process.env.MCP_CONFORMANCE_CONTEXT);
    await client.listTools();
    for (const call of toolCalls) await client.callTool(call);
  },

  'http-invalid-tool-headers': async (client) => {
    const { tools } = await client.listTools();
    for (const { name } of tools) await client.callTool({ name, arguments: { region: 'eu' } });
    // What the SDK does not show its user a client without such care would call. A gateway
    // in front of that client must not have shown it either.
    if (gateway) await callWhateverIsListed();
  },

  'json-schema-ref-no-deref': (client) => listed(client, 'lookup_user'),

  'json-schema-2020-12-preservation': async (client) => {
    const { inputSchema } = await listed(client, 'json_schema_2020_12_tool');
    await client.callTool({ name: 'json_schema_echo', arguments: { schema: inputSchema } });
  },

  'sep-2640-client-no-prefetch': (client) => skills(client),
  'sep-2640-client-verify-digest': (client) => loadSkills(client),
  'sep-2640-client-verify-size': (client) => loadSkills(client),
  'sep-2640-client-verify-frontmatter': (client) => loadSkills(client)
};

const deadline = setTimeout(() => fail(new Error('the scenario did not end')), SCENARIO_BOUND_MS);
try {
  const run = scenarios[SCENARIO];
  assert.ok(run, `the suite has a scenario that this client does not know: ${SCENARIO}`);
  await run(await connected());
} catch (error) {
  await fail(error);
}
clearTimeout(deadline);
await gateway?.stop();
process.exit(0);

async function fail(error) {
  console.error(error?.stack ?? error);
  if (gateway) console.error(`--- the gateway's log ---\n${await gateway.stop()}`);
  process.exit(1);
}

// A client that speaks the revision the scenario is run for.
async function connected() {
  const capabilities = { elicitation: { form: { applyDefaults: true } } };
  const versions =
    SPOKEN === MODERN
      ? { versionNegotiation: { mode: { pin: MODERN } } }
      : { supportedProtocolVersions: [SPOKEN, '2025-03-26'] };
  const client = new Client(
    { name: 'shardgate-tests', version: '0' },
    { capabilities, ...versions }
  );
  client.setRequestHandler('elicitation/create', async (request) => {
    // While one call waits for its answer another one goes its own way.
    if (SCENARIO === 'sep-2322-client-request-state') {
      await client.callTool({ name: 'test_mrtr_unrelated', arguments: {} });
    }
    const { confirmed } = request.params.requestedSchema.properties;
    return { action: 'accept', content: confirmed ? { confirmed: true } : {} };
  });
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  return client;
}

async function listed(client, name) {
  const { tools } = await client.listTools();
  const tool = tools.find((tool) => tool.name === name);
  assert.ok(tool, `${name} is not listed: ${tools.map((tool) => tool.name)}`);
  return tool;
}

function textOf(result) {
  return result.content[0].text;
}

// Calls every tool of the list, whatever its schema says about headers.
async function callWhateverIsListed() {
  const { result } = await post('tools/list', {});
  assert.ok(result.tools.length > 0, 'no tools');
  for (const { name, inputSchema } of result.tools) {
    const names = Object.keys(inputSchema.properties);
    const args = Object.fromEntries(names.map((name) => [name, null]));
    await postCall(name, args);
  }
}

function postCall(name, args) {
  return post('tools/call', { name, arguments: args }, { 'mcp-name': name });
}

// POSTs a modern request by hand, past the SDK.
async function post(method, params, headers = {}) {
  const _meta = {
    'io.modelcontextprotocol/protocolVersion': MODERN,
    'io.modelcontextprotocol/clientCapabilities': {}
  };
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      'mcp-protocol-version': MODERN,
      'mcp-method': method,
      ...headers
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: { ...params, _meta } })
  });
  return response.json();
}

// The skills of a server that has any. Whose server does not declare the extension must
// not use it.
async function skills(client) {
  if (!client.getServerCapabilities()?.extensions?.[SKILLS]) return [];
  const anything = { '~standard': { version: 1, vendor: 'tests', validate: (value) => ({ value }) } };
  return (await client.request({ method: 'skills/list', params: {} }, anything)).skills;
}

// Loads each skill's files in order, and none of a skill any more once one is not what
// the list has said.
async function loadSkills(client) {
  for (const skill of await skills(client)) {
    for (const file of skill.resources) {
      const { contents } = await client.readResource({ uri: file.uri });
      if (!isAsListed(contents[0].text, file, skill)) break;
    }
  }
}

function isAsListed(text, file, skill) {
  const digest = `sha256:${createHash('sha256').update(text, 'utf8').digest('hex')}`;
  if (Buffer.byteLength(text) !== file.size || digest !== file.digest) return false;
  if (file.uri !== skill.uri) return true;
  const frontmatter = /^---\n(.*?)\n---\n/s.exec(text)?.[1] ?? '';
  const fields = frontmatter.split('\n').map((line) => /^(\w+): (.*)$/.exec(line)?.slice(1));
  return JSON.stringify(Object.fromEntries(fields)) === JSON.stringify(skill.frontmatter);
}
