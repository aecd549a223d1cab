// The steps of a client with a session, the same for both TypeScript SDKs.

import assert from 'node:assert/strict';
import * as shared from './steps.mjs';

const { step } = shared;
const WATCHED = 'test://watched-resource';

// `on` registers handlers the way the SDK at hand wants it.
export async function legacySteps(client, transport, on) {
  const logs = new shared.Seen();
  const updates = new shared.Seen();
  on.onSampling((request) => ({
    role: 'assistant',
    model: 'test-model',
    content: { type: 'text', text: `answer to ${request.params.messages[0].content.text}` }
  }));
  on.onElicitation(() => ({
    action: 'accept',
    content: { username: 'ada', email: 'ada@example.com' }
  }));
  on.onLog((note) => logs.push(note.params));
  on.onUpdate((note) => updates.push(note.params));
  const updateWatched = () => triggerUpdate(sessionHeaders(transport, on));

  await step('initialize', async () => {
    await client.connect(transport);
    assert.equal(on.version(), '2025-11-25');
    assert.match(transport.sessionId ?? '', /^[\x21-\x7e]+$/);
    assert.ok(client.getServerVersion()?.name);
  });

  await step('list', () => shared.listEverything(client));
  await step('100 concurrent calls', () => shared.callConcurrently(client));
  await step('progress', () => shared.callWithProgress(client));

  await step('log', async () => {
    await client.setLoggingLevel('debug');
    await client.callTool({ name: 'test_tool_with_logging', arguments: {} });
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

  await step('subscribe and update', async () => {
    await client.subscribeResource({ uri: WATCHED });
    await updateWatched();
    await updates.atLeast(1, 'resource updates');
    assert.deepEqual(updates.items, [{ uri: WATCHED }]);
  });

  await step('cut and resume a call', () => shared.resumeCall(client));

  await step('stream closed by the server and resumed', async () => {
    const result = await client.callTool({ name: 'test_reconnection', arguments: {} });
    assert.ok(!result.isError);
  });

  await step('cut and resume the standing stream', async () => {
    // An event first, so that the client knows an id on the stream it has now.
    await updateWatched();
    await updates.atLeast(2, 'resource updates');
    const before = updates.items.length;
    for (let round = 1; round <= 3; round += 1) {
      assert.ok((await shared.cut()) > 0, 'there was nothing to cut');
      // Comes while no stream stands, or while the next one is being opened.
      await updateWatched();
      await updates.atLeast(before + round, 'resource updates after a cut');
      assert.equal(updates.items.length, before + round, 'an update came twice');
    }
  });

  await step('unsubscribe', async () => {
    const before = updates.items.length;
    await client.unsubscribeResource({ uri: WATCHED });
    await updateWatched();
    await shared.callConcurrently(client);
    assert.equal(updates.items.length, before, 'an update came after unsubscribe');
  });

  await step('calls after all that', () => shared.callConcurrently(client));

  await step('delete, then 404', async () => {
    const headers = sessionHeaders(transport, on);
    const ping = { jsonrpc: '2.0', id: 9000, method: 'ping' };
    assert.equal((await shared.rawPost(headers, ping)).status, 200);
    await transport.terminateSession();
    const gone = await shared.rawPost(headers, ping);
    assert.equal(gone.status, 404);
    assert.equal(JSON.parse(gone.body).error.code, -32001);
    await client.close();
  });
}

function sessionHeaders(transport, on) {
  return { 'mcp-session-id': transport.sessionId, 'mcp-protocol-version': on.version() };
}

// Changes the watched resource by a request outside the SDK's connections.
let updateCount = 0;
async function triggerUpdate(headers) {
  updateCount += 1;
  const answer = await shared.rawPost(headers, {
    jsonrpc: '2.0',
    id: `update-${updateCount}`,
    method: 'tools/call',
    params: { name: 'test_trigger_resource_update', arguments: {} }
  });
  assert.equal(answer.status, 200, answer.body);
}
