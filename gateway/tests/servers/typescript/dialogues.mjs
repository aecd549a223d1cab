// Tools that ask the client for something, written once for both eras.
//
// A dialogue has rounds; each yields the questions of that round, keyed. How they
// travel is the server's business: as requests to the client in the legacy era, as
// `input_required` in the modern one. `guarded`: what was asked and answered so far
// travels in a sealed `requestState`. `optional`: only those questions are asked that
// the client declares support for.

const elicit = (message, properties, required = Object.keys(properties)) => ({
  method: 'elicitation/create',
  params: { message, requestedSchema: { type: 'object', properties, required } }
});

const sample = (text, maxTokens) => ({
  method: 'sampling/createMessage',
  params: { messages: [{ role: 'user', content: { type: 'text', text } }], maxTokens }
});

const listRoots = () => ({ method: 'roots/list', params: {} });

/** The client capability that a question needs. */
export const capabilityOf = (question) =>
  ({ 'elicitation/create': 'elicitation', 'sampling/createMessage': 'sampling', 'roots/list': 'roots' })[
    question.method
  ];

/** Whether an answer, of whatever shape, answers the question. */
export function answers(question, answer) {
  if (answer === null || typeof answer !== 'object') return false;
  if (question.method === 'roots/list') return Array.isArray(answer.roots);
  if (question.method === 'sampling/createMessage') return answer.content !== undefined;
  if (answer.action !== 'accept') return ['decline', 'cancel'].includes(answer.action);
  const { required } = question.params.requestedSchema;
  return required.every((field) => answer.content?.[field] !== undefined);
}

function describe(answer) {
  if (answer.roots) return `roots: ${answer.roots.map((root) => root.uri).join(', ')}`;
  if (answer.action) return `action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`;
  return [answer.content].flat().map((block) => block.text ?? `[${block.type}]`).join('\n');
}

const describeAll = (given) => Object.values(given).map(describe).join('; ');
const text = (type, description) => ({ type, description });
const nameForm = { name: { type: 'string' } };
const confirm = () => ({ confirm: elicit('Please confirm', { ok: { type: 'boolean' } }) });
const askName = () => ({ user_name: elicit('What is your name?', nameForm) });
const greeting = (answer) =>
  answer.content?.name ? `Hello, ${answer.content.name}!` : 'The user gave no name.';

const DEFAULTS = {
  name: { type: 'string', description: 'Name', default: 'John Doe' },
  age: { type: 'integer', description: 'Age', default: 30 },
  score: { type: 'number', description: 'Score', default: 95.5 },
  status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
  verified: { type: 'boolean', description: 'Verified', default: true }
};

const titled = (word) =>
  ['First', 'Second', 'Third'].map((title, at) => ({ const: `value${at + 1}`, title: `${title} ${word}` }));
const OPTIONS = ['option1', 'option2', 'option3'];
const CHOICES = {
  untitledSingle: { type: 'string', enum: OPTIONS },
  titledSingle: { type: 'string', oneOf: titled('Option') },
  legacyEnum: {
    type: 'string',
    enum: ['opt1', 'opt2', 'opt3'],
    enumNames: ['Option One', 'Option Two', 'Option Three']
  },
  untitledMulti: { type: 'array', items: { type: 'string', enum: OPTIONS } },
  titledMulti: { type: 'array', items: { anyOf: titled('Choice') } }
};

const NOTHING = { type: 'object', properties: {} };
const one = (name, description) => ({
  type: 'object',
  properties: { [name]: text('string', description) },
  required: [name]
});

/** A dialogue of one round without arguments. */
const ask = (name, description, questions, conclude, more = {}) => ({
  name,
  description,
  inputSchema: NOTHING,
  rounds: [questions],
  conclude,
  ...more
});

export const dialogues = [
  ask(
    'test_sampling',
    "Has the client's model answer a prompt.",
    ({ prompt }) => ({ sampling: sample(prompt, 100) }),
    (given) => `LLM response: ${describeAll(given)}`,
    { inputSchema: one('prompt', 'The prompt for the model') }
  ),
  ask(
    'test_elicitation',
    'Asks the user for a name and an address.',
    ({ message }) => ({
      user: elicit(message, {
        username: text('string', "User's response"),
        email: text('string', "User's email address")
      })
    }),
    (given) => `User response: ${describeAll(given)}`,
    { inputSchema: one('message', 'What the user is told') }
  ),
  ask(
    'test_elicitation_sep1034_defaults',
    'Asks the user with a default for every kind of field.',
    () => ({ profile: elicit('Please review and update the form.', DEFAULTS, []) }),
    (given) => `Elicitation completed: ${describeAll(given)}`
  ),
  ask(
    'test_elicitation_sep1330_enums',
    'Asks the user with every kind of choice.',
    () => ({ choices: elicit('Please choose.', CHOICES, []) }),
    (given) => `Elicitation completed: ${describeAll(given)}`
  ),
  ask(
    'test_streaming_elicitation',
    'Asks the user for a confirmation.',
    confirm,
    (given) => `Elicitation completed: ${describeAll(given)}`
  ),
  ask(
    'test_missing_capability',
    'Needs a client that can sample.',
    () => ({ sampling: sample('Say hello.', 100) }),
    (given) => `LLM response: ${describeAll(given)}`
  ),
  ask(
    'test_input_required_result_elicitation',
    'Asks for a name and greets.',
    askName,
    ({ user_name }) => greeting(user_name)
  ),
  ask(
    'test_input_required_result_sampling',
    'Asks the model for a capital.',
    () => ({ capital_question: sample('What is the capital of France?', 100) }),
    (given) => `LLM response: ${describeAll(given)}`
  ),
  ask(
    'test_input_required_result_list_roots',
    "Asks for the client's roots.",
    () => ({ client_roots: listRoots() }),
    describeAll
  ),
  ask(
    'test_input_required_result_request_state',
    'Asks for a confirmation and checks the returned state.',
    confirm,
    (given) => `state-ok: ${describeAll(given)}`,
    { guarded: true }
  ),
  ask(
    'test_input_required_result_tampered_state',
    'Asks for a confirmation under a state that must come back unchanged.',
    confirm,
    (given) => `state-ok: ${describeAll(given)}`,
    { guarded: true }
  ),
  ask(
    'test_input_required_result_multiple_inputs',
    'Asks user, model and client at once.',
    () => ({
      ...askName(),
      greeting: sample('Generate a greeting', 50),
      client_roots: listRoots()
    }),
    describeAll,
    { guarded: true }
  ),
  ask(
    'test_input_required_result_capabilities',
    'Asks only for what the client declares.',
    () => ({
      ...askName(),
      greeting: sample('Generate a greeting', 50),
      client_roots: listRoots()
    }),
    (given) => describeAll(given) || 'The client declares nothing that could be asked for.',
    { optional: true }
  ),
  {
    name: 'test_input_required_result_multi_round',
    description: 'Asks twice, one after the other.',
    inputSchema: NOTHING,
    guarded: true,
    rounds: [
      () => ({ step1: elicit('Step 1: What is your name?', nameForm) }),
      () => ({ step2: elicit('Step 2: What is your favorite color?', { color: { type: 'string' } }) })
    ],
    conclude: ({ step1, step2 }) =>
      `${step1.content?.name ?? 'nobody'} likes ${step2.content?.color ?? 'no color'}.`
  }
];

/** What the prompt that asks for its context asks. */
export const promptDialogue = {
  rounds: [
    () => ({ user_context: elicit('What context should the prompt use?', { context: { type: 'string' } }) })
  ],
  conclude: ({ user_context }) => user_context.content?.context ?? 'none given'
};
