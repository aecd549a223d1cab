// Real TypeScript clients that speak stdio, with `shardgate connect` as their server.
// Arguments: the gateway's URL (three times, where other scripts take a relay), the
// command, and which client: `sdk-1`, `client-2` or `client-2-modern`.

import assert from 'node:assert/strict';
import * as shared from './steps.mjs';

const { step } = shared;
const WATCHED = 'test://watched-resource';
const [command, which] = process.argv.slice(5);

const information = { name: 'shardgate-tests', version: '0' };
const capabilities = { sampling: {}, elicitation: {} };
const updates = new shared.Seen();
const onUpdate = (note) => updates.push(note.params);
const onElicitation = () => ({
  action: 'accept',
  content: { username: 'ada', email: 'ada@example.com' }
});

const { client, transport } = which === 'sdk-1' ? await sdk1() : await client2();

await step('initialize', async () => {
  await client.connect(transport);
  assert.ok(client.getServerVersion()?.name);
  if (which === 'client-2-modern') assert.equal(client.getProtocolEra(), 'modern');
});
await step('list', () => shared.listEverything(client));
await step('100 concurrent calls', () => shared.callConcurrently(client));

// The last report and the answer come in one piece, and client 2.x has forgotten the
// handler by the time it gets to a report that stands right before the answer.
await step('progress', async () => {
  const progress = [];
  const result = await client.callTool(
    { name: 'long_running', arguments: { duration_ms: 300, steps: 3 } },
    ...shared.progressOptions(client, (update) => progress.push(update.progress))
  );
  assert.ok(!result.isError);
  assert.ok(progress.length >= 2, `progress was lost: ${progress}`);
  assert.deepEqual(progress, progress.toSorted((a, b) => a - b));
});

await step('elicitation', async () => {
  const call = { name: 'test_elicitation', arguments: { message: 'who are you?' } };
  assert.match(shared.textOf(await client.callTool(call)), /ada@example.com/);
});

await step('mirrored arguments', async () => {
  const result = await client.callTool({
    name: 'test_x_mcp_header',
    arguments: { region: 'Österreich', priority: 7 }
  });
  assert.ok(!result.isError && JSON.stringify(result).includes('Österreich'));
});

await step('subscribe and update', async () => {
  const isModern = which === 'client-2-modern';
  const subscription = isModern
    ? await client.listen({ resourceSubscriptions: [WATCHED] })
    : await client.subscribeResource({ uri: WATCHED });
  await client.callTool({ name: 'test_trigger_resource_update', arguments: {} });
  await updates.atLeast(1, 'resource updates');
  assert.equal(updates.items[0].uri, WATCHED);
  if (isModern) await subscription.close();
});

await step('cancel', async () => {
  const abort = new AbortController();
  const options = { signal: abort.signal, timeout: 700_000 };
  const call = { name: 'sleep', arguments: { ms: 600_000 } };
  const running = client.takesResultSchema
    ? client.callTool(call, undefined, options)
    : client.callTool(call, options);
  abort.abort('enough');
  await assert.rejects(running);
  await shared.callConcurrently(client);
});

await step('close', () => client.close());
process.exit(0);

async function sdk1() {
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
  const types = await import('@modelcontextprotocol/sdk/types.js');
  const client = new Client(information, { capabilities });
  client.takesResultSchema = true;
  client.setRequestHandler(types.ElicitRequestSchema, onElicitation);
  client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, onUpdate);
  return { client, transport: new StdioClientTransport(server()) };
}

async function client2() {
  const { Client } = await import('@modelcontextprotocol/client');
  const { StdioClientTransport } = await import('@modelcontextprotocol/client/stdio');
  const versionNegotiation = which === 'client-2-modern' ? { mode: 'auto' } : undefined;
  const client = new Client(information, { capabilities, versionNegotiation });
  client.setRequestHandler('elicitation/create', onElicitation);
  client.setNotificationHandler('notifications/resources/updated', onUpdate);
  return { client, transport: new StdioClientTransport(server()) };
}

function server() {
  return { command, args: ['connect', shared.directUrl], stderr: 'inherit' };
}
