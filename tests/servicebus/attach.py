"""What a link is for: its address, its settle modes, its session, and whether it may be.

A link that is refused is attached without source and target and then detached with the error: with
them, clients see a good link first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tests.servicebus import nodes, outcomes
from tests.servicebus.amqp.codec import DecodeError
from tests.servicebus.amqp.frames import Attach, Detach
from tests.servicebus.amqp.types import Described, Symbol
from tests.servicebus.authority import path_of
from tests.servicebus.entities.errors import TOO_LARGE, Refused
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.topic import Topic
from tests.servicebus.limits import CBS, HANDLE_MAX, MAX_REQUEST
from tests.servicebus.links import Intake, Link, Outlet, Refusal
from tests.servicebus.management import Desk
from tests.servicebus.messages import publish
from tests.servicebus.strict import Rule

if TYPE_CHECKING:
    from tests.servicebus.channel import Channel

_FILTER: Final = "com.microsoft:session-filter"
_COORDINATOR: Final = 0x30  # the target of a link for transactions
_ADDRESS, _FILTERS = 0, 7  # places in source and target
_TICKS: Final = 621_355_968_000_000_000  # of 100 ns, between the year 1 and 1970
_LONGEST_WAIT: Final = 65.0
_UNSETTLED, _SETTLED = 0, 1  # snd-settle-mode

# Tells the client that its link is there, or for a session asks for that first.
Greeting = Callable[[], None]


def attach(channel: Channel, frame: Attach) -> None:
    """A client attaches a link."""
    if not isinstance(frame.name, str) or frame.handle is None or frame.role is None:
        channel.note(Rule.ATTACH_FIELDS, f"{frame}")
        return
    _free_handle(channel, frame.handle)
    if not frame.role and frame.initial_delivery_count is None:
        channel.note(Rule.INITIAL_COUNT, f"the sender {frame.name}")
    terminus = frame.source if frame.role else frame.target
    address = _field(terminus, _ADDRESS)
    path = path_of(address) if isinstance(address, str) else ""

    def answer(outcome: Greeting | Refused) -> None:
        if channel.over:
            return
        if isinstance(outcome, Refused):
            _refuse(channel, frame, path, outcome)
        else:
            outcome()

    channel.faults.perform(
        "attach", path, channel.connection, lambda: _open(channel, frame, path), answer
    )


def _free_handle(channel: Channel, handle: int) -> None:
    if handle > HANDLE_MAX:
        channel.note(Rule.HANDLE_MAX, f"handle {handle}")
    link = channel.links.pop(handle, None)
    if link is not None:
        channel.note(Rule.HANDLE_IN_USE, f"handle {handle}")
        if not link.closing:
            link.closing = True
            link.gone(broken=False)


def _open(channel: Channel, frame: Attach, path: str) -> Greeting:
    if path == CBS:
        return _open_node(channel, frame, path, None)
    bus, claims = channel.connection.bus, channel.connection.claims
    if not claims.cover(path, bus.clock.now()):
        channel.note(Rule.AUTHORIZED, f"{frame.name} at {path!r}")
        raise Refused("amqp:unauthorized-access", f"There is no valid token for {path!r}.")
    if path.endswith(nodes.MANAGEMENT):
        entity = bus.find(path.removesuffix(nodes.MANAGEMENT))
        guesses = bus.assumptions
        desk = Desk(entity, guesses.fills_message_id, guesses.sessions_are_fenced)
        return _open_node(channel, frame, path, desk)
    if isinstance(frame.target, Described) and frame.target.descriptor == _COORDINATOR:
        raise Refused("amqp:not-implemented", "This server has no transactions.")
    if frame.role:
        return _open_outlet(channel, frame, path, bus.find(path))
    return _open_intake(channel, frame, path, bus.target(path))


def _field(terminus: Any, place: int) -> Any:
    fields = terminus.value if isinstance(terminus, Described) else None
    return fields[place] if isinstance(fields, list) and len(fields) > place else None


def _add(channel: Channel, frame: Attach, link: Link) -> None:
    link.unanswered = frame
    channel.links[frame.handle] = link


def _accept(
    channel: Channel,
    frame: Attach,
    link: Link,
    *,
    source: Any = None,
    limit: int | None = None,
    properties: dict[Any, Any] | None = None,
) -> None:
    if link.closing:  # the answer was delayed, and one of us has detached it meanwhile
        return
    link.unanswered = None
    channel.send(
        Attach(
            name=frame.name,
            handle=frame.handle,
            role=not frame.role,
            snd_settle_mode=frame.snd_settle_mode,
            rcv_settle_mode=frame.rcv_settle_mode,
            source=frame.source if source is None else source,
            target=frame.target,
            initial_delivery_count=0 if frame.role else None,
            max_message_size=limit,
            properties=properties,
        )
    )
    link.ready()  # credit may have come before


def _refuse(channel: Channel, frame: Attach, path: str, refusal: Refused) -> None:
    channel.links[frame.handle] = Refusal(channel, frame.handle, path)
    count = 0 if frame.role else None
    channel.send(Attach(frame.name, frame.handle, not frame.role, initial_delivery_count=count))
    channel.send(Detach(frame.handle, True, outcomes.error(refusal)))


# --- senders --------------------------------------------------------------------------------------


def _open_intake(channel: Channel, frame: Attach, path: str, entity: Queue | Topic) -> Greeting:
    limit = entity.settings.max_message_bytes
    bus = channel.connection.bus

    def take(link: Intake, number: int, kind: int, encoded: bytes, settled: bool) -> None:
        def apply() -> bytes:
            try:
                publish(entity, kind, encoded, limit, bus.assumptions.fills_message_id)
            except DecodeError as error:
                rule = Rule.MESSAGE if kind == 0 else Rule.BATCH
                channel.note(rule, f"delivery {number}: {error}")
                raise Refused("amqp:decode-error", str(error)) from error
            return outcomes.ACCEPTED

        def answer(outcome: bytes | Refused) -> None:
            if not isinstance(outcome, Refused):
                told = outcome
            elif outcome.condition == TOO_LARGE and bus.assumptions.oversize_detaches:
                link.detach(outcome)
                return
            else:
                told = outcomes.rejected(outcome)
            if not settled:
                link.settle(number, told)

        channel.faults.perform("send", path, channel.connection, apply, answer)

    settled = {_UNSETTLED: False, _SETTLED: True}.get(frame.snd_settle_mode)
    count = frame.initial_delivery_count or 0
    link = Intake(channel, frame.handle, path, take, limit, settled, count)
    _add(channel, frame, link)
    return partial(_welcome, channel, frame, link, limit)


def _welcome(channel: Channel, frame: Attach, link: Intake, limit: int) -> None:
    _accept(channel, frame, link, limit=limit)
    if not link.closing:
        link.give_credit()


# --- receivers ------------------------------------------------------------------------------------


def _open_outlet(channel: Channel, frame: Attach, path: str, entity: Queue | Topic) -> Greeting:
    if isinstance(entity, Topic):
        raise Refused("amqp:not-allowed", f"{path!r} is a topic: receive from a subscription.")
    locks = frame.snd_settle_mode != _SETTLED
    link = Outlet(channel, frame.handle, path, entity, locks, frame.name)
    filters = _field(frame.source, _FILTERS)
    if isinstance(filters, dict) and _FILTER in filters:
        return _open_session(channel, frame, link, filters[_FILTER])
    entity.attach(link)
    _add(channel, frame, link)
    return partial(_accept, channel, frame, link)


def _open_session(channel: Channel, frame: Attach, link: Outlet, asked: Any) -> Greeting:
    """Attach when there is a session for it; until then the client waits for our attach."""
    name, seconds = _session_name(channel, asked), _longest_wait(frame)
    _add(channel, frame, link)
    queue = link.queue

    def granted(session: str, until: float) -> None:
        # The client may be gone, and a fault may keep the answer back.
        link.holds(session)

        def answer(outcome: Refused | None) -> None:
            if isinstance(outcome, Refused):
                refused(outcome)
                return
            source = _with_session(frame.source, session)
            ticks = int(until * 10_000_000) + _TICKS
            told = {Symbol("com.microsoft:locked-until-utc"): ticks}
            _accept(channel, frame, link, source=source, properties=told)

        channel.faults.perform("accept", link.path, channel.connection, lambda: None, answer)

    def refused(refusal: Refused) -> None:
        if link.closing:
            return
        link.closing = True
        link.gone(broken=False)
        _refuse(channel, frame, link.path, refusal)

    def ask() -> None:
        if not link.closing:
            link.waits(queue.accept(name, granted, refused, seconds).cancel)

    return ask


def _session_name(channel: Channel, asked: Any) -> str | None:
    name = asked.value if isinstance(asked, Described) else asked
    if name is None or type(name) is str:
        return name
    channel.note(Rule.SESSION_FILTER, f"{name!r}")
    raise Refused("amqp:invalid-field", f"A session filter is a string, not {name!r}.")


def _longest_wait(frame: Attach) -> float:
    properties = frame.properties if isinstance(frame.properties, dict) else {}
    wait = properties.get("com.microsoft:timeout")
    return wait / 1000 if isinstance(wait, int) else _LONGEST_WAIT


def _with_session(source: Described, session: str) -> Described:
    fields = list(source.value)
    fields[_FILTERS] = {Symbol(_FILTER): session}
    return Described(source.descriptor, fields)


def _open_node(channel: Channel, frame: Attach, path: str, desk: Desk | None) -> Greeting:
    """One of the pair of links to `$cbs` (no desk) or to an entity's `$management`."""
    if frame.role:
        target = _field(frame.target, _ADDRESS)
        address = target if isinstance(target, str) else None
        replies = nodes.Replies(channel, frame.handle, path, address)
        _add(channel, frame, replies)
        return partial(_accept, channel, frame, replies)
    take, count = nodes.taker(channel, path, desk), frame.initial_delivery_count or 0
    intake = Intake(channel, frame.handle, path, take, MAX_REQUEST, None, count)
    _add(channel, frame, intake)
    return partial(_welcome, channel, frame, intake, MAX_REQUEST)
