"""Which store a configuration means, and where its file lies."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.config import RuntimeConfig, parse
from pipeline.errors import ConfigurationError
from pipeline.state.memory import MemoryStore
from pipeline.state.open import forget, located, open_sqlite, open_store
from pipeline.state.sqlite import SqliteStore


def config(**state: Any) -> RuntimeConfig:
    return parse(
        {
            "name": "shop",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"q": {"connection": "main"}},
            "pipelines": {"p": {"queue": "q", "handler": "app:handle"}},
            "state": state,
        }
    )


@pytest.mark.spec("F4")
def test_the_default_is_a_file_in_the_user_s_state_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The XDG one if it is named, and only an absolute one counts."""
    monkeypatch.setenv("HOME", "/home/ann")
    named = str(tmp_path / "queue-runtime" / "shop.sqlite")
    usual = "/home/ann/.local/state/queue-runtime/shop.sqlite"
    for home, path in ((str(tmp_path), named), ("", usual), ("relative", usual), (None, usual)):
        if home is None:
            monkeypatch.delenv("XDG_STATE_HOME")
        else:
            monkeypatch.setenv("XDG_STATE_HOME", home)
        state = located(config()).state
        assert (state.store, state.path) == ("sqlite", path)


@pytest.mark.spec("F4")
def test_a_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once, where the run begins: its actors have other current directories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    for given, path in (
        ("x.sqlite", f"{tmp_path}/x.sqlite"),
        ("~/x.sqlite", "/home/ann/x.sqlite"),
        ("/a/x.sqlite", "/a/x.sqlite"),
    ):
        found = located(config(store="sqlite", path=given, fresh=True))
        assert found.state.path == path
        assert found.state.fresh
        monkeypatch.chdir("/")
        assert located(found) == found
        monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="name an absolute path"):
        located(config(path="~nobody-of-this-name/x.sqlite"))


@pytest.mark.spec("F4", "F9")
def test_a_cluster_of_several_machines_has_no_file(caplog: pytest.LogCaptureFixture) -> None:
    """Asked for, it is refused; by default, state is in memory, and that is told."""
    with pytest.raises(ConfigurationError, match="this cluster has 3: choose memory"):
        located(config(store="sqlite"), nodes=3)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert located(config(), nodes=2).state.store == "memory"
    assert "state is kept in the handlers' memory" in caplog.text
    caplog.clear()
    assert located(config(store="memory"), nodes=2).state.store == "memory"
    assert not caplog.records


@pytest.mark.spec("F4", "T1")
def test_the_store_is_the_configured_one() -> None:
    """Nothing is opened yet."""
    clock = SystemClock()
    assert isinstance(open_store(config(), "p", clock), SqliteStore)
    assert isinstance(open_store(config(store="memory"), "p", clock), MemoryStore)
    assert open_sqlite(config(store="memory"), "p", clock) is None


@pytest.mark.spec("F4")
async def test_nothing_is_forgotten_unless_it_is_asked_for(tmp_path: Path) -> None:
    """And of a store in memory there is nothing to forget."""
    path = tmp_path / "x.sqlite"
    await forget(config(store="sqlite", path=str(path)), SystemClock())
    await forget(config(store="memory", fresh=True), SystemClock())
    assert not path.exists()
