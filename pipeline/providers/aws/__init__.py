"""The AWS SQS provider: standard and FIFO queues (see `pipeline.providers.port`).

`provider` is the connection; `queues` finds what is behind a name; `sender` and `outbound`,
`receiver`, `polls` and `dead_letters` do the work; `wire`, `bodies` and `copies` say how a message
travels; `calls` is the seam that the calls go through, `sdk` and `lean` the two ways to make them;
`errors` is the table.
"""

from pipeline.providers.aws.provider import AwsProvider

__all__ = ["AwsProvider"]
