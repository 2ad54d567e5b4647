"""Silence on a connection, of either side: who bears how much of it, and what ends for it.

A client that says nothing, a connection on which nothing is attached, a link that waits for
nothing; and the empty frames that a client wants to hear from us (2.4.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servicebus.amqp.frames import EMPTY
from tests.servicebus.entities.clock import Timer
from tests.servicebus.entities.errors import Refused
from tests.servicebus.strict import Rule

if TYPE_CHECKING:
    from tests.servicebus.connection import Connection


class Silence:
    """The watch over one connection.

    Args:
        connection: whose.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._clock = connection.bus.clock
        self._limits = connection.bus.limits
        now = self._clock.now()
        self._heard_at = self._spoke_at = self._linked_at = now
        self._watch = self._clock.at(now + self._limits.bare_connection, self._check)
        self._client_timeout = 0.0
        self._alarm: Timer | None = None

    def heard(self) -> None:
        """The client sent something."""
        now = self._clock.now()
        if now - self._heard_at > self._limits.idle_timeout:
            self._connection.note(Rule.IDLE, f"silent for {now - self._heard_at:.0f} s")
        self._heard_at = now

    def spoke(self) -> None:
        """Something was sent to the client."""
        self._spoke_at = self._clock.now()

    def borne(self, seconds: float) -> None:
        """The client bears so much of ours."""
        self._client_timeout = seconds
        self._keep_alive()

    def over(self) -> None:
        """The connection is."""
        self._watch.cancel()
        if self._alarm is not None:
            self._alarm.cancel()

    def _check(self) -> None:
        """Is the client still there, and does it want anything?"""
        now, limits, connection = self._clock.now(), self._limits, self._connection
        if now - self._heard_at >= 2 * limits.idle_timeout:  # told is half of what is borne (2.4.5)
            connection.note(Rule.IDLE, f"silent for {now - self._heard_at:.0f} s")
            text = "no frame within the idle-time-out"
            connection.close(Refused("amqp:resource-limit-exceeded", text))
            return
        links = [
            link for channel in connection.channels.values() for link in channel.links.values()
        ]
        if links:
            self._linked_at = now
        elif now - self._linked_at >= limits.bare_connection:
            text = "The connection was inactive for more than the allowed period of time."
            connection.close(Refused("amqp:connection:forced", text))
            return
        for link in links:
            if link.idle() and now - link.used_at >= limits.idle_link:
                link.detach(Refused("amqp:link:detach-forced", f"idle for {limits.idle_link:g} s"))
        period = min(limits.idle_timeout, limits.bare_connection, limits.idle_link) / 2
        self._watch = self._clock.at(now + period, self._check)

    def _keep_alive(self) -> None:
        """Send an empty frame when nothing else was sent for half the client's time-out."""
        half, now = self._client_timeout / 2, self._clock.now()
        if now - self._spoke_at >= half and not self._connection.bus.faults.shape.silent:
            self._connection.send(EMPTY)
        self._alarm = self._clock.at(now + half / 2, self._keep_alive)
