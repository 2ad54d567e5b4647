"""What the README shows runs."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from tests.servicebus.bus import ServiceBus
from tests.servicebus.faults import OPERATIONS
from tests.servicebus.sdk import BREAKING

pytestmark = [pytest.mark.spec("T2", "T4"), *BREAKING]

README = (Path(__file__).parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """What stands in fences of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


async def test_the_examples_run() -> None:
    """The test in it passes; the clock in it can be made and moved."""
    whole, clock = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(whole, "README.md", "exec"), names)
    await names["test_an_order_is_not_lost_with_its_connection"]()
    exec(compile(clock, "README.md", "exec"), names)
    assert isinstance(names["bus"], ServiceBus)


async def test_the_command_serves() -> None:
    """It prints its one line, the connection string last."""
    (command,) = blocks("sh")
    words = shlex.split(command.replace("\\\n", " ").replace("--port 5672", "--port 0"))
    assert words[0] == "python"
    child = await asyncio.create_subprocess_exec(sys.executable, *words[1:], stdout=PIPE)
    try:
        assert child.stdout is not None
        line = (await child.stdout.readline()).decode()
        assert re.fullmatch(r"ready: Endpoint=sb://.*;UseDevelopmentEmulator=true\n", line), line
    finally:
        child.terminate()
        await child.wait()


def test_it_names_every_operation() -> None:
    """Whoever reads of faults finds all that can go wrong."""
    assert [name for name in OPERATIONS if f"`{name}`" not in README] == []
