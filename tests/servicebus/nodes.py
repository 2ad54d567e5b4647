"""What answers requests: `$cbs`, and `$management` of each entity."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tests.servicebus import outcomes
from tests.servicebus.amqp.codec import DecodeError
from tests.servicebus.amqp.frames import Flow
from tests.servicebus.authority import path_of, said
from tests.servicebus.entities.errors import TOO_LARGE, Refused
from tests.servicebus.limits import MAX_REQUEST
from tests.servicebus.links import Intake, Link, Outlet, credit_left
from tests.servicebus.management import PREFIX, Body, Desk, answered
from tests.servicebus.requests import Request, reply, request
from tests.servicebus.strict import Rule

if TYPE_CHECKING:
    from tests.servicebus.channel import Channel


MANAGEMENT: Final = "/$management"


class Replies(Link):
    """A link on which answers to requests go out, settled; they wait for credit."""

    def __init__(self, channel: Channel, handle: int, path: str, address: str | None) -> None:
        super().__init__(channel, handle, path)
        self.address = address  # the target: where a request's reply-to points
        self._credit = 0
        self._count = 0
        self._waiting: deque[bytes] = deque()

    def reply(self, message: bytes) -> None:
        """Send an answer."""
        self.used_at = self.channel.clock.now()
        self._waiting.append(message)
        self.ready()

    def flow(self, frame: Flow) -> None:
        """Take the client's credit."""
        if frame.link_credit is not None:
            self._credit = credit_left(frame, self._count)
        if self.unanswered is not None:
            return
        self.ready()
        if frame.drain:
            self._count += self._credit
            self._credit = 0
            self.channel.flow(self.handle, self._count, 0, drain=True)

    def ready(self) -> None:
        """Send what waited for credit."""
        if self.unanswered is not None:
            return
        while self._waiting and self._credit and not self.closing:
            self._credit -= 1
            self._count += 1
            number = self.channel.number()
            tag = number.to_bytes(16, "big")
            self.channel.transfer(self.handle, number, tag, True, self._waiting.popleft())


def taker(
    channel: Channel, path: str, desk: Desk | None
) -> Callable[[Intake, int, int, bytes, bool], None]:
    """What takes the requests of a link: for an entity's desk, or for `$cbs` without one."""

    def take(intake: Intake, number: int, kind: int, encoded: bytes, settled: bool) -> None:
        if len(encoded) > MAX_REQUEST:
            text = f"A request has more than {MAX_REQUEST} bytes."
            intake.settle(number, outcomes.rejected(Refused(TOO_LARGE, text)))
            return
        try:
            asked = request(encoded)
        except DecodeError as error:
            channel.note(Rule.MESSAGE, f"request {number}: {error}")
            intake.settle(number, outcomes.rejected(Refused("amqp:decode-error", str(error))))
            return
        if not settled:
            intake.settle(number, outcomes.ACCEPTED)
        if asked.id is None:
            channel.note(Rule.REQUEST_ID, f"request {number} at {path}")
        if desk is None:
            _put_token(channel, path, asked)
        else:
            _manage(channel, path, desk, asked)

    return take


def _reply(channel: Channel, path: str, asked: Request, message: bytes) -> None:
    """Answer on the link whose target is the reply-to, else on the node's link of this session."""
    if channel.over:
        return
    links = [link for link in channel.links.values() if isinstance(link, Replies)]
    fit = [link for link in links if link.path == path and not link.closing]
    named = [link for link in fit if asked.reply_to and link.address == asked.reply_to]
    if fit:
        (named or fit)[-1].reply(message)
    else:
        channel.note(Rule.REPLY_LINK, f"a request at {path}")


def _put_token(channel: Channel, path: str, asked: Request) -> None:
    words, connection = asked.words, channel.connection
    kind, name, token = said(words.get("type")), said(words.get("name")), said(asked.body)
    if words.get("operation") != "put-token" or not (kind and name and token) or asked.id is None:
        channel.note(Rule.CBS_REQUEST, f"{sorted(map(str, words))}")

    def apply() -> None:
        bus = connection.bus
        now, lead = bus.clock.now(), bus.clock.lead()
        end = bus.authority.put(connection.claims, kind, name, token, now, lead)
        connection.authorized_until(end)

    def answer(outcome: Refused | None) -> None:
        status, text = (202, "Accepted") if outcome is None else (401, outcome.description)
        told = {"status-code": status, "status-description": text}
        _reply(channel, path, asked, reply(asked.id, told))

    channel.faults.perform("put-token", path_of(name), connection, apply, answer)


def _manage(channel: Channel, path: str, desk: Desk, asked: Request) -> None:
    operation = said(asked.words.get("operation")).removeprefix(PREFIX)
    entity = path.removesuffix(MANAGEMENT)
    name = asked.words.get("associated-link-name")

    def apply() -> Body:
        return desk.perform(operation, asked.body, _held(channel, entity, name))

    def answer(outcome: Body | Refused) -> None:
        _reply(channel, path, asked, answered(asked, outcome))

    channel.faults.perform(operation, entity, channel.connection, apply, answer)


def _held(channel: Channel, path: str, name: Any) -> set[str]:
    """The sessions that a connection holds, by the link a request names if it names one."""
    return {
        link.session
        for each in channel.connection.channels.values()
        for link in each.links.values()
        if isinstance(link, Outlet) and link.path == path and link.session is not None
        if name is None or link.name == name
    }
