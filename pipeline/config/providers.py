"""Which model judges a connection and a queue: that of its provider.

A provider brings a model of its connections and one of its queues (SPEC P16). Those that are still
to come are known by name, so that choosing one says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Annotated

from pydantic import BeforeValidator

from pipeline.config.memory import MemoryConnection, MemoryQueue
from pipeline.config.references import Problem, closest, mapping
from pipeline.config.rules import error_of

_CONNECTION_MODELS: Mapping[str, type[MemoryConnection]] = {"memory": MemoryConnection}
_QUEUE_MODELS: Mapping[str, type[MemoryQueue]] = {"memory": MemoryQueue}
# Not here yet: the extra to install, and the module that shows whether it is.
_LATER: Mapping[str, tuple[str, str]] = {
    "aws_sqs": ("aws", "aioboto3"),
    "azure_service_bus": ("azure", "azure.servicebus"),
}


def _installed(module: str) -> bool:
    """Look for a module without importing anything; `find_spec` alone would import its parent."""
    top, _, inner = module.partition(".")
    spec = find_spec(top)
    if spec is None or not inner:
        return spec is not None
    return PathFinder.find_spec(module, spec.submodule_search_locations) is not None


def _connection(value: object) -> object:
    """Check the provider before its model is chosen, so that the error is about the provider."""
    if not isinstance(value, Mapping):
        return value
    provider, known = value.get("provider"), [*_CONNECTION_MODELS, *_LATER]
    if isinstance(provider, str) and provider in _CONNECTION_MODELS:
        return value
    text = f"{closest(provider, known)}must be one of: {', '.join(known)}"
    if provider is None:
        text = f"missing: name one of: {', '.join(known)}"
    elif isinstance(provider, str) and provider in _LATER:
        extra, module = _LATER[provider]
        text = "this version does not have that provider yet: must be memory"
        if not _installed(module):
            text = f"needs pip install 'queue-runtime[{extra}]' ({module} is missing), and {text}"
    raise error_of(Problem(("provider",), text, provider))


@dataclass(frozen=True, slots=True)
class _Given:
    """A queue as it was written, and the model that judges it; None: nobody knows which."""

    value: object
    model: type[MemoryQueue] | None


def with_providers(data: Mapping[str, object]) -> Mapping[str, object]:
    """Tell each queue of a whole configuration its provider, which its connection names elsewhere.

    Args:
        data: the configuration as it was written, valid or not.
    """
    if not isinstance(data.get("queues"), Mapping):
        return data
    connections = mapping(data.get("connections"))

    def given(queue: object) -> object:
        if isinstance(queue, MemoryQueue):
            return queue
        if not isinstance(queue, Mapping):
            return _Given(queue, MemoryQueue)  # no mapping at all: any model says so
        connection = connections.get(str(queue.get("connection")))
        provider = getattr(connection, "provider", None) or mapping(connection).get("provider")
        return _Given(queue, _QUEUE_MODELS.get(str(provider)))

    queues = {name: given(queue) for name, queue in mapping(data["queues"]).items()}
    return {**data, "queues": queues}


def _queue(given: object) -> object:
    if not isinstance(given, _Given):
        return given
    if given.model is None:
        # Its connection is wrong and will be told of; whether its keys are right can't be known.
        return MemoryQueue(connection=str(mapping(given.value).get("connection")))
    return given.model.model_validate(given.value)


Connection = Annotated[MemoryConnection, BeforeValidator(_connection)]
Queue = Annotated[MemoryQueue, BeforeValidator(_queue)]
