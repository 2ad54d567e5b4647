"""How a test of strict mode says which rule it breaks, and what is noted of that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.limits import Limits
from tests.servicebus.strict import Rule

Broken = Callable[[ServiceBus], Awaitable[None]]


def breaks(rule: Rule) -> Callable[[Broken], Any]:
    """A test that breaks this rule and no other, on a server with queues and a clock that stands.

    It runs twice: strict mode notes that rule alone, the lenient one nothing; what the server does
    is the same.
    """

    def mark(test: Broken) -> Any:
        @pytest.mark.parametrize("strict", [True, False], ids=["strict", "lenient"])
        async def run(strict: bool) -> None:
            bus = ServiceBus(clock=ManualClock(), strict=strict, limits=Limits())
            bus.queue("orders")
            bus.queue("small", max_message_bytes=1_000)
            bus.queue("sessions", sessions=True)
            await test(bus)
            noted = [str(violation) for violation in bus.violations.noted]
            assert bus.violations.rules() == ({rule} if strict else set()), noted

        run.__name__, run.__doc__ = getattr(test, "__name__", ""), test.__doc__
        return run

    return mark
