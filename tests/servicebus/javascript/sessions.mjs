// Sessions: one receiver each, in order, with a state and a lock.

import { setTimeout } from "node:timers/promises";

import { bodies, failure, received, seen } from "./messages.mjs";

export async function session({ client }) {
  const sender = client.createSender("carts");
  await sender.sendMessages(
    ["a", "b", "a", "b"].map((sessionId, place) => ({ body: `${sessionId}${place}`, sessionId })),
  );
  const a = await client.acceptSession("carts", "a");
  const held = await failure(client.acceptSession("carts", "a"));
  const b = await client.acceptNextSession("carts");
  const before = await a.getSessionState();
  await a.setSessionState({ step: 1 });
  const messages = await received(a, 2);
  await a.completeMessage(messages[0]);
  await a.deferMessage(messages[1]);
  const [deferred] = await a.receiveDeferredMessages(messages[1].sequenceNumber);
  await a.completeMessage(deferred);
  const others = await received(b, 2);
  await b.completeMessage(others[0]);
  await b.close(); // with one message that is not settled
  const next = await client.acceptNextSession("carts");
  const [again] = await received(next, 1);
  await next.deadLetterMessage(again, { deadLetterReason: "done" });
  await a.close();
  const returned = await client.acceptSession("carts", "a");
  const after = await returned.getSessionState();
  await returned.setSessionState(null);
  const cleared = await returned.getSessionState();
  return {
    held,
    ids: [a.sessionId, b.sessionId, next.sessionId],
    states: [before, after, cleared],
    bodies: [bodies(messages), bodies(others), bodies([deferred])],
    again: seen(again),
  };
}

export async function no_session({ connect }) {
  const impatient = connect({ retryOptions: { maxRetries: 0, timeoutInMs: 1_000 } });
  const code = await failure(impatient.acceptNextSession("carts"));
  await impatient.close();
  return code;
}

export async function waits_for_a_session({ client, pause }) {
  const accepting = client.acceptNextSession("carts");
  await pause("accepting");
  await client.createSender("carts").sendMessages({ body: "a", sessionId: "late" });
  const receiver = await accepting;
  return [receiver.sessionId, bodies(await received(receiver, 1))];
}

export async function session_lock({ client, pause }) {
  await client.createSender("carts").sendMessages({ body: "a", sessionId: "a" });
  const receiver = await client.acceptSession("carts", "a");
  const first = receiver.sessionLockedUntilUtc;
  await pause("locked");
  const renewed = await receiver.renewSessionLock();
  const [message] = await received(receiver, 1);
  await pause("renewed");
  while (!receiver.isClosed) await setTimeout(5); // until it knows that the link was detached
  const lost = await failure(receiver.completeMessage(message));
  return { first, renewed, lost };
}

export async function session_stream({ client, pause }) {
  const sender = client.createSender("carts");
  const numbers = Array.from({ length: 50 }, (_, number) => number);
  await sender.sendMessages(numbers.map((body) => ({ body, sessionId: "a" })));
  const receiver = await client.acceptSession("carts", "a");
  const got = [];
  const errors = [];
  await new Promise((done) => {
    receiver.subscribe({
      processMessage: async (message) => {
        got.push(message.body);
        if (got.length === 50) done();
      },
      processError: async (args) => {
        errors.push(args.error.message);
      },
    });
  });
  await pause("got");
  await receiver.close();
  return { got, errors };
}
