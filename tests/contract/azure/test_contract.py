"""Service Bus keeps the contract: against our own server, over sockets, with Microsoft's SDK."""

from __future__ import annotations

from tests.contract.azure.bench import ServiceBusContract, declare


class TestServiceBusQueue(ServiceBusContract):
    """A queue without sessions."""

    sessions = False
    declared = declare(sessions=False)
