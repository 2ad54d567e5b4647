"""Random calls in random order: what a FIFO queue promises holds at every receive."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest

from tests.sqs.clock import MovableClock
from tests.sqs.service import Service

LOCK = 10


class Caller:
    """Calls one queue, knows what it must hold, and checks what it gives."""

    def __init__(self, name: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = MovableClock()
        self.service = Service(lambda: "http://x", clock=self.clock)
        fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        self.service.create({"QueueName": name, "Attributes": fifo})
        self.name = name
        self.fifo = bool(fifo)
        self.there: dict[str, list[str]] = defaultdict(list)
        self.locked: dict[str, tuple[str, str, float]] = {}
        self.sent = self.done = 0

    def step(self) -> None:
        """Do one thing."""
        act = self.chance.choice([self.send, self.send, self.receive, self.settle, self.settle])
        act()
        if self.chance.random() < 0.1:
            self.clock.advance(self.chance.choice([1, 3, LOCK]))
        self.locked = {b: lock for b, lock in self.locked.items() if lock[2] > self.clock()}

    def drain(self) -> None:
        """Receive and delete until nothing is there."""
        self.clock.advance(LOCK)
        self.locked.clear()
        while self.receive():
            for body in list(self.locked):
                self.delete(body)

    def send(self) -> None:
        """Send one to one of three groups."""
        self.sent += 1
        group, body = self.chance.choice("abc"), str(self.sent)
        fifo = {"MessageGroupId": group, "MessageDeduplicationId": body} if self.fifo else {}
        self._call("SendMessage", MessageBody=body, **fifo)
        self.there[group].append(body)

    def receive(self) -> int:
        """Receive some, and check that they are what may be given now."""
        most = self.chance.randint(1, 10)
        told = self._call("ReceiveMessage", MaxNumberOfMessages=most, VisibilityTimeout=LOCK)
        messages = told.get("Messages", [])
        held = {group for group, _, _ in self.locked.values()}
        given: dict[str, list[str]] = defaultdict(list)
        for message in messages:
            body = message["Body"]
            group = next(group for group, bodies in self.there.items() if body in bodies)
            assert body not in self.locked
            self.locked[body] = (group, message["ReceiptHandle"], self.clock() + LOCK)
            given[group].append(body)
        if self.fifo:
            assert not held & set(given)
            for group, bodies in given.items():
                assert bodies == self.there[group][: len(bodies)]
            free = sum(len(bodies) for group, bodies in self.there.items() if group not in held)
        else:
            free = sum(map(len, self.there.values())) - len(self.locked) + len(messages)
        assert len(messages) == min(most, free)
        return len(messages)

    def settle(self) -> None:
        """Delete one that is in flight, give it back or prolong it."""
        if not self.locked:
            return
        body = self.chance.choice(list(self.locked))
        if self.chance.random() < 0.6:
            self.delete(body)
            return
        seconds = self.chance.choice([0, LOCK])
        group, handle, _ = self.locked.pop(body)
        self._call("ChangeMessageVisibility", ReceiptHandle=handle, VisibilityTimeout=seconds)
        if seconds:
            self.locked[body] = (group, handle, self.clock() + seconds)

    def delete(self, body: str) -> None:
        """Delete one that is in flight."""
        group, handle, _ = self.locked.pop(body)
        self._call("DeleteMessage", ReceiptHandle=handle)
        self.there[group].remove(body)
        self.done += 1

    def _call(self, action: str, **asked: Any) -> dict[str, Any]:
        result = self.service.call(action, {"QueueUrl": self.name, **asked})
        assert not isinstance(result, asyncio.Future)
        return result


@pytest.mark.parametrize("name", ["q", "q.fifo"])
def test_nothing_is_lost_doubled_or_out_of_order(name: str) -> None:
    """Whatever is sent is given when it may be, and not otherwise, until it is deleted."""
    for seed in range(60):
        caller = Caller(name, seed)
        for _ in range(200):
            caller.step()
        caller.drain()
        assert caller.done == caller.sent, f"seed {seed}"
        queue = caller.service.queues[name]
        assert (queue.visible, queue.in_flight, queue.delayed) == (0, 0, 0)
