// Messages as JSON, and errors by their codes.

// The fields of a received message that tests look at; those it lacks are left out.
export function seen(message) {
  const {
    body, messageId, sessionId, partitionKey, subject, contentType, correlationId, replyTo, to,
    replyToSessionId, timeToLive, applicationProperties, deliveryCount, sequenceNumber,
    enqueuedSequenceNumber, enqueuedTimeUtc, expiresAtUtc, lockToken, lockedUntilUtc, state,
    scheduledEnqueueTimeUtc, deadLetterReason, deadLetterErrorDescription, deadLetterSource,
  } = message;
  return {
    body: Buffer.isBuffer(body) ? `bytes:${body.toString()}` : body,
    messageId, sessionId, partitionKey, subject, contentType, correlationId, replyTo, to,
    replyToSessionId, timeToLive, applicationProperties, deliveryCount,
    sequenceNumber: sequenceNumber?.toNumber(),
    enqueuedSequenceNumber,
    enqueuedTimeUtc, expiresAtUtc, lockToken, lockedUntilUtc, state, scheduledEnqueueTimeUtc,
    deadLetterReason, deadLetterErrorDescription, deadLetterSource,
  };
}

export function bodies(messages) {
  return messages.map((message) => seen(message).body);
}

// So many messages: a call of the SDK may return fewer although more are on their way.
export async function received(receiver, count) {
  const got = [];
  while (got.length < count) {
    const more = await receiver.receiveMessages(count - got.length, { maxWaitTimeInMs: 15_000 });
    if (!more.length) throw new Error(`${got.length} of ${count} messages came`);
    got.push(...more);
  }
  return got;
}

// The code of the error that a promise ends with; null when it does not.
export async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return error.code ?? error.name;
  }
}
