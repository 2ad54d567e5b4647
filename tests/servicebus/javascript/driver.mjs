// Runs one scenario with the JavaScript SDK for tests/servicebus/test_javascript.py:
//
//     node driver.mjs MODULES SCENARIO CONNECTION_STRING
//
// MODULES is the directory whose node_modules has @azure/service-bus. The scenario talks with the
// test in lines: JSON on standard output, and on standard input an empty line to go on. What it
// returns is the last line, {"result": ...}; the test judges it, nothing here does.

import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

import * as receiving from "./receiving.mjs";
import * as sending from "./sending.mjs";
import * as sessions from "./sessions.mjs";

const scenarios = { ...receiving, ...sending, ...sessions };
const [modules, name, connectionString] = process.argv.slice(2);
const { ServiceBusClient } = createRequire(join(modules, "package.json"))("@azure/service-bus");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

function tell(told) {
  process.stdout.write(JSON.stringify(told) + "\n");
}

// Says how far the scenario is, and waits until the test has seen to its side.
async function pause(at, told = null) {
  tell({ at, told });
  await lines.next();
}

// Another client: with other options, or with something in the connection string replaced.
function connect(options = {}, replace = ["", ""]) {
  const retryOptions = { maxRetries: 0, timeoutInMs: 20_000 };
  return new ServiceBusClient(connectionString.replace(...replace), { retryOptions, ...options });
}

const client = connect();
try {
  tell({ result: (await scenarios[name]({ client, connect, pause })) ?? null });
} finally {
  await client.close();
}
process.exit(0); // whatever timers of the SDK are left
