// What is sent: alone, together, large, for later; and what the SDK does when it is refused.

import { bodies, failure, received, seen } from "./messages.mjs";

export async function fields({ client }) {
  const sender = client.createSender("orders");
  await sender.sendMessages({
    body: Buffer.from("first"),
    messageId: "m-1",
    partitionKey: "p",
    subject: "a subject",
    contentType: "text/plain",
    correlationId: "c-1",
    replyTo: "answers",
    replyToSessionId: "r-1",
    to: "somebody",
    timeToLive: 60_000,
    applicationProperties: { text: "å", whole: 7, half: 0.5, yes: true, at: new Date(1_700_000_000_000) },
  });
  const receiver = client.createReceiver("orders");
  const [message] = await received(receiver, 1);
  await receiver.completeMessage(message);
  return seen(message);
}

export async function kinds_of_body({ client }) {
  const sender = client.createSender("orders");
  await sender.sendMessages([
    { body: Buffer.from("bytes") },
    { body: "text" },
    { body: { a: [1, null, true] } },
    { body: { b: "value" }, bodyType: "value" },
    { body: [1, "two"], bodyType: "sequence" },
  ]);
  const receiver = client.createReceiver("orders", { receiveMode: "receiveAndDelete" });
  const messages = await received(receiver, 5);
  return messages.map((each) => [each._rawAmqpMessage.bodyType, seen(each).body]);
}

export async function batches({ client, pause }) {
  const sender = client.createSender("orders");
  const batch = await sender.createMessageBatch();
  for (let number = 0; number < 100; number++) {
    if (!batch.tryAddMessage({ body: `message ${number}`, messageId: `${number}` })) break;
  }
  const tooMuch = batch.tryAddMessage({ body: Buffer.alloc(batch.maxSizeInBytes) });
  await sender.sendMessages(batch);
  await pause("sent");
  const receiver = client.createReceiver("orders");
  const got = await received(receiver, 100);
  await Promise.all(got.map((each) => receiver.completeMessage(each)));
  return { most: batch.maxSizeInBytes, tooMuch, ids: got.map((each) => each.messageId), bodies: bodies(got) };
}

export async function large({ client }) {
  const sender = client.createSender("orders");
  const body = Buffer.from(Array.from({ length: 200_000 }, (_, place) => place % 251));
  await sender.sendMessages({ body });
  const receiver = client.createReceiver("orders");
  const [message] = await received(receiver, 1);
  await receiver.completeMessage(message);
  const same = message.body.equals(body);
  return { same, tooLarge: await failure(sender.sendMessages({ body: Buffer.alloc(300_000) })) };
}

export async function schedule({ client, pause }) {
  const sender = client.createSender("orders");
  const receiver = client.createReceiver("orders");
  const later = new Date(Date.now() + 100_000);
  const numbers = await sender.scheduleMessages([{ body: "kept" }, { body: "cancelled" }], later);
  const waiting = await receiver.peekMessages(10);
  await sender.cancelScheduledMessages(numbers[1]);
  const again = await failure(sender.cancelScheduledMessages(numbers[1]));
  await pause("scheduled", { later });
  const [message] = await received(receiver, 1);
  await receiver.completeMessage(message);
  return {
    numbers: numbers.map((each) => each.toNumber()),
    waiting: waiting.map(seen),
    again,
    got: seen(message),
  };
}

export async function topic({ client }) {
  const sender = client.createSender("events");
  await sender.sendMessages([{ body: "a" }, { body: "b" }]);
  const got = {};
  for (const name of ["audit", "billing"]) {
    const receiver = client.createReceiver("events", name);
    const messages = await received(receiver, 2);
    await receiver.completeMessage(messages[0]);
    await receiver.deadLetterMessage(messages[1], { deadLetterReason: name });
    const [letter] = await received(
      client.createReceiver("events", name, { subQueueType: "deadLetter" }), 1,
    );
    got[name] = { bodies: bodies(messages), letter: seen(letter) };
  }
  return got;
}

export async function refused({ client, connect }) {
  const stranger = connect({}, ["SharedAccessKey=", "SharedAccessKey=not"]);
  const codes = {
    key: await failure(stranger.createSender("orders").sendMessages({ body: "a" })),
    queue: await failure(client.createSender("missing").sendMessages({ body: "a" })),
    session: await failure(client.createSender("carts").sendMessages({ body: "a" })),
    receiver: await failure(client.createReceiver("carts").receiveMessages(1)),
  };
  await stranger.close();
  return codes;
}

export async function reconnects({ connect, pause }) {
  const retryOptions = { maxRetries: 3, retryDelayInMs: 10, timeoutInMs: 20_000 };
  const client = connect({ retryOptions });
  const sender = client.createSender("orders");
  await sender.sendMessages({ body: "before" });
  await pause("connected");
  await sender.sendMessages({ body: "after" });
  const got = bodies(await received(client.createReceiver("orders"), 2));
  await client.close();
  return got;
}
