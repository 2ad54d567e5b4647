"""The contract that every provider keeps, as tests that go through `QueueClient` (SPEC P12).

A provider's test module subclasses `ProviderContract`, gives its capability table and `create`, and
is held to all of it: what it lacks is skipped by name, what it has must work as it does elsewhere.

    class TestSomeProvider(ProviderContract):
        declared = Capabilities(...)

        @asynccontextmanager
        async def create(self, wanted):
            ...  # make a queue with a unique name
            yield Bench("its-name", make_client, clock, make_provider)
            ...  # remove it

Times are given by the subclass (`soon`, `lock`, `sleep`), so that a real service takes real time
and memory, on a virtual loop, none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.contract.parts.bench import Bench, Wanted, lacking
from tests.contract.parts.held import HeldSessionContract
from tests.contract.parts.later import LaterContract
from tests.contract.parts.life import LifeContract
from tests.contract.parts.locks import LockContract
from tests.contract.parts.owners import OwnerContract
from tests.contract.parts.sealed import SealedContract
from tests.contract.parts.sending import SendingContract
from tests.contract.parts.sessions import SessionContract
from tests.contract.parts.settling import SettlingContract


class ProviderContract(
    SendingContract,
    SettlingContract,
    LockContract,
    SessionContract,
    HeldSessionContract,
    LifeContract,
    OwnerContract,
    LaterContract,
    SealedContract,
):
    """All of it."""


def contract_tests(suite: type) -> dict[str, Callable[..., Any]]:
    """The tests of a suite, by name."""
    return {name: getattr(suite, name) for name in dir(suite) if name.startswith("test_")}


__all__ = ["Bench", "ProviderContract", "Wanted", "contract_tests", "lacking"]
