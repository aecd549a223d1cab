// A gateway of a script's own, before one tool server.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

// Lines of the log that are kept for a failure's message.
const LOG_LINES_MAX = 400;

// Starts the gateway and waits until it says where it listens. It ends with this process,
// and when standard input does: then whoever started this process is gone.
export async function startGateway(binary, folder, shards, upstream) {
  const config = join(folder, `gateway-${process.pid}.toml`);
  writeFileSync(config, `[[upstream]]\nname = "one"\nurl = ${JSON.stringify(upstream)}\n`);
  const addresses = ['--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0'];
  const args = ['serve', '--config', config, ...addresses, '--shards', shards, '--log', 'json'];
  const child = spawn(binary, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'close');
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(1));
  process.stdin.resume().on('end', () => process.exit(1));
  process.on('exit', () => child.kill('SIGKILL'));

  const log = [];
  const lines = createInterface({ input: child.stderr });
  const ready = new Promise((resolve, reject) => {
    lines.on('line', (line) => {
      log.push(line);
      if (log.length > LOG_LINES_MAX) log.shift();
      const entry = parsed(line);
      const fields = entry?.fields ?? entry;
      if (fields?.event === 'ready') resolve(fields.listen);
    });
    ended.then(
      () => reject(new Error(`the gateway ended before it was ready:\n${log.join('\n')}`)),
      reject
    );
  });
  const stop = async () => {
    // Connections are closed with it, so the server sees no half of a request.
    child.kill('SIGKILL');
    await ended;
    return log.join('\n');
  };
  return { url: `http://${await ready}/mcp`, stop };
}

function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
