"""Refusals: why a body can't be given to anybody, as it travels with its row.

Opening a body may fail long before its turn in its session has come. So the failure goes on with
the row, as text in its column `refused`, and becomes the row's outcome where a handler would have
run, in order; who reads a `Delivery` gets it as an error when asking for the body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import (
    BodyAuthenticationFailed,
    InvalidEnvelope,
    KeyNotFound,
    MessageExpired,
    NonceReused,
    QueueError,
    SerializationError,
    UnencryptedMessage,
    UnsupportedVersion,
    rebuild,
)

_REASONS: Mapping[type[QueueError], str] = {
    KeyNotFound: "key_not_found",
    BodyAuthenticationFailed: "authentication_failed",
    MessageExpired: "message_expired",
    UnsupportedVersion: "unsupported_version",
    InvalidEnvelope: "invalid_envelope",
    NonceReused: "nonce_reused",
    UnencryptedMessage: "unencrypted_message",
    SerializationError: "invalid_body",
}
"""What can be wrong, and the dead letter's reason (`pipeline.outcomes.Reason`) for it."""
_KINDS = {kind.__name__: kind for kind in _REASONS}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a body can't be given out.

    Args:
        error: what is wrong with it.
        retry: seconds after which to try again: its key may come; None: it won't ever open.
    """

    error: QueueError
    retry: float | None = None

    @property
    def reason(self) -> str:
        """The dead letter's reason."""
        return _REASONS[type(self.error)]

    def text(self) -> str:
        """The refusal as its row carries it."""
        kept = {
            name: value
            for name, value in vars(self.error).items()
            if isinstance(value, (str, int)) and not name.startswith("_")
        }
        return json.dumps([type(self.error).__name__, str(self.error), kept, self.retry])


def read(text: str) -> Refusal:
    """The refusal that `Refusal.text` wrote.

    Example:
        >>> read(Refusal(KeyNotFound("2026-11"), retry=1.0).text()).error.key_id
        '2026-11'
    """
    kind, message, kept, retry = json.loads(text)
    return Refusal(rebuild(_KINDS[kind], {"args": (message,), "retry_after": None, **kept}), retry)
