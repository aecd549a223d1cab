// What the scripts of both TypeScript SDKs share: steps, bounded waits and the
// relay that cuts connections. Arguments of every script: the URL through the
// relay, the port on which a cut is asked for, the URL without the relay.

import assert from 'node:assert/strict';
import net from 'node:net';

// Long enough that only a hang reaches it.
const HANG_MS = 60_000;

// Quick and patient, so that a cut costs a test no time and loses it nothing.
export const RECONNECT = {
  initialReconnectionDelay: 20,
  maxReconnectionDelay: 200,
  reconnectionDelayGrowFactor: 1.5,
  maxRetries: 50
};

export const [relayUrl, cutPort, directUrl] = process.argv.slice(2);

// Runs one step and prints its name once it is finished.
export async function step(name, run) {
  try {
    await bounded(run(), `step ${name}`);
  } catch (error) {
    console.error(`step "${name}" failed: ${error?.stack ?? error}`);
    process.exit(1);
  }
  console.log(JSON.stringify({ step: name }));
}

// Fails instead of waiting for ever.
export async function bounded(promise, what) {
  let timer;
  const hang = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come`)), HANG_MS);
  });
  try {
    return await Promise.race([promise, hang]);
  } finally {
    clearTimeout(timer);
  }
}

// Breaks every connection of the relay; returns how many there were.
export function cut() {
  const socket = net.connect(Number(cutPort), '127.0.0.1');
  return bounded(
    new Promise((resolve, reject) => {
      let text = '';
      socket.on('data', (data) => (text += data));
      socket.on('end', () => resolve(Number(text)));
      socket.on('error', reject);
    }),
    'the cut'
  );
}

// A list that can be waited on.
export class Seen {
  items = [];
  #waiting = [];

  push(item) {
    this.items.push(item);
    for (const check of this.#waiting.splice(0)) check();
  }

  // Waits until there are at least `count` items.
  async atLeast(count, what) {
    const reached = async () => {
      while (this.items.length < count) {
        await new Promise((resolve) => this.#waiting.push(resolve));
      }
    };
    await bounded(reached(), `${what}: ${count} wanted, ${this.items.length} seen; the rest`);
  }
}

// Walks a paginated list by its cursors.
export async function allPages(listPage, key) {
  const items = [];
  let cursor;
  let pages = 0;
  do {
    const page = await listPage(cursor === undefined ? {} : { cursor });
    items.push(...page[key]);
    cursor = page.nextCursor;
    pages += 1;
    assert.ok(pages <= 100, `${key}: the pages never end`);
  } while (cursor !== undefined);
  const names = items.map((item) => item.name ?? item.uri);
  assert.equal(new Set(names).size, names.length, `${key}: an item came twice: ${names}`);
  return { items, pages };
}

export function textOf(result) {
  return result.content?.[0]?.text ?? '';
}

// POSTs a message by hand, past the SDK.
export async function rawPost(headers, message) {
  const response = await fetch(directUrl, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      ...headers
    },
    body: JSON.stringify(message)
  });
  return { status: response.status, body: await response.text() };
}

// Lists everything and finds the embedded server's own tools in it.
export async function listEverything(client) {
  const tools = await allPages((params) => client.listTools(params), 'tools');
  const names = tools.items.map((tool) => tool.name);
  for (const name of ['echo', 'add', 'sleep', 'test_simple_text']) {
    assert.ok(names.includes(name), `${name} is missing in ${names}`);
  }
  // Client 2.x walks the pages by itself and returns all of them as one.
  const shown = client.takesResultSchema ? tools.pages > 1 : tools.pages === 1;
  assert.ok(shown, `the list of tools came in ${tools.pages} page(s): pagination was not shown`);
  const resources = await allPages((params) => client.listResources(params), 'resources');
  assert.ok(resources.items.length > 0, 'no resources');
  const templates = await allPages(
    (params) => client.listResourceTemplates(params),
    'resourceTemplates'
  );
  assert.ok(templates.items.length > 0, 'no resource templates');
  const prompts = await allPages((params) => client.listPrompts(params), 'prompts');
  assert.ok(prompts.items.length > 0, 'no prompts');
}

// 100 calls at once, each with its own answer.
export async function callConcurrently(client) {
  const calls = Array.from({ length: 100 }, (_, index) => {
    const message = `call ${index}`;
    return client
      .callTool({ name: 'echo', arguments: { message } })
      .then((result) => assert.ok(textOf(result).endsWith(message), `${index}: ${textOf(result)}`));
  });
  await Promise.all(calls);
  const sum = await client.callTool({ name: 'add', arguments: { a: 40, b: 2 } });
  assert.match(textOf(sum), /42/);
}

// Three rising progress notifications before the answer.
export async function callWithProgress(client) {
  const progress = [];
  const result = await client.callTool(
    { name: 'test_tool_with_progress', arguments: {} },
    ...progressOptions(client, (update) => progress.push(update.progress))
  );
  assert.deepEqual(progress, [0, 50, 100]);
  assert.ok(!result.isError);
}

// SDK 1.x takes a result schema before the options, client 2.x doesn't.
export function progressOptions(client, onprogress) {
  const options = { onprogress, resetTimeoutOnProgress: true };
  return client.takesResultSchema ? [undefined, options] : [options];
}

// A progressing call survives cuts in the middle: every notification comes
// once, in order, and so does the answer. The time between the steps is longer
// than a reconnect takes, so that cuts fall between notifications.
export async function resumeCall(client) {
  const progress = [];
  const cuts = [];
  const result = await client.callTool(
    { name: 'long_running', arguments: { duration_ms: 2000, steps: 10 } },
    ...progressOptions(client, (update) => {
      progress.push(update.progress);
      if (progress.length === 2 || progress.length === 6) cuts.push(cut());
    })
  );
  for (const count of await Promise.all(cuts)) assert.ok(count > 0, 'there was nothing to cut');
  assert.equal(cuts.length, 2);
  assertGapless(progress, 10);
  assert.ok(!result.isError);
}

// At least `steps` values, each as far from the one before as the first two are.
function assertGapless(progress, steps) {
  assert.ok(progress.length >= steps, `progress was lost: ${progress}`);
  const stride = progress[1] - progress[0];
  assert.ok(stride > 0, `progress did not rise: ${progress}`);
  for (let i = 1; i < progress.length; i += 1) {
    const actual = progress[i] - progress[i - 1];
    assert.ok(Math.abs(actual - stride) < 1e-9, `lost or doubled progress: ${progress}`);
  }
}
