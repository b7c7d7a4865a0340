// Run by run_node.py: node client.mjs host:port, with the token in TREADLE_TOKEN. Says what it has checked, line by line.

import assert from "node:assert/strict";
import { ASYNCHRONOUS, CancelledError, Client, ConnectionError, TaskError } from "./treadle.mjs";

const address = process.argv[2];
const token = process.env.TREADLE_TOKEN;

const checks = {
  async "a function by import path"(client) {
    assert.equal(await client.submit("operator:add", [1, 2]).result(), 3);
    assert.equal(await client.submit("operator:add", ["Grüße ", "🧶"]).result(), "Grüße 🧶");
    assert.equal(await client.submit("operator:truediv", [1, 4]).result(), 0.25);
    assert.equal(await client.submit("operator:is_not", [null, null]).result(), false);
    assert.deepEqual([...(await client.submit("builtins:bytes", [[1, 2, 255]]).result())], [1, 2, 255]);
    assert.equal(await client.submit("textwrap:TextWrapper.__name__.upper", []).result(), "TEXTWRAPPER");
  },

  async "tasks as arguments of others"(client) {
    const parts = [1, 2, 3].map((number) => client.submit("operator:mul", [number, 10]));
    const total = client.submit("builtins:sum", [parts]);
    assert.equal(await client.submit("operator:add", [total, parts[0]]).result(), 70);
  },

  async "a thousand tasks at once"(client) {
    const tasks = Array.from({ length: 1000 }, (_, number) => client.submit("operator:neg", [number]));
    const results = await Promise.all(tasks.map((task) => task.result()));
    assert.deepEqual(results, results.map((_, number) => 0 - number));
  },

  async "a big result, from the worker's data port"(client) {
    const text = await client.submit("operator:mul", ["x", 100_000]).result();
    assert.equal(text, "x".repeat(100_000));
  },

  async "arrays and maps"(client) {
    assert.deepEqual(await client.submit("builtins:sorted", [[3, 1, 2]]).result(), [1, 2, 3]);
    assert.deepEqual(await client.submit("builtins:divmod", [7, 2]).result(), [3, 1]);
    assert.deepEqual(await client.submit("builtins:dict", [[["a", [1, null]], ["b", {}]]]).result(), { a: [1, null], b: {} });
    assert.deepEqual(await client.submit("builtins:dict", []).result(), {});
  },

  async "a coroutine function"(client) {
    assert.equal(await client.submit("asyncio:sleep", [0, "slept"], { kind: ASYNCHRONOUS }).result(), "slept");
  },

  async "a failure, and what depends on it"(client) {
    const task = client.submit("operator:floordiv", [1, 0]);
    const dependent = client.submit("operator:neg", [task]);
    for (const each of [task, dependent]) {
      await assert.rejects(each.result(), (error) => {
        assert.ok(error instanceof TaskError);
        assert.deepEqual([error.key, error.culprit, error.kind], [each.key, task.key, "raised"]);
        assert.match(error.text, /ZeroDivisionError: .*zero/);
        return true;
      });
    }
  },

  async "a path that leads nowhere"(client) {
    await assert.rejects(client.submit("nowhere:add", [1]).result(), /there is no module 'nowhere' here/);
    await assert.rejects(client.submit("operator:nothing", [1]).result(), /has no attribute 'nothing'/);
  },

  async "a result that msgpack cannot carry"(client) {
    const text = /refused.*complex/s;
    await assert.rejects(client.submit("builtins:complex", [1, 2]).result(), text);
  },

  async "cancelling"(client) {
    const task = client.submit("operator:add", [1, 2], { options: { resources: { moonlight: 1 } } });
    assert.match(await client.ask("explain", task.key), /moonlight/);
    client.cancel(task);
    await assert.rejects(task.result(), CancelledError);
  },

  async "questions"(client) {
    const versions = await client.ask("versions");
    assert.equal(versions.clients[client.ident].python, "");
    await assert.rejects(client.ask("the weather"), /there is no topic 'the weather'/);
  },

  async "releasing"(client) {
    const task = client.submit("operator:add", [1, 2]);
    await task.result();
    assert.deepEqual(Object.keys(await client.ask("who_has", [task.key])), [task.key]);
    client.release(task);
    assert.deepEqual((await client.ask("who_has", [task.key]))[task.key] ?? [], []);
  },

  async "a wrong token"() {
    await assert.rejects(Client.connect(address, "a guess"), ConnectionError);
  },
};

const client = await Client.connect(address, token);
for (const [what, check] of Object.entries(checks)) {
  await check(client);
  console.log(`ok: ${what}`);
}
const pending = client.submit("operator:add", [1, 2], { options: { resources: { moonlight: 1 } } });
await client.close();
await assert.rejects(pending.result(), ConnectionError);
console.log("ok: the end of the connection");
