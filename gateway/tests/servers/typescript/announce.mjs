// Loaded before a server that was not written for tests (`node --import`): makes it
// listen on loopback at a port that the system chooses, prints the ready line that the
// reference servers print, and ends the process when its input ends.

import { Server } from 'node:net';

const { listen } = Server.prototype;

Server.prototype.listen = function (_where, ...rest) {
  this.once('listening', () => {
    const url = `http://127.0.0.1:${this.address().port}/mcp`;
    console.log(JSON.stringify({ url, pid: process.pid }));
  });
  return listen.call(this, { port: 0, host: '127.0.0.1' }, ...rest);
};

process.stdin.resume().once('end', () => process.exit(0));
