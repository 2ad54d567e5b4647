"""AWS's own keys: of whatever reaches it, of a connection to SQS, and of a queue."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.references import Problem
from pipeline.config.rules import (
    Count,
    LockSeconds,
    Model,
    QueueModel,
    SecretReference,
    SomeSeconds,
    error_of,
    matching,
)


def address_of(value: str) -> SplitResult | None:
    """The parts of an address, which has a host, and no port or one that there is; None: it hasn't.

    Example:
        >>> address_of("https://host:1").port, address_of("https://host:0")
        (1, None)
    """
    try:
        parts = urlsplit(value)
        sound = parts.hostname and parts.port != 0
    except ValueError:  # the libraries' own words name no key
        return None
    return parts if sound else None


def _host_and_port(value: str) -> str:
    if not value.startswith(("env:", "file:")) and address_of(value) is None:
        rule = "must be an address like https://host:port, the port from 1 to 65535"
        raise PydanticCustomError("problem", "{text}", {"text": rule})
    return value


Region = Annotated[str, matching(r"[a-z0-9-]{1,32}", "a region, as in eu-central-1")]
Address = Annotated[
    str,
    matching(
        r"https?://[^@\s/?#]+(/[^@\s?#]*)?", "an address like https://host:port, without a password"
    ),
    AfterValidator(_host_and_port),
]
Proxy = Annotated[
    str,
    matching(
        r"https?://[^@\s/?#]+(/[^@\s?#]*)?|env:[A-Za-z_][A-Za-z0-9_]*|file:/.+",
        "an address like http://host:port; one with a password as a reference to it, env:NAME or "
        "file:/path",
    ),
    AfterValidator(_host_and_port),
]
SqsName = Annotated[
    str,
    matching(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo", "an SQS name: letters, digits, - _"),
]
Account = Annotated[str, matching(r"\d{12}", "the 12 digits of an account, in quotes")]


class AwsAccess(Model):
    """How AWS is reached and who calls: the keys that all connections to it share.

    Without keys of its own it finds credentials and region as every AWS tool does: environment,
    shared files, container or instance role; those that expire are refreshed.

    Args:
        provider: which service; a connection names its own.
        region: where the service is; unset: as the environment or the profile says.
        endpoint: another address than AWS's, for a VPC endpoint or a local server.
        profile: the name of a profile in the shared files.
        access_key_id: where a static key's id is, as a reference: `env:NAME` or `file:/path`.
        secret_access_key: where its secret is, as a reference.
        session_token: where its token is, if it has one, as a reference.
        proxy: the address of an HTTP proxy; one with a password as a reference.
        verify: whether the server's certificate is checked; false logs a warning.
        ca_bundle: a file with the certificates to trust, for a private authority; unset: as for
            AWS's own tools, what `AWS_CA_BUNDLE` or the profile names, else the SDK's own.
    """

    provider: str
    region: Region | None = None
    endpoint: Address | None = None
    profile: Annotated[str, Field(min_length=1)] | None = None
    access_key_id: SecretReference | None = None
    secret_access_key: SecretReference | None = None
    session_token: SecretReference | None = None
    proxy: Proxy | None = None
    verify: bool = True
    ca_bundle: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        broken = list(self._broken())
        if broken:
            raise error_of(*broken)
        return self

    def _broken(self) -> list[Problem]:
        broken = []
        pair = {"access_key_id": self.access_key_id, "secret_access_key": self.secret_access_key}
        missing = [name for name, given in pair.items() if given is None]
        if len(missing) == 1:
            broken.append(Problem((missing[0],), "missing: a static key has an id and a secret"))
        if self.session_token is not None and len(missing) == 2:
            broken.append(Problem(("session_token",), "has no use without a static key"))
        if self.profile is not None and not missing:
            broken.append(Problem(("profile",), "has no use beside a static key", self.profile))
        if self.ca_bundle is not None and not self.verify:
            broken.append(Problem(("ca_bundle",), "has no use with verify: false", self.ca_bundle))
        return broken


class AwsConnection(AwsAccess):
    """A connection to AWS SQS.

    Args:
        provider: `aws_sqs`.
        client: what makes the calls that are made for every few messages: `lean`, this project's
            own over aiohttp with botocore's signer, or `sdk`, aioboto3, at about four times the
            CPU. All other calls are aioboto3's.
        calls: how many receives, and how many other calls, run at once for one queue.

    All else is as of `AwsAccess`.

    Example:
        >>> AwsConnection(region="eu-central-1").client
        'lean'
    """

    provider: Literal["aws_sqs"] = "aws_sqs"
    client: Literal["lean", "sdk"] = "lean"
    calls: Annotated[int, Field(ge=1, le=64)] = 16


class SqsSend(Model):
    """How messages are sent.

    Args:
        batch_groups: fifo: whether one call may carry several messages of a group. It is faster
            where groups are few; but SQS judges the ten of a call apart, and where one fails those
            behind it in the same call are in the queue already: order is then lost.

    Example:
        >>> SqsSend().batch_groups
        False
    """

    batch_groups: bool = False


class AwsQueue(QueueModel):
    """A queue of AWS SQS, standard or FIFO.

    Args:
        connection: the name of its connection.
        name: its name at SQS; unset: the name it has in the configuration. A FIFO queue's ends in
            `.fifo`.
        account: the account that owns it, if it is another one's.
        fifo: whether each session's messages, which are message groups, are handled in order.
        sessionless: what a message without a session is on a fifo queue: refused at send, or put
            into one of 64 sessions by a hash of its id.
        on_unsupported_sessions: what `fifo: true` does on a standard queue: fail at start, or go on
            unordered with a warning (SPEC P4).
        visibility: seconds a message is locked unless that is renewed: at most 12 h, rounded up to
            whole ones.
        time_to_live: seconds an unread message lives when it names none itself, judged at receive;
            unset: as long as the queue keeps it.
        on_expiry: what happens to an expired message: dead-lettered as `expired`, or dropped.
        dead_letter_queue: the name of its dead-letter queue; unset: the one of its redrive policy,
            else its own name and `-dlq`.
        poll: seconds one receive waits at SQS, 1 to 20 and at most about a third of `visibility`;
            a drain waits so long for the one that is open, and an idle queue costs one call for
            each.
        create: whether the queue and its dead-letter queue are made at start if they are missing,
            in the credentials' own account: not with `account`.
        max_message_size: the most bytes of one message, body and attributes, where the queue's own
            attribute can't be read.
        send: how messages are sent.

    Example:
        >>> AwsQueue(connection="main", name="orders.fifo", fifo=True).ordered
        True
    """

    connection: str
    name: SqsName | None = None
    account: Account | None = None
    fifo: bool = False
    sessionless: Literal["reject", "spread"] = "reject"
    on_unsupported_sessions: Literal["fail", "unordered"] = "fail"
    visibility: LockSeconds = 300.0
    time_to_live: SomeSeconds | None = None
    on_expiry: Literal["dead_letter", "drop"] = "dead_letter"
    dead_letter_queue: SqsName | None = None
    poll: Annotated[float, Field(ge=1, le=20)] = 5.0
    create: bool = False
    max_message_size: Count = 1_048_576
    send: SqsSend = Field(default_factory=SqsSend)

    @model_validator(mode="after")
    def _made_where_it_is_looked_for(self) -> Self:
        if self.create and self.account is not None:
            rule = "has no use beside account: queues are made in the credentials' own account"
            raise error_of(Problem(("create",), rule, self.create))
        return self

    @model_validator(mode="after")
    def _dead_letters_go_elsewhere(self) -> Self:
        if self.name is not None and self.dead_letter_queue == self.name:
            rule = "must be another queue: a copy would come again as a new message"
            raise error_of(Problem(("dead_letter_queue",), rule, self.dead_letter_queue))
        return self

    @property
    def has_groups(self) -> bool:
        """Whether it is a FIFO queue at SQS."""
        return self.name is not None and self.name.endswith(".fifo")

    def size_of_binary(self, size: int) -> int:
        """How many bytes a body that is no text takes: it travels as base64."""
        return -(-size // 3) * 4

    @property
    def stamps_start(self) -> bool:
        """Whether a scheduled message counts as sent at the time that it is scheduled for."""
        return False

    @property
    def spreads(self) -> bool:
        """Whether a message without a session is given one."""
        return self.has_groups and self.sessionless == "spread"

    @property
    def ordered(self) -> bool:
        """Whether sessions are kept in order: asked for, and possible."""
        return self.fifo and self.has_groups
