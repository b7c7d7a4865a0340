// A small client of a Treadle cluster, written from docs/protocol.md. It knows no pickle: functions go by import path,
// arguments and results as msgpack.

import { createHash, createHmac, randomBytes, randomUUID, timingSafeEqual } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { decode, encode, ExtData } from "@msgpack/msgpack";

const PROTOCOL = 1;
const VERSION = "treadle-node 1";
const HANDSHAKE_MS = 10_000;
const DEPENDENCY = 1; // the msgpack extension that stands for the value of a dependency
const PICKLED = 0x80;
const REFUSED = 0xc1;

/** What kinds of functions there are; a sum of these is sent. */
export const PURE = 1;
export const ASYNCHRONOUS = 2;

/** A task that failed, with its error as the protocol has it. */
export class TaskError extends Error {
  constructor(key, culprit, [kind, , text, info]) {
    super(`task ${culprit} failed (${kind}): ${text.trim() || JSON.stringify(info)}`);
    Object.assign(this, { key, culprit, kind, text, info });
  }
}

/** A task that was cancelled. */
export class CancelledError extends Error {}

/** The other side said no, or went away. */
export class ConnectionError extends Error {}

// Frames

function frame(messages) {
  const control = encode(messages);
  const header = Buffer.alloc(8);
  header.writeUInt32LE(control.length, 0);
  return Buffer.concat([header, control]);
}

/** Cuts a stream of bytes into frames. */
class FrameReader {
  #chunks = [];
  #size = 0;

  /** The frames that are complete now: [messages, buffers] of each. */
  *feed(chunk) {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    for (let length = this.#needed(); length <= this.#size; length = this.#needed()) {
      const bytes = this.#joined();
      yield this.#cut(bytes.subarray(0, length));
      this.#chunks = [bytes.subarray(length)];
      this.#size -= length;
    }
  }

  #joined() {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0];
  }

  /** How many bytes there have to be before one can go on. */
  #needed() {
    if (this.#size < 8) return 8;
    const head = this.#chunks[0].length < 8 ? this.#joined() : this.#chunks[0];
    const sizes = 8 + 8 * head.readUInt32LE(4);
    if (this.#size < sizes) return sizes;
    const bytes = head.length < sizes ? this.#joined() : head;
    let length = sizes + bytes.readUInt32LE(0);
    for (let at = 8; at < sizes; at += 8) length += Number(bytes.readBigUInt64LE(at));
    return length;
  }

  #cut(bytes) {
    const sizes = 8 + 8 * bytes.readUInt32LE(4);
    let start = sizes + bytes.readUInt32LE(0);
    const messages = decode(bytes.subarray(sizes, start));
    const buffers = [];
    for (let at = 8; at < sizes; at += 8) {
      const size = Number(bytes.readBigUInt64LE(at));
      buffers.push(bytes.subarray(start, start + size));
      start += size;
    }
    return [messages, buffers];
  }
}

// Connections

const mac = (token, ...parts) => {
  const hash = createHmac("sha256", token);
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** A TCP connection whose handshake is done. */
class Connection {
  /** @param onMessage called with each message, and with the buffers of its frame */
  static async dial(address, role, ident, token, onMessage, onClosed) {
    const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(address);
    const socket = net.connect(Number(port), host);
    socket.setNoDelay(true);
    await once(socket, "connect");
    const connection = new Connection(socket, onMessage, onClosed);
    const timer = setTimeout(() => socket.destroy(new Error("the handshake took too long")), HANDSHAKE_MS);
    try {
      await connection.#shakeHands(role, ident, token);
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return connection;
  }

  constructor(socket, onMessage, onClosed) {
    this.socket = socket;
    const reader = new FrameReader();
    this.early = [];
    this.onMessage = (message) => this.early.shift()?.resolve(message);
    this.afterHandshake = onMessage;
    socket.on("data", (chunk) => {
      for (const [messages, buffers] of reader.feed(chunk)) {
        for (const message of messages) this.onMessage(message, buffers);
      }
    });
    let reason = "the connection was closed";
    socket.on("error", (error) => (reason = error.message));
    socket.on("close", () => {
      for (const waiting of this.early.splice(0)) waiting.reject(new ConnectionError(reason));
      onClosed(reason);
    });
  }

  send(...messages) {
    this.socket.write(frame(messages));
  }

  async close() {
    if (this.socket.closed) return;
    this.socket.end();
    await once(this.socket, "close");
  }

  async #expect(name) {
    const message = await new Promise((resolve, reject) => this.early.push({ resolve, reject }));
    if (message[0] === "refused") throw new ConnectionError(message[1]);
    if (message[0] !== name) throw new ConnectionError(`expected ${name}, not ${message[0]}`);
    return message;
  }

  async #shakeHands(role, ident, token) {
    const [, protocol, , challenge] = await this.#expect("challenge");
    if (protocol !== PROTOCOL) throw new ConnectionError(`the listener speaks version ${protocol} of the protocol`);
    const nonce = randomBytes(16);
    const welcome = this.#expect("welcome");
    const proof = mac(token, "dialer", challenge, role, ident);
    this.send(["hello", PROTOCOL, role, ident, "", VERSION, proof, nonce, {}]);
    const [, given, answer] = await welcome;
    if (!timingSafeEqual(answer, mac(token, "listener", nonce))) {
      throw new ConnectionError("the listener does not know the token");
    }
    this.ident = given;
    this.onMessage = this.afterHandshake;
  }
}

// Values

/** A packed value; null if it is a pickle. */
function unpack(bytes) {
  if (bytes[0] === PICKLED) return null;
  return { value: decode(bytes) };
}

// Tasks

/** A task of a client; may be an argument of others. */
export class Task {
  constructor(key) {
    this.key = key;
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.done.catch(() => {}); // who does not ask for the result is not told of the failure
  }

  /** The result, when it is there. */
  result() {
    return this.done;
  }
}

export class Client {
  #scheduler;
  #token;
  #tasks = new Map();
  #functions = new Map();
  #questions = new Map();
  #peers = new Map();
  #count = 0;

  /** @param token a Buffer or a string: what proves that one belongs to the cluster */
  static async connect(address, token) {
    const client = new Client();
    client.#token = token;
    const receive = (message) => client.#receive(message);
    const lost = (reason) => client.#lost(reason);
    client.#scheduler = await Connection.dial(address, "client", "", token, receive, lost);
    return client;
  }

  get ident() {
    return this.#scheduler.ident;
  }

  /**
   * Have a function called on a worker.
   *
   * @param path "module:qualname", such as "operator:add"
   * @param args what msgpack can carry; tasks of this client may be among them, also in arrays
   */
  submit(path, args, { kind = PURE, options = null, key = `${path}-${randomUUID()}` } = {}) {
    const messages = [];
    let number = this.#functions.get(`${path} ${kind}`);
    if (number === undefined) {
      number = this.#functions.size + 1;
      this.#functions.set(`${path} ${kind}`, number);
      const blob = encode(path);
      const digest = createHash("sha256").update(blob).digest().subarray(0, 16);
      messages.push(["functions", [[number, digest, path, blob, kind]]]);
    }
    const deps = [];
    const payload = encode(args.map((arg) => marked(arg, deps)));
    messages.push(["submit", [key], [number], [payload], deps.length ? [deps] : [], null, options]);
    const task = new Task(key);
    this.#tasks.set(key, task);
    this.#scheduler.send(...messages);
    return task;
  }

  cancel(task) {
    this.#scheduler.send(["cancel", [task.key]]);
  }

  release(task) {
    this.#tasks.delete(task.key);
    this.#scheduler.send(["release", [task.key]]);
  }

  /** The scheduler's answer to a question. */
  ask(topic, argument = null) {
    const id = ++this.#count;
    this.#scheduler.send(["ask", id, topic, argument]);
    return new Promise((resolve, reject) => this.#questions.set(id, { resolve, reject }));
  }

  async close() {
    await Promise.all([...this.#peers.values()].map(async (peer) => (await peer).close()));
    await this.#scheduler.close();
  }

  #receive([name, ...fields]) {
    switch (name) {
      case "done":
        for (const [key, , packed, ident, address] of fields[0]) this.#finished(key, packed, ident, address);
        break;
      case "failed":
        for (const [key, culprit, error] of fields[0]) {
          this.#tasks.get(key)?.reject(new TaskError(key, culprit, error));
        }
        break;
      case "cancelled":
        for (const key of fields[0]) this.#tasks.get(key)?.reject(new CancelledError(fields[1]));
        break;
      case "answer": {
        const [id, ok, value] = fields;
        const question = this.#questions.get(id);
        this.#questions.delete(id);
        if (ok) question?.resolve(value);
        else question?.reject(new Error(value));
        break;
      }
    }
  }

  #finished(key, packed, ident, address) {
    const task = this.#tasks.get(key);
    if (!task) return; // released in the meantime
    const inline = packed && unpack(packed);
    if (inline) task.resolve(inline.value);
    else this.#fetch(task, ident, address).catch(task.reject);
  }

  /** Have a value from the worker that holds it: it is big, or what came along is a pickle. */
  async #fetch(task, ident, address) {
    let peer = this.#peers.get(address);
    if (!peer) {
      peer = Peer.dial(address, this.#scheduler.ident, this.#token);
      this.#peers.set(address, peer);
    }
    const parts = await (await peer).fetch(task.key);
    if (parts.length === 0) {
      this.#scheduler.send(["missing", [[task.key, ident]]]); // answered by another "done"
    } else if (parts[0][0] === REFUSED) {
      task.reject(new TaskError(task.key, task.key, decode(parts[0].subarray(1))));
    } else {
      task.resolve(unpack(parts[0]).value);
    }
  }

  #lost(reason) {
    const error = new ConnectionError(reason);
    for (const waiting of [...this.#tasks.values(), ...this.#questions.values()]) waiting.reject(error);
  }
}

/** The data port of a worker. */
class Peer {
  #waiting = new Map();
  #count = 0;

  static async dial(address, ident, token) {
    const peer = new Peer();
    const receive = (message, buffers) => peer.#receive(message, buffers);
    const lost = (reason) => peer.#lost(reason);
    peer.connection = await Connection.dial(address, "peer", ident, token, receive, lost);
    return peer;
  }

  /** The parts of a value; none if it is not held there. */
  fetch(key) {
    const id = ++this.#count;
    this.connection.send(["fetch", id, [key], true]);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  close() {
    return this.connection.close();
  }

  #receive([name, id, rows], buffers) {
    if (name === "data") this.#waiting.get(id)?.resolve(buffers.slice(0, rows[0][1]));
    this.#waiting.delete(id);
  }

  #lost(reason) {
    for (const waiting of this.#waiting.values()) waiting.reject(new ConnectionError(reason));
  }
}

/** An argument as it is sent; the keys of tasks in it are added to deps. */
function marked(arg, deps) {
  if (Array.isArray(arg)) return arg.map((item) => marked(item, deps));
  if (!(arg instanceof Task)) return arg;
  let index = deps.indexOf(arg.key);
  if (index < 0) index = deps.push(arg.key) - 1;
  const data = Buffer.alloc(4);
  data.writeUInt32LE(index);
  return new ExtData(DEPENDENCY, data);
}
