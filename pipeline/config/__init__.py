"""The configuration: its models, reading and writing it, and finding what its paths name.

Example:
    >>> from pipeline.config import parse
    >>> config = parse('''
    ... name: shop
    ... connections: {main: {provider: memory}}
    ... queues: {orders: {connection: main, fifo: true}}
    ... ''')
    >>> config.queues["orders"].session_mode
    'native'
"""

from pipeline.config.aws import AwsConnection, AwsQueue
from pipeline.config.azure import AzureConnection, AzureQueue
from pipeline.config.crypto import (
    AwsKeys,
    AzureKeys,
    CryptoConfig,
    EnvironmentKeys,
    FileKeys,
    FreshnessConfig,
    ReplayConfig,
)
from pipeline.config.load import dump, load, parse, resolved
from pipeline.config.models import (
    Batch,
    CallRetry,
    CircuitBreaker,
    Credit,
    Drain,
    HandlerRetry,
    Log,
    MemoryConnection,
    MemoryQueue,
    PipelineConfig,
    RayConfig,
    RuntimeConfig,
    StateConfig,
    Timeouts,
)
from pipeline.config.objects import import_exception, import_object
from pipeline.config.secrets import resolve

__all__ = [
    "AwsConnection",
    "AwsKeys",
    "AwsQueue",
    "AzureConnection",
    "AzureKeys",
    "AzureQueue",
    "Batch",
    "CallRetry",
    "CircuitBreaker",
    "Credit",
    "CryptoConfig",
    "Drain",
    "EnvironmentKeys",
    "FileKeys",
    "FreshnessConfig",
    "HandlerRetry",
    "Log",
    "MemoryConnection",
    "MemoryQueue",
    "PipelineConfig",
    "RayConfig",
    "ReplayConfig",
    "RuntimeConfig",
    "StateConfig",
    "Timeouts",
    "dump",
    "import_exception",
    "import_object",
    "load",
    "parse",
    "resolve",
    "resolved",
]
