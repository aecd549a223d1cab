// Loaded before a server over stdio that was not written for tests (`node --import`):
// notes every message that comes in, before the server sees it, as a line
// {"receiver": <process id>, "message": …} at the end of the file that
// SHARDGATE_TESTS_RECORD names.

import { appendFileSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';

const { env, pid, stdin } = process;
const { emit } = stdin;
const decoder = new StringDecoder('utf8');
let partial = '';

function note(chunk) {
  const lines = (partial + decoder.write(Buffer.from(chunk))).split('\n');
  partial = lines.pop();
  for (const line of lines) {
    const noted = JSON.stringify({ receiver: pid, message: JSON.parse(line) });
    appendFileSync(env.SHARDGATE_TESTS_RECORD, `${noted}\n`);
  }
}

stdin.emit = function (event, ...rest) {
  if (event === 'data') note(rest[0]);
  return emit.call(this, event, ...rest);
};
