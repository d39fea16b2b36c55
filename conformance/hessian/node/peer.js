'use strict';

// Lets an npm library write and read. Orders come in on stdin, one a line: the way to write, the values in the words of
// the Java side's recorder (xtask/src/conformance/hessian/calls.rs), and the bytes that are to be read as those values.
// The answer on stdout: the bytes that the library writes, or "!" and why it does not; a tab; and what it read otherwise.
//
// node peer.js hessian.js|v3|v4

const readline = require('readline');

const name = process.argv[2];
const plain = require(name === 'v3' ? 'hessian.js-1' : 'hessian.js');
const compiled = name === 'hessian.js' ? null : require('sofa-hessian-node')[name];
const mapTypes = { 'java.util.TreeMap': true, 'java.util.LinkedHashMap': true };

function units(hex) {
  return String.fromCharCode(...(hex.match(/.{4}/g) || []).map(unit => parseInt(unit, 16)));
}

function text(hex) {
  const parts = [];
  for (let at = 0; at < hex.length; at += 4096) {
    parts.push(units(hex.slice(at, at + 4096)));
  }
  return parts.join('');
}

function double(bits) {
  return Buffer.from(bits.padStart(16, '0'), 'hex').readDoubleBE(0);
}

// The values that these calls would write; the classes by name with their fields.
function build(calls) {
  const roots = [];
  const numbered = [];
  const classes = [];
  const open = [];
  function put(value) {
    const around = open[open.length - 1];
    if (!around) {
      roots.push(value);
    } else if (around.list) {
      around.list.push(value);
    } else if (around.map) {
      if (around.hasKey) {
        around.map.set(around.key, value);
      } else {
        around.key = value;
      }
      around.hasKey = !around.hasKey;
    } else {
      around.object[around.fields[around.next++]] = value;
      finish();
    }
  }
  function finish() {
    const around = open[open.length - 1];
    if (around && around.object && around.next === around.fields.length) {
      open.pop();
      put(around.value);
    }
  }
  function begin(value, contents) {
    numbered.push(value);
    open.push(Object.assign({ value }, contents));
    finish();
  }
  for (const call of calls.split(' ')) {
    const rest = call.slice(1);
    switch (call[0]) {
      case 'N': put(null); break;
      case 'T': put(true); break;
      case 'F': put(false); break;
      case 'I': put({ $class: 'int', $: Number(rest) }); break;
      case 'L': put({ $class: 'long', $: rest }); break;
      case 'D': put({ $class: 'double', $: double(rest) }); break;
      case 'A': put(new Date(Number(rest))); break;
      case 'S': put(text(rest)); break;
      case 'Y': put(Buffer.from(rest, 'hex')); break;
      case '[': {
        const list = [];
        const type = rest.split(':')[1];
        begin(type === undefined ? list : { $class: text(type), $: list }, { list });
        break;
      }
      case '{': {
        const map = new Map();
        const of = text(rest) || 'java.util.HashMap';
        // Without `type` the compiled writer of v4 writes the word "undefined" in front of the entries.
        begin({ $class: of, type: of, $: map }, { map });
        break;
      }
      case 'C': {
        const [ of, ...fields ] = rest.split(',').map(text);
        classes.push({ of, fields });
        break;
      }
      case 'O': {
        const { of, fields } = classes[Number(rest)];
        const object = {};
        begin({ $class: of, $: object }, { object, fields, next: 0 });
        break;
      }
      case 'R': put(numbered[Number(rest)]); break;
      case ']': case '}': put(open.pop().value); break;
      default: throw new Error(`the call ${call} is not known`);
    }
  }
  return { root: roots[0], classes };
}

// What a value is once types and classes are forgotten, as what is read without them; shared values by number.
function shown(value, seen) {
  if (value && typeof value === 'object' && typeof value.$class === 'string' && '$' in value) {
    return shown(value.$, seen);
  }
  if (value === null || value === undefined) {
    return 'null';
  }
  if (typeof value === 'number') {
    return value === 0 ? '0' : String(value);
  }
  if (typeof value !== 'object') {
    // A long that a double may not hold is text here, and mostly read as text.
    return /^-?\d+$/.test(value) ? value : JSON.stringify(value);
  }
  if (value instanceof Date) {
    return `date ${value.getTime()}`;
  }
  if (Buffer.isBuffer(value)) {
    return `binary ${value.toString('hex')}`;
  }
  if (seen.has(value)) {
    return `#${seen.get(value)}`;
  }
  seen.set(value, seen.size);
  if (Array.isArray(value)) {
    return `[${value.map(item => shown(item, seen)).join(', ')}]`;
  }
  const entries = value instanceof Map ? [ ...value.entries() ] : Object.entries(value);
  // In the order of the names, since whole numbers come first among the keys of an object, whatever the wire's order.
  const told = entries.map(([ key, item ]) => [ String(key && key.$class ? key.$ : key), item ]);
  told.sort(([ one ], [ other ]) => (one < other ? -1 : Number(one > other)));
  return `{${told.map(([ key, item ]) => `${JSON.stringify(key)}: ${shown(item, seen)}`).join(', ')}}`;
}

function difference(read, meant) {
  if (read === meant) {
    return '';
  }
  let at = 0;
  while (read[at] === meant[at]) {
    at++;
  }
  const around = text => text.slice(Math.max(0, at - 30), at + 60);
  return `differs at ${at}: read ${around(read)} for ${around(meant)}`;
}

function write(way, { root, classes }) {
  if (way === 'compiled') {
    const classMap = {};
    for (const { of, fields } of classes) {
      classMap[of] = {};
      fields.forEach(field => { classMap[of][field] = { type: 'java.lang.Object' }; });
    }
    compiled.compile.setCache(new Map());
    return compiled.encode(root, '2.0', classMap, classMap);
  }
  return new plain.EncoderV2({ size: 1 << 16, mapTypes }).write(root).get();
}

readline.createInterface({ input: process.stdin }).on('line', line => {
  const [ way, calls, bytes ] = line.split('\t');
  const built = build(calls);
  let written;
  try {
    written = write(way, built).toString('hex');
  } catch (error) {
    written = `!${error.message}`;
  }
  let differs;
  try {
    const read = shown(plain.decode(Buffer.from(bytes, 'hex'), '2.0'), new Map());
    const meant = shown(built.root, new Map());
    differs = difference(read, meant);
  } catch (error) {
    differs = `does not read: ${error.message}`;
  }
  process.stdout.write(`${written}\t${differs.replace(/[\t\r\n]/g, ' ')}\n`);
});
