"""How an entity says no: a condition that goes out on the wire as it is, and a sentence.

The engine wraps it into whatever answers the request: a detach, a rejected outcome, a status code.
"""

from __future__ import annotations

NOT_FOUND = "amqp:not-found"
NOT_ALLOWED = "amqp:not-allowed"
FULL = "amqp:resource-limit-exceeded"
TOO_LARGE = "amqp:link:message-size-exceeded"
LOCK_LOST = "com.microsoft:message-lock-lost"
MESSAGE_NOT_FOUND = "com.microsoft:message-not-found"
SESSION_HELD = "com.microsoft:session-cannot-be-locked"
SESSION_LOST = "com.microsoft:session-lock-lost"
TIMEOUT = "com.microsoft:timeout"
DISABLED = "com.microsoft:entity-disabled"


class Refused(Exception):
    """What was asked for is not done, and nothing has changed.

    Args:
        condition: the symbol, one of this module's.
        description: for people.
    """

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition
        self.description = description
