"""A key set in a file: however it changes, and whatever lies there instead."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import FileKeys
from pipeline.crypto.keys import file
from pipeline.crypto.keys.file import FileKeyProvider
from pipeline.crypto.keyset import LARGEST, KeySet
from pipeline.errors import ConfigurationError, Timeout

ROOT = Path(__file__).parents[3]
ONE = KeySet.first("a", 1_700_000_000.0)
TWO = ONE.adding("b", 1_700_000_001.0).making_current("b")


def at(path: Path, timeout: float = 5.0) -> FileKeyProvider:
    return FileKeyProvider(FileKeys(path=str(path)), timeout)


def in_directory(path: Path) -> list[str]:
    return [one.name for one in path.iterdir()]


@pytest.mark.spec("C5", "C6")
async def test_a_change_is_seen_however_it_is_made(tmp_path: Path) -> None:
    """In place, by a rename, and as Kubernetes does it: by a link to another directory."""
    first, second = tmp_path / "..1", tmp_path / "..2"
    for directory, keys in ((first, ONE), (second, TWO)):
        directory.mkdir()
        (directory / "keys.json").write_text(keys.text())
    link, path = tmp_path / "..data", tmp_path / "keys.json"
    link.symlink_to(first.name)
    path.symlink_to("..data/keys.json")
    provider = at(path)
    assert await provider.current_key_id() == "a"
    fresh = tmp_path / "..data_tmp"
    fresh.symlink_to(second.name)
    fresh.replace(link)
    assert await provider.current_key_id() == "b"
    path.write_text(ONE.text())
    assert await provider.current_key_id() == "a"
    other = tmp_path / "other"
    other.write_text("\ufeff" + TWO.text(), encoding="utf-8")
    other.replace(path)
    assert await provider.current_key_id() == "b"


@pytest.mark.spec("C6", "C7")
async def test_it_is_written_as_a_whole_for_its_owner_alone(tmp_path: Path) -> None:
    """A link stays a link; rights that were given to others than all stay; nothing is left over."""
    real, path = tmp_path / "real" / "keys.json", tmp_path / "keys.json"
    real.parent.mkdir()
    path.symlink_to("real/keys.json")
    provider = at(path)
    before = os.umask(0)
    try:
        await provider.create(ONE)
        assert stat.S_IMODE(real.stat().st_mode) == 0o600
        inode = real.stat().st_ino
        real.chmod(0o644)
        await provider.store(TWO)
    finally:
        os.umask(before)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.stat().st_ino != inode
    assert path.is_symlink()
    assert in_directory(real.parent) == [real.name]
    assert await provider.current_key_id() == "b"
    real.unlink()
    with pytest.raises(ConfigurationError, match="can't be written: No such file"):
        await provider.store(ONE)
    assert in_directory(real.parent) == []


@pytest.mark.spec("C6")
async def test_a_file_is_given_away_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who read the old one reads the new one; where it isn't allowed, the rights alone are kept."""
    path = tmp_path / "keys.json"
    provider = at(path)
    await provider.create(ONE)
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda file, user, group: given.append((user, group)))
    await provider.store(TWO)
    assert given == [(path.stat().st_uid, path.stat().st_gid)]

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "fchown", refused)
    await provider.store(ONE)
    assert await provider.current_key_id() == "a"


@pytest.mark.spec("C6", "P10")
async def test_a_write_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a directory that isn't there."""
    path = tmp_path / "keys.json"
    provider = at(path)
    await provider.create(ONE)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ConfigurationError, match="can't be written: No space left on device"):
            await provider.store(TWO)
    assert in_directory(tmp_path) == [path.name]
    assert await provider.current_key_id() == "a"
    with pytest.raises(ConfigurationError, match="can't be written: No such file or directory"):
        await at(tmp_path / "none" / "keys.json").create(ONE)


@pytest.mark.spec("C4", "P10")
async def test_what_is_no_key_set_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, a pipe, too much, no text; and nothing that was in it."""
    path = tmp_path / "keys.json"
    provider = at(path)
    assert await provider.find() is None
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for odd, told in ((tmp_path, "is no file: name one"), (pipe, "is no file: name one")):
        with pytest.raises(ConfigurationError, match=told):
            await at(odd).current_key_id()
    path.write_bytes(b"secret" + bytes([0xFF]))
    with pytest.raises(ConfigurationError, match=r"is not UTF-8 text \(byte 6\)") as caught:
        await provider.current_key_id()
    assert caught.value.__context__ is None
    with path.open("ab") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ConfigurationError, match="has 1048577 bytes and is no key set"):
        await provider.current_key_id()
    with pytest.raises(ConfigurationError, match="can't be read: Not a directory"):
        await at(path / "below").current_key_id()
    with pytest.raises(ConfigurationError, match="can't be read: embedded null byte"):
        await at(Path("a\0b")).current_key_id()

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    path.write_text(ONE.text())
    with monkeypatch.context() as patched:
        patched.setattr(os, "readv", broken)
        with pytest.raises(ConfigurationError, match="can't be read: Input/output error"):
            await provider.current_key_id()
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", broken_lookup)
    with pytest.raises(ConfigurationError, match="can't be read: Could not determine home"):
        await at(Path("~/keys.json")).current_key_id()


def broken_lookup(*_: object) -> None:
    raise KeyError


@pytest.mark.spec("C11", "P10")
async def test_a_file_system_that_hangs_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For reading and for writing; of a write it isn't known what became.

    However often it is asked: one thread waits for it, which holds up nobody, and when it answers
    all is well.
    """
    path = tmp_path / "keys.json"
    provider = at(path, 0.05)
    open_, mkstemp, answers = os.open, tempfile.mkstemp, threading.Event()

    def hangs(*given: Any, **more: Any) -> int:
        if given[:1] == (path,):
            answers.wait(60)
        return open_(*given, **more)

    def hangs_too(*given: Any, **more: Any) -> tuple[int, str]:
        answers.wait(60)
        return mkstemp(*given, **more)

    monkeypatch.setattr(os, "open", hangs)
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(Timeout, match=r"keys\.json gave no answer within 0\.05 s"):
            await provider.current_key_id()
    assert threading.active_count() == before + 1
    monkeypatch.setattr(tempfile, "mkstemp", hangs_too)
    for write in (provider.create, provider.store):
        with pytest.raises(Timeout, match="whether the key set was written is not known; look"):
            await write(ONE)
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "crypto.keys":
            thread.join(30)
    assert threading.active_count() == before
    assert await at(path, 10.0).current_key_id() == ONE.current
    assert await provider.current_key_id() == ONE.current
    assert provider._under_way is None, "what was read has keys in it"


@pytest.mark.spec("C11")
def test_what_was_given_up_before_it_began_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key set that nobody waits for any more is not written later."""
    begun: list[Any] = []
    thread = SimpleNamespace(start=lambda: None)
    monkeypatch.setattr(file, "Thread", lambda **given: begun.append(given["target"]) or thread)
    done: list[str] = []
    future = file._in_thread(lambda: done.append("written"))
    future.cancel()
    begun[0]()
    assert not done


@pytest.mark.spec("C11")
def test_a_process_ends_though_its_file_system_hangs(tmp_path: Path) -> None:
    """Nobody waits for the thread."""
    code = (
        "import asyncio, os, sys, threading\n"
        "from pipeline.config import FileKeys\n"
        "from pipeline.crypto.keys.file import FileKeyProvider\n"
        "from pipeline.errors import Timeout\n"
        "os.open = lambda *given: threading.Event().wait()\n"
        "try:\n"
        "    asyncio.run(FileKeyProvider(FileKeys(path='keys.json'), 0.05).current_key_id())\n"
        "except Timeout as error:\n"
        "    print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert b"gave no answer" in ended.stdout
