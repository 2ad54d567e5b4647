"""The memory provider: a broker with locks, sessions, dead letters and bounds, in memory."""

from pipeline.providers.memory.broker import MemoryBroker
from pipeline.providers.memory.calls import BrokerCalls, Counters
from pipeline.providers.memory.provider import MemoryProvider
from pipeline.providers.memory.settings import QueueSettings

__all__ = [
    "BrokerCalls",
    "Counters",
    "MemoryBroker",
    "MemoryProvider",
    "QueueSettings",
]
