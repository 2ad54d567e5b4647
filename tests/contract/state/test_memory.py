"""The store in memory keeps the contract, and stays small."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.state.memory import MemoryStore
from tests.contract.state.suite import START, Calendar, StateStoreContract, record_of, state


class TestMemoryStore(StateStoreContract):
    """`MemoryStore`."""

    durable = False

    def create(self, place: Path, calendar: Calendar) -> MemoryStore:
        return MemoryStore(now=calendar.now)

    @pytest.mark.spec("F4", "F5")
    async def test_expired_states_leave_the_memory(self) -> None:
        """Without being asked for again: with the commits of other sessions."""
        calendar = Calendar()
        store = MemoryStore(2, calendar.now)
        for number in range(10):
            calendar.time = START + number
            await store.commit([state(f"s{number}", 0, b"1", expires_at=calendar.time + 3.0)])
        known = [n for n in range(10) if (await record_of(store, f"s{n}")).version]
        assert known == [5, 6, 7, 8, 9]
        assert [n for n in known if (await record_of(store, f"s{n}")).state] == [7, 8, 9]
