// The TypeScript client 2.x in its legacy mode, which is its default: sessions,
// subscriptions, cut and resume, DELETE.

import assert from 'node:assert/strict';
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { legacySteps } from './legacy_steps.mjs';
import * as shared from './steps.mjs';

const client = new Client(
  { name: 'shardgate-tests', version: '0' },
  { capabilities: { sampling: {}, elicitation: {} } }
);
const transport = new StreamableHTTPClientTransport(new URL(shared.relayUrl), {
  reconnectionOptions: shared.RECONNECT
});

await legacySteps(client, transport, {
  onSampling: (handler) => client.setRequestHandler('sampling/createMessage', handler),
  onElicitation: (handler) => client.setRequestHandler('elicitation/create', handler),
  onLog: (handler) => client.setNotificationHandler('notifications/message', handler),
  onUpdate: (handler) => client.setNotificationHandler('notifications/resources/updated', handler),
  version: () => client.getNegotiatedProtocolVersion()
});
assert.equal(client.getProtocolEra() ?? 'legacy', 'legacy');
process.exit(0);
