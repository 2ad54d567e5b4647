"""`queue-runtime run FILE`: run a configuration's pipelines on Ray, feed them, check the result."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pipeline.cli.cluster import announced, make_runtime
from pipeline.cli.common import DONE, FAILED, Checked, add_config, complain, open_checked, say
from pipeline.cli.progress import Progress
from pipeline.errors import QueueError
from pipeline.telemetry import log

if TYPE_CHECKING:
    from actors.runtime import Runtime
    from pipeline.cli.common import Subparsers

LEFT = 3
"""The exit code when something had to be left to lock expiry (SPEC F6)."""

_log = logging.getLogger("queue_runtime.run")


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a configuration's pipelines",
        description="Run the pipelines until interrupted (SIGINT, SIGTERM, `queue-runtime drain`): "
        "running messages then finish and the rest is given back. Exit codes: 0; 1 failed or not "
        "verified; 2 wrong configuration; 3 something was left to lock expiry.",
    )
    add_config(parser)
    parser.add_argument(
        "--until-empty",
        action="store_true",
        help="end when the job's feed has ended and nothing is queued, scheduled or in hand",
    )
    parser.add_argument("--json", action="store_true", help="write the summary as one JSON line")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    checked = open_checked(arguments.config)
    config = checked.config
    job = checked.job() if checked.job is not None else None
    runtime = make_runtime(config)
    log.configure(config.log.format, config.log.level)
    _warn(checked)
    return asyncio.run(_Run(runtime, job, arguments).run())


def _warn(checked: Checked) -> None:
    """Say what works, but not as it might be thought to."""
    for name, queue in checked.config.queues.items():
        if queue.fifo and not queue.ordered:
            _log.warning("queue %s has no sessions: its messages are handled in any order", name)
    in_job = "RAY_JOB_ID" in os.environ or "RAY_ADDRESS" in os.environ
    if in_job and "RAY_JOB_STOP_WAIT_TIME_S" not in os.environ:
        _log.warning(
            "`ray job stop` kills after 3 s, before a drain is over: submit with --runtime-env "
            "configs/runtime-env.yaml, which sets RAY_JOB_STOP_WAIT_TIME_S"
        )


class _Run:
    """One run of the command."""

    def __init__(self, runtime: Runtime, job: Any, arguments: argparse.Namespace) -> None:
        self._runtime = runtime
        self._job = job
        self._until_empty = arguments.until_empty
        self._json = arguments.json
        self._progress = Progress()
        self._stop = asyncio.Event()
        self._summary: dict[str, Any] = {}

    async def run(self) -> int:
        """Start, work, drain, check, end."""
        starting = asyncio.ensure_future(self._runtime.start())
        self._catch_signals()
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return DONE
        await starting
        self._catch_signals()  # again: ray.init took SIGTERM for itself
        code = DONE
        with announced(self._runtime, self._runtime.config.name):
            try:
                await self._work(stopped)
                code = await self._finish()
            except Exception as error:  # noqa: BLE001 - whatever a job raises, the run is drained
                complain(f"error: {error}")
                if not isinstance(error, QueueError):
                    _log.exception("the run failed")
                code = FAILED
            finally:
                self._progress.end()
                stopped.cancel()
                await self._runtime.close()
        # Last, when no actor can write between the lines any more.
        if code != FAILED or self._summary:
            self._tell()
        return code

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)

    def _interrupted(self) -> None:
        if self._stop.is_set():
            os._exit(LEFT)  # the second signal: what was not settled comes again
        self._progress.end()
        complain("draining: running messages finish, the rest is given back (again: stop at once)")
        self._stop.set()

    async def _work(self, stopped: asyncio.Task[bool]) -> None:
        """Feed and wait for the end: all empty, or a wish to drain."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        drained = asyncio.ensure_future(self._runtime.drain_wanted.wait())
        watched = asyncio.ensure_future(self._watch())
        worked = asyncio.ensure_future(self._feed())
        ends: set[asyncio.Future[Any]] = {stopped, drained, watched, worked}
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if worked in done and not self._until_empty:
                worked.result()
                done, _ = await asyncio.wait(ends - {worked}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (drained, watched, worked):
                task.cancel()
            await asyncio.gather(drained, watched, worked, return_exceptions=True)
        self._seconds = loop.time() - self._began

    async def _feed(self) -> None:
        if self._job is not None and hasattr(self._job, "feed"):
            await self._job.feed(self._runtime.client)
        if self._until_empty:
            await self._runtime.until_empty()

    async def _watch(self) -> None:
        while True:
            self._progress.show(await self._runtime.next_look())

    async def _finish(self) -> int:
        """Drain, count and check, while the actors still have their states."""
        drained = await self._runtime.drain()
        totals = await self._runtime.totals()
        states = await self._runtime.states()
        figures = await self._runtime.refresh()
        self._summary = {
            "received": totals.received,
            "completed": totals.completed,
            "dead_lettered": totals.dead_lettered,
            "redelivered": totals.redelivered,
            "sessions": sum(len(some) for some in states.values()),
        }
        if self._job is not None and hasattr(self._job, "check"):
            self._summary |= await self._job.check(states)
        latency = figures.latency
        self._summary |= {
            "seconds": round(self._seconds, 3),
            "messages_per_second": round(totals.completed / max(self._seconds, 1e-9), 1),
            "p50_ms": round(latency.quantile(0.5) * 1000, 1),
            "p99_ms": round(latency.quantile(0.99) * 1000, 1),
        }
        if not drained.clean:
            complain(
                f"{drained.left} messages had no outcome when the drain was over: they come again "
                "when their locks run out"
            )
            return LEFT
        return FAILED if self._summary.get("verified") is False else DONE

    def _tell(self) -> None:
        summary = dict(self._summary)
        for line in summary.pop("report", []):
            say(line)
        for name, value in summary.items():
            shown = f"{value:,}" if type(value) in (int, float) else value
            say(f"{name:<20} {shown}")
        if self._json:
            say(json.dumps(summary))
