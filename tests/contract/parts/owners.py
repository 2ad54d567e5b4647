"""Lanes that have an owner over all its starts: what a dead process had in hand comes again."""

from __future__ import annotations

import pytest

from pipeline.errors import Closed
from tests.contract.parts.lanes import LaneContract


class OwnerContract(LaneContract):
    """What a receiver actor that is started anew can rely on."""

    async def _taken_over(self) -> None:
        """Where the service can't give a dead process's messages back, their locks have to end."""
        if not self.takes_over:
            await self.sleep(self.lock + 1)

    @pytest.mark.spec("F7", "F2", "F3", "P11")
    async def test_a_new_lane_of_an_owner_has_what_its_last_one_had_in_hand(self) -> None:
        """Its process is gone: the messages come again, in order, and to the new one as well."""
        wanted = {} if self.takes_over else {"lock": self.lock}
        async with self.open(**wanted) as bench, self._providers(bench, 2) as (dead, alive):
            await self._send(bench, b"1", b"2", b"3")
            old = await self._lane(dead, bench.queue, "receiver-0")
            assert await old.bodies(2) == [b"1", b"2"]
            new = await self._lane(alive, bench.queue, "receiver-0")
            await self._taken_over()
            received = await new.receive()
            assert list(received.batch.values("body")) == [b"1", b"2", b"3"]
            await new.complete(received)

    @pytest.mark.spec("F7", "F2", "P14")
    async def test_the_old_lane_of_an_owner_can_do_nothing_any_more(self) -> None:
        """A process that was only slow: its receive and its settlements are refused."""
        if not self.takes_over:
            pytest.skip("the service knows no owner: the old lane's locks end")
        async with self.open() as bench, self._providers(bench, 2) as (slow, alive):
            await self._send(bench, b"1")
            old = await self._lane(slow, bench.queue, "receiver-0")
            received = await old.receive()
            new = await self._lane(alive, bench.queue, "receiver-0")
            with pytest.raises(Closed):
                await old.receive()
            with pytest.raises(Closed):
                await old.receiver.complete(received.receipts)
            again = await new.receive()
            assert list(again.batch.values("body")) == [b"1"]
            await new.complete(again)

    @pytest.mark.spec("F7", "F2", "F11")
    async def test_what_another_owner_has_in_hand_is_its_own(self) -> None:
        """So is what a lane without an owner has, and the owner's lane of another kind."""
        async with self.open() as bench, self._providers(bench, 2) as (one, two):
            await self._send(bench, b"1")
            mine = await self._lane(one, bench.queue, "receiver-0")
            received = await mine.receive()
            for owner in ("receiver-1", "", ""):
                other = await self._lane(two, bench.queue, owner)
                assert await other.bodies() == []
                await other.close()
            dead = await self._lane(two, bench.queue, "receiver-0", dead_letters=True)
            assert await dead.bodies() == []
            await dead.close()
            await mine.complete(received)

    @pytest.mark.spec("F7", "F6")
    async def test_an_owner_whose_lane_was_closed_begins_anew(self) -> None:
        """What it gave back then comes once, to whoever asks first."""
        async with self.open() as bench, self._providers(bench, 2) as (one, two):
            await self._send(bench, b"1")
            old = await self._lane(one, bench.queue, "receiver-0")
            assert await old.bodies() == [b"1"]
            await old.close()
            other = await self._lane(two, bench.queue, "receiver-1")
            new = await self._lane(two, bench.queue, "receiver-0")
            received = await other.receive()
            assert list(received.batch.values("body")) == [b"1"]
            assert await new.bodies() == []
            await new.close()
            await other.complete(received)
