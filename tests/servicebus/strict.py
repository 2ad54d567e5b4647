"""Strict mode: the rules a client must keep, and the record of those it broke.

The server itself is as lenient as the service is; a rule that is broken is written down and, where
the protocol leaves a way to go on, the connection goes on. Sections are those of the AMQP 1.0 text
(parts 2, transport, and 5, security), or of what is known of Service Bus ("SB").
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field


class Rule(enum.Enum):
    """Each is (number, where it stands, what it asks)."""

    HEADER = (1, "2.2", "a connection begins with the header of SASL, then with AMQP's")
    FRAME_SIZE = (2, "2.7.1", "no frame is larger than the server's max-frame-size")
    DATA_OFFSET = (3, "2.3.1", "a frame's data offset lies in the frame and is 2 at least")
    DECODABLE = (4, "1.2", "what is in a frame can be decoded")
    SASL_INIT = (5, "5.3.2", "the client answers the mechanisms with one of them")
    OPEN_FIRST = (6, "2.4.1", "the first frame is open, on channel 0, and there is one")
    CONTAINER_ID = (7, "2.7.1", "open carries a container-id")
    AFTER_CLOSE = (8, "2.4.3", "nothing follows close")
    IDLE = (9, "2.4.5", "the connection is not silent for longer than the server's idle-time-out")
    CHANNEL_MAX = (10, "2.7.1", "no channel is above the server's channel-max")
    CHANNEL_IN_USE = (11, "2.5.1", "begin uses a channel that has no session")
    BEGIN_FIELDS = (12, "2.7.2", "begin carries next-outgoing-id and both windows")
    UNMAPPED = (13, "2.5.5", "a frame's channel has a session: begun, not ended")
    WINDOW = (14, "2.5.6", "transfers stay inside the session's incoming window")
    FLOW_FIELDS = (15, "2.7.4", "flow carries the windows, and a link's fields only with a handle")
    HANDLE_MAX = (16, "2.7.2", "no handle is above the server's handle-max")
    HANDLE_IN_USE = (17, "2.6.2", "attach uses a handle that has no link")
    UNATTACHED = (18, "2.8.17", "a frame's handle has a link: attached, not detached")
    ATTACH_FIELDS = (19, "2.7.3", "attach carries a name, a handle and a role")
    INITIAL_COUNT = (20, "2.7.3", "a sender's attach carries initial-delivery-count")
    LINK_CREDIT = (21, "2.6.7", "a delivery is sent only with credit")
    DELIVERY_ID = (22, "2.7.5", "a delivery's first transfer carries a delivery-id")
    DELIVERY_SEQUENCE = (23, "2.6.12", "delivery-ids of a session follow on each other")
    DELIVERY_TAG = (24, "2.7.5", "a delivery's first transfer carries a tag of at most 32 bytes")
    TAG_IN_USE = (25, "2.6.12", "a delivery's tag is not one of an unsettled delivery of the link")
    CONTINUATION = (26, "2.7.5", "later transfers of a delivery repeat its id and tag or omit them")
    SETTLE_MODE = (27, "2.7.5", "a transfer is settled as the link's snd-settle-mode says")
    MESSAGE_SIZE = (28, "2.7.3", "no message is larger than the link's max-message-size")
    ROLE = (29, "2.7.6", "a disposition's role is that of the link's client end")
    RANGE = (30, "2.7.6", "a disposition's last is not below its first")
    UNKNOWN_DELIVERY = (31, "2.6.12", "a disposition is of deliveries that are not settled yet")
    OUTCOME = (32, "3.4", "a disposition carries an outcome")
    CBS_REQUEST = (33, "SB 2.2", "put-token carries an id, a name, a type and a token")
    AUTHORIZED = (34, "SB 2.2", "a link is attached with a token for its entity")
    SESSION_FILTER = (35, "SB 2.3", "a session filter is a string or null")
    REQUEST_ID = (36, "SB 2.6", "a request carries a message-id")
    REPLY_LINK = (37, "SB 2.6", "a request's reply has a link of the same node to go out on")
    BATCH = (38, "SB 2.4", "a batch is data sections, each one encoded message")
    MESSAGE = (39, "3.2", "a message is known sections, in their order")


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule, broken once: by which connection, and how."""

    rule: Rule
    detail: str
    connection: int

    def __str__(self) -> str:
        number, section, asks = self.rule.value
        return f"rule {number} ({section}): {asks}; connection {self.connection}: {self.detail}"


@dataclass(slots=True)
class Violations:
    """What was broken since the server began, when strict; nothing when not.

    It can be counted and gone through, and is false as long as nothing was: `not bus.violations`.

    Args:
        strict: write down what is broken.
        most: how many to keep.
    """

    strict: bool = False
    most: int = 10_000
    noted: list[Violation] = field(default_factory=list)

    def note(self, rule: Rule, detail: str, connection: int) -> None:
        """A rule was broken."""
        if self.strict and len(self.noted) < self.most:
            self.noted.append(Violation(rule, detail, connection))

    def __len__(self) -> int:
        return len(self.noted)

    def __iter__(self) -> Iterator[Violation]:
        return iter(self.noted)

    def __bool__(self) -> bool:
        return bool(self.noted)

    def rules(self) -> set[Rule]:
        """The rules that were broken at all."""
        return {violation.rule for violation in self.noted}
