"""The memory provider: a broker with locks, sessions, dead letters and bounds, in memory."""

from pipeline.providers.memory.broker import MemoryBroker
from pipeline.providers.memory.calls import BrokerCalls, Counters
from pipeline.providers.memory.provider import MemoryProvider
from pipeline.providers.memory.settings import SPREAD_PREFIX, QueueSettings

__all__ = [
    "SPREAD_PREFIX",
    "BrokerCalls",
    "Counters",
    "MemoryBroker",
    "MemoryProvider",
    "QueueSettings",
]
