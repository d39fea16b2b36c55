'use strict';

// A client or a server made with sofa-bolt-node. Orders come in on stdin, one a line: a number, a verb, then words, with
// tabs between; what happened goes to stdout in the same form.
//
// node peer.js client|server PORT bolt|bolt2 VERSION CHECKSUM

const net = require('net');
const readline = require('readline');
const protocol = require('sofa-bolt-node');

const [ role, port, protocolType, boltVersion, checksum ] = process.argv.slice(2);
const SERVICE = 'settle.conformance.sofarpc.Greeter:1.0';

function say(...words) {
  process.stdout.write(words.map(word => String(word).replace(/[\t\r\n]/g, ' ')).join('\t') + '\n');
}

function shown(value) {
  return typeof value === 'string' && value.length > 100 ? `${value.length} units` : JSON.stringify(value);
}

function speak(socket) {
  const options = { sentReqs: new Map(), classMap: {}, classCache: new Map() };
  const encoder = protocol.encoder(options);
  encoder.protocolType = protocolType;
  encoder.boltVersion = Number(boltVersion);
  encoder.crcEnable = checksum === 'true';
  const decoder = protocol.decoder(options);
  encoder.pipe(socket).pipe(decoder);
  decoder.on('error', error => say(0, 'broken', error.message));
  decoder.on('heartbeat', beat => encoder.writeHeartbeatAck(beat));
  decoder.on('heartbeat_ack', beat => say(beat.packetId, 'ack'));
  decoder.on('response', answer => {
    const { error, appResponse } = answer.data;
    if (error) {
      say(answer.packetId, 'failure', error.message);
    } else {
      say(answer.packetId, 'answer', shown(appResponse));
    }
  });
  decoder.on('request', request => {
    const { methodName, args } = request.data;
    say(0, 'heard', shown(args[0]));
    if (request.packetType !== 'request' || methodName === 'mute') {
      return;
    }
    if (methodName === 'failure') {
      encoder.writeResponse(request, { isError: true, errorMsg: args[0], appResponse: null });
    } else if (methodName === 'fail') {
      const appResponse = { $class: 'java.lang.Exception', $: new Error(args[0]) };
      encoder.writeResponse(request, { isError: false, errorMsg: null, appResponse });
    } else {
      const appResponse = { $class: 'java.lang.String', $: args[0] };
      encoder.writeResponse(request, { isError: false, errorMsg: null, appResponse });
    }
  });
  return encoder;
}

let encoder;
if (role === 'server') {
  net.createServer(socket => { encoder = speak(socket); }).listen(Number(port), '127.0.0.1', () => say(0, 'ready'));
} else {
  const socket = net.connect(Number(port), '127.0.0.1', () => say(0, 'ready'));
  encoder = speak(socket);
}

readline.createInterface({ input: process.stdin })
  .on('line', line => {
    const [ number, verb, method, word ] = line.split('\t');
    const id = Number(number);
    if (verb === 'heartbeat') {
      encoder.writeHeartbeat(id, { clientUrl: 'settle' });
      return;
    }
    const text = word.startsWith('big:') ? '\u00fc'.repeat(Number(word.slice(4))) : word;
    const args = [{ $class: 'java.lang.String', $: text }];
    const oneway = verb === 'oneway';
    encoder.writeRequest(id, { args, serverSignature: SERVICE, methodName: method, timeout: 5000, oneway, requestProps: null });
    if (oneway) {
      say(id, 'told');
    }
  })
  .on('close', () => process.exit(0));
