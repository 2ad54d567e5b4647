"""The Azure Service Bus provider: queues, topics, subscriptions (see `pipeline.providers.port`).

`provider` is the connection; `sender` and `receiver` do the work of what has no sessions,
`sessions` and `session` that of what has, and `settle` settles for both; `wire` says how a message
travels; `sdk` is the only place that makes objects of the SDK, and `line` the only one that calls
them; `errors` is the table.
"""

from pipeline.providers.azure.provider import AzureProvider

__all__ = ["AzureProvider"]
