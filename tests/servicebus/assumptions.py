"""What nobody could verify against the real service, as switches: one field, one guess.

This file owns the list and its defaults. The code that a switch changes asks for it by name and has
a test of both behaviours. What Microsoft documents is no switch, it is how the server works.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Guesses about the service.

    Args:
        dead_letter_keeps_sequence: True: a dead-lettered message keeps its sequence number, as
            azure-docs#97032 says of everything but scheduled messages. False: the dead-letter queue
            gives it the next of its own numbers; the enqueue sequence stays what it was.
        defer_counts: whether deferring a message is a failed attempt. The SDK sends `modified` with
            delivery-failed=true for it, the documents are silent. False: the delivery count stays.
            True: it grows by one, but a message is never dead-lettered for having been deferred.
        pending_receive_keeps_session: True: a session's lock does not end while its receiver has
            credit, and lasts its full length from the end of a wait (azure-service-bus#694).
            False: the lock ends at its time, whatever the receiver does.
        fills_message_id: True: a message sent without a message id is given a GUID, as a maintainer
            says in azure-sdk-for-java#24537. False: it stays without. The engine's, as the id is
            in the message's bytes.
        merge_outcomes: whether settlements of consecutive deliveries are answered by one
            disposition of a range. The logs in azure-sdk-for-python#35217 show one by one. The
            engine's.
        oversize_detaches: whether a message over the link's limit ends the link, as AMQP has the
            condition link:message-size-exceeded for ("currently allowed on the link", say the
            errors that people quote). False: it is rejected, and the link stays; the SDK's own live
            tests (`..._fail_send_messages`) get the typed error twice on one sender, which a
            detach would not give them. The engine's.
        sessions_are_fenced: whether renewing, settling, state and receiving by number over
            `$management` are refused with session-lock-lost to who does not hold the session, as
            the documents say of an operation on a session after its lock has ended; which
            operations ask is nowhere said. False: whoever names the session may. The engine's.
        session_close_counts: whether messages that are unsettled when their session is closed have
            failed an attempt. False, as the documents on sessions say. True: their count grows.
        scheduled_gets_new_sequence: True: a scheduled message gets a new sequence number when it
            becomes active, and so lies behind everything sent before (azure-docs#97032).
            False: it keeps the number it was scheduled with, and its place goes by it.
        expires_without_receivers: True: a message expires at its time. False: it is dropped or
            dead-lettered only once somebody receives, as the documents on expiration say ("isn't
            enforced when there are no clients actively listening"); until then it is hidden.
        lost_connection_frees_session: whether a connection that breaks without a detach releases
            its session at once. True: as closing does. False: it stays locked until the lock ends
            (then its messages' counts grow). The engine's choice between `close_session` and
            `desert_session`.
        cancelled_id_stays_duplicate: whether the id of a cancelled scheduled message is still in
            the history of duplicate detection. True: sent again inside the window, it is dropped
            (the documents know only the window). False: it may be sent again at once.
    """

    dead_letter_keeps_sequence: bool = True
    defer_counts: bool = False
    pending_receive_keeps_session: bool = True
    fills_message_id: bool = True
    merge_outcomes: bool = False
    oversize_detaches: bool = False
    sessions_are_fenced: bool = True
    session_close_counts: bool = False
    scheduled_gets_new_sequence: bool = True
    expires_without_receivers: bool = True
    lost_connection_frees_session: bool = True
    cancelled_id_stays_duplicate: bool = True
