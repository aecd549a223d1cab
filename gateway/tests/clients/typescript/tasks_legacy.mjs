// The TypeScript SDK 1.x calls tools as tasks. Its arguments are those of the other scripts;
// nothing is cut.

import assert from 'node:assert/strict';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ElicitRequestSchema, TaskStatusNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import * as shared from './steps.mjs';

const { step } = shared;
const client = new Client({ name: 'shardgate-tests', version: '0' }, { capabilities: { elicitation: {} } });
const transport = new StreamableHTTPClientTransport(new URL(shared.directUrl));
const { tasks } = client.experimental;
const told = new Map();
const questions = [];

client.setNotificationHandler(TaskStatusNotificationSchema, ({ params }) => {
  told.set(params.taskId, [...(told.get(params.taskId) ?? []), params.status]);
});
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  questions.push(params);
  return { action: 'accept', content: { username: 'ada', email: 'ada@example.com' } };
});

/** What the SDK yields from the call of a tool as a task to its result. */
async function follow(params) {
  const seen = [];
  for await (const message of tasks.callToolStream(params, undefined, { task: { ttl: 60_000 } })) {
    seen.push(message);
  }
  return seen;
}

/** The id of a task that runs. */
async function begin(params) {
  const stream = tasks.callToolStream(params, undefined, { task: { ttl: 60_000 } });
  const { value } = await stream.next();
  assert.equal(value.type, 'taskCreated');
  return value.task.taskId;
}

await step('initialize', async () => {
  await client.connect(transport);
  assert.deepEqual(client.getServerCapabilities().tasks, {
    list: {},
    cancel: {},
    requests: { tools: { call: {} } }
  });
});
await step('list', async () => {
  const { tools } = await client.listTools();
  assert.equal(tools.find(({ name }) => name === 'sleep').execution.taskSupport, 'optional');
});
await step('from a task to its result', async () => {
  const seen = await follow({ name: 'sleep', arguments: { ms: 50 } });
  assert.equal(seen[0].type, 'taskCreated');
  assert.equal(seen[0].task.ttl, 60_000);
  const { type, result } = seen.at(-1);
  assert.deepEqual([type, result.content[0].text], ['result', 'Slept for 50 ms.']);
  const { taskId } = seen[0].task;
  assert.deepEqual(result._meta['io.modelcontextprotocol/related-task'], { taskId });
});
await step('a question on the way', async () => {
  const seen = await follow({ name: 'test_elicitation', arguments: { message: 'Who?' } });
  const { type, result } = seen.at(-1);
  assert.equal(type, 'result', JSON.stringify(seen));
  assert.match(result.content[0].text, /ada/);
  const { taskId } = seen[0].task;
  assert.equal(questions.length, 1);
  assert.deepEqual(questions[0]._meta['io.modelcontextprotocol/related-task'], { taskId });
});
await step('cancel', async () => {
  const taskId = await begin({ name: 'sleep', arguments: { ms: 3_600_000 } });
  assert.equal((await tasks.getTask(taskId)).status, 'working');
  assert.equal((await tasks.cancelTask(taskId)).status, 'cancelled');
  await assert.rejects(tasks.getTaskResult(taskId));
  await shared.bounded(
    (async () => {
      while (!told.get(taskId)?.includes('cancelled')) await new Promise((next) => setTimeout(next, 10));
    })(),
    'the notification of a cancelled task'
  );
});
await step('list of tasks', async () => {
  const listed = await tasks.listTasks();
  assert.deepEqual(listed.tasks.map(({ status }) => status), ['completed', 'completed', 'cancelled']);
});
process.exit(0);
