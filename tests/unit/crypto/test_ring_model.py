"""The key ring under any order of changes, outages and questions, against what must hold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.ring import KeyRing
from pipeline.errors import ConnectionFailed, KeyNotFound
from tests.unit.crypto.key_rig import Provider, material, name, ring_of

IDS = [f"k{number}" for number in range(7)]
TTL, MISS, MOST = 100.0, 5.0, 4

STEPS = st.one_of(
    st.tuples(st.sampled_from(["get", "add", "rotate", "retire"]), st.sampled_from(IDS)),
    st.tuples(st.sampled_from(["fail", "recover", "current"]), st.just("")),
    st.tuples(st.just("wait"), st.sampled_from(["1", "6", "90", "250"])),
)


class Model:
    """What happened, and when the ring must have seen it."""

    def __init__(self) -> None:
        self.provider = Provider("k0")
        self.ring = ring_of(self.provider, ttl=TTL, retry_miss=MISS, most=MOST)
        self.settled = True
        """Whether the provider has answered all along since the last change, for a ttl."""

    async def step(self, do: str, which: str) -> None:
        provider = self.provider
        if do == "wait":
            seconds = float(which)
            await asyncio.sleep(seconds)
            self.settled = self.settled or (seconds > TTL and provider.failure is None)
        elif do == "add" and which not in provider.keys:
            provider.keys[which] = material(IDS.index(which))
            self.settled = False
        elif do == "rotate" and which in provider.keys:
            provider.current = which
            self.settled = False
        elif do == "retire" and which in provider.keys and which != provider.current:
            del provider.keys[which]
            self.settled = False
        elif do in ("fail", "recover"):
            # After an outage the next refresh may be a whole pause away.
            self.settled = self.settled and do == "recover" and provider.failure is None
            provider.failure = ConnectionFailed("out") if do == "fail" else None
        elif do == "get":
            await self.get(which)
        elif do == "current":
            await self.current()

    async def get(self, which: str) -> None:
        try:
            key = await self.ring.get(name(which))
        except KeyNotFound:
            if self.settled and self.provider.failure is None:
                assert which not in self.provider.keys
        else:
            assert not key.closed
            assert key.matches(EncryptionKey(which, material(IDS.index(which))))
            if self.settled:
                assert which in self.provider.keys

    async def current(self) -> None:
        key = await self.ring.current()
        assert not key.closed
        if self.settled:
            assert key.id == self.provider.current

    def bounded(self) -> None:
        ring: KeyRing = self.ring
        assert len(ring._held._keys) <= MOST
        assert ring._held.current is not None
        assert ring._held._keys[ring._held.current.id] is ring._held.current


@pytest.mark.spec("C5", "C6", "C7")
@given(steps=st.lists(STEPS, max_size=40))
def test_whatever_happens_keys_serve_and_are_bounded(steps: Sequence[tuple[str, str]]) -> None:
    """The current key is always had; a key is right or `KeyNotFound`; a change is seen in a ttl."""

    async def run() -> None:
        model = Model()
        await model.ring.start()
        for do, which in steps:
            await model.step(do, which)
            model.bounded()
            await model.current()
        held = list(model.ring._held._keys.values())
        model.provider.failure = None
        await model.ring.close()
        assert all(key.closed for key in held)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
