"""Microsoft's SDK for JavaScript as a client: a scenario of javascript/ as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Set
from pathlib import Path
from typing import Any, Final

from tests.servicebus.bus import ServiceBus
from tests.servicebus.strict import Rule
from tests.servicebus.tools import needed

NODE: Final = shutil.which("node")
PEERS: Final = Path(sys.prefix) / "peers"  # where `make peers` installs it
DRIVER: Final = Path(__file__).parent / "javascript" / "driver.mjs"

if NODE is None:
    needed("node is not installed")
if not (PEERS / "node_modules/@azure/service-bus").exists():
    needed("@azure/service-bus is not installed: make peers")


class Script:
    """A scenario that runs: what it tells, and when it may go on."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        assert line, "the scenario ended without a result; its error is in the captured output"
        told: dict[str, Any] = json.loads(line)
        return told

    async def at(self, place: str) -> Any:
        """It has come to this pause; returns what it told there."""
        line = await self._line()
        assert line.get("at") == place, line
        return line["told"]

    def go_on(self) -> None:
        """End the pause."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def result(self) -> Any:
        """What it came to."""
        line = await self._line()
        assert "result" in line, line
        async with asyncio.timeout(30):
            assert await self._process.wait() == 0
        return line["result"]


@contextlib.asynccontextmanager
async def running(
    bus: ServiceBus, scenario: str, known: Set[Rule] = frozenset()
) -> AsyncIterator[Script]:
    """Run a scenario against the server; it may break no rules but the known ones."""
    process = await asyncio.create_subprocess_exec(
        NODE or "node",
        str(DRIVER),
        str(PEERS),
        scenario,
        bus.connection_string,
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    broken = bus.violations.rules()
    bus.violations.noted.clear()  # they are judged here, not by the fixture
    assert broken <= known, broken


async def ran(bus: ServiceBus, scenario: str) -> Any:
    """The result of a scenario without pauses."""
    async with running(bus, scenario) as script:
        return await script.result()
