"""What is given back for later: the first message of a group, and with it the group."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.errors import Unsupported
from tests.contract.parts.bench import needs
from tests.contract.parts.lanes import LaneContract


class LaterContract(LaneContract):
    """What a receiver relies on that gives a group back until its retry is due."""

    @pytest.mark.spec("F3", "P14")
    @needs("group_delay")
    async def test_a_group_waits_with_its_head_until_that_is_due(self) -> None:
        """Nobody gets those behind it before; then all come, in order."""
        async with self.open() as bench, self._providers(bench, 2) as (one, two):
            await self._send(bench, b"1", b"2", b"3")
            mine = await self._lane(one, bench.queue, "receiver-0")
            other = await self._lane(two, bench.queue, "receiver-1")
            received = await mine.receive(2)
            head, *behind = received.receipts
            loop = asyncio.get_running_loop()
            start = loop.time()
            if behind:
                assert await mine.receiver.release(behind) == {}
            assert await mine.receiver.release([head], 3 * self.soon) == {}
            assert await other.bodies() == []
            bodies: list[bytes] = []
            while len(bodies) < 3 and loop.time() < start + 20 * self.soon:
                got = await other.receive()
                bodies += got.batch.values("body")
                assert not bodies or loop.time() - start >= 3 * self.soon - 1
                await other.receiver.complete(got.receipts)
            assert bodies == [b"1", b"2", b"3"]
            await mine.close()
            await other.close()

    @pytest.mark.spec("P14", "P4")
    async def test_where_a_group_cannot_wait_it_is_not_given_back(self) -> None:
        """It is `Unsupported`, and the message stays in hand."""
        if self.declared.group_delay:
            pytest.skip(f"at {self.declared.provider} this queue's groups can wait")
        async with self.open() as bench, self._providers(bench, 1) as [provider]:
            await self._send(bench, b"1")
            lane = await self._lane(provider, bench.queue, "receiver-0")
            received = await lane.receive()
            with pytest.raises(Unsupported):
                await lane.receiver.release(received.receipts, 5.0)
            await lane.complete(received)
