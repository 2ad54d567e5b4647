"""What keeping state in a file costs: commits of 1,000 sessions, SQLite beside memory.

In turn, three rounds each, medians. Each session loads its record, applies `MESSAGES` messages and
writes its state; `ratio` is how many sessions the file takes in the time that memory takes one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.clock import SystemClock
from pipeline.state.memory import MemoryStore
from pipeline.state.port import Change, StateStore
from pipeline.state.sqlite import SqliteStore

SESSIONS = 1_000
MESSAGES = 8
COMMITS = 20
ROUNDS = 3
STATE = b'{"flights":12,"delay":1.5,"air_time":1000,"distance":2000,"last":336776,"out_of_order":0}'


async def measure() -> dict[str, Any]:
    """Both, as a JSON line."""
    sqlite: list[float] = []
    memory: list[float] = []
    now = SystemClock().now
    with tempfile.TemporaryDirectory(prefix="qr-") as directory:
        for number in range(ROUNDS):
            memory.append(await _speed(MemoryStore(now=now)))
            path = Path(directory) / f"{number}.sqlite"
            sqlite.append(await _speed(SqliteStore(path, "bench", now)))
    fast, kept = statistics.median(memory), statistics.median(sqlite)
    return {
        "bench": "state",
        "sessions_a_commit": SESSIONS,
        "messages_a_session": MESSAGES,
        "sqlite_sessions_per_second": round(kept),
        "memory_sessions_per_second": round(fast),
        "ratio": round(kept / fast, 3),
        "sqlite_us_a_session": round(1e6 / kept, 1),
    }


async def _speed(store: StateStore) -> float:
    """Sessions a second."""
    await store.start()
    keys = [f"session-{number}" for number in range(SESSIONS)]
    began = time.perf_counter()
    for number in range(COMMITS):
        first = number * MESSAGES
        applied = [(first + at, f"message-{first + at:08}") for at in range(MESSAGES)]
        records = await store.load(keys, [1] * SESSIONS)
        answers = await store.commit(
            [
                Change(key, record.version, "memory:q", applied, first, STATE, True)
                for key, record in zip(keys, records, strict=True)
            ]
        )
        if any(answers):
            raise RuntimeError(str(next(filter(None, answers))))
    seconds = time.perf_counter() - began
    await store.close()
    return SESSIONS * COMMITS / seconds
