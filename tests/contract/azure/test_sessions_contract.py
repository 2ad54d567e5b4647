"""Service Bus keeps the contract: a queue with sessions at our own server, over sockets."""

from __future__ import annotations

import pytest

from pipeline.providers.port import Sent
from tests.contract.azure.bench import ServiceBusContract, declare
from tests.contract.parts.bench import bodies


class TestServiceBusSessions(ServiceBusContract):
    """A queue that requires sessions. An accept takes half a second: `soon` is four of them."""

    sessions = True
    soon = 2.0
    declared = declare(sessions=True)

    @pytest.mark.spec("P3")
    async def test_the_largest_batch_and_one_more(self) -> None:
        """In few sessions, completed as they come: each held session is a connection here."""
        most = self.declared.max_receive
        async with self.open() as bench:
            [client] = bench.clients
            messages = [
                self.message(str(number).encode(), f"s{number % 4}") for number in range(most + 1)
            ]
            results = await client.send_many(bench.queue, messages)
            assert [type(result) for result in results] == [Sent] * (most + 1)
            found: list[bytes] = []
            while len(found) <= most:
                deliveries = await client.receive(bench.queue, most + 1, self.soon)
                assert 1 <= len(deliveries) <= most
                found += bodies(deliveries)
                assert await client.complete(deliveries) == {}
            assert sorted(found) == sorted(one.body for one in messages)
