"""SQS keeps the contract: against moto and against ministack, standard and FIFO, over sockets."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.aws.bench import SqsContract, declare


class TestMinistackFifo(SqsContract):
    """A FIFO queue at ministack."""

    server = "ministack_server"
    fifo = True
    declared = declare(fifo=True)


class TestMinistackStandard(SqsContract):
    """A standard queue at ministack, with the calls made by the SDK."""

    server = "ministack_server"
    fifo = False
    client = "sdk"
    declared = declare(fifo=False)


class TestMotoFifo(SqsContract):
    """A FIFO queue at moto, with the calls made by the SDK."""

    server = "moto_server"
    one_at_a_time = True
    fifo = True
    client = "sdk"
    declared = declare(fifo=True)
    wrong: ClassVar = dict.fromkeys(
        (
            "test_a_session_goes_on_in_order_after_its_lock_ended",
            "test_a_session_goes_on_after_one_was_dead_lettered",
            "test_a_session_comes_in_order",
            "test_a_message_without_a_session_can_be_spread",
            "test_several_that_are_given_back_come_in_order",
            "test_what_is_given_back_comes_first_again",
        ),
        "a group's messages may come out of order",
    ) | {
        "test_a_second_message_of_one_id_is_dropped_within_the_window": (
            "it forgets a deduplication id when its message is deleted"
        ),
        "test_the_largest_batch_and_one_more": "8,193 messages take it minutes",
    }


class TestMotoStandard(SqsContract):
    """A standard queue at moto."""

    server = "moto_server"
    one_at_a_time = True
    fifo = False
    declared = declare(fifo=False)
    wrong: ClassVar = {"test_the_largest_batch_and_one_more": "8,193 messages take it minutes"}
