"""Whether a sealed body is too old: the decision alone (SPEC C8).

What is judged is how long before its message was sent a body was sealed. A message that waited in a
backlog, was retried or came again after a crash is as fresh as it was; an old body that somebody
sends again is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import MessageExpired, ValidationError

Against: TypeAlias = Literal["enqueue", "receipt"]


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old a sealed body may be.

    Args:
        max_age: seconds.
        skew: seconds that the clocks of senders, provider and receivers may be apart; allowed on
            either side.
        against: `enqueue` measures to the time when the provider took the message, `receipt` to
            now: then what waits longer in a backlog is refused as well.

    Raises:
        ValidationError: a number is below 0, or `against` is something else.

    Example:
        >>> rule = Freshness()
        >>> rule.judge(encrypted_at=1_000, enqueued_at=1_360.0, now=9_000.0) is None
        True
        >>> str(rule.judge(encrypted_at=1_000, enqueued_at=1_361.0, now=9_000.0))[:44]
        'the body was sealed 361 s before its message'
    """

    max_age: float = 300.0
    skew: float = 60.0
    against: Against = "enqueue"

    def __post_init__(self) -> None:
        for name in ("max_age", "skew"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValidationError(f"Freshness.{name}", "must be at least 0 seconds", value)
        if self.against not in ("enqueue", "receipt"):
            rule = "must be 'enqueue' or 'receipt'"
            raise ValidationError("Freshness.against", rule, self.against)

    def judge(self, *, encrypted_at: int, enqueued_at: float, now: float) -> MessageExpired | None:
        """None, or why the body is not let through.

        Args:
            encrypted_at: when it was sealed, seconds since 1970; authentic.
            enqueued_at: when the provider took its message.
            now: the receiver's time.
        """
        age = (now if self.against == "receipt" else enqueued_at) - encrypted_at
        if -self.skew <= age <= self.max_age + self.skew:
            return None
        return self._expired(age)

    def judge_all(
        self,
        encrypted_at: npt.NDArray[np.int64],
        enqueued_at: npt.NDArray[np.float64],
        received_at: npt.NDArray[np.float64],
        rows: npt.NDArray[np.bool_],
    ) -> dict[int, MessageExpired]:
        """The same of a column: by row, why its body is not let through.

        Args:
            encrypted_at: of each row.
            enqueued_at: of each row.
            received_at: of each row.
            rows: for each row whether it is judged.
        """
        ages = (received_at if self.against == "receipt" else enqueued_at) - encrypted_at
        fresh = (ages >= -self.skew) & (ages <= self.max_age + self.skew)
        old = np.flatnonzero(rows & ~fresh).tolist()
        return {row: self._expired(float(ages[row])) for row in old}

    def _expired(self, age: float) -> MessageExpired:
        what = "was received" if self.against == "receipt" else "was sent"
        if age < 0:
            return MessageExpired(
                f"the body was sealed {-age:.0f} s after its message {what}, and clocks may be "
                f"{self.skew:g} s apart: set the clocks, or somebody changed the message's times"
            )
        return MessageExpired(
            f"the body was sealed {age:.0f} s before its message {what}, and {self.max_age:g} s "
            f"are allowed (and {self.skew:g} s between clocks): an old body was sent again, or "
            "its message was under way too long"
        )
