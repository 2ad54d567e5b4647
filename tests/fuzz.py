"""Envelopes that nobody sealed: random bytes, and sealed bodies that were changed.

Whatever comes, opening ends in an error of the cryptography, or in the very plaintext that was
sealed for that message, or, without the marker, in the body as it is; by itself and in a column,
which agree. `python -m tests.fuzz --count 1000000` repeats by its seed; the gate runs 10,000.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.clock import SeededClock, monotonic
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.envelope import MARKER, EncryptedMessage, binding, is_sealed
from pipeline.crypto.key import EncryptionKey
from pipeline.errors import CryptoError, KeyNotFound, QueueError

T = TypeVar("T")
COLUMN = 100
"""Rows of a column; every other column is a short one, which takes the other way."""

SHORT = 10


class Keys:
    """A ring of three keys."""

    def __init__(self, chance: random.Random) -> None:
        made = [
            EncryptionKey(name, chance.randbytes(32), random=chance.randbytes)
            for name in ("a", "2026-11", "schlüssel")
        ]
        self.keys = {key.id: key for key in made}

    def cached(self, key_id: str) -> EncryptionKey | None:
        return self.keys.get(key_id)

    async def get(self, key_id: str) -> EncryptionKey:
        if key_id not in self.keys:
            raise KeyNotFound(key_id)
        return self.keys[key_id]

    async def current(self) -> EncryptionKey:
        return self.keys["a"]


class Fuzz:
    """Rows by a seed: (body, what it is bound to, what it may open to; None: nothing)."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.keys = Keys(self.chance)
        clock = SeededClock(lambda: 0.0)
        self.aes = AesGcm(self.keys, clock, random=self.chance.randbytes)
        self.outcomes: Counter[str] = Counter()

    def row(self) -> tuple[bytes, bytes, bytes | None]:
        """One row: of five, one is good, one is random, three are good ones that were changed."""
        chance = self.chance
        session = chance.choice([None, "s", "session-1"])
        bound = binding(f"m{chance.randrange(1000)}", session)
        kind = chance.randrange(5)
        if kind == 0:
            body = chance.randbytes(chance.randrange(120))
            return chance.choice([b"", MARKER, MARKER + b"\1"]) + body, bound, None
        plain = chance.randbytes(chance.randrange(60))
        key_id = chance.choice(list(self.keys.keys))
        body = done(self.aes.encrypt(key_id, plain, bound)).encode()
        if kind == 1:
            return body, bound, plain
        changed = bytearray(body)
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            self.change(changed)
        return bytes(changed), bound, plain if bytes(changed) == body else None

    def change(self, body: bytearray) -> None:
        """A bit, a byte, a piece out, a piece in, two pieces swapped, the end off."""
        chance = self.chance
        at = chance.randrange(len(body) + 1)
        size = chance.choice([1, 1, 4, 8, 16])
        how = chance.randrange(6)
        if how == 0 and body:
            body[at % len(body)] ^= 1 << chance.randrange(8)
        elif how == 1 and body:
            body[min(at, 40) % len(body)] = chance.randrange(256)
        elif how == 2:
            del body[at : at + size]
        elif how == 3:
            body[at:at] = chance.randbytes(size)
        elif how == 4:
            body[at : at + 2 * size] = body[at + size : at + 2 * size] + body[at : at + size]
        else:
            del body[at:]

    def check(self, count: int) -> None:
        """Make a column of rows, open it, and judge what came of each."""
        rows = [self.row() for _ in range(count)]
        column = pa.array([body for body, _, _ in rows], pa.binary())
        opened = done(self.aes.decrypt_column(column, [bound for _, bound, _ in rows]))
        bodies, without_marker = opened.bodies.to_pylist(), opened.plain.tolist()
        for at, (body, bound, plain) in enumerate(rows):
            alone = self.alone(body, bound)
            error = opened.errors.get(at)
            wrong = self.judged(body, plain, alone, error, bodies[at], without_marker[at])
            if wrong:
                raise AssertionError(
                    f"row {at}: {body.hex()} bound to {bound.hex()}: {wrong}; alone {alone!r}, in "
                    f"a column {error or bodies[at]!r}"
                )

    def judged(
        self,
        body: bytes,
        plain: bytes | None,
        alone: bytes | CryptoError,
        error: QueueError | None,
        out: bytes,
        without_marker: bool,
    ) -> str:
        """Count how a row ended; what is wrong with it, if anything."""
        if without_marker == is_sealed(body):
            return "the column does not see the marker as it is"
        if isinstance(alone, CryptoError):
            self.outcomes[type(alone).__name__] += 1
            if (type(error), str(error), out) != (type(alone), str(alone), body):
                return "the column ends otherwise"
            return "" if plain is None else "a good body does not open"
        self.outcomes["plain" if without_marker else "opened"] += 1
        if error is not None or out != alone:
            return "the column ends otherwise"
        expected = body if without_marker else plain
        return "" if out == expected else "it opens to what was not sealed"

    def alone(self, body: bytes, bound: bytes) -> bytes | CryptoError:
        """What a body comes to by itself; any error that is not of the cryptography goes up."""
        if not is_sealed(body):
            return body
        try:
            return done(self.aes.decrypt(EncryptedMessage.decode(body), bound))
        except CryptoError as error:
            return error


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that waits for nothing comes to."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        answer: T = stopped.value
        return answer
    raise AssertionError("it waits for something")


def run(count: int, seed: int) -> Counter[str]:
    """So many envelopes; how they ended.

    Raises:
        AssertionError: one ended otherwise than it may; the text has it.
    """
    fuzz = Fuzz(seed)
    left = count
    while left > 0:
        size = min(left, SHORT if left // SHORT % 2 else COLUMN)
        fuzz.check(size)
        left -= size
    return fuzz.outcomes


def main(arguments: list[str]) -> int:
    """`--count`, `--seed`: print the seed first, and how it ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    sys.stdout.write(f"{given.count:,} envelopes of seed {given.seed}\n")
    sys.stdout.flush()
    began = monotonic()
    outcomes = run(given.count, given.seed)
    for outcome, number in outcomes.most_common():
        sys.stdout.write(f"{number:>10,} {outcome}\n")
    sys.stdout.write(f"all as they may; {monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
