"""`queue-runtime state list|show|export|reset FILE`: what handlers keep for their sessions.

It reads the configuration's SQLite file directly, also while a run writes it. What the actions
print is `state_text`'s.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pipeline.cli import addresses
from pipeline.cli.common import DONE, FAILED, MISUSED, add_action, complain, say
from pipeline.cli.state_text import HEADER, described, line, row
from pipeline.clock import SystemClock
from pipeline.config import RuntimeConfig, load
from pipeline.errors import ConfigurationError
from pipeline.state.open import located, open_sqlite
from pipeline.state.sqlite import Kept, SqliteStore

if TYPE_CHECKING:
    from pipeline.cli.common import Subparsers


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "state",
        help="list, show, export or delete what handlers keep",
        description="What handlers keep for their sessions in the configuration's SQLite file.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = add_action(actions, "list", _list, "list sessions that have a state or a failure")
    _add_pipeline(listed)
    listed.add_argument("--prefix", default="", metavar="S", help="only those that begin so")
    listed.add_argument("--limit", type=_count, metavar="N", help="at most N of them")
    listed.add_argument("--json", action="store_true", help="write a JSON line a session")

    shown = add_action(actions, "show", _show, "show what is kept for one session, as JSON")
    shown.add_argument("pipeline", metavar="PIPELINE", help="a pipeline of the configuration")
    shown.add_argument("session", metavar="SESSION", help="the session")

    exported = add_action(actions, "export", _export, "write all states to a Parquet file")
    exported.add_argument("out", metavar="OUT.parquet", help="the file; it is replaced")
    _add_pipeline(exported)

    reset = add_action(actions, "reset", _reset, "delete what is kept for sessions")
    _add_pipeline(reset)
    which = reset.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", nargs="+", metavar="S", help="these sessions")
    which.add_argument("--all", action="store_true", help="all of them")
    reset.add_argument("--yes", action="store_true", help="delete; else it only says what it would")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    config = located(load(arguments.config))
    names = list(config.pipelines)
    if arguments.pipeline is not None:
        if arguments.pipeline not in names:
            known = ", ".join(names) or "none"
            raise ConfigurationError(
                f"{arguments.config}: there is no pipeline {arguments.pipeline!r}; there are: "
                f"{known}"
            )
        names = [arguments.pipeline]
    if config.state.path is None:
        raise ConfigurationError(
            f"{arguments.config}: state.store is memory: nothing is kept outside a run; to keep "
            "state, set state: {store: sqlite}"
        )
    path = Path(config.state.path)
    if not path.exists():
        complain(f"nothing has been kept yet: there is no {path}")
        return DONE
    action: Action = arguments.act
    return asyncio.run(action(Kepts(config, names), arguments))


class Kepts:
    """What some pipelines keep.

    Args:
        config: with its state located.
        names: the pipelines.
    """

    def __init__(self, config: RuntimeConfig, names: Sequence[str]) -> None:
        self.config = config
        self.names = names
        self._clock = SystemClock()
        self.now = self._clock.now()

    @asynccontextmanager
    async def open(self, pipeline: str) -> AsyncIterator[SqliteStore]:
        """A pipeline's store, open meanwhile.

        Raises:
            ConfigurationError: the file can't be opened.
        """
        store = open_sqlite(self.config, pipeline, self._clock)
        if store is None:
            raise ConfigurationError("state.store is memory")
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    async def all(self, prefix: str = "") -> AsyncIterator[tuple[str, str, Kept]]:
        """Pipeline, session and what is kept, as it reads now."""
        for pipeline in self.names:
            async with self.open(pipeline) as store:
                async for session, kept in store.records(prefix):
                    yield pipeline, session, kept.live(self.now)


Action: TypeAlias = Callable[[Kepts, argparse.Namespace], Coroutine[None, None, int]]


async def _list(kepts: Kepts, arguments: argparse.Namespace) -> int:
    told = 0
    async for pipeline, session, kept in kepts.all(arguments.prefix):
        if kept.record.bare:
            continue
        if arguments.json:
            say(line(pipeline, session, kept))
        else:
            if not told:
                say(HEADER)
            say(row(pipeline, session, kept, kepts.now))
        told += 1
        if told == arguments.limit:
            break
    if not told:
        complain("no session has a state")
    return DONE


async def _show(kepts: Kepts, arguments: argparse.Namespace) -> int:
    async with kepts.open(arguments.pipeline) as store:
        kept = await store.find(arguments.session)
    if kept is None:
        complain(f"error: nothing is kept for session {arguments.session!r}")
        return FAILED
    say(described(arguments.pipeline, arguments.session, kept.live(kepts.now)))
    return DONE


async def _export(kepts: Kepts, arguments: argparse.Namespace) -> int:
    from pipeline.state.export import StateWriter  # it takes a moment that no other command needs

    out = Path(arguments.out)
    try:
        with StateWriter(out) as writer:
            async for pipeline, session, kept in kepts.all():
                writer.add(pipeline, session, kept.record, kept.updated_at)
    except OSError as error:
        raise ConfigurationError(f"{out}: can't be written: {error.strerror or error}") from error
    say(f"wrote {writer.written:,} states to {out}")
    return DONE


async def _reset(kepts: Kepts, arguments: argparse.Namespace) -> int:
    active = addresses.announced(kepts.config.name)
    if active is not None:
        raise ConfigurationError(
            f"a run of {kepts.config.name!r} is active on this machine (process {active.pid}) and "
            "has states in hand: drain it first, with: queue-runtime drain FILE"
        )
    sessions: list[str] | None = None if arguments.all else arguments.session
    deleted = 0
    for pipeline in kepts.names:
        async with kepts.open(pipeline) as store:
            if arguments.yes:
                deleted += await store.delete(sessions)
            elif sessions is None:
                deleted += await store.count()
            else:
                found = [await store.find(session) for session in dict.fromkeys(sessions)]
                deleted += len(found) - found.count(None)
    what = f"{deleted:,} sessions of {', '.join(kepts.names)}"
    if not arguments.yes:
        complain(f"this would delete what is kept for {what}: add --yes to do it")
        return MISUSED
    say(f"deleted what was kept for {what}")
    return DONE


def _add_pipeline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pipeline", metavar="P", help="only this pipeline's; unset: all")


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more; got {text!r}")
    return int(text)
