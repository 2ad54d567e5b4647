// What is received: settled in each way, looked at, streamed, and locked for longer.

import { setTimeout } from "node:timers/promises";

import { bodies, failure, received, seen } from "./messages.mjs";

export async function settle({ client, pause }) {
  const sender = client.createSender("orders");
  await sender.sendMessages(["complete", "abandon", "defer", "dead-letter"].map((body) => ({ body })));
  const receiver = client.createReceiver("orders");
  const [complete, abandon, defer, dead] = await received(receiver, 4);
  await receiver.completeMessage(complete);
  await receiver.deferMessage(defer, { deferred: "so" });
  await receiver.deadLetterMessage(dead, {
    deadLetterReason: "a reason",
    deadLetterErrorDescription: "a description",
    more: 1,
  });
  await receiver.abandonMessage(abandon, { abandoned: "once" });
  await pause("settled");
  const [again] = await received(receiver, 1);
  await receiver.completeMessage(again);
  const [deferred] = await receiver.receiveDeferredMessages(defer.sequenceNumber);
  await receiver.completeMessage(deferred);
  const none = await failure(receiver.receiveDeferredMessages(defer.sequenceNumber));
  const letters = client.createReceiver("orders", { subQueueType: "deadLetter" });
  const [letter] = await received(letters, 1);
  await letters.completeMessage(letter);
  return { none, again: seen(again), deferred: seen(deferred), letter: seen(letter) };
}

export async function attempts({ client }) {
  await client.createSender("orders").sendMessages({ body: "a" });
  const receiver = client.createReceiver("orders");
  const counts = [];
  for (let attempt = 0; attempt < 3; attempt++) {
    const [message] = await received(receiver, 1);
    counts.push(message.deliveryCount);
    await receiver.abandonMessage(message);
  }
  const letters = client.createReceiver("orders", {
    subQueueType: "deadLetter",
    receiveMode: "receiveAndDelete",
  });
  const [letter] = await received(letters, 1);
  return { counts, letter: seen(letter) };
}

export async function peek({ client }) {
  const sender = client.createSender("orders");
  await sender.sendMessages(["a", "b", "c"].map((body) => ({ body })));
  const receiver = client.createReceiver("orders");
  const first = await receiver.peekMessages(2);
  const next = await receiver.peekMessages(2); // goes on where the last one ended
  const from = await receiver.peekMessages(5, { fromSequenceNumber: first[1].sequenceNumber });
  return { first: first.map(seen), next: bodies(next), from: bodies(from) };
}

export async function subscribe({ client, pause }) {
  const receiver = client.createReceiver("orders");
  const got = [];
  const errors = [];
  const subscription = receiver.subscribe(
    {
      processMessage: async (message) => {
        got.push(seen(message).body);
        if (message.body === "fails" && message.deliveryCount === 0) throw new Error("once");
      },
      processError: async (args) => {
        errors.push([args.errorSource, args.error.message]);
      },
    },
    { maxConcurrentCalls: 4 },
  );
  const sender = client.createSender("orders");
  // Alone, because rhea 3.0.5 settles what follows an abandoned delivery in the same turn like it.
  await sender.sendMessages({ body: "fails" });
  while (got.length < 2) await setTimeout(5);
  for (let start = 0; start < 199; start += 50) {
    const numbers = Array.from({ length: Math.min(50, 199 - start) }, (_, place) => start + place);
    await sender.sendMessages(numbers.map((number) => ({ body: number })));
  }
  await pause("sent");
  await subscription.close();
  return { got, errors };
}

export async function renew({ client, pause }) {
  await client.createSender("orders").sendMessages({ body: "a" });
  const receiver = client.createReceiver("orders");
  const [message] = await received(receiver, 1);
  const first = message.lockedUntilUtc;
  await pause("locked");
  const renewed = await receiver.renewMessageLock(message);
  await pause("renewed");
  await receiver.completeMessage(message);
  return { first, renewed };
}

export async function lock_lost({ client, pause }) {
  await client.createSender("orders").sendMessages({ body: "a" });
  const receiver = client.createReceiver("orders");
  const [message] = await received(receiver, 1);
  await pause("locked");
  const codes = [
    await failure(receiver.renewMessageLock(message)),
    await failure(receiver.completeMessage(message)),
  ];
  const [again] = await received(receiver, 1);
  await receiver.completeMessage(again);
  return { codes, count: again.deliveryCount };
}

export async function renews_by_itself({ client, pause }) {
  await client.createSender("orders").sendMessages({ body: "a" });
  const receiver = client.createReceiver("orders", { maxAutoLockRenewalDurationInMs: 60_000 });
  const errors = [];
  await new Promise((done) => {
    receiver.subscribe({
      processMessage: async () => {
        await pause("held");
        setImmediate(done);
      },
      processError: async (args) => {
        errors.push(args.error.message);
      },
    });
  });
  await receiver.close();
  return errors;
}
