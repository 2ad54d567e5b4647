"""Which model judges a connection and a queue: that of its provider.

A provider brings a model of its connections and one of its queues (SPEC P16).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from pipeline.config.aws import AwsConnection, AwsQueue
from pipeline.config.azure import AzureConnection, AzureQueue
from pipeline.config.extras import unusable
from pipeline.config.memory import MemoryConnection, MemoryQueue
from pipeline.config.references import Problem, mapping, provider_of
from pipeline.config.rules import Model, error_of

_AnyConnection: TypeAlias = MemoryConnection | AwsConnection | AzureConnection
AnyQueue: TypeAlias = MemoryQueue | AwsQueue | AzureQueue
_CONNECTION_MODELS: Mapping[str, type[_AnyConnection]] = {
    "memory": MemoryConnection,
    "aws_sqs": AwsConnection,
    "azure_service_bus": AzureConnection,
}
_QUEUE_MODELS: Mapping[str, type[AnyQueue]] = {
    "memory": MemoryQueue,
    "aws_sqs": AwsQueue,
    "azure_service_bus": AzureQueue,
}
_NAMED = (AwsQueue, AzureQueue)
"""Those whose queues are called there as here, unless they say otherwise."""
# The extra to install, and the module that shows whether it is.
_EXTRAS: Mapping[str, tuple[str, str]] = {
    "aws_sqs": ("aws", "aioboto3"),
    "azure_service_bus": ("azure", "azure.servicebus"),
}


def _connection(value: object) -> object:
    """Check the provider, and let its model judge: so the error is about the provider's keys."""
    if isinstance(value, _AnyConnection):
        return value
    if not isinstance(value, Mapping):
        return MemoryConnection.model_validate(value)  # no mapping at all: any model says so
    provider = value.get("provider")
    text = unusable(provider, _CONNECTION_MODELS, _EXTRAS)
    if text:
        raise error_of(Problem(("provider",), text, provider))
    return _CONNECTION_MODELS[str(provider)].model_validate(value)


@dataclass(frozen=True, slots=True)
class _Given:
    """A queue as it was written, and the model that judges it; None: nobody knows which."""

    value: object
    model: type[AnyQueue] | None


def with_providers(data: Mapping[str, object]) -> Mapping[str, object]:
    """Tell each queue of a whole configuration its provider, which its connection names elsewhere.

    Args:
        data: the configuration as it was written, valid or not.
    """
    if not isinstance(data.get("queues"), Mapping):
        return data
    connections = mapping(data.get("connections"))

    def given(name: object, queue: object) -> object:
        if isinstance(queue, AnyQueue):
            return queue
        if not isinstance(queue, Mapping):
            return _Given(queue, MemoryQueue)  # no mapping at all: any model says so
        model = _QUEUE_MODELS.get(provider_of(queue.get("connection"), connections))
        if model in _NAMED and queue.get("name") is None and queue.get("topic") is None:
            queue = {**queue, "name": name}
        return _Given(queue, model)

    queues = {name: given(name, queue) for name, queue in mapping(data["queues"]).items()}
    return {**data, "queues": queues}


def model_of(section: str, name: object, data: Mapping[str, Any]) -> type[Model]:
    """Which model judges a connection or a queue of a configuration; memory's if nobody knows.

    Args:
        section: `connections` or `queues`.
        name: its name there.
        data: the whole configuration, valid or not.
    """
    connections = mapping(data.get("connections"))
    if section == "connections":
        return _CONNECTION_MODELS.get(provider_of(name, connections), MemoryConnection)
    connection = mapping(mapping(data.get("queues")).get(str(name))).get("connection")
    return _QUEUE_MODELS.get(provider_of(connection, connections), MemoryQueue)


def _queue(given: object) -> object:
    if not isinstance(given, _Given):
        return given
    if given.model is None:
        # Its connection is wrong and will be told of; whether its keys are right can't be known.
        return MemoryQueue(connection=str(mapping(given.value).get("connection")))
    return given.model.model_validate(given.value)


Connection = Annotated[_AnyConnection, BeforeValidator(_connection)]
Queue = Annotated[AnyQueue, BeforeValidator(_queue)]
