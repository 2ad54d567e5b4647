"""`queue-runtime run FILE`: the pipelines at work, until interrupted or until all is handled.

The order of a run is `_Run`'s: start, work, drain, read the counters and states, check, close. What
it prints is `summary`'s and `progress`'s; only results go to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pipeline.cli import addresses, cluster
from pipeline.cli.common import DONE, FAILED, Checked, add_config, complain, open_checked, say
from pipeline.cli.progress import LiveStream, Moment, Progress
from pipeline.cli.signals import LEFT, Signals, Stopped
from pipeline.cli.summary import Summary
from pipeline.config import RuntimeConfig
from pipeline.config.secrets import masked
from pipeline.errors import ConfigurationError, QueueError
from pipeline.telemetry import log

if TYPE_CHECKING:
    from actors.runtime import Look, Runtime
    from pipeline.cli.common import Subparsers

_log = logging.getLogger("queue_runtime.run")
_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a configuration's pipelines on Ray",
        description="Run a configuration's pipelines on Ray, until SIGTERM, SIGINT or `drain`, or "
        "until all is handled. Exit code 0; 1 when the run or its check failed; 2 when the "
        "configuration is wrong; 3 when a drain had to leave something to lock expiry.",
    )
    add_config(parser)
    parser.add_argument(
        "--until-empty",
        action="store_true",
        help="end when the job has fed all and nothing is queued, scheduled or in hand",
    )
    parser.add_argument(
        "--json", action="store_true", help="write the result as JSON, on the last line"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong with the configuration is raised."""
    with Signals() as signals:
        try:
            checked = open_checked(arguments.config)
            config = checked.config
            if not config.pipelines:
                raise ConfigurationError(f"{arguments.config}: pipelines: there is none to run")
            signals.last = partial(addresses.remove, config.name)
            log.configure(config.log.format, config.log.level)
            work = _Run(checked, signals, until_empty=arguments.until_empty)
            # Handlers and jobs may print, and Ray prints it here: it must not mix with the results.
            with _screen(config.name) as progress, redirect_stdout(sys.stderr):
                asyncio.run(work.run(progress))
        except Stopped:
            complain("stopped before anything was started")
            return DONE
    if work.summary is not None:
        say(work.summary.table())
        if arguments.json:
            say(work.summary.line())
    return work.code


@contextmanager
def _screen(name: str) -> Iterator[Progress]:
    """Progress as standard error can show it."""
    stream = sys.stderr
    if not stream.isatty():
        yield Progress(name, stream)
        return
    live = LiveStream(stream)
    # It has all that is asked of a standard error.
    with redirect_stderr(cast("Any", live)):
        try:
            yield Progress(name, stream, live)
        finally:
            live.end()


class _Run:
    """One run, from connecting to closing.

    Args:
        checked: the configuration and the job.
        signals: ask for the drain.
        until_empty: whether it ends by itself.
    """

    def __init__(self, checked: Checked, signals: Signals, *, until_empty: bool) -> None:
        self.summary: Summary | None = None
        self.code = DONE
        self._config = checked.config
        self._signals = signals
        self._until_empty = until_empty
        self._job = _job(checked)
        # Last of what can be wrong before anything is started: importing Ray takes a second.
        self._runtime: Runtime = cluster.runtime(checked.config)
        self._fed = False
        self._began = self._settled_at = 0.0
        self._settled = 0

    async def run(self, progress: Progress) -> None:
        """All of it; sets `summary` and `code`.

        Raises:
            Stopped: a signal came before the actors were started.
            QueueError: it could not be started.
        """
        _warn(self._config)
        loop = asyncio.get_running_loop()
        self._signals.tell(loop)
        runtime = self._runtime
        try:
            await self._start()
            self._announce()
            self._began = self._settled_at = loop.time()
            await self._work(progress)
            await self._finish()
        finally:
            await runtime.close()
            addresses.remove(self._config.name)  # last: `drain` waits for it

    async def _start(self) -> None:
        with self._signals.lent():
            self._runtime.connect()
        starting = asyncio.ensure_future(self._runtime.start())
        await _first(starting, self._signals.stop.wait())
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            raise Stopped
        starting.result()

    def _announce(self) -> None:
        """Tell the other commands where we are; the run does without it if it must."""
        address = addresses.Address(
            self._runtime.address, os.environ.get("RAY_AUTH_MODE"), os.getpid()
        )
        try:
            addresses.write(self._config.name, address)
        except (OSError, ConfigurationError) as error:
            _log.warning(
                "send, status and drain will need --address %s: %s", address.address, error
            )

    # ---------------------------------------------------------------- work

    async def _work(self, progress: Progress) -> None:
        """Until it is done, a drain is asked for, or something fails, which is said here."""
        through = asyncio.ensure_future(self._through())
        watching = asyncio.ensure_future(self._show(progress))
        asked = (self._signals.stop.wait(), self._runtime.drain_wanted.wait())
        await _first(through, watching, *asked)
        ended = [task for task in (through, watching) if task.done()]
        for task in (through, watching):
            task.cancel()
        await asyncio.wait([through, watching])
        for task in ended:
            error = task.exception()
            if error is not None:
                self._failed(error)
                return
        if through not in ended:
            complain("draining (a second signal stops at once)")

    async def _through(self) -> None:
        """Feed, then wait for the end, if there is one."""
        feed = getattr(self._job, "feed", None)
        if feed is not None:
            try:
                await feed(self._runtime.client)
            except Exception as error:
                raise _JobFailed("feed", error) from error
        self._fed = True
        if self._until_empty:
            await self._runtime.until_empty()
        else:
            await asyncio.Event().wait()

    async def _show(self, progress: Progress) -> None:
        while True:
            look = await self._runtime.next_look()
            moment = _moment(look, look.at - self._began)
            if moment.done != self._settled:
                self._settled, self._settled_at = moment.done, look.at
            progress.show(moment)

    # ---------------------------------------------------------------- end

    async def _finish(self) -> None:
        """Drain, and then, with the actors still there, read what it came to."""
        runtime = self._runtime
        complete = self._fed and self._is_empty()
        drained = await runtime.drain()
        if drained.killed:
            complain(f"{drained.killed} handler actors had to be killed")
        if not drained.clean:
            complain(
                f"{drained.left} messages are left to lock expiry, "
                f"{drained.unknown} receivers did not say what they left"
            )
            self.code = self.code or LEFT
        try:
            await self._summarise(complete=complete)
        except (QueueError, _JobFailed) as error:
            self._failed(error)

    async def _summarise(self, *, complete: bool) -> None:
        runtime = self._runtime
        latency = (await runtime.refresh()).latency
        totals = await runtime.totals()
        states = await runtime.states()
        checked: dict[str, Any] = {}
        if hasattr(self._job, "check") and self.code != FAILED:
            if complete:
                checked = await self._check(states)
            else:
                complain("not checked: the run ended before all was handled")
        self.summary = Summary(
            received=totals.received,
            completed=totals.completed,
            dead_lettered=totals.dead_lettered,
            redelivered=totals.redelivered,
            sessions=sum(map(len, states.values())),
            seconds=self._settled_at - self._began,
            p50=latency.quantile(0.5),
            p99=latency.quantile(0.99),
            checked=checked,
        )
        if self.summary.refuted:
            self.code = FAILED

    async def _check(self, states: dict[str, Any]) -> dict[str, Any]:
        try:
            given = await self._job.check(states)
            if given is not None and not isinstance(given, Mapping):
                told = f"it must return a dict of figures or None, not {type(given).__name__}"
                raise TypeError(told)  # noqa: TRY301 - told like what the check itself raises
            return dict(given or {})
        except Exception as error:
            raise _JobFailed("check", error) from error

    def _is_empty(self) -> bool:
        """Whether the last look found nothing that waits or is in hand."""
        moment = _moment(self._runtime.look, 0.0)
        return self._until_empty or not (moment.backlog or moment.in_flight)

    def _failed(self, error: BaseException) -> None:
        known = isinstance(error, (QueueError, _JobFailed))
        kind = "" if known else f"unexpected {type(error).__name__}: "
        complain(f"error: {kind}{masked(str(error))}")
        self.code = FAILED


class _JobFailed(Exception):
    """The job's own code raised."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__(f"the job's {method} failed: {type(error).__name__}: {error}")


def _job(checked: Checked) -> Any:
    if checked.job is None:
        return None
    try:
        return checked.job()
    except QueueError:
        raise
    except Exception as error:
        told = f"job: {checked.config.job}() failed: {type(error).__name__}: {error}"
        raise ConfigurationError(masked(told)) from error


async def _first(*awaited: Awaitable[Any]) -> None:
    """Wait until the first is done; those that were no tasks before are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in awaited]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one, task in zip(awaited, tasks, strict=True):
        if one is not task:
            task.cancel()


def _moment(look: Look, at: float) -> Moment:
    depths = [figures.depth.available for figures in look.pipelines.values()]
    known = [depth for depth in depths if depth is not None]
    return Moment(
        at,
        look.total("receivers", "completed") + look.total("receivers", "dead_lettered"),
        sum(known) if len(known) == len(depths) else None,
        look.total("receivers", "in_hand"),
        look.total("handlers", "failed"),
    )


def _warn(config: RuntimeConfig) -> None:
    """Say what works less well than asked for."""
    for name, queue in config.queues.items():
        if queue.fifo and not queue.ordered:
            _log.warning(
                "queue %s was asked to keep order (fifo) and has no sessions: it goes unordered, "
                "as on_unsupported_sessions says",
                name,
                extra={"queue": str(name)},
            )
    if not (os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID")):
        return
    drain = config.drain
    needed = drain.release + drain.running + drain.cancel
    if _number(os.environ.get(_WAIT)) < needed:
        _log.warning(
            "`ray job stop` kills %s seconds after it asked; a drain may take %g: set %s in the "
            "job's runtime environment (configs/runtime-env.yaml does)",
            os.environ.get(_WAIT, "3"),
            needed,
            _WAIT,
        )


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
