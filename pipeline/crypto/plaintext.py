"""What becomes of a plain message where bodies are sealed: the decision alone (SPEC C9)."""

from __future__ import annotations

import logging
from enum import StrEnum


class Plaintext(StrEnum):
    """What becomes of plain messages; whatever it is, they are counted and told of.

    `allow`: they are handled, with a warning now and then. `allow_with_alert`: they are handled,
    and the log says so as an error, for somebody to see. `reject`: they are not handled, and
    dead-lettered as they are.

    Example:
        >>> Plaintext("reject").accepts
        False
    """

    ALLOW = "allow"
    ALLOW_WITH_ALERT = "allow_with_alert"
    REJECT = "reject"

    @property
    def accepts(self) -> bool:
        """Whether they are handled."""
        return self is not Plaintext.REJECT

    @property
    def level(self) -> int:
        """How loud the log tells of them."""
        return logging.ERROR if self is Plaintext.ALLOW_WITH_ALERT else logging.WARNING
