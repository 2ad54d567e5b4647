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
    fifo = True
    client = "sdk"
    declared = declare(fifo=True)
    wrong: ClassVar = {}


class TestMotoStandard(SqsContract):
    """A standard queue at moto."""

    server = "moto_server"
    fifo = False
    declared = declare(fifo=False)
