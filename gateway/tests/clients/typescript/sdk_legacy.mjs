// The TypeScript SDK 1.x, which knows sessions only, against the gateway.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema
} from '@modelcontextprotocol/sdk/types.js';
import { legacySteps } from './legacy_steps.mjs';
import * as shared from './steps.mjs';

const client = new Client(
  { name: 'shardgate-tests', version: '0' },
  { capabilities: { sampling: {}, elicitation: {} } }
);
client.takesResultSchema = true;
const transport = new StreamableHTTPClientTransport(new URL(shared.relayUrl), {
  reconnectionOptions: shared.RECONNECT
});

await legacySteps(client, transport, {
  onSampling: (handler) => client.setRequestHandler(CreateMessageRequestSchema, handler),
  onElicitation: (handler) => client.setRequestHandler(ElicitRequestSchema, handler),
  onLog: (handler) => client.setNotificationHandler(LoggingMessageNotificationSchema, handler),
  onUpdate: (handler) => client.setNotificationHandler(ResourceUpdatedNotificationSchema, handler),
  version: () => transport.protocolVersion
});
process.exit(0);
