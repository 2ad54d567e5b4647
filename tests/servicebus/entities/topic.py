"""A topic: what is sent to it goes to all of its subscriptions, each a queue of its own."""

from __future__ import annotations

from collections.abc import Sequence

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.entities import errors
from tests.servicebus.entities.clock import Clock
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.intake import Intake
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.stored import Stored


class Topic:
    """See the module. It keeps nothing but what is scheduled; rules and filters it has none.

    Its settings' size limits, time to live and window of duplicates hold for what is sent;
    `max_bytes` counts scheduled messages alone. A subscription's settings do the rest: its time to
    live may be less, and messages without a session are dead-lettered where it has sessions.

    Args:
        name: as errors give it.
        settings: what it was created with; `sessions` and what concerns locks means nothing here.
        clock: the time.
        assumptions: which guesses about the service hold.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        clock: Clock,
        assumptions: Assumptions | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.assumptions = assumptions or Assumptions()
        self.subscriptions: dict[str, Queue] = {}
        self._intake = Intake(name, settings, clock, self.assumptions, self._pass_on, lambda: 0)

    def subscribe(self, name: str, settings: Settings | None = None) -> Queue:
        """A new subscription, which gets what becomes active from now on.

        Raises:
            ValueError: there is one of that name, whatever the case of its letters, or it can't be
                one.
        """
        if not isinstance(name, str) or not name.strip() or "/" in name or "$" in name:
            raise ValueError(f"{name!r} can't be the name of a subscription")
        if any(name.lower() == each.lower() for each in self.subscriptions):
            raise ValueError(f"{self.name} has a subscription {name!r}")
        made = Queue(
            f"{self.name}/Subscriptions/{name}",
            settings or Settings(),
            self.clock,
            self.assumptions,
        )
        self.subscriptions[name] = made
        return made

    def unsubscribe(self, name: str) -> None:
        """Forget a subscription and its messages.

        Raises:
            Refused: not-found.
        """
        if self.subscriptions.pop(name, None) is None:
            raise Refused(errors.NOT_FOUND, f"{self.name} has no subscription {name!r}")

    def send(self, messages: Sequence[Stored]) -> None:
        """As a queue's: all or none."""
        self._intake.send(messages)

    def schedule(self, messages: Sequence[Stored]) -> list[int]:
        """As a queue's: the numbers are the topic's."""
        return self._intake.schedule(messages)

    def cancel_scheduled(self, sequences: Sequence[int]) -> None:
        """As a queue's: what is active already is in the subscriptions and can't be had back."""
        self._intake.cancel(sequences)

    def scheduled_count(self) -> int:
        """How many are not active yet."""
        return len(self._intake.scheduled)

    def set_enabled(self, enabled: bool) -> None:
        """Disabled, nothing can be sent. What is scheduled goes its way."""
        self._intake.enabled = enabled

    def _pass_on(self, messages: list[Stored]) -> None:
        for subscription in list(self.subscriptions.values()):
            subscription.take_over([message.copy() for message in messages])
