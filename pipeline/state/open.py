"""Which store a configuration means, and where its file lies."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from pipeline.clock import Clock
from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigurationError
from pipeline.state.memory import MemoryStore
from pipeline.state.port import StateStore
from pipeline.state.sqlite import SqliteStore

_log = logging.getLogger("queue_runtime.state")
_HOME: Final = "~/.local/state"
"""Where state lies that no other directory was named for, as the XDG directories say."""


def located(config: RuntimeConfig, *, nodes: int = 1) -> RuntimeConfig:
    """The configuration with its store chosen and its path absolute, for processes elsewhere.

    Args:
        config: as it was written.
        nodes: how many machines the run has.

    Raises:
        ConfigurationError: sqlite was asked for, and there are several machines.

    Example:
        >>> from pipeline.config import load
        >>> located(load("configs/quickstart.yaml")).state.path.endswith("/flights.sqlite")
        True
    """
    store = config.state.store
    if nodes > 1 and store == "sqlite":
        raise ConfigurationError(
            f"state.store: sqlite is a file of one machine, and this cluster has {nodes}: choose "
            "memory (state is then lost with its actor), or run on one machine"
        )
    if nodes > 1 and store is None:
        _log.warning(
            "state is kept in the handlers' memory and lost with them: sqlite, the default, is a "
            "file of one machine, and this cluster has %d",
            nodes,
        )
        store = "memory"
    path = None if store == "memory" else str(_path(config))
    chosen = {"store": store or "sqlite", "path": path}
    return config.model_copy(update={"state": config.state.model_copy(update=chosen)})


def open_store(config: RuntimeConfig, pipeline: str, clock: Clock) -> StateStore:
    """The store of a pipeline's sessions, not started.

    Args:
        config: the configuration; what it leaves open is chosen as on one machine.
        pipeline: whose records.
        clock: the calendar's time.
    """
    return open_sqlite(config, pipeline, clock) or MemoryStore(now=clock.now)


def open_sqlite(config: RuntimeConfig, pipeline: str, clock: Clock) -> SqliteStore | None:
    """The same where it is a file, which any process may read; None where it is memory."""
    state = located(config).state
    if state.path is None:
        return None
    return SqliteStore(Path(state.path), pipeline, clock.now)


async def forget(config: RuntimeConfig, clock: Clock) -> None:
    """Delete what earlier runs kept for the pipelines, if the configuration asks for it (`fresh`).

    Raises:
        ConfigurationError: the file can't be opened.
        ProviderError: it can't be written.
    """
    if not config.state.fresh:
        return
    for pipeline in config.pipelines:
        store = open_sqlite(config, pipeline, clock)
        if store is None:
            return
        await store.start()
        try:
            await store.delete()
        finally:
            await store.close()


def _path(config: RuntimeConfig) -> Path:
    given = config.state.path
    if given is not None:
        path = Path(given)
    else:
        home = os.environ.get("XDG_STATE_HOME", "")
        # The XDG rules: a relative one is to be ignored.
        base = Path(home if Path(home).is_absolute() else _HOME)
        path = base / "queue-runtime" / f"{config.name}.sqlite"
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ConfigurationError(
            f"state.path: {path} can't be found ({error}): name an absolute path"
        ) from error
