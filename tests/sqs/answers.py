"""Results and errors as SQS writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.sqs import wire
from tests.sqs.errors import SqsError


@dataclass
class Answer:
    """What a call is answered with.

    Args:
        payload: JSON.
        status: of HTTP.
        headers: beside the usual ones.
    """

    payload: dict[str, Any]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The reply's bytes."""
        body = json.dumps(self.payload, separators=(",", ":")).encode()
        return wire.reply(body, self.status, self.headers)


def refusal(error: SqsError) -> Answer:
    """An error's answer."""
    who = "Sender" if error.sender_fault else "Receiver"
    return Answer(
        {"__type": error.type, "message": error.message},
        error.status,
        {"x-amzn-query-error": f"{error.query_code};{who}", **error.headers},
    )
