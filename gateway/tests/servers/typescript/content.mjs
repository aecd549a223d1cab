// What both reference servers offer, whatever SDK carries it: tools, resources, a
// template, prompts and completions, as the official conformance suite expects them,
// and a few tools for the gateway's own tests.
//
// A tool's `run` gets its arguments and the call: `progress`, `log`, `closeStream`,
// the abort `signal`, and `describe()`, which tells what the server knows of its client.

import { setTimeout as delay } from 'node:timers/promises';

const PNG =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAAD0lEQVR4AQEEAPv/AP8AAAMBAQCNHeWCAAAAAElFTkSuQmCC';
const WAV = 'UklGRiwAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQgAAACAgICAgICAgA==';

/** How long a tool that shows steps waits between two of them. */
const STEP_MS = 50;

export const WATCHED = 'test://watched-resource';

/** What changes while a server runs; every session and request of it sees the same. */
export const world = {
  /** Which of the entries that come and go are there. */
  there: { tool: false, prompt: false, resource: false },
  updates: 0,
  /** How many calls of `sleep` are running. */
  sleeping: 0,
  /** Labels of the calls of `sleep` that their client cancelled. */
  cancelled: [],
  /** Sessions opened so far. */
  sessions: 0,
  /** Each is told of every event: the modern SDK's `ServerEvent`s. */
  listeners: new Set(),
  announce(event) {
    for (const listener of this.listeners) listener(event);
  }
};

/** Whether an entry of a list is there now; most always are. */
export const isThere = ({ comesAndGoes }) => comesAndGoes === undefined || world.there[comesAndGoes];

const say = (text) => ({ content: [{ type: 'text', text }] });
const image = { type: 'image', data: PNG, mimeType: 'image/png' };
const embed = (uri, mimeType, text) => ({ type: 'resource', resource: { uri, mimeType, text } });

const NOTHING = { type: 'object', properties: {} };
const object = (properties, required = Object.keys(properties)) => ({
  type: 'object',
  properties,
  required
});
const string = (description) => ({ type: 'string', description });
const integer = (description) => ({ type: 'integer', minimum: 0, description });

/** The schema that the suite wants to see unchanged. */
const CONTACT = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  $defs: {
    address: {
      $anchor: 'addressDef',
      type: 'object',
      properties: { street: { type: 'string' }, city: { type: 'string' } }
    }
  },
  properties: {
    name: { type: 'string' },
    address: { $ref: '#/$defs/address' },
    contactMethod: { type: 'string', enum: ['phone', 'email'] },
    phone: { type: 'string' },
    email: { type: 'string' }
  },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false
};

const MIRRORED = object(
  {
    region: { type: 'string', 'x-mcp-header': 'Region' },
    priority: { type: 'integer', 'x-mcp-header': 'Priority' },
    verbose: { type: 'boolean', 'x-mcp-header': 'Verbose' },
    note: string('Not mirrored')
  },
  ['region']
);

/** A tool whose result never changes. */
const fixed = (name, description, result) => ({
  name,
  description,
  inputSchema: NOTHING,
  run: () => result
});

/** A tool that adds or removes an entry and says so. */
const changing = (name, what, kind) => ({
  name,
  description: `Adds or removes a ${what}.`,
  inputSchema: NOTHING,
  run: () => {
    world.there[what] = !world.there[what];
    world.announce({ kind });
    return say(`${world.there[what] ? 'Added' : 'Removed'} a ${what}.`);
  }
});

async function logThreeTimes(_, { log }) {
  for (const text of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
    await log('info', text);
    await delay(STEP_MS);
  }
  return say('Logged three times.');
}

async function runLong({ duration_ms = 10_000, steps = 5 }, { progress, signal }) {
  await progress(0, steps);
  for (let step = 1; step <= steps; step += 1) {
    await delay(duration_ms / steps, undefined, { signal });
    await progress(step, steps);
  }
  return say(`Ran for ${duration_ms} ms in ${steps} steps.`);
}

async function sleep({ ms, label = 'sleep' }, { signal }) {
  world.sleeping += 1;
  try {
    await delay(ms, undefined, { signal });
  } catch (error) {
    world.cancelled.push(label);
    throw error;
  } finally {
    world.sleeping -= 1;
  }
  return say(`Slept for ${ms} ms.`);
}

async function updateWatched({ times = 1, interval_ms = STEP_MS }) {
  for (let time = 0; time < times; time += 1) {
    if (time > 0) await delay(interval_ms);
    world.updates += 1;
    world.announce({ kind: 'resource_updated', uri: WATCHED });
  }
  return say(`Updated the resource ${times} times.`);
}

// The tools but for the dialogues. The suite calls whichever comes first without arguments.
export const tools = [
  fixed('test_simple_text', 'Returns a fixed text.', say('This is a simple text response for testing.')),
  {
    name: 'echo',
    description: 'Returns the message it is given.',
    inputSchema: object({ message: string('The text') }),
    run: ({ message }) => say(message)
  },
  {
    name: 'add',
    description: 'Adds two numbers.',
    inputSchema: object({ a: { type: 'number' }, b: { type: 'number' } }),
    outputSchema: object({ sum: { type: 'number' } }),
    run: ({ a, b }) => ({ ...say(String(a + b)), structuredContent: { sum: a + b } })
  },
  {
    name: 'greet',
    description: 'Greets by name.',
    inputSchema: object({ name: string('Whom to greet') }),
    run: ({ name }) => say(`Hello, ${name}!`)
  },
  {
    name: 'sleep',
    description: 'Answers after the given time; `report` tells whether it was cancelled.',
    inputSchema: object({ ms: integer('How long'), label: string('Names the call in the report') }, ['ms']),
    run: sleep
  },
  {
    name: 'report',
    description: 'Tells as JSON what the server has seen.',
    inputSchema: NOTHING,
    run: (_, { describe }) => {
      const { sleeping, cancelled, sessions, updates } = world;
      const seen = { pid: process.pid, sleeping, cancelled, sessions, updates };
      return say(JSON.stringify({ ...seen, ...describe() }));
    }
  },
  fixed('test_image_content', 'Returns a one-pixel PNG.', { content: [image] }),
  fixed('test_audio_content', 'Returns a short WAV.', {
    content: [{ type: 'audio', data: WAV, mimeType: 'audio/wav' }]
  }),
  fixed('test_embedded_resource', 'Returns a resource inside the result.', {
    content: [embed('test://embedded-resource', 'text/plain', 'This is an embedded resource content.')]
  }),
  fixed('test_multiple_content_types', 'Returns text, an image and a resource.', {
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      image,
      embed('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}')
    ]
  }),
  fixed('test_resource_link', 'Returns a link to a resource.', {
    content: [{ type: 'resource_link', uri: 'test://static-text', name: 'static-text' }]
  }),
  fixed('test_error_handling', 'Always reports a tool error.', {
    ...say('This tool intentionally returns an error for testing'),
    isError: true
  }),
  {
    name: 'test_tool_with_logging',
    description: 'Sends three log messages while it runs.',
    inputSchema: NOTHING,
    run: logThreeTimes
  },
  {
    name: 'test_logging_tool',
    description: 'Sends log messages only if the client asked for a log level.',
    inputSchema: NOTHING,
    run: logThreeTimes
  },
  {
    name: 'test_tool_with_progress',
    description: 'Reports progress three times while it runs.',
    inputSchema: NOTHING,
    run: async (_, { progress }) => {
      for (const done of [0, 50, 100]) {
        await progress(done, 100);
        await delay(STEP_MS);
      }
      return say('Tool with progress completed.');
    }
  },
  {
    name: 'long_running',
    description: 'Runs for a given time and reports progress at every step.',
    inputSchema: object(
      { duration_ms: integer('How long in all'), steps: { ...integer('How many reports'), minimum: 1 } },
      []
    ),
    run: runLong
  },
  {
    name: 'test_reconnection',
    description: 'Ends its stream before the result, to be fetched by reconnecting.',
    inputSchema: NOTHING,
    run: async (_, { closeStream }) => {
      closeStream?.();
      await delay(2 * STEP_MS);
      return say('The result came after the stream had ended.');
    }
  },
  {
    name: 'json_schema_2020_12_tool',
    description: 'Tool with JSON Schema 2020-12 features',
    inputSchema: CONTACT,
    run: () => say('The contact is valid.')
  },
  {
    name: 'test_x_mcp_header',
    description: 'Takes arguments that are mirrored into headers.',
    inputSchema: MIRRORED,
    run: ({ region }) => say(`Arguments for region "${region}" received.`)
  },
  changing('test_trigger_tool_change', 'tool', 'tools_list_changed'),
  changing('test_trigger_prompt_change', 'prompt', 'prompts_list_changed'),
  changing('test_trigger_resource_change', 'resource', 'resources_list_changed'),
  {
    name: 'test_trigger_resource_update',
    description: `Updates ${WATCHED}, once or several times.`,
    inputSchema: object({ times: integer('How many updates'), interval_ms: integer('Between two') }, []),
    run: updateWatched
  },
  {
    comesAndGoes: 'tool',
    ...fixed(
      'test_changeable_tool',
      'Is there after every odd call of test_trigger_tool_change.',
      say('This tool comes and goes.')
    )
  }
];

const resource = (uri, description, mimeType, read) => ({
  uri,
  name: uri.slice('test://'.length),
  description,
  mimeType,
  read: () => ({ contents: [{ uri, mimeType, ...read() }] })
});

export const resources = [
  resource('test://static-text', 'A text that never changes.', 'text/plain', () => ({
    text: 'This is the content of the static text resource.'
  })),
  resource('test://static-binary', 'A one-pixel PNG.', 'image/png', () => ({ blob: PNG })),
  resource('test://example-resource', 'The resource that prompts embed.', 'text/plain', () => ({
    text: 'Embedded resource content for testing.'
  })),
  resource(WATCHED, 'Counts its updates; tools ask for them.', 'text/plain', () => ({
    text: `Updated ${world.updates} times.`
  })),
  {
    comesAndGoes: 'resource',
    ...resource(
      'test://changeable-resource',
      'Is there after every odd call of test_trigger_resource_change.',
      'text/plain',
      () => ({ text: 'This resource comes and goes.' })
    )
  }
];

export const template = {
  uriTemplate: 'test://template/{id}/data',
  name: 'template-data',
  description: 'Data made up for the given id.',
  mimeType: 'application/json',
  ids: ['1', '12', '123', '42', '7'],
  read: (uri, id) => ({
    contents: [
      {
        uri,
        mimeType: 'application/json',
        text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` })
      }
    ]
  })
};

const user = (content) => ({ role: 'user', content });
const userText = (text) => user({ type: 'text', text });
const prompt = (name, description, args, messages) => ({ name, description, arguments: args, messages });
const argument = (name, description) => ({ name, description, required: true });

/** The prompts but for the one that asks. */
export const prompts = [
  prompt('test_simple_prompt', 'A prompt without arguments.', [], () => [
    userText('This is a simple prompt for testing.')
  ]),
  prompt(
    'test_prompt_with_arguments',
    'A prompt with two arguments.',
    [argument('arg1', 'First test argument'), argument('arg2', 'Second test argument')],
    ({ arg1, arg2 }) => [userText(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)]
  ),
  prompt(
    'test_prompt_with_embedded_resource',
    'A prompt that embeds a resource.',
    [argument('resourceUri', 'URI of the resource to embed')],
    ({ resourceUri }) => [
      user(embed(resourceUri, 'text/plain', 'Embedded resource content for testing.')),
      userText('Please process the embedded resource above.')
    ]
  ),
  prompt('test_prompt_with_image', 'A prompt that carries an image.', [], () => [
    user(image),
    userText('Please analyze the image above.')
  ]),
  {
    comesAndGoes: 'prompt',
    ...prompt(
      'test_changeable_prompt',
      'Is there after every odd call of test_trigger_prompt_change.',
      [],
      () => [userText('This prompt comes and goes.')]
    )
  }
];

/** The prompt that asks for its context first. */
export const askingPrompt = prompt(
  'test_input_required_result_prompt',
  'A prompt that asks for its context.',
  [],
  ({ context }) => [userText(`Answer in this context: ${context}`)]
);

const WORDS = ['paris', 'park', 'party', 'test', 'testValue1', 'testValue2', 'tokyo', 'vienna'];

/** Answers completion/complete; `undefined` if there is nothing of that name. */
export function complete({ ref, argument: { name, value } }) {
  let words;
  if (ref.type === 'ref/resource') {
    words = ref.uri === template.uriTemplate && name === 'id' ? template.ids : undefined;
  } else {
    const known = prompts.find((entry) => entry.name === ref.name);
    words = known?.arguments.some((entry) => entry.name === name) ? WORDS : undefined;
  }
  const values = words?.filter((word) => word.startsWith(value));
  return values && { completion: { values, total: values.length, hasMore: false } };
}
