"""What a run came to: as a table for people, as one JSON line for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_LABELS: Final = {
    "received": "received",
    "completed": "completed",
    "dead_lettered": "dead-lettered",
    "redelivered": "redelivered",
    "sessions": "sessions",
    "out_of_order": "out of order",
    "verified": "verified",
    "seconds": "seconds",
    "messages_per_second": "messages/s",
    "p50_ms": "median ms, sent to settled",
    "p99_ms": "99 % within ms",
}
"""The figures in the order they are shown in, and what the table calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The results of a run.

    Args:
        received: deliveries handed out.
        completed: messages handled and deleted.
        dead_lettered: messages moved to a dead-letter queue.
        redelivered: deliveries that were not the message's first.
        sessions: sessions that have state.
        seconds: from the feed's start to the last settled message.
        p50: seconds from sent to settled that half of the messages took at most.
        p99: the same for 99 %.
        checked: what the job's check gave, if it was made.
    """

    received: int
    completed: int
    dead_lettered: int
    redelivered: int
    sessions: int
    seconds: float
    p50: float
    p99: float
    checked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refuted(self) -> bool:
        """Whether the job's check says that the result is wrong."""
        return self.checked.get("verified", True) is not True

    def figures(self) -> dict[str, Any]:
        """All figures; those of the check that are no figure of ours come last."""
        rate = self.completed / self.seconds if self.seconds > 0 else 0.0
        own = {
            "received": self.received,
            "completed": self.completed,
            "dead_lettered": self.dead_lettered,
            "redelivered": self.redelivered,
            "seconds": round(self.seconds, 3),
            "messages_per_second": round(rate, 1),
            "p50_ms": round(self.p50 * 1000, 1),
            "p99_ms": round(self.p99 * 1000, 1),
        }
        known = {"sessions": self.sessions, **self.checked, **own}
        known.pop("report", None)
        return {name: known[name] for name in (*_LABELS, *known) if name in known}

    def line(self) -> str:
        """The JSON line."""
        return json.dumps(self.figures(), default=str)

    def table(self) -> str:
        """The job's report, then the figures."""
        rows = {
            _LABELS.get(name, name): _shown(name, value) for name, value in self.figures().items()
        }
        wide = max(map(len, rows))
        given = self.checked.get("report") or ()
        report = [str(line) for line in (given if isinstance(given, (list, tuple)) else [given])]
        lines = [*report, ""] if report else []
        return "\n".join(
            [*lines, *(f"{label:<{wide}}  {value:>9}" for label, value in rows.items())]
        )


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float) and name != "seconds":
        return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
