// The TypeScript client 2.x, which knows both eras, in the modern one. A fourth
// argument names the negotiation: `auto`, or a revision that is pinned.

import assert from 'node:assert/strict';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import * as shared from './steps.mjs';

const { step } = shared;
const MODERN = '2026-07-28';
const WATCHED = 'test://watched-resource';
const [mode] = process.argv.slice(5);

const logs = new shared.Seen();
const updates = new shared.Seen();
const toolChanges = new shared.Seen();
const client = new Client(
  { name: 'shardgate-tests', version: '0' },
  {
    capabilities: { sampling: {}, elicitation: {} },
    versionNegotiation: { mode: mode === 'auto' ? 'auto' : { pin: mode } }
  }
);
client.setRequestHandler('sampling/createMessage', (request) => ({
  role: 'assistant',
  model: 'test-model',
  content: { type: 'text', text: `answer to ${request.params.messages[0].content.text}` }
}));
client.setRequestHandler('elicitation/create', () => ({
  action: 'accept',
  content: { username: 'ada', email: 'ada@example.com' }
}));
client.setNotificationHandler('notifications/message', (note) => logs.push(note.params));
client.setNotificationHandler('notifications/resources/updated', (note) => updates.push(note.params));
client.setNotificationHandler('notifications/tools/list_changed', () => toolChanges.push({}));
const transport = new StreamableHTTPClientTransport(new URL(shared.relayUrl));

await step('discover', async () => {
  await client.connect(transport);
  assert.equal(client.getProtocolEra(), 'modern');
  assert.equal(client.getNegotiatedProtocolVersion(), MODERN);
  assert.equal(transport.sessionId, undefined, 'the modern era has no sessions');
  assert.ok(client.getDiscoverResult()?.supportedVersions.includes(MODERN));
  assert.ok(client.getServerVersion()?.name);
});

await step('list', () => shared.listEverything(client));
await step('100 concurrent calls', () => shared.callConcurrently(client));
await step('progress', () => shared.callWithProgress(client));

await step('log', async () => {
  await client.callTool({ name: 'test_tool_with_logging', arguments: {} });
  await shared.callConcurrently(client);
  assert.equal(logs.items.length, 0, 'log notifications came though none were asked for');
  await client.callTool({
    name: 'test_tool_with_logging',
    arguments: {},
    _meta: { 'io.modelcontextprotocol/logLevel': 'debug' }
  });
  await logs.atLeast(3, 'log notifications');
  assert.equal(logs.items.length, 3);
});

await step('sampling', async () => {
  const result = await client.callTool({ name: 'test_sampling', arguments: { prompt: 'a riddle' } });
  assert.match(shared.textOf(result), /answer to .*a riddle/);
});

await step('elicitation', async () => {
  const result = await client.callTool({
    name: 'test_elicitation',
    arguments: { message: 'who are you?' }
  });
  assert.match(shared.textOf(result), /accept/);
  assert.match(shared.textOf(result), /ada@example.com/);
});

await step('listen, update and close', async () => {
  const filter = { toolsListChanged: true, resourceSubscriptions: [WATCHED] };
  const subscription = await client.listen(filter);
  assert.deepEqual(subscription.honoredFilter, filter);
  await client.callTool({ name: 'test_trigger_resource_update', arguments: {} });
  await updates.atLeast(1, 'resource updates');
  assert.equal(updates.items[0].uri, WATCHED);
  await client.callTool({ name: 'test_trigger_tool_change', arguments: {} });
  await toolChanges.atLeast(1, 'changes of the tool list');
  await subscription.close();
  assert.equal(await subscription.closed, 'local');
  const before = updates.items.length;
  await client.callTool({ name: 'test_trigger_resource_update', arguments: {} });
  await client.callTool({ name: 'test_trigger_tool_change', arguments: {} });
  await shared.callConcurrently(client);
  assert.equal(updates.items.length, before, 'an update came after the subscription was closed');
});

await step('cut, then listen again', async () => {
  const subscription = await client.listen({ resourceSubscriptions: [WATCHED] });
  assert.ok((await shared.cut()) > 0, 'there was nothing to cut');
  assert.equal(await shared.bounded(subscription.closed, 'the end of the stream'), 'remote');
  const before = updates.items.length;
  const again = await client.listen({ resourceSubscriptions: [WATCHED] });
  await client.callTool({ name: 'test_trigger_resource_update', arguments: {} });
  await updates.atLeast(before + 1, 'resource updates after a cut');
  assert.equal(updates.items.length, before + 1, 'an update came twice');
  await again.close();
});

await step('cancel', async () => {
  const abort = new AbortController();
  const call = client.callTool(
    { name: 'sleep', arguments: { ms: 600_000 } },
    { signal: abort.signal, timeout: 700_000 }
  );
  abort.abort('enough');
  await assert.rejects(call);
  await shared.callConcurrently(client);
});

await client.close();
process.exit(0);
